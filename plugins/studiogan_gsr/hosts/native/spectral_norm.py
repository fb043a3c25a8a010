"""Spectral normalisation of all weights of a network together, once per forward pass.

Numbers, state names (weight_orig, weight_u, weight_v) and hooks are those of `torch.nn.utils.spectral_norm`, which
StudioGAN uses, with a quarter of its operations: vectors are normalised and weights divided in one call for all
layers, and the gradient is computed by its formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm, spectral_norm

_EPSILON = 1e-6  # StudioGAN's floor on the length of a vector


class _NormOfLayer(SpectralNorm):
    """Marks a layer as normalised; computes its weight only if the layer is called outside of its network.

    computed: whether the network has computed the weights of the forward pass that is under way.
    """

    computed = False

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Set the layer's weight, unless its network has set it."""
        if not self.computed:
            # Power iteration needs more precision than bfloat16 has.
            with torch.autocast(module.get_parameter("weight_orig").device.type, enabled=False):
                super().__call__(module, inputs)


def spectrally_normalised(module: nn.Module) -> nn.Module:
    """Normalise the weight of a layer, as StudioGAN does."""
    spectral_norm(module, eps=_EPSILON)
    hooks = module._forward_pre_hooks
    for number, hook in hooks.items():
        if type(hook) is SpectralNorm:  # torch's function takes no class: ours takes its place
            hooks[number] = _NormOfLayer(hook.name, hook.n_power_iterations, hook.dim, hook.eps)
    return module


class SpectralNorms:
    """The normalised weights of a network.

    network: may contain layers from `spectrally_normalised`; all others are ignored.
    """

    def __init__(self, network: nn.Module) -> None:
        found = [
            (module, hook)
            for module in network.modules()
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, _NormOfLayer)
        ]
        self._layers, self._hooks = [layer for layer, _ in found], [hook for _, hook in found]

    @contextmanager
    def computed(self, update: bool) -> Iterator[None]:
        """Set the weights of all layers for a forward pass.

        update: whether to make a power iteration first, as in training.
        """
        if not self._layers:
            yield
            return
        with torch.autocast(self._layers[0].get_parameter("weight_orig").device.type, enabled=False):
            _set_weights(self._layers, update)
        for hook in self._hooks:
            hook.computed = True
        try:
            yield
        finally:
            for hook in self._hooks:
                hook.computed = False


def _set_weights(layers: list[nn.Module], update: bool) -> None:
    originals = [layer.get_parameter("weight_orig") for layer in layers]
    matrices = [original.flatten(1) for original in originals]
    u, v = ([layer.get_buffer(f"weight_{side}") for layer in layers] for side in "uv")
    with torch.no_grad():
        if update:
            new_u, new_v, norms = _power_iteration(matrices, u)
            torch._foreach_copy_([*u, *v], [*new_u, *new_v])
        else:
            new_u, new_v = u, v
            norms = [torch.dot(left, matrix @ right) for matrix, left, right in zip(matrices, u, v, strict=True)]
    weights = _Normalised.apply(len(layers), *matrices, *new_u, *new_v, *norms)
    for layer, weight, original in zip(layers, weights, originals, strict=True):
        layer.weight = weight.view_as(original)


def _power_iteration(matrices: list[Tensor], u: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return u and v after one power iteration, and the norms u^T M v."""
    v, _, _ = _unit([matrix.T @ left for matrix, left in zip(matrices, u, strict=True)])
    products = [matrix @ right for matrix, right in zip(matrices, v, strict=True)]
    u, lengths, divisors = _unit(products)
    # u^T M v = |M v|^2 / divisor
    return u, v, list(torch._foreach_div(torch._foreach_mul(lengths, lengths), divisors))


def _unit(vectors: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return vectors of length 1, the lengths that they had, and what they were divided by: at least _EPSILON."""
    lengths = list(torch._foreach_norm(vectors))
    divisors = list(torch._foreach_clamp_min(lengths, _EPSILON))
    return list(torch._foreach_div(vectors, divisors)), lengths, divisors


class _Normalised(torch.autograd.Function):
    """W / (u^T W v) for many W; u, v and the norms u^T W v are constants to autograd, as power iteration leaves them.

    dL/dW = (G - <G, W / norm> u v^T) / norm, with G = dL/d(W / norm).
    """

    @staticmethod
    def forward(ctx: Any, number: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        matrices, u, v, norms = (tensors[i : i + number] for i in range(0, 4 * number, number))
        weights = torch._foreach_div(matrices, norms)
        ctx.number = number
        ctx.save_for_backward(*u, *v, *norms, *weights)
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        number, saved = ctx.number, ctx.saved_tensors
        u, v, norms, weights = (saved[i : i + number] for i in range(0, 4 * number, number))
        shares = [torch.dot(g.flatten(), w.flatten()) for g, w in zip(gradients, weights, strict=True)]
        scaled = torch._foreach_mul(u, shares)
        left = [torch.addr(g, s, right, alpha=-1) for g, s, right in zip(gradients, scaled, v, strict=True)]
        return (None, *torch._foreach_div(left, norms), *[None] * (3 * number))
