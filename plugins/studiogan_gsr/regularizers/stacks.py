"""Read the class parameters of all layers in few operations.

Layers whose weights have the same shape and kind are stacked and read together, however many there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from studiogan_gsr.errors import GeneratorError

Kind = tuple[object, ...]
# A stored weight W, and u and v where W is divided by u^T W v.
Factors = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Side:
    """A gain or bias within a weight matrix: the columns [start, stop) that depend on the label.

    name: "gain" or "bias".  shift: subtracted from the stored numbers; 1.0 if the weight stores 1 + gain.
    """

    name: str
    start: int
    stop: int
    shift: float = 0.0


@dataclass(frozen=True, eq=False)
class ClassWeight:
    """A weight matrix that holds one side of a layer, or both.

    indexed: the weight is a table (classes, columns) looked up by the label; otherwise it is
        (channels, inputs) and is applied to the label's one-hot or embedded vector.
    embedding: the module whose table (classes, inputs) embeds the label; None if the label is one-hot.
    """

    module: nn.Module
    indexed: bool
    embedding: nn.Module | None
    sides: tuple[Side, ...]


@dataclass(frozen=True, eq=False)
class ConditionalLayer:
    """A class-conditional layer, and how it is read: from its weights or by a function.

    custom: returns {side: (classes, channels)}.  module: the layer itself; None for a mapping network.
    """

    name: str
    weights: tuple[ClassWeight, ...]
    custom: Callable[[], Mapping[str, Tensor]] | None = None
    module: nn.Module | None = None

    @property
    def where(self) -> str:
        """The layer's name and class, for messages."""
        kind = type(self.module).__name__
        return f"{self.name} ({kind})" if self.name else kind


@dataclass(frozen=True, eq=False)
class _Group:
    """Weights of one kind, which are read together.

    sides: the columns to read from each weight.  positions: for each side, the position of each weight's map, as in
    `StackReader.read`.
    """

    weights: tuple[ClassWeight, ...]
    sides: tuple[Side, ...]
    positions: tuple[list[int], ...]


class StackReader:
    """Reads the chosen sides of all layers in batches.

    The constructor groups the layers.  A network may move to another device afterwards, but must keep its layers.
    """

    def __init__(self, layers: Sequence[ConditionalLayer], sides: Sequence[str]) -> None:
        self._sides = tuple(sides)
        self._custom: list[tuple[ConditionalLayer, dict[str, int]]] = []
        groups: dict[tuple[Kind, tuple[Side, ...]], list[tuple[ClassWeight, list[int]]]] = defaultdict(list)
        for i, layer in enumerate(layers):
            position = {side: len(sides) * i + s for s, side in enumerate(sides)}
            if layer.custom is not None:
                self._custom.append((layer, position))
            for weight in layer.weights:
                if chosen := tuple(side for side in weight.sides if side.name in position):
                    positions = [position[side.name] for side in chosen]
                    groups[_kind(weight), _without_names(chosen)].append((weight, positions))
        self._groups = []
        for (_, columns), members in groups.items():
            weights, positions_of_weights = zip(*members, strict=True)
            by_side = [list(positions) for positions in zip(*positions_of_weights, strict=True)]
            self._groups.append(_Group(weights, columns, tuple(by_side)))

    def read(self) -> list[tuple[list[int], Tensor]]:
        """Return [(positions, stack (maps, classes, channels))], differentiable with respect to the parameters.

        Each map in a stack has one position, `len(sides) * layer + side`, with the indices of its layer and side.
        """
        stacks = []
        for layer, position in self._custom:
            assert layer.custom is not None
            found = layer.custom()
            stacks += [([position[side]], found[side].unsqueeze(0)) for side in self._sides]
        for group in self._groups:
            stacks += list(zip(group.positions, _read(group), strict=True))
        return stacks


def _without_names(sides: Sequence[Side]) -> tuple[Side, ...]:
    """Return the sides without names, so that gains and biases in the same columns are grouped together."""
    return tuple(Side("", side.start, side.stop, side.shift) for side in sides)


def _kind(weight: ClassWeight) -> Kind:
    """Return a key that is equal for weights that can be read together."""
    tensor, u, v = _factors(weight.module)
    has_offset = getattr(weight.module, "bias", None) is not None
    stored = tensor.shape, tensor.dtype, tensor.device, u is None, v is None
    return *stored, weight.indexed, weight.embedding, has_offset


def _read(group: _Group) -> list[Tensor]:
    """Return the maps of a group, one tensor (weights, classes, channels) per side."""
    first = group.weights[0]
    weights, u, v = _stacked([_factors(weight.module) for weight in group.weights])
    if first.embedding is None and u is not None and v is not None:
        weights = weights / _sigma(weights, u, v)
    tensors = []
    for side in group.sides:
        if first.embedding is not None:
            tensor = _embedded(first.embedding, side, weights, u, v)
        else:
            tensor = weights if side.stop - side.start == weights.shape[2] else weights[..., side.start : side.stop]
            tensor = tensor if first.indexed else tensor.mT
        if not first.indexed and getattr(first.module, "bias", None) is not None:
            tensor = tensor + torch.stack([w.module.bias for w in group.weights]).unsqueeze(1)  # type: ignore[misc]
        tensors.append((tensor - side.shift if side.shift else tensor).contiguous())
    return tensors


