"""LeCam: numbers by hand, the released variant against the authors' program, and its state."""

from __future__ import annotations

import copy
import textwrap
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from studiogan_gsr.contract import roles_of
from studiogan_gsr.errors import OptionError
from studiogan_gsr.hosts.studiogan.checkout import default_root
from studiogan_gsr.regularizers.lecam import UNSEEN, LeCam
from support.runs import judged


def lecam(**options: Any) -> LeCam:
    return LeCam(nn.Linear(1, 1), [3, 1], **options)


def test_lecam_is_what_one_computes_by_hand() -> None:
    regularizer = lecam(weight=0.5, decay=0.5, start=1)
    steps = [
        # real, fake, averages after it, penalty
        ([1.0, 3.0], [-1.0, 1.0], (2.0, 0.0), 0.0),  # before the start: no memory
        ([2.0, 4.0], [0.0, -2.0], (2.5, -0.5), 0.0),  # at the start: memory, no penalty yet
        ([0.0, 2.0], [1.0, 1.0], (1.75, 0.25), (2 - 0.25) ** 2 / 2 + (1.75 - 1) ** 2),
        ([-1.0, -3.0], [4.0, 2.0], (-0.125, 1.625), 0.0),  # real below the fake average, fake above the real one
    ]
    for step, (real, fake, averages, penalty) in enumerate(steps):
        r, f = torch.tensor(real, requires_grad=True), torch.tensor(fake, requires_grad=True)
        found = regularizer.discriminator_loss(judged(r, f, step))
        assert regularizer.averages.tolist() == pytest.approx(averages)
        assert found.item() == pytest.approx(0.5 * penalty)
        assert regularizer.scalars() == {
            "penalty": pytest.approx(penalty),
            "real_average": pytest.approx(averages[0]),
            "fake_average": pytest.approx(averages[1]),
        }
        gradients = torch.autograd.grad(found, (r, f))
        if step == 2:  # the averages are constants
            assert gradients[0].tolist() == pytest.approx([0, 0.5 * (2 - 0.25)])
            assert gradients[1].tolist() == pytest.approx([0.5 * -(1.75 - 1), 0.5 * -(1.75 - 1)])
        else:
            assert not any(gradient.any() for gradient in gradients)


def test_the_released_lecam_is_what_one_computes_by_hand() -> None:
    regularizer = lecam(weight=2.0, decay=0.5, released=True)
    steps = [
        # real, fake, averages after it, penalty
        ([1.0, -3.0], [-1.0, 2.0], [[0.0, 0.0], [0.0, 0.0]], 1 / 2 + 4 / 2),  # the averages stay 0
        ([2.0, 4.0], [0.0, 2.0], [[1.0, 2.0], [0.0, 1.0]], (2.0**2 + 3.0**2) / 2),
        ([-1.0, 2.0], [4.0, 5.0], [[0.0, 2.0], [2.0, 3.0]], (4.0**2 + 3.0**2) / 2),  # fake above the real average
    ]
    for step, (real, fake, averages, penalty) in enumerate(steps):
        found = regularizer.discriminator_loss(judged(torch.tensor(real), torch.tensor(fake), step))
        assert regularizer.averages.tolist() == averages
        assert found.item() == pytest.approx(2 * penalty)


