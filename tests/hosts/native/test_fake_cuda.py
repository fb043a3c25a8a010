"""On fake tensors of the device `cuda`, no forward pass waits, leaves the device or mixes devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from studiogan_gsr.contract import Batch
from studiogan_gsr.hosts.native.augmentation import augmentation
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.losses import conditional_loss, discriminator_loss, generator_loss
from studiogan_gsr.hosts.native.networks import Discriminator, Generator, make_networks
from studiogan_gsr.regularizers import gsr
from studiogan_gsr.regularizers.class_balance import ClassBalance
from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer
from studiogan_gsr.regularizers.lecam import LeCam
from studiogan_gsr.regularizers.mode_seeking import ModeSeeking
from support.runs import BIGGAN, SNGAN, changed
from support.valueless import StandInGenerator, WaitError, fake_cuda, no_waits

CUDA = torch.device("cuda", 0)
N, CLASSES = 4, 10
BASES = pytest.mark.parametrize("base", [SNGAN, BIGGAN], ids=["SNGAN", "BigGAN"])


def networks(base: dict[str, Any], **changes: Any) -> tuple[Configuration, Generator, Discriminator]:
    configuration = read_configuration(changed(base, **changes))
    with CUDA:  # fake networks cannot move from the CPU
        return configuration, *make_networks(configuration, 0)


def latents() -> tuple[Tensor, Tensor]:
    return torch.randn(N, 8, device=CUDA), torch.zeros(N, dtype=torch.int64, device=CUDA)


def without_waits(function: Callable[[], Any]) -> Any:
    """Call a function a second time, in which nothing may wait or be made on the CPU."""
    function()  # makes constants, and moves class weights
    with no_waits():
        return function()


@BASES
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("head", ["W/O", "AC", "PD", "2C", "D2DCE"])
def test_networks_augmentation_and_losses_stay_on_the_device(
    base: dict[str, Any], precision: str, training: bool, head: str
) -> None:
    loss = {"cond_lambda": 0.5, "temperature": 0.5, "m_p": 0.9} if head in ("AC", "2C", "D2DCE") else {}
    dtypes = []
    with fake_cuda():
        configuration, generator, discriminator = networks(
            base, MODEL={"d_cond_mtd": head, "d_embed_dim": 6}, LOSS=loss
        )
        generator.train(training)
        discriminator.train(training)
        generator.conv2d5.register_forward_hook(lambda module, inputs, made: dtypes.append(made.dtype))
        augment = augmentation(configuration.AUG, StandInGenerator(CUDA))
        of_class, (z, labels) = conditional_loss(configuration.MODEL, configuration.LOSS), latents()

        def pass_() -> tuple[Tensor, ...]:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                images = generator(z, labels)
            augmented = augment(images)
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                judged = discriminator(augmented, labels)
            logits = judged.logits
            losses = [generator_loss("hinge", logits), discriminator_loss("hinge", logits, logits)]
            losses += [] if of_class is None else [of_class(judged, labels)]
            return images, *(found for found in judged if found is not None), *losses

        found = without_waits(pass_)
    assert {tensor.device for tensor in found} == {CUDA}
    assert {tensor.dtype for tensor in found} == {torch.float32}
    assert dtypes == [getattr(torch, precision)] * 2
    assert found[0].shape == (N, 3, 32, 32)


@pytest.mark.parametrize("kind", ["blit", "geom", "color", "bgc"])
def test_ada_stays_on_the_device(kind: str) -> None:
    configuration = read_configuration(changed(BIGGAN, AUG={"ada_aug_type": kind}))
    with fake_cuda():
        ada = augmentation(configuration.AUG, StandInGenerator(CUDA))
        images, logits = torch.zeros(N, 3, 32, 32, device=CUDA), torch.zeros(N, device=CUDA)

        def pass_() -> Tensor:
            ada.observe(logits)
            ada.adjust(4)
            return ada(images)

        assert without_waits(pass_).device == ada.p.device == CUDA


@pytest.mark.parametrize("loss", ["vanilla", "logistic", "least_square", "hinge", "wasserstein"])
def test_adversarial_losses_stay_on_the_device(loss: str) -> None:
    with fake_cuda():
        logits = torch.zeros(N, device=CUDA)
        found = without_waits(lambda: (generator_loss(loss, logits), discriminator_loss(loss, logits, logits)))
    assert [value.device for value in found] == [CUDA, CUDA]


@BASES
@pytest.mark.parametrize(
    "options",
    [{}, {"power_iterations": 0}, {"released_bias_update": True}, {"apply_to": ["gain"], "beta": None, "groups": 4}],
    ids=str,
)
def test_the_penalty_stays_on_the_device(
    base: dict[str, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gsr, "check_conventions", lambda layers: None
    )  # runs copies of layers; fakes cannot be copied
    with fake_cuda():
        _, generator, _ = networks(base)
        regularizer = GroupSpectralRegularizer(generator, range(CLASSES, 0, -1), **options)
        penalty = without_waits(regularizer.penalty)
    assert penalty.device == CUDA
    assert penalty.requires_grad


def test_other_regularizers_stay_on_the_device() -> None:
    with fake_cuda():
        network = nn.Linear(1, 1, device=CUDA)
        (z, labels), images = latents(), torch.zeros(N, 3, 4, 4, device=CUDA)
        logits = torch.zeros(N, device=CUDA)
        batch = Batch(2, z, labels, images, None, logits, images, labels, logits)
        for terms in (
            partial(LeCam(network, [], start=1).discriminator_loss, batch),
            partial(LeCam(network, [], released=True).discriminator_loss, batch),
            partial(ModeSeeking(network, []).generator_loss, batch),
        ):
            assert without_waits(terms).device == CUDA
        for draw in (
            partial(ModeSeeking(network, []).draw, update="generator"),
            ClassBalance(network, range(1, CLASSES + 1)).draw,
        ):
            drawn = without_waits(partial(draw, z, labels))
            assert [tensor.device for tensor in drawn] == [CUDA, CUDA]


WRONG: dict[str, Callable[[Tensor], object]] = {
    "a tensor on the CPU": lambda x: torch.zeros(3),
    "a number on the CPU": lambda x: x * torch.rand(()),
    "a constant": lambda x: x * torch.tensor(2.0),
    "mixed devices": lambda x: x + torch.ones(N),
    "reading": lambda x: float(x.sum()),
    "a branch": lambda x: bool(x.sum() > 0),
    "a copy": lambda x: x.cpu(),
    "a size": lambda x: x[x > 0],
    "a list of indices": lambda x: x[[0, 1]],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_on_the_device_is_refused(wrong: Callable[[Tensor], object]) -> None:
    with fake_cuda():
        x = torch.zeros(N, device=CUDA)
        assert isinstance(x, FakeTensor)
        with no_waits():
            assert (x * 2).device == CUDA
        with pytest.raises((WaitError, RuntimeError)), no_waits():
            wrong(x)
