"""LeCam against StudioGAN's functions, and the released one against gSR's authors' program."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.contract import Batch
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers.lecam import LeCam
from support.authors import authors_program, lines_of, modules_of

GENERATOR = nn.Linear(2, 2)
WEIGHT, DECAY, SIZE = 0.3, 0.9, 6


def batch(step: int, real: Tensor, fake: Tensor) -> Batch:
    z, labels, images = torch.zeros(SIZE, 2), torch.zeros(SIZE, dtype=torch.long), torch.zeros(SIZE, 3, 2, 2)
    return Batch(
        step=step,
        z=z,
        labels=labels,
        images=images,
        w=None,
        logits=fake,
        real_images=images,
        real_labels=labels,
        real_logits=real,
    )


def logits(stream: torch.Generator, shift: float) -> list[Tensor]:
    """Real and fake logits; real ones mostly the larger."""
    return [(torch.randn(SIZE, generator=stream) + sign * shift).requires_grad_() for sign in (1, -1)]


@pytest.fixture
def studiogan(checkout: Checkout) -> Iterator[ModuleType]:
    with modules_of(checkout.source) as load:
        yield SimpleNamespace(losses=load("utils.losses"), ops=load("utils.ops"))


@pytest.mark.host
@pytest.mark.filterwarnings("ignore")  # those of StudioGAN's imports
@pytest.mark.parametrize("start", [1, 2, 4])
@pytest.mark.parametrize("shift", [-0.5, 0.0, 2.0])
def test_penalty_averages_and_gradients_equal_studiogans(studiogan: ModuleType, start: int, shift: float) -> None:
    """Ten steps of two updates each, as its worker calls its functions."""
    theirs = studiogan.ops.LeCamEMA()
    theirs.decay, theirs.start_itr = DECAY, start
    ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=start)
    stream = torch.Generator().manual_seed(0)
    seen = []
    for update in range(20):
        step = update // 2
        real, fake = logits(stream, shift)
        theirs.update(torch.mean(real).item(), "D_real", step)
        theirs.update(torch.mean(fake).item(), "D_fake", step)
        mine = ours.discriminator_loss(batch(step, real, fake))
        gradients = torch.autograd.grad(mine, [real, fake])
        assert ours.averages.tolist() == pytest.approx([theirs.D_real, theirs.D_fake], rel=1e-12)
        if step > start:
            expected = WEIGHT * studiogan.losses.lecam_reg(real, fake, theirs)
            torch.testing.assert_close(mine, expected)
            torch.testing.assert_close(gradients, torch.autograd.grad(expected, [real, fake]))
        else:
            assert mine == 0
            assert not any(gradient.any() for gradient in gradients)
        seen.append(mine.item())
        scalars = ours.scalars()
        assert scalars["penalty"] == pytest.approx(seen[-1] / WEIGHT)
        assert [scalars["real_average"], scalars["fake_average"]] == ours.averages.tolist()
    assert sum(value > 0 for value in seen) > 8


@pytest.mark.host
@pytest.mark.filterwarnings("ignore")
def test_without_a_start_studiogan_mixes_its_7777_into_the_averages_and_this_one_does_not(
    studiogan: ModuleType,
) -> None:
    theirs = studiogan.ops.LeCamEMA()
    theirs.decay, theirs.start_itr = DECAY, 0
    ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=0)
    real, fake = logits(torch.Generator().manual_seed(0), 0.5)
    theirs.update(torch.mean(real).item(), "D_real", 0)
    ours.discriminator_loss(batch(0, real, fake))
    assert theirs.D_real > 6000
    assert ours.averages.tolist() == pytest.approx([real.mean().item(), fake.mean().item()])


@pytest.mark.host
@pytest.mark.filterwarnings("ignore")
def test_averages_that_a_checkpoint_holds_go_on_as_studiogans(studiogan: ModuleType) -> None:
    theirs = studiogan.ops.LeCamEMA()
    theirs.decay, theirs.start_itr = DECAY, 1
    ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=1)
    stream = torch.Generator().manual_seed(0)
    for step in range(8):
        real, fake = logits(stream, 0.5)
        theirs.update(torch.mean(real).item(), "D_real", step)
        theirs.update(torch.mean(fake).item(), "D_fake", step)
        if step == 4:
            saved = ours.state_dict()
            ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=1)
            ours.load_state_dict(saved)
        ours.discriminator_loss(batch(step, real, fake))
    assert ours.averages.tolist() == pytest.approx([theirs.D_real, theirs.D_fake], rel=1e-12)


def test_the_released_one_equals_gsrs_authors_program() -> None:
    """Their lines, cut out of their training loop and run; the state is saved and loaded half way."""
    path = authors_program("gSRGAN", "src/worker.py") / "src" / "worker.py"
    lines = lines_of(path, "if self.lc_regularizer:", "dis_acml_loss += self.lc_lambda * lc_reg")
    settings = SimpleNamespace(
        lc_regularizer=True, lc_gamma=DECAY, lc_lambda=WEIGHT, best_fid_checkpoint_path=None
    )  # fmt: skip
    theirs = {"self": settings, "torch": torch, "F": nn.functional}
    ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=7, released=True)  # `start` has no effect
    published = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, start=0)
    stream = torch.Generator().manual_seed(0)
    for update in range(8):
        step = update // 2  # two updates of the discriminator a step
        if update == 4:
            saved = ours.state_dict()
            ours = LeCam(GENERATOR, [5, 3], weight=WEIGHT, decay=DECAY, released=True)
            ours.load_state_dict(saved)
        real, fake = logits(stream, 0.5)
        theirs |= {"step_count": step, "dis_out_real": real, "dis_out_fake": fake, "dis_acml_loss": torch.zeros(())}
        exec(lines, theirs)
        mine = ours.discriminator_loss(batch(step, real, fake))
        expected = theirs["dis_acml_loss"]
        torch.testing.assert_close(mine, expected)
        gradients = torch.autograd.grad(mine, [real, fake])
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, [real, fake]))
        assert mine > 0
        other = published.discriminator_loss(batch(step, real, fake))
        if step:
            assert other.item() != pytest.approx(mine.item(), rel=0.01)
