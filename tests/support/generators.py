"""Small generators, one for each recognised layout of class-conditional parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as new_spectral_norm

Wrap = Callable[[nn.Module], nn.Module]


def plain(module: nn.Module) -> nn.Module:
    return module


WRAPS: dict[str, Wrap] = {"plain": plain, "old": old_spectral_norm, "new": new_spectral_norm}


class ConditionalNorm(nn.Module):
    """norm(x) * (1 + gain(y)) + bias(y).

    make: makes each of the two children.  names: of the children, gain first.
    """

    def __init__(self, channels: int, make: Callable[[], nn.Module], names: tuple[str, str]) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.names = names
        for name in names:
            self.add_module(name, make())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = (self.get_submodule(name)(y)[..., None, None] for name in self.names)
        return self.bn(x) * (1 + gain) + bias


class HalvedNorm(nn.Module):
    """norm(x) * gamma(y) + beta(y), both halves of one embedding."""

    def __init__(self, channels: int, classes: int, wrap: Wrap) -> None:
        super().__init__()
        self.num_features = channels
        self.bn = nn.BatchNorm2d(channels, affine=False)
        embed = nn.Embedding(classes, 2 * channels)
        nn.init.normal_(embed.weight[:, :channels].data, 1, 0.02)
        nn.init.zeros_(embed.weight[:, channels:].data)
        self.embed = wrap(embed)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.embed(y)[..., None, None].chunk(2, 1)
        return self.bn(x) * gamma + beta


class Generator(nn.Module):
    """Conditional layers side by side: each takes the first channels of x, and its mean is one output.

    x: (N, C, H, W).  labels: (N,).  Returns (N, number of layers).
    """

    def __init__(self, layers: list[nn.Module], channels: list[int]) -> None:
        super().__init__()
        self.layers, self.channels = nn.ModuleList(layers), channels

    def condition(self, labels: Tensor) -> Tensor:
        return labels

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.condition(labels)
        out = [layer(x[:, :c], y).mean((1, 2, 3)) for layer, c in zip(self.layers, self.channels, strict=True)]
        return torch.stack(out, 1)


class OneHot(Generator):
    """StudioGAN's resnet: linear layers of the one-hot label."""

    def __init__(self, classes: int, channels: list[int], wrap: Wrap = plain, bias: bool = False) -> None:
        def layer(c: int) -> nn.Module:
            return ConditionalNorm(c, lambda: wrap(nn.Linear(classes, c, bias=bias)), ("gain", "bias"))

        super().__init__([layer(c) for c in channels], channels)
        self.num_classes = classes

    def condition(self, labels: Tensor) -> Tensor:
        return nn.functional.one_hot(labels, self.num_classes).float()


class Shared(Generator):
    """StudioGAN's big_resnet: linear layers of [shared embedding, noise chunk]."""

    def __init__(self, classes: int, channels: list[int], wrap: Wrap = plain, dim: int = 6, noise: int = 3) -> None:
        def layer(c: int) -> nn.Module:
            return ConditionalNorm(c, lambda: wrap(nn.Linear(dim + noise, c, bias=False)), ("gain", "bias"))

        super().__init__([layer(c) for c in channels], channels)
        self.num_classes, self.noise = classes, noise
        self.shared = nn.Embedding(classes, dim)

    def condition(self, labels: Tensor) -> Tensor:
        return torch.cat([self.shared(labels), torch.zeros(len(labels), self.noise, device=labels.device)], 1)


class Pairs(Generator):
    """The authors' SNGAN: a pair of embeddings per layer.

    BigGAN-PyTorch has the same without its shared embedding, under the names gain and bias.
    """

    def __init__(
        self, classes: int, channels: list[int], wrap: Wrap = plain, names: tuple[str, str] = ("embed0", "embed1")
    ) -> None:
        def layer(c: int) -> nn.Module:
            return ConditionalNorm(c, lambda: wrap(nn.Embedding(classes, c)), names)

        super().__init__([layer(c) for c in channels], channels)


class Halves(Generator):
    """mimicry: one embedding of twice the channels."""

    def __init__(self, classes: int, channels: list[int], wrap: Wrap = plain) -> None:
        super().__init__([HalvedNorm(c, classes, wrap) for c in channels], channels)


FAMILIES: dict[str, Callable[..., Generator]] = {
    "one-hot": OneHot,
    "shared": Shared,
    "pairs": Pairs,
    "gain-bias-embeddings": lambda *args: Pairs(*args, names=("gain", "bias")),
    "halves": Halves,
}


def observed_affines(generator: Generator, classes: int) -> list[tuple[Tensor, Tensor]]:
    """Return gain and bias of each layer, (classes, channels) each, from its outputs f(1) - f(0) - 1 and f(0).

    The norms are replaced by the identity meanwhile, so that each layer f is affine in its input.
    """
    generator.eval()
    device = next(generator.parameters()).device
    labels = torch.arange(classes, device=device)
    result = []
    for layer, channels in zip(generator.layers, generator.channels, strict=True):
        layer.bn, norm = nn.Identity(), layer.bn
        y = generator.condition(labels)
        at_0 = layer(torch.zeros(classes, channels, 1, 1, device=device), y)[..., 0, 0]
        at_1 = layer(torch.ones(classes, channels, 1, 1, device=device), y)[..., 0, 0]
        layer.bn = norm
        result.append((at_1 - at_0 - 1, at_0))
    generator.train()
    return result
