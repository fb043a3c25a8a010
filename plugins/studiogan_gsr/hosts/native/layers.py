"""Layers of both networks, with StudioGAN's parameter names and order of creation.

Names make state dicts interchangeable; the order of creation makes equal seeds give equal networks.

A change of resolution and the 3x3 convolution next to it can be folded into one layer, which is the same linear map:

* nearest-neighbour doubling, then a 3x3 convolution: one 4x4 transposed convolution of stride 2;
* a 3x3 convolution, then 2x2 average pooling: one 4x4 convolution of stride 2.

The folded layer needs 4/9 of the multiplications.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.native.spectral_norm import spectrally_normalised


@dataclass(frozen=True)
class Style:
    """Settings that all layers of a network share, and methods that make layers with them.

    spectral: whether to apply spectral normalisation.  activation: "ReLU", "Leaky_ReLU", "ELU" or "GELU".
    folded: whether to fold a change of resolution into the convolution next to it.
    """

    spectral: bool
    activation: str
    folded: bool

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, with spectral normalisation if `spectral` is set."""
        return spectrally_normalised(module) if self.spectral else module

    def act(self) -> nn.Module:
        """Return the activation module; it works in place where StudioGAN's does."""
        if self.activation == "ReLU":
            return nn.ReLU(inplace=True)
        if self.activation == "Leaky_ReLU":
            return nn.LeakyReLU(0.1, inplace=True)
        return nn.ELU(inplace=True) if self.activation == "ELU" else nn.GELU()

    @property
    def acts_in_place(self) -> bool:
        return self.activation != "GELU"

    def conv(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Module:
        return self.wrap(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias))

    def doubling_conv(self, inputs: int, outputs: int) -> nn.Module:
        return self.wrap(DoublingConv2d(inputs, outputs, self.folded))

    def halving_conv(self, inputs: int, outputs: int) -> nn.Module:
        return self.wrap(HalvingConv2d(inputs, outputs, self.folded))

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        return self.wrap(nn.Linear(inputs, outputs, bias=bias))

    def embedding(self, entries: int, dimensions: int) -> nn.Module:
        return self.wrap(nn.Embedding(entries, dimensions))


def _spreading() -> Tensor:
    """Return the (9, 16) map from a 3x3 kernel to the 4x4 kernel that is its sum at the four possible positions."""
    spread = torch.zeros(3, 3, 4, 4)
    for row, column in itertools.product(range(3), repeat=2):
        spread[row, column, row : row + 2, column : column + 2] = 1
    return spread.view(9, 16)


class _FoldedConv2d(nn.Conv2d):
    """A 3x3 convolution of padding 1 that a change of resolution can be folded into.

    folding: (9, 16), makes the folded layer's kernel.
    """

    folding: Tensor

    def __init__(self, inputs: int, outputs: int, folded: bool, folding: Tensor) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.folded = folded
        self.register_buffer("folding", folding, persistent=False)

    def kernel(self) -> Tensor:
        """Return the folded layer's kernel (outputs, inputs, 4, 4)."""
        with torch.autocast(self.weight.device.type, enabled=False):  # round after the sum, not before it
            return (self.weight.flatten(2) @ self.folding).view(*self.weight.shape[:2], 4, 4)


class DoublingConv2d(_FoldedConv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution: (N, C, H, W) -> (N, D, 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int, folded: bool) -> None:
        super().__init__(inputs, outputs, folded, _spreading().flip(1))  # a transposed convolution's is mirrored

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            return super().forward(double(x))
        return F.conv_transpose2d(x, self.kernel().transpose(0, 1), self.bias, stride=2, padding=1)


class HalvingConv2d(_FoldedConv2d):
    """A 3x3 convolution, then 2x2 average pooling: (N, C, 2H, 2W) -> (N, D, H, W)."""

    def __init__(self, inputs: int, outputs: int, folded: bool) -> None:
        super().__init__(inputs, outputs, folded, _spreading() / 4)

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            return F.avg_pool2d(super().forward(x), 2)
        return F.conv2d(x, self.kernel(), self.bias, stride=2, padding=1)


def double(x: Tensor) -> Tensor:
    """Return the feature maps at twice the height and width, by nearest neighbour: (N, C, H, W) -> (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def batch_norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1, affine=affine)


class ConditionalBatchNorm2d(nn.Module):
    """bn(x) * (1 + gain(condition)) + bias(condition); gain and bias are linear maps without offset.

    x: (N, channels, H, W).  condition: (N, conditions).  The result has x's dtype; it is computed in the condition's
    dtype, even under autocast.
    """

    def __init__(self, conditions: int, channels: int, style: Style) -> None:
        super().__init__()
        self.bn = batch_norm(channels, affine=False)
        self.gain = style.linear(conditions, channels, bias=False)
        self.bias = style.linear(conditions, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        # bfloat16 would lose small gains, and gSR makes gains small.  Above 1 its steps are 2^-7, so 1 + gain rounds
        # to 1 for gains below 0.004; even with an exact factor, the product rounds to bn(x) for gains below 0.002.
        with torch.autocast(x.device.type, enabled=False):
            gain = (1 + self.gain(condition))[:, :, None, None]
            normalised = self.bn(x.to(condition.dtype))
            return torch.addcmul(self.bias(condition)[:, :, None, None], normalised, gain).to(x.dtype)


class SelfAttention(nn.Module):
    """SAGAN's self-attention: x + sigma * attention(x), (N, C, H, W) -> (N, C, H, W).

    Keys and values have half the resolution.  sigma starts at 0.
    """

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        if channels < 8:
            allowed = "attention needs at least 8: raise MODEL.g_conv_dim or d_conv_dim, or name another block"
            raise ConfigurationError("MODEL.apply_attn", f"a block of {channels} channels", allowed)
        self.conv1x1_theta = style.conv(channels, channels // 8, 1, bias=False)
        self.conv1x1_phi = style.conv(channels, channels // 8, 1, bias=False)
        self.conv1x1_g = style.conv(channels, channels // 2, 1, bias=False)
        self.conv1x1_attn = style.conv(channels // 2, channels, 1, bias=False)
        self.sigma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.conv1x1_theta(x).flatten(2).mT
        keys = F.max_pool2d(self.conv1x1_phi(x), 2).flatten(2).mT
        values = F.max_pool2d(self.conv1x1_g(x), 2).flatten(2).mT
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        attended = attended.mT.reshape(len(x), -1, *x.shape[2:])
        added: Tensor = self.sigma * self.conv1x1_attn(attended)
        return x + added.to(x.dtype)  # under autocast, sigma would turn the activations into float32


def initialise(network: nn.Module, how: str) -> None:
    """Initialise the weights of all linear, convolution and embedding layers; set offsets to zero.

    how: "ortho", "N02" (normal, standard deviation 0.02), "glorot" or "xavier" (both Xavier uniform).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            # Under spectral normalisation `weight` shares its memory with `weight_orig`.
            if how == "ortho":
                nn.init.orthogonal_(module.weight)
            elif how == "N02":
                nn.init.normal_(module.weight, 0, 0.02)
            else:
                nn.init.xavier_uniform_(module.weight)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
