"""How strong gSR is beside the adversarial loss: the number, its line, and that reading it changes no run."""

from __future__ import annotations

import copy
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.studies.gradient_shares import shares
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.hosts.native import loop
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.losses import adversarial_loss
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization import gradient_share
from studiogan_gsr.hosts.regularization.adversarial_gradient import AdversarialGradient, AdversarialLoss
from studiogan_gsr.hosts.regularization.gradient_share import GradientShare, read_gradient_share
from studiogan_gsr.hosts.studiogan.hooked.adversarial import adversarial_loss as studiogans_loss
from studiogan_gsr.regularizers import affines
from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer
from support.generators import FAMILIES as LAYERS
from support.generators import WRAPS
from support.runs import (
    BIGGAN,
    COUNTS,
    SNGAN,
    Sections,
    changed,
    difference,
    files,
    log_lines,
    one_thread,
    random_batches,
    regularizers_of,
)

MODELS = {"SNGAN": SNGAN, "BigGAN": changed(BIGGAN, REGULARIZER={"name": "gsr", "weight": 0.5, "beta": 0.9})}
PLAIN_SNGAN = changed(SNGAN, LOSS={"apply_lecam": False}, AUG=None)
HINGE = adversarial_loss("hinge")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def trained(sections: Sections, batch_size: int = 8, steps: int = 1, **speed: Any) -> Trainer:
    optimization = {**sections["OPTIMIZATION"], "batch_size": batch_size}
    configuration = read_configuration({**sections, "OPTIMIZATION": optimization})
    batches = random_batches(size=batch_size)
    trainer = Trainer(configuration, COUNTS, batches, torch.device("cpu"), 0, Speed(**speed))
    for _ in range(steps):
        trainer.step()
    return trainer


def read(trainer: Trainer, loss: AdversarialLoss = HINGE, **more: Any) -> GradientShare:
    found = read_gradient_share(trainer.regularization, loss, trainer.configuration.MODEL.z_prior, **more)
    assert found is not None
    return found


def share_of(trainer: Trainer, **more: Any) -> float:
    return read(trainer, **more).numbers["gsr/gradient_share"]


