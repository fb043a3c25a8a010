"""Spectral normalisation of all weights of a network together, once per forward pass.

Numbers, state names (weight_orig, weight_u, weight_v) and hooks are those of `torch.nn.utils.spectral_norm`, which
StudioGAN uses, with far fewer operations: one call normalises all vectors or divides all weights, one call on a GPU
multiplies all weights of a shape, and the gradient is computed by its formula.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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
        found.sort(key=lambda entry: _matrix(entry[0]).shape)
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


def _matrix(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight_orig").flatten(1)


def _set_weights(layers: list[nn.Module], update: bool) -> None:
    """Set `weight` of all layers; those with weights of the same shape are neighbours."""
    matrices = [_matrix(layer) for layer in layers]
    u, v = ([layer.get_buffer(f"weight_{side}") for layer in layers] for side in "uv")
    groups = _groups(matrices)
    with torch.no_grad():
        stacks = _stacked(matrices, groups)
        if update:
            new_u, new_v, norms = _power_iteration(stacks, u, groups)
            torch._foreach_copy_([*u, *v], [*new_u, *new_v])
        else:
            new_u, new_v = u, v
            norms = [torch.dot(a, b) for a, b in zip(u, _products(stacks, v, groups), strict=True)]
    weights = _Normalised.apply(groups, *matrices, *new_u, *new_v, *norms)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = weight.view_as(layer.get_parameter("weight_orig"))


def _groups(matrices: Sequence[Tensor]) -> list[slice]:
    """Return which neighbours to multiply at once: those of the same shape; on a CPU each alone.

    On a GPU, where every operation is a launch, stacking pays; on a CPU it takes longer than it saves.
    """
    return _each(matrices) if matrices[0].is_cpu else _of_one_shape(matrices)


def _each(matrices: Sequence[Tensor]) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(matrices))]


def _of_one_shape(matrices: Sequence[Tensor]) -> list[slice]:
    ends = list(itertools.accumulate(len(list(same)) for _, same in itertools.groupby(m.shape for m in matrices)))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _stacked(tensors: Sequence[Tensor], groups: list[slice]) -> list[Tensor]:
    """Return one tensor for each group: its tensors in a new first dimension; or its only tensor, as it is."""
    parts = (tensors[group] for group in groups)
    return [torch.stack(list(part)) if len(part) > 1 else part[0] for part in parts]


def _products(stacks: list[Tensor], vectors: Sequence[Tensor], groups: list[slice]) -> list[Tensor]:
    """Return the product of each matrix and its vector."""
    products: list[Tensor] = []
    for M, x in zip(stacks, _stacked(vectors, groups), strict=True):
        products += [M @ x] if M.ndim == 2 else (M @ x[:, :, None]).squeeze(2).unbind()
    return products


def _power_iteration(
    stacks: list[Tensor], u: list[Tensor], groups: list[slice]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return u and v after one power iteration, and the norms u^T M v."""
    v, _, _ = _unit(_products([stack.mT for stack in stacks], u, groups))
    u, lengths, divisors = _unit(_products(stacks, v, groups))
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
    def forward(ctx: Any, groups: list[slice], *tensors: Tensor) -> tuple[Tensor, ...]:
        matrices, u, v, norms = _quarters(tensors)
        weights = torch._foreach_div(matrices, norms)
        ctx.groups = groups
        ctx.save_for_backward(*weights, *u, *v, *norms)
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, u, v, norms = _quarters(ctx.saved_tensors)
        left: list[Tensor] = []
        stacked = (_stacked(tensors, ctx.groups) for tensors in (gradients, weights, u, v))
        for G, W, a, b in zip(*stacked, strict=True):
            if G.ndim == 2:
                left.append(torch.addr(G, a * torch.dot(G.flatten(), W.flatten()), b, alpha=-1))
            else:
                shares = G.flatten(1)[:, None] @ W.flatten(1)[:, :, None]
                left += torch.baddbmm(G, shares * a[:, :, None], b[:, None], alpha=-1).unbind()
        return (None, *torch._foreach_div(left, norms), *[None] * (3 * len(norms)))


def _quarters(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    size = len(tensors) // 4
    return (list(tensors[i : i + size]) for i in range(0, 4 * size, size))
