"""Augmentation on every device; StudioGAN's is compared with it in test_parity.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from studiogan_gsr.hosts.native import augmentation as module
from studiogan_gsr.hosts.native.augmentation import ADA, augmentation
from studiogan_gsr.hosts.native.configuration import Aug

KINDS = ["blit", "geom", "color", "bg", "bgc"]


def images(device: torch.device) -> Tensor:
    return (torch.rand(6, 3, 16, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1).to(device)


def stream(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def ada(kind: str, p: float, device: torch.device, seed: int = 0) -> ADA:
    return ADA(Aug(apply_ada=True, ada_aug_type=kind, ada_initial_augment_p=p), stream(device, seed))


@pytest.mark.parametrize("kind", ["diffaug", *KINDS])
def test_equal_seeds_give_equal_images_on_the_images_device(kind: str, device: torch.device) -> None:
    if kind == "diffaug":
        aug = Aug(apply_diffaug=True, diffaug_type="diffaug")
    else:
        aug = Aug(apply_ada=True, ada_aug_type=kind, ada_initial_augment_p=0.9)
    x = images(device)
    one, again, other = (augmentation(aug, stream(device, seed))(x) for seed in (3, 3, 4))
    assert one.device == x.device
    assert one.shape == x.shape
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert torch.equal(x, images(device))


def test_diffaugment_cuts_squares_out(device: torch.device) -> None:
    x = torch.ones(500, 3, 16, 16, device=device)
    hidden = (module.diffaugment(x, stream(device, 0)) == 0).all(1)
    # The square has 8 x 8 pixels; its middle is anywhere, so part of it may be outside, and shifts bring zeros in.
    assert hidden.flatten(1).sum(1).amax() >= 64
    assert 0.1 < float(hidden.float().mean()) < 0.4
    assert bool(hidden.any(0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_ada_changes_nothing_with_probability_zero_and_all_images_with_one(kind: str, device: torch.device) -> None:
    x = images(device)
    smooth = torch.nn.functional.interpolate(x[..., :4, :3], x.shape[2:], mode="bicubic")  # filters pass it unchanged
    torch.testing.assert_close(ada(kind, 0.0, device)(smooth), smooth, rtol=0, atol=0.05)
    changed = (ada(kind, 1.0, device)(smooth) - smooth).abs().amax((1, 2, 3)) > 0.05
    assert int(changed.sum()) >= 5  # blits may leave one as it is


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_images_move_equally_with_the_padding_that_they_need_and_with_the_largest(
    angle: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU takes the largest, because reading how much is needed would wait for it."""
    cpu = torch.device("cpu")
    G = module._rotation(torch.full((6,), angle)) @ module._translation(torch.linspace(-5, 5, 6), torch.zeros(6))
    expected = ada("geom", 1.0, cpu)._warp(images(cpu), G)

    def largest(x: Tensor, reach: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
        height, width = x.shape[2:]
        return module._mirrored_within(x, reach), (width - 1, height - 1, width - 1, height - 1)

    if device.type == "cpu":
        monkeypatch.setattr(module, "_pad", largest)
    found = ada("geom", 1.0, device)._warp(images(device), G.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)