@pytest.mark.parametrize("model", MODELS)
def test_its_expectation_is_that_of_the_study(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three labels of ten classes, 73 % of the study's batches lack the rarest class."""
    trainer = trained(changed(MODELS[model], OPTIMIZATION={"d_updates_per_step": 1}), batch_size=3)
    monkeypatch.setattr(gradient_share, "_BATCHES", 50)
    adversarial, penalty = shares(trainer, 150)[COUNTS.index(min(COUNTS))]
    assert share_of(trainer) == pytest.approx(penalty / adversarial, rel=0.25)


def test_it_is_proportional_to_the_weight_and_far_from_what_works_it_says_so() -> None:
    trainer = trained(PLAIN_SNGAN)
    (method,) = trainer.regularization.methods
    found = {}
    for factor in (0.01, 1, 20):
        method.regularizer = GroupSpectralRegularizer(trainer.generator, COUNTS, weight=0.5 * factor, beta=0.9)
        found[factor] = read(trainer, classes=[*"abcdefghi", "zebra"])
    numbers = [share.numbers["gsr/gradient_share"] for share in found.values()]
    assert numbers == pytest.approx([0.01 * numbers[1], numbers[1], 20 * numbers[1]], rel=1e-5)
    start = "gsr: in class zebra (label 9, 2 images, the rarest) the penalty's gradient is about "
    assert found[1].line == f"{start}{numbers[1]:.1g} times the adversarial one (seen to work: 0.1 to 0.3)"
    seen = "; seen to work: 0.1 to 0.3; at "
    weight = 0.5 * 0.03**0.5 / numbers[1]
    advice = f"; weight {weight:.1g} would begin at about 0.2 (docs/methods/gsr.md)"
    assert found[0.01].line.endswith(f"adversarial one{seen}0.01, gsr changed little{advice}")
    shrink = "1.2, rare classes' norms fell to almost 0 in 5,000 steps"
    assert found[20].line.endswith(f"adversarial one{seen}{shrink}{advice}")


def test_several_ranks_and_accumulated_batches_make_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, accumulated = (
        share_of(trained(changed(PLAIN_SNGAN, OPTIMIZATION={"acml_steps": number}), steps=0)) for number in (1, 4)
    )
    monkeypatch.setattr(gradient_share, "_BATCHES", 4 * gradient_share._BATCHES)  # as many updates
    ranks = share_of(trained(PLAIN_SNGAN, steps=0), ranks=4)
    assert ranks == accumulated == pytest.approx(alone, rel=0.5)
    assert ranks != alone


def modules_of(network: nn.Module) -> list[tuple[Any, ...]]:
    """What else is kept in the modules: modes, hooks, and tensors that autograd has made."""
    return [
        (module.training, [id(hook) for hook in hooks_of(module)], [id(value) for value in vars(module).values()])
        for module in network.modules()
    ]


def hooks_of(module: nn.Module) -> Iterator[Any]:
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            yield from value.values()


def everything(networks: dict[str, nn.Module]) -> dict[str, Any]:
    """Copies of all that a run depends on."""
    return copy.deepcopy(
        {
            "states": {name: dict(network.state_dict()) for name, network in networks.items()},
            "flags": [p.requires_grad for network in networks.values() for p in network.parameters()],
            "gradients": [p.grad for network in networks.values() for p in network.parameters()],
            "modules": [modules_of(network) for network in networks.values()],
            "random": (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),
        }
    )


@pytest.mark.parametrize(
    ("model", "speed"),
    [
        ("SNGAN", {}),
        ("BigGAN", {}),
        ("SNGAN", {"precision": "bfloat16"}),
        ("BigGAN", {"folded": False, "channels_last": False}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*bfloat16")
def test_reading_changes_nothing_of_a_native_run(model: str, speed: dict[str, Any]) -> None:
    trainer = trained(MODELS[model], **speed)
    networks = trainer.regularization.training.networks
    before, noise, kept = everything(networks), trainer.noise.get_state(), copy.deepcopy(regularizers_of(trainer))
    assert read(trainer).numbers
    assert not difference(everything(networks), before)
    assert torch.equal(trainer.noise.get_state(), noise)
    assert not difference(regularizers_of(trainer), kept)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", LAYERS)
def test_gradients_of_any_layers_change_nothing_of_the_networks(family: str, wrap: str) -> None:
    """StudioGAN's are among them: PyTorch's own spectral norm, after a forward pass."""
    torch.manual_seed(0)
    generator = LAYERS[family](4, [8, 16], WRAPS[wrap])
    discriminator = WRAPS[wrap](nn.Linear(2, 1))

    def loss(generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = generator(z[:, :, None, None] * torch.ones(3, 3), labels)
        return -discriminator(images).mean()

    z, labels = torch.randn(6, 16), torch.tensor([0, 1, 3, 3, 1, 0])
    loss(generator, discriminator, z, labels).backward()
    networks = {"G": generator, "D": discriminator}
    before = everything(networks)
    found = AdversarialGradient(generator, discriminator, loss, 4).of_classes(z, labels)
    assert found.shape == (4, 2 * (8 + 16))
    assert [bool(row.any()) for row in found] == [True, True, False, True]
    assert not difference(everything(networks), before)


def no_loss(generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    return 0 * HINGE(generator, discriminator, z, labels)


def no_memory(*given: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def synchronize(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(trainer.generator)


def lock(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.discriminator.lock = threading.Lock()  # type: ignore[assignment]


def register(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = trainer.generator.blocks[0][0].bn1  # type: ignore[index,union-attr]
    monkeypatch.setattr(affines, "_READERS", {type(layer): lambda *given: ()})


class Other(GroupSpectralRegularizer):
    pass


def subclass(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.regularization.methods[0].regularizer.__class__ = Other


def weightless(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.regularization.methods[0].regularizer = GroupSpectralRegularizer(trainer.generator, COUNTS, weight=0)


def mapped(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    options = trainer.regularization.methods[0].regularizer.options
    object.__setattr__(options, "apply_to", ("mapping",))


@pytest.mark.parametrize(
    ("change", "loss", "cause"),
    [
        (subclass, HINGE, "Other may have another penalty"),
        (weightless, HINGE, "weight is 0"),
        (mapped, HINGE, "apply_to is mapping"),
        (register, HINGE, "the layer blocks.0.0.bn1 is read by a registered function"),
        (synchronize, HINGE, "batch norm is synchronized between ranks"),
        (lock, HINGE, "Discriminator cannot be copied: TypeError: cannot pickle '_thread.lock' object"),
        (None, no_memory, "the device has too little memory left"),
        (None, no_loss, r"their norms are \S+ and 0"),
    ],
)
def test_where_it_would_say_nothing_the_line_says_why(
    change: Callable[..., None] | None, loss: AdversarialLoss, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trained(PLAIN_SNGAN)
    if change is not None:
        change(trainer, monkeypatch)
    found = read(trainer, loss)
    assert found.numbers == {}
    assert re.fullmatch(f"gsr: its gradient is not compared with the adversarial one: {cause}", found.line)


def test_another_regularizer_may_draw_or_be_alone() -> None:
    both, alone = (
        trained({**PLAIN_SNGAN, "REGULARIZER": section}) for section in (["gsr", "mode_seeking"], "mode_seeking")
    )
    assert read(both).line.endswith("adversarial one: mode_seeking changes what the generator gets")
    assert read_gradient_share(alone.regularization, HINGE, "gaussian") is None


def test_a_bug_is_not_hidden() -> None:
    def wrong(*given: Any) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(trained(PLAIN_SNGAN), wrong)


def test_a_native_run_prints_and_logs_it_once_and_trains_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def options(name: str, **more: Any) -> TrainOptions:
        return TrainOptions("unused", tmp_path / name, device="cpu", print_freq=1, save_freq=2, **more)

    train(SNGAN, options("read", steps=2))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "gsr: in class" in line]
    first, second = log_lines(tmp_path / "read")
    assert line.startswith(
        "gsr: in class 9 (2 images, the rarest) the penalty's gradient is "
        f"about {first['gsr/gradient_share']:.1g} times the adversarial one"
    )
    assert "gsr/gradient_share" not in second
    with monkeypatch.context() as patched:
        patched.setattr(loop, "read_gradient_share", lambda *given, **more: None)
        train(SNGAN, options("unread", steps=2))
    assert "gsr: in class" not in capsys.readouterr().out
    one, other = (files(tmp_path / name / "checkpoints" / "step=2") for name in ("read", "unread"))
    assert not difference(one, other)
    train(SNGAN, options("read", steps=3, resume=True))
    assert "gsr: in class" not in capsys.readouterr().out


def studiogan(**changes: Any) -> SimpleNamespace:
    """StudioGAN's configuration, as far as the loss of a generator reads it."""
    sections = {
        "LOSS": {"adv_loss": "hinge", "apply_lo": False, "g_loss": lambda logits, DDP: -logits.mean()},
        "MODEL": {"info_type": "N/A"},
    }
    return SimpleNamespace(
        **{name: SimpleNamespace(**{**values, **changes.get(name, {})}) for name, values in sections.items()}
    )


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"LOSS": {"adv_loss": "MH"}}, "LOSS.adv_loss is MH"),
        ({"LOSS": {"apply_lo": True}}, "LOSS.apply_lo is true"),
        ({"MODEL": {"info_type": "both"}}, "MODEL.info_type is both"),
        ({}, "StudioGAN's networks failed: TypeError: .* unexpected keyword argument 'eval'"),
    ],
)
def test_studiogans_other_losses_and_changed_networks_are_named(changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(GeneratorError, match=cause):
        studiogans_loss(studiogan(**changes))(nn.Identity(), nn.Identity(), torch.zeros(1), torch.zeros(1))
