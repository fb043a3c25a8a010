"""The native host's networks, losses and augmentation: what holds without StudioGAN."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

from studiogan_gsr import class_conditional_affines
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.hosts.native import spectral_norm as native_spectral_norm
from studiogan_gsr.hosts.native.augmentation import ADA
from studiogan_gsr.hosts.native.configuration import Aug, Configuration, Loss, Model, read_configuration
from studiogan_gsr.hosts.native.layers import ConditionalBatchNorm2d, DoublingConv2d, HalvingConv2d, Style
from studiogan_gsr.hosts.native.losses import (
    conditional_loss,
    contrastive_loss,
    data_to_data_loss,
    discriminator_loss,
    generator_loss,
)
from studiogan_gsr.hosts.native.networks import Discriminator, Generator, Judgement, make_networks

CLASSES = 5


def configured(size: int = 32, **model: Any) -> Configuration:
    full = {"g_conv_dim": 4, "d_conv_dim": 8, "z_dim": 8, **model}
    return read_configuration({"DATA": {"num_classes": CLASSES, "img_size": size}, "MODEL": full})


def given(device: torch.device, n: int = 4, size: int = 32, z_dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """(z, images, labels)"""
    stream = torch.Generator().manual_seed(n)
    z, images = torch.randn(n, z_dim, generator=stream), torch.randn(n, 3, size, size, generator=stream).tanh()
    labels = torch.randint(CLASSES, (n,), generator=stream)
    return z.to(device), images.to(device), labels.to(device)


def networks(configuration: Configuration, seed: int, device: torch.device) -> tuple[Generator, Discriminator]:
    generator, discriminator = make_networks(configuration, seed)
    return generator.to(device), discriminator.to(device)


# ------------------------------------------------------------------ folding, seeds, precision


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (5, 5), (6, 3), (1, 2), (7, 8)], ids=str)
@pytest.mark.parametrize("layer", [DoublingConv2d, HalvingConv2d])
def test_folding_changes_nothing(
    layer: type[DoublingConv2d | HalvingConv2d], size: tuple[int, int], spectral: bool, device: torch.device
) -> None:
    if layer is HalvingConv2d and min(size) < 2:
        size = (2, 3)
    torch.manual_seed(0)
    plain = layer(3, 5, folded=False).double()
    folded = layer(3, 5, folded=True).double()
    folded.load_state_dict(plain.state_dict())
    if spectral:
        torch.manual_seed(1)
        spectral_norm(plain)
        torch.manual_seed(1)
        spectral_norm(folded)
    results = []
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(device).requires_grad_()
    for one in (plain.to(device), folded.to(device)):
        y = one(x)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device).view_as(y)
        results.append([y, *torch.autograd.grad((y * weights).sum(), [x, *one.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_doubling_layer_is_doubling_and_then_a_convolution(device: torch.device) -> None:
    layer = DoublingConv2d(2, 3, folded=True).double().to(device)
    x = torch.randn(2, 2, 3, 5, dtype=torch.float64).to(device)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(doubled, layer.weight, layer.bias, padding=1))


def test_a_halving_layer_is_a_convolution_and_then_the_mean_of_four(device: torch.device) -> None:
    layer = HalvingConv2d(2, 3, folded=True).double().to(device)
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64).to(device)
    full = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), full.unflatten(3, (2, 2)).unflatten(2, (3, 2)).mean((3, 5)))


def test_networks_follow_the_seed_and_move_no_random_generator() -> None:
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    first, again, other = (make_networks(configured(apply_d_sn=True), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    for network, same, different in zip(first, again, other, strict=True):
        weights = [key for key in network.state_dict() if key.endswith(("weight", "weight_orig", "weight_u"))]
        assert weights
        assert all(torch.equal(network.state_dict()[key], same.state_dict()[key]) for key in weights)
        assert not all(torch.equal(network.state_dict()[key], different.state_dict()[key]) for key in weights)


@pytest.mark.parametrize("more", [{}, {"backbone": "big_resnet", "g_shared_dim": 5, "apply_g_sn": True}])
def test_networks_of_16_pixels_are_those_of_32_with_a_block_less(more: dict[str, Any], device: torch.device) -> None:
    """StudioGAN has none of that size."""
    model = {"g_cond_mtd": "cBN", "d_cond_mtd": "PD", "z_dim": 12, **more}
    small, large = (networks(configured(size, **model), 0, device) for size in (16, 32))
    labels = torch.tensor([0, 1, 2], device=device)
    images = small[0](torch.randn(3, 12).to(device), labels)
    assert images.shape == (3, 3, 16, 16)
    assert small[1](images, labels).logits.shape == (3,)
    assert len(class_conditional_affines(small[0])) == 4
    for ours, theirs in zip(small, large, strict=True):
        assert len(ours.blocks) == len(theirs.blocks) - 1
        for block, same in zip(ours.blocks, theirs.blocks, strict=False):
            shapes = [{name: t.shape for name, t in b.state_dict().items()} for b in (block, same)]
            assert more or shapes[0] == shapes[1]


@pytest.mark.parametrize("conditioning", ["W/O", "AC", "PD", "2C", "D2DCE"])
def test_bfloat16_stays_close_and_leaves_heads_and_spectral_norms_in_float32(
    conditioning: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the CPU autocast would leave the products of a power iteration alone, on other devices it would not.
    set_weights, reduced_norms = native_spectral_norm._set_weights, []

    def seen(layers: list[nn.Module], update: bool) -> None:
        reduced_norms.extend([torch.is_autocast_enabled(device.type)] * len(layers))
        set_weights(layers, update)

    monkeypatch.setattr(native_spectral_norm, "_set_weights", seen)
    model = Model(
        g_cond_mtd="cBN", d_cond_mtd=conditioning, d_embed_dim=6, apply_g_sn=True, apply_d_sn=True, z_dim=8,
        g_conv_dim=4, d_conv_dim=8, apply_attn=True, attn_g_loc=(2,), attn_d_loc=(1,),
    )  # fmt: skip
    configuration = Configuration(**{**vars(configured()), "MODEL": model})
    z, images, labels = given(device)
    outputs, states = [], []
    for reduced in (False, True):
        generator, discriminator = networks(configuration, 1, device)
        for attention in (m for net in (generator, discriminator) for m in net.modules() if hasattr(m, "sigma")):
            nn.init.ones_(attention.sigma)
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            made, judged = generator(z, labels), discriminator(images, labels)
        outputs.append([made, *(head for head in judged if head is not None)])
        layers = [m for net in (generator, discriminator) for m in net.modules() if hasattr(m, "weight_orig")]
        assert len(layers) > 20
        states.append([t for m in layers for t in (m.weight, m.weight_u, m.weight_v)])
    for exact, rounded in zip(*outputs, strict=True):
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).detach().norm() / exact.detach().norm()) < 0.03
    assert not torch.equal(outputs[0][0], outputs[1][0])
    for exact, rounded in zip(*states, strict=True):
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, exact)
    assert len(reduced_norms) > 40
    assert not any(reduced_norms)


@pytest.mark.parametrize("gain", [0.003, 0.0005, -0.0005])
def test_a_small_gain_of_a_class_is_not_lost_in_bfloat16(gain: float, device: torch.device) -> None:
    layer = ConditionalBatchNorm2d(2, 8, Style(spectral=False, activation="ReLU", folded=True)).to(device)
    with torch.no_grad():
        layer.gain.weight.copy_(torch.tensor([0.0, gain]).expand(8, 2))
        layer.bias.weight.zero_()
    x = torch.randn(4, 8, 32, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.cat([x, x]).to(device)  # the same images, of either class
    one_hot = nn.functional.one_hot(torch.tensor([0] * 4 + [1] * 4, device=device)).float()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        found = layer(x, one_hot)
    assert found.dtype == torch.bfloat16
    plain, scaled = found.double().chunk(2)
    slope = float((plain * scaled).sum() / plain.square().sum())
    assert slope - 1 == pytest.approx(gain, rel=0.1)


def test_spectral_norms_are_those_of_studiogan_down_to_their_epsilon() -> None:
    for network in make_networks(configured(apply_g_sn=True, apply_d_sn=True), 0):
        hooks = [hook for m in network.modules() for hook in m._forward_pre_hooks.values()]
        assert hooks
        assert {(type(hook).__mro__[1], hook.eps, hook.n_power_iterations) for hook in hooks} == {
            (SpectralNorm, 1e-6, 1)
        }


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    ("name", "of_real", "of_fake", "of_generated"),
    [
        ("vanilla", lambda r: math.log1p(math.exp(-r)), lambda f: math.log1p(math.exp(f)), None),
        ("logistic", lambda r: math.log1p(math.exp(-r)), lambda f: math.log1p(math.exp(f)), None),
        ("least_square", lambda r: (r - 1) ** 2 / 2, lambda f: f**2 / 2, None),
        ("hinge", lambda r: max(0.0, 1 - r), lambda f: max(0.0, 1 + f), lambda f: -f),
        ("wasserstein", lambda r: -r, lambda f: f, lambda f: -f),
    ],
)
def test_adversarial_losses_are_their_definitions(
    name: str, of_real: Any, of_fake: Any, of_generated: Any, device: torch.device
) -> None:
    real, fake = [1.7, -0.4, 0.2], [-2.5, 0.3, 0.9]
    expected = sum(map(of_real, real)) / 3 + sum(map(of_fake, fake)) / 3
    logits = [torch.tensor(x, dtype=torch.float64, device=device) for x in (real, fake)]
    assert discriminator_loss(name, *logits).item() == pytest.approx(expected)
    expected = sum(map(of_generated or of_real, fake)) / 3
    assert generator_loss(name, logits[1]).item() == pytest.approx(expected)


def _cosine(a: list[float], b: list[float]) -> float:
    dot, norms = sum(x * y for x, y in zip(a, b, strict=True)), math.hypot(*a) * math.hypot(*b)
    return dot / norms


LABELS = [[0, 1, 0, 2, 0, 1], [0, 1, 2, 3], [2, 2, 2], [1, 0]]


def _embedded(labels: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(len(labels))
    embed, proxy = (torch.randn(len(labels), 4, dtype=torch.float64, generator=stream) for _ in range(2))
    return embed.to(device), proxy.to(device)


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_the_contrastive_loss_is_its_definition(labels: list[int], device: torch.device) -> None:
    embed, proxy = _embedded(labels, device)
    e, p, temperature, total = embed.tolist(), proxy.tolist(), 0.6, 0.0
    for i, label in enumerate(labels):
        own = math.exp(_cosine(e[i], p[i]) / temperature)
        others = {j: math.exp(_cosine(e[i], e[j]) / temperature) for j in range(len(labels)) if j != i}
        positives = own + sum(value for j, value in others.items() if labels[j] == label)
        total -= math.log(positives / (own + sum(others.values()))) / len(labels)
    found = contrastive_loss(embed, proxy, torch.tensor(labels, device=device), temperature)
    assert found.item() == pytest.approx(total)


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_the_data_to_data_loss_is_its_definition(labels: list[int], device: torch.device) -> None:
    """ReACGAN's, but each row's negatives are divided by e to the largest similarity, as StudioGAN has it."""
    embed, proxy = _embedded(labels, device)
    e, p, temperature, margin, total = embed.tolist(), proxy.tolist(), 0.6, 0.9, 0.0
    for i, label in enumerate(labels):
        similar = {j: (_cosine(e[i], e[j]) + margin - 1) / temperature for j in range(len(labels)) if j != i}
        largest = max(similar.values())
        negatives = sum(math.exp(max(0.0, s) - largest) for j, s in similar.items() if labels[j] != label)
        attracted = max(0.0, margin - _cosine(e[i], p[i])) / temperature
        total += (attracted + math.log(math.exp(-attracted) + negatives)) / len(labels)
    found = data_to_data_loss(embed, proxy, torch.tensor(labels, device=device), temperature, margin)
    assert found.item() == pytest.approx(total)


def test_the_largest_similarity_is_a_constant_to_the_gradient(device: torch.device) -> None:
    labels = torch.tensor(LABELS[0], device=device)
    embed, proxy = _embedded(LABELS[0], device)
    found = torch.func.grad(lambda e: data_to_data_loss(e, proxy, labels, 0.6, 0.9))(embed)
    normed = nn.functional.normalize(embed)
    others = ~torch.eye(len(labels), dtype=torch.bool, device=device)
    largest = ((normed @ normed.T + 0.9 - 1) / 0.6).masked_fill(~others, -math.inf).amax(1)

    def fixed(e: Tensor) -> Tensor:
        unit = nn.functional.normalize(e)
        similar = ((unit @ unit.T + 0.9 - 1) / 0.6).relu() - largest[:, None]
        repelled = (similar.exp() * (labels[:, None] != labels)).sum(1)
        attracted = ((0.9 - (unit * nn.functional.normalize(proxy)).sum(1)) / 0.6).relu()
        return (attracted + (torch.exp(-attracted) + repelled).log()).mean()

    torch.testing.assert_close(found, torch.func.grad(fixed)(embed))


def test_cross_entropy_is_its_definition_and_other_conditionings_have_no_loss(device: torch.device) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]], device=device)
    labels = torch.tensor([0, 1], device=device)
    loss = conditional_loss(Model(d_cond_mtd="AC"), Loss())
    assert loss is not None
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        expected -= math.log(math.exp(row[label]) / sum(map(math.exp, row))) / 2
    assert loss(Judgement(torch.zeros(2, device=device), class_logits=logits), labels).item() == pytest.approx(
        expected
    )
    assert conditional_loss(Model(d_cond_mtd="PD"), Loss()) is None
    assert conditional_loss(Model(), Loss()) is None


# ------------------------------------------------------------------ ADA's p


def ada(device: torch.device, **changes: Any) -> ADA:
    settings = {"ada_initial_augment_p": 0.5, "ada_target": 0.6, "ada_kimg": 0.1, "ada_interval": 1, **changes}
    return ADA(Aug(apply_ada=True, ada_aug_type="bgc", **settings), torch.Generator(device))


def test_p_goes_up_and_down_with_the_verdicts_on_real_images(device: torch.device) -> None:
    one = ada(device)
    logits = partial(torch.tensor, device=device)
    one.observe(logits([2.0, 0.1, 5.0, 1.0]))  # r = 1
    one.adjust(0)
    assert one.p.item() == pytest.approx(0.5 + 4 / 100)
    one.observe(logits([2.0, -0.1, 5.0, -1.0]))  # r = 0
    one.observe(logits([-2.0, -0.1]))  # both together: r = -1/3
    one.adjust(1)
    assert one.p.item() == pytest.approx(0.54 - 6 / 100)
    one.observe(logits([1.0, 1.0, 1.0, 1.0, -1.0]))  # r = 0.6, the target
    one.adjust(2)
    assert one.p.item() == pytest.approx(0.48)


def test_p_stays_from_0_to_1(device: torch.device) -> None:
    one = ada(device, ada_kimg=0.005)  # one batch of four moves by 0.8
    for logit, expected in ((1.0, 1.0), (1.0, 1.0), (-1.0, 0.2), (-1.0, 0.0), (-1.0, 0.0), (1.0, 0.8)):
        one.observe(torch.full((4,), logit, device=device))
        one.adjust(0)
        assert one.p.item() == pytest.approx(expected)


def test_p_moves_at_the_interval_for_all_images_since_the_last_time(device: torch.device) -> None:
    one = ada(device, ada_interval=3)
    moved = []
    for step in range(7):
        one.observe(torch.ones(2, device=device))
        one.adjust(step)
        moved.append(round(one.p.item(), 4))
    assert moved == [0.52, 0.52, 0.52, 0.58, 0.58, 0.58, 0.64]


def test_p_is_fixed_without_a_target(device: torch.device) -> None:
    one = ada(device, ada_target=None, ada_kimg=None, ada_interval=None)
    for step in range(5):
        one.observe(torch.ones(64, device=device))
        one.adjust(step)
    assert one.p.item() == 0.5


# ------------------------------------------------------------------ class-conditional parameters


@pytest.mark.parametrize("spectral", [False, True], ids=["plain", "spectral"])
@pytest.mark.parametrize("backbone", ["resnet", "big_resnet"])
def test_class_parameters_are_read_as_the_conditional_norms_use_them(
    backbone: str, spectral: bool, device: torch.device
) -> None:
    shared = {"g_shared_dim": 6} if backbone == "big_resnet" else {}
    configuration = configured(backbone=backbone, g_cond_mtd="cBN", apply_g_sn=spectral, **shared)
    generator, _ = networks(configuration, 0, device)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    z, _, labels = given(device)
    generator(z, labels)  # spectral norms have moved
    affines = class_conditional_affines(generator)
    assert [affine.name for affine in affines] == [f"blocks.{i}.0.bn{j}" for i in range(3) for j in (1, 2)]
    for affine in affines:
        gain, bias = _observed(generator, affine.name)
        assert gain.shape == affine.gain.shape == (CLASSES, 16)
        torch.testing.assert_close(affine.gain, gain, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(affine.bias, bias, rtol=1e-5, atol=1e-6)


def _observed(generator: Generator, name: str) -> tuple[Tensor, Tensor]:
    """Gain and bias of one layer for each class, at noise 0, from forwards without its normalisation."""
    layer = generator.eval().get_submodule(name)
    assert isinstance(layer, ConditionalBatchNorm2d)
    norm, layer.bn = layer.bn, nn.Identity()  # type: ignore[assignment]
    condition = torch.eye(CLASSES)
    if generator.shares:
        condition = torch.cat([generator.shared.weight.cpu(), torch.zeros(CLASSES, generator.part)], 1)
    condition, shape = condition.to(layer.gain.weight.device), (CLASSES, norm.num_features, 1, 1)
    at_0, at_1 = (layer(condition.new_full(shape, value), condition)[..., 0, 0] for value in (0.0, 1.0))
    layer.bn = norm
    return at_1 - at_0 - 1, at_0


@pytest.mark.parametrize("part", [CLASSES, CLASSES + 1])
def test_layers_that_are_conditional_on_noise_alone_are_not_read(part: int) -> None:
    generator, _ = make_networks(configured(backbone="big_resnet", g_cond_mtd="W/O", z_dim=4 * part), 0)
    with pytest.raises(GeneratorError, match="not conditional on the class"):
        class_conditional_affines(generator)
