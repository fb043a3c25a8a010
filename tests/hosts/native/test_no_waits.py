"""No training step waits for a device or makes a tensor in the wrong place: steps on PyTorch's `meta` device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import Tensor

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts.native import training
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations
from support.plugins import MakePackage, one_role
from support.runs import BIGGAN, PLAIN, SNGAN, changed
from support.valueless import META, Trials, WaitError, meta_device, no_waits

Sections = dict[str, Any]
NARROW = {"MODEL": {"g_conv_dim": 8, "d_conv_dim": 8}, "OPTIMIZATION": {"batch_size": 4, "d_updates_per_step": 1}}
SMALL = changed(PLAIN, **NARROW)


def train_on_meta(sections: Sections, precision: str = "float32") -> set[torch.dtype]:
    """Make three steps on `meta`, and refuse waits in all but the first, in which the terms of losses are tried.

    Between the other two LeCam and the averaged generator start; ADA adjusts p in the former.
    Returns the dtypes in which the generator's last convolution computed.
    """
    dtypes: set[torch.dtype] = set()
    configuration = read_configuration(sections)
    data, batch = configuration.DATA, configuration.OPTIMIZATION.batch_size
    with meta_device():
        images = torch.zeros(batch, 3, data.img_size, data.img_size, device=META)
        batches = repeat((images, torch.zeros(batch, dtype=torch.int64, device=META)))
        counts = list(range(data.num_classes, 0, -1))
        with Trials():
            # No fused Adam: it has no implementation on `meta`.
            trainer = Trainer(configuration, counts, batches, META, 0, Speed(precision=precision, fused=False))
            trainer.generator.conv2d5.register_forward_hook(lambda module, inputs, made: dtypes.add(made.dtype))
            trainer.step()
            trainer.regularization.check_active(1)
        for step in (1000, 1001):
            trainer.steps = step
            with no_waits():
                trainer.step()
                trainer.regularization.check_active(step)
    return dtypes


# ------------------------------------------------------------------ every shipped configuration

# These have every backbone, loss, augmentation, image size and number of classes of the shipped configurations.
SAMPLE = (
    "CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR",
    "CIFAR10_LT/BigGAN-ADA-gSR",
    "CIFAR10_LT/ContraGAN-DiffAug-LeCam",
    "LSUN_LT/SNGAN128-DiffAug-LeCam",
    "LSUN_LT/BigGAN128-DiffAug-LeCam-gSR",
    "iNaturalist2019/BigGAN-DiffAug-LeCam-gSR",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in shipped_configurations()],
)
def test_shipped_configurations_do_not_wait(name: str) -> None:
    train_on_meta(changed(load_configuration(shipped_configuration(name)), **NARROW))


@pytest.mark.parametrize("name", ["CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR", "CIFAR10_LT/BigGAN-ADA-gSR"])
def test_bfloat16_does_not_wait(name: str) -> None:
    sections = changed(load_configuration(shipped_configuration(name)), **NARROW)
    assert train_on_meta(sections, "bfloat16") == {torch.bfloat16}


# ------------------------------------------------------------------ every regularizer and setting

GSR, LECAM = {"name": "gsr"}, {"name": "lecam", "weight": 0.3, "start": 1000}
REGULARIZERS: dict[str, Any] = {
    "gsr": GSR,
    "gsr, exact": {**GSR, "power_iterations": 0},  # on a GPU, the singular values wait by themselves
    "gsr, one iteration": {**GSR, "power_iterations": 1},
    "gsr, one side": {**GSR, "apply_to": ["bias"], "groups": 4, "beta": None},
    "gsr, released": {**GSR, "released_bias_update": True},
    "lecam": LECAM,
    "lecam, released": {**LECAM, "released": True},
    "mode_seeking": {"name": "mode_seeking"},
    "class_balance": {"name": "class_balance"},
    "all": [GSR, LECAM, {"name": "mode_seeking"}],
    "all with another draw": [GSR, LECAM, {"name": "class_balance", "power": 0.5}],
}


@pytest.mark.parametrize("regularizer", REGULARIZERS.values(), ids=REGULARIZERS)
def test_regularizers_do_not_wait(regularizer: Any) -> None:
    train_on_meta({**SMALL, "REGULARIZER": regularizer})


@pytest.mark.parametrize("regularizer", [name for name in REGULARIZERS if name.startswith("gsr")])
def test_gsr_of_a_shared_embedding_does_not_wait(regularizer: str) -> None:
    train_on_meta({**changed(BIGGAN, **NARROW, AUG=None), "REGULARIZER": REGULARIZERS[regularizer]})


def _conditioned(method: str) -> Sections:
    return {"MODEL": {"d_cond_mtd": method, "d_embed_dim": 6}, "LOSS": {"cond_lambda": 0.5, "temperature": 0.5}}


SETTINGS: dict[str, Sections] = {
    "accumulation": {"OPTIMIZATION": {"acml_steps": 3}},
    "two generator updates, first": {"OPTIMIZATION": {"g_updates_per_step": 2, "d_first": False}},
    "SGD": {"OPTIMIZATION": {"type_": "SGD", "momentum": 0.9, "nesterov": True}},
    "clipped weights": {
        "LOSS": {"adv_loss": "wasserstein", "apply_wc": True, "wc_bound": 0.1},
        "OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.0, "alpha": 0.99},
    },
    "AC": _conditioned("AC"),
    "2C": _conditioned("2C"),
    "D2DCE": changed(_conditioned("D2DCE"), LOSS={"m_p": 0.9}),
    "no spectral norm": {"MODEL": {"apply_d_sn": False}},
    "uniform noise": {"MODEL": {"z_prior": "uniform"}},
    **{loss: {"LOSS": {"adv_loss": loss}} for loss in ("vanilla", "logistic", "least_square")},
    **{f"ADA {kind}": {"AUG": {**BIGGAN["AUG"], "ada_aug_type": kind}} for kind in ("blit", "geom", "color")},
    "ADA, fixed": {"AUG": {**BIGGAN["AUG"], "ada_target": None}},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_do_not_wait(settings: Sections) -> None:
    train_on_meta({**changed(SMALL, **settings), "REGULARIZER": [GSR, LECAM]})


# ------------------------------------------------------------------ on a GPU


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("sections", [SNGAN, BIGGAN], ids=["SNGAN", "BigGAN"])
def test_a_gpu_is_not_waited_for(sections: Sections, precision: str) -> None:
    """PyTorch itself raises an error for each wait that it knows of."""
    device = torch.device("cuda")
    images = torch.rand(8, 3, 32, 32, device=device) * 2 - 1
    batches = repeat((images, torch.arange(8, device=device)))
    configuration = read_configuration({**sections, "REGULARIZER": "gsr"})
    trainer = Trainer(configuration, list(range(10, 0, -1)), batches, device, 0, Speed(precision=precision))
    trainer.step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in (2, 3, 4, 5):  # LeCam and the averaged generator start, and ADA adjusts p
            trainer.step()
            trainer.regularization.check_active(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(trainer.finite)


# ------------------------------------------------------------------ that the test sees waits

MEAN = "return batch.logits.mean()"
WAITS = {
    "item": (f"{MEAN} * batch.logits.sum().item()", "item.* cannot be called on meta"),
    "float": (f"{MEAN} * float(batch.logits.sum())", "item.* cannot be called on meta"),
    "list": (f"{MEAN} * sum(batch.logits.tolist())", "Cannot copy out of meta"),
    "branch": (f"if batch.logits.sum() > 0: return -batch.logits.mean()\n        {MEAN}", "item.* cannot be called"),
    "number on the CPU": (f"{MEAN} * torch.tensor(2.0)", "tensor copies numbers"),
    "tensor on the CPU": ("return (batch.logits * torch.ones(len(batch.logits))).mean()", "expected device meta"),
    "random number on the CPU": (f"{MEAN} * torch.rand(())", "rand.* on the CPU"),
    "number copied to the device": (
        f"{MEAN} * torch.tensor([2.0], device=batch.logits.device).sum()",
        "tensor copies numbers",
    ),
    "indices copied to the device": ("return batch.logits[[0, 1]].mean()", "indexing by a list"),
    "size that depends on values": ("return batch.logits[batch.logits > 0].mean()", "nonzero"),
}
SEEN = (WaitError, RegularizerError)  # the host wraps errors of plug-ins


@pytest.fixture
def plant(make_package: MakePackage) -> Callable[..., None]:
    """plant(lines, role): install the regularizer `planted`, whose role has these lines."""

    def install(lines: str, role: str = "generator_loss") -> None:
        source = one_role("Planted", role, lines)
        make_package("stranger", "studiogan.regularizers", {"planted": "planted:Planted"}, {"planted": source})

    return install


def test_a_regularizer_without_waits_passes(plant: Callable[..., None]) -> None:
    plant(MEAN)
    train_on_meta({**SMALL, "REGULARIZER": "planted"})


@pytest.mark.parametrize(("lines", "message"), WAITS.values(), ids=WAITS)
def test_waits_of_a_loss_term_are_seen(lines: str, message: str, plant: Callable[..., None]) -> None:
    plant(lines)
    with pytest.raises(SEEN, match=message):
        train_on_meta({**SMALL, "REGULARIZER": "planted"})


def test_waits_of_a_penalty_are_seen(plant: Callable[..., None]) -> None:
    plant("loss = next(self.generator.parameters()).sum(); return loss * loss.item()", "penalty")
    with pytest.raises(SEEN, match=r"item.* cannot be called on meta"):
        train_on_meta({**SMALL, "REGULARIZER": "planted"})


@pytest.mark.parametrize(
    ("wait", "message"),
    [
        (lambda loss: loss * float(loss), "item.* cannot be called on meta"),
        (lambda loss: loss + torch.zeros(()), "CPU"),
    ],
    ids=["wait", "place"],
)
@pytest.mark.parametrize("name", ["generator_loss", "discriminator_loss"])
def test_waits_of_the_step_are_seen(
    name: str, wait: Callable[[Tensor], Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = getattr(training, name)
    monkeypatch.setattr(training, name, lambda *given: wait(loss(*given)))
    with pytest.raises((RuntimeError, WaitError), match=message):
        train_on_meta(SNGAN)