def _embedded(embedding: nn.Module, side: Side, weights: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    """Return weights (maps, channels, inputs) times the embeddings of all classes: (maps, classes, channels).

    With few classes, the weights are by far the largest tensors, so they are read only once.  The embeddings are
    padded with zeros instead of slicing the weights.  v is one more row of the same product.  The spectral norm
    divides the small product instead of the weights.
    """
    table, table_u, table_v = _stacked([_factors(embedding)])
    if table_u is not None and table_v is not None:
        table = table / _sigma(table, table_u, table_v)
    maps, _, inputs = weights.shape
    classes = table.shape[1]
    if u is not None and v is not None and classes <= inputs:
        vectors = nn.functional.pad(table, (side.start, inputs - side.stop)).expand(maps, -1, -1)
        product = torch.cat([vectors, v.unsqueeze(1)], 1) @ weights.mT
        images, image_of_v = torch.split(product, [classes, 1], 1)
        return images / (image_of_v @ u.unsqueeze(2))
    if u is not None and v is not None:
        weights = weights / _sigma(weights, u, v)
    return table.expand(maps, -1, -1) @ weights[..., side.start : side.stop].mT


def _sigma(weights: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return u^T W v of every weight (maps, rows, columns), as (maps, 1, 1)."""
    return u.unsqueeze(1) @ (weights @ v.unsqueeze(2))


def _stacked(factors: Sequence[Factors]) -> Factors:
    """Return weights (modules, rows, columns) and, if the modules divide them by u^T W v, all u and v.

    Stacking copies u and v: a later forward may change the modules' own vectors before this graph's backward.
    """
    all_weights, all_u, all_v = zip(*factors, strict=True)
    weights = torch.stack(all_weights)
    u = None if all_u[0] is None else torch.stack(all_u)
    v = None if all_v[0] is None else torch.stack(all_v)
    # BigGAN-PyTorch stores one of the two vectors, and computes the other from it in every forward.
    matrices = weights.detach()
    if u is not None and v is None:
        v = _unit(matrices.mT @ u.unsqueeze(2))
        u = _unit(matrices @ v.unsqueeze(2))
    elif v is not None and u is None:
        u = _unit(matrices @ v.unsqueeze(2))
        v = _unit(matrices.mT @ u.unsqueeze(2))
    return weights, u, v


def _unit(columns: Tensor) -> Tensor:
    return nn.functional.normalize(columns.squeeze(2), dim=1)


def _factors(module: nn.Module) -> Factors:
    """Return the stored weight W of a module, and u and v if spectral norm divides W by u^T W v.

    u or v is None if the module stores only the other.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            u, v = module.get_buffer("weight_u"), module.get_buffer("weight_v")
            return _oriented(_stored(module, "weight_orig"), u, v, transposed=hook.dim == 1)
    if nn.utils.parametrize.is_parametrized(module, "weight"):
        chain = module.get_submodule("parametrizations.weight")
        assert isinstance(chain, nn.utils.parametrize.ParametrizationList)
        norm = chain[0]
        if len(chain) == 1 and isinstance(norm, _SpectralNorm):
            return _oriented(_stored(chain, "original"), norm._u, norm._v, transposed=norm.dim == 1)
        kinds = ", ".join(type(p).__name__ for p in chain)
        raise GeneratorError(
            f"the weight of {type(module).__name__} is parametrized by {kinds}; only spectral_norm can be read: "
            "for other layers, register a reader with register_affine_reader(layer_class, reader)"
        )
    weight = _stored(module, "weight")
    if hasattr(module, "W_") and "u0" in module._buffers:  # BigGAN-PyTorch
        return _oriented(weight, module.get_buffer("u0")[0], None, transposed=bool(module.transpose))
    return weight, None, None


def _oriented(weight: Tensor, u: Tensor, v: Tensor | None, transposed: bool) -> Factors:
    """Return the factors with u and v exchanged for a module that normalises the transposed weight."""
    return (weight, v, u) if transposed else (weight, u, v)


def _stored(module: nn.Module, name: str) -> Tensor:
    """Return a parameter of the module itself, never a tensor that a hook has stored under this name."""
    tensor = module._parameters.get(name)
    if tensor is None:
        raise GeneratorError(
            f"the {name} of {type(module).__name__} is not a parameter; it is computed by a hook of an unknown kind: "
            "register a reader for the layer with register_affine_reader(layer_class, reader)"
        )
    return tensor