def test_the_released_lecam_is_their_programs() -> None:
    """Their lines, cut out of their training loop and run."""
    path = default_root().parent / "gSRGAN" / "src" / "worker.py"
    if not path.is_file():
        pytest.skip(f"the authors' program is not at {path.parents[1]}")
    text = path.read_text()
    begin = text.rindex("\n", 0, text.index("if self.lc_regularizer:")) + 1
    end = text.index("\n", text.index("dis_acml_loss += self.lc_lambda * lc_reg"))
    lines = compile(textwrap.dedent(text[begin:end]), str(path), "exec")
    decay, weight, slots = 0.9, 0.3, 5
    settings = SimpleNamespace(
        lc_regularizer=True, lc_gamma=decay, lc_lambda=weight, best_fid_checkpoint_path=None
    )  # fmt: skip
    theirs = {"self": settings, "torch": torch, "F": nn.functional}
    ours = lecam(weight=weight, decay=decay, released=True)
    stream = torch.Generator().manual_seed(0)
    for update in range(6):
        step = update // 2  # two updates of the discriminator a step
        logits = [torch.randn(slots, generator=stream).requires_grad_() for _ in range(2)]
        theirs |= {"step_count": step, "dis_out_real": logits[0], "dis_out_fake": logits[1]}
        theirs["dis_acml_loss"] = torch.zeros(())
        exec(lines, theirs)
        mine = ours.discriminator_loss(judged(*logits, step))
        torch.testing.assert_close(mine, theirs["dis_acml_loss"])
        wanted = torch.autograd.grad(theirs["dis_acml_loss"], logits)
        torch.testing.assert_close(torch.autograd.grad(mine, logits), wanted)
        assert mine > 0


@pytest.mark.parametrize("released", [False, True])
def test_the_state_continues_to_the_bit(released: bool) -> None:
    stream = torch.Generator().manual_seed(0)
    batches = [judged(*torch.randn(2, 4, generator=stream), step) for step in range(6)]
    whole, first, second = (lecam(decay=0.9, start=1, released=released) for _ in range(3))
    for batch in batches[:3]:
        whole.discriminator_loss(batch)
        first.discriminator_loss(batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in batches[3:]:
        assert torch.equal(second.discriminator_loss(batch), whole.discriminator_loss(batch))
    assert torch.equal(second.averages, whole.averages)


@pytest.mark.parametrize("released", [False, True])
def test_averages_of_the_other_variant_start_over_with_a_warning(released: bool) -> None:
    other, regularizer = lecam(released=not released), lecam(released=released)
    other.discriminator_loss(judged(torch.ones(4), torch.zeros(4), 3))
    before = regularizer.averages.clone()
    with pytest.warns(UserWarning, match="LeCam: the checkpoint holds no averages of this variant: they start over"):
        regularizer.load_state_dict(other.state_dict())
    assert torch.equal(regularizer.averages, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regularizer.load_state_dict(lecam(released=released).state_dict())


@pytest.mark.parametrize("restored", [False, True])
def test_averages_that_were_never_taken_are_replaced_by_the_next_logits(restored: bool) -> None:
    """StudioGAN's placeholder would make a penalty of millions; also where no checkpoint has a state."""
    regularizer = lecam(weight=1, start=0)
    if restored:
        regularizer.load_state_dict(lecam().state_dict())
    assert regularizer.averages.tolist() == [UNSEEN, UNSEEN]
    found = regularizer.discriminator_loss(judged(torch.full((4,), 2.0), torch.full((4,), -1.0), 5))
    assert regularizer.averages.tolist() == [2.0, -1.0]
    assert found.item() == 18.0


def test_logits_in_half_precision_do_not_overflow() -> None:
    regularizer = lecam(weight=1, start=1)
    regularizer.discriminator_loss(judged(torch.zeros(4), torch.zeros(4), 0))
    fake = torch.full((4,), -300.0, dtype=torch.float16)  # its square is beyond float16
    found = regularizer.discriminator_loss(judged(torch.zeros(4, dtype=torch.float16), fake, 2))
    average = regularizer.averages[1].item()
    assert average == pytest.approx(-3)
    assert found.item() == pytest.approx(average**2 + 300.0**2)


def test_its_one_role_is_the_discriminators_loss() -> None:
    assert roles_of(lecam()) == ("discriminator_loss",)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("weight", -0.1),
        ("weight", float("nan")),
        ("weight", "0.3"),
        ("weight", True),
        ("decay", 1),
        ("decay", -0.1),
        ("start", -1),
        ("start", 1.5),
        ("released", 1),
        ("released", "true"),
    ],
)
def test_impossible_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        LeCam.check_options({option: value})
    assert caught.value.option == option
