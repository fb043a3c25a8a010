"""Exact spectral norms, condition numbers and group correlations of a generator's class parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.regularizers.affines import class_conditional_affines
from studiogan_gsr.regularizers.mapping import find_mapping_networks, is_class_mapping
from studiogan_gsr.regularizers.spectral import exact_norms, group_shape

# A class explodes when its norm is more than this many times the largest norm of any class at the start of training,
# and also more than this many times the current median of all classes.  At the start, the largest norm is used and
# not the median, because the ratio of the two depends on width and number of classes: 1.05 in an SNGAN with 64
# channels and 10 classes, 1.28 in a BigGAN with 96 channels and 1,010 classes.
THRESHOLD = 1.25


@dataclass(frozen=True)
class Spectrum:
    """Exact singular values of all matrices, float64.

    layers: names.  sides: gain and bias; a StyleGAN has one layer with one side, both called "mapping".
    values: per layer, singular values (sides, classes, min(n_g, n_c)) in descending order; infinite for a matrix that
        is not finite.
    """

    layers: list[str]
    sides: tuple[str, ...]
    values: list[Tensor]

    @property
    def norms(self) -> Tensor:
        """Spectral norms (layers, sides, classes)."""
        return torch.stack([values[..., 0] for values in self.values])

    @property
    def conditions(self) -> Tensor:
        """Largest over smallest singular value, (layers, sides, classes); infinite if the latter is 0 to rounding."""
        found = []
        for values in self.values:
            largest, smallest = values[..., 0], values[..., -1]
            singular = smallest <= values.shape[-1] * torch.finfo(values.dtype).eps * largest
            found.append(torch.where(singular, torch.inf, largest / smallest))
        return torch.stack(found)

    def largest(self) -> tuple[Tensor, list[tuple[str, str]]]:
        """Return the largest norm per class, (classes,), and the (layer, side) that has it."""
        flat = self.norms.flatten(0, 1)
        norms, places = flat.max(0)
        return norms, [
            (self.layers[place // len(self.sides)], self.sides[place % len(self.sides)]) for place in places.tolist()
        ]


@torch.no_grad()
def spectrum(generator: nn.Module, groups: int | str = "square") -> Spectrum:
    """Compute the singular values of a generator's class parameters by SVD in float64.

    groups: as in `group_shape`.  Raises GeneratorError if no class-conditional layer can be read.
    """
    values, vectors = [], class_vectors(generator)
    for sides in vectors.values():
        matrices = _matrices(torch.stack(list(sides.values())), groups)
        finite = matrices.isfinite().all(-1).all(-1)
        found = torch.linalg.svdvals(torch.where(finite[..., None, None], matrices, 0.0))
        values.append(torch.where(finite[..., None], found, torch.inf))
    return Spectrum(list(vectors), tuple(sides), values)


def class_vectors(generator: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the class parameters, {layer: {side: (classes, channels)}}; for a StyleGAN, of its mapping network.

    Raises GeneratorError if the generator has neither class-conditional normalisation nor such a network.
    """
    try:
        affines = class_conditional_affines(generator)
    except GeneratorError:
        if not any(is_class_mapping(module) for module in generator.modules()):
            raise
        mappings = find_mapping_networks(generator)
        return {layer.name: dict(layer.custom()) for layer in mappings if layer.custom is not None}
    return {affine.name: {"gain": affine.gain, "bias": affine.bias} for affine in affines}


@torch.no_grad()
def group_correlation(
    generator: nn.Module, layer: str, side: str, label: int, groups: int | str = "square"
) -> Tensor:
    """Return the Pearson correlation of a class's groups, (n_g, n_g) float64; 0 for constant groups."""
    matrix = _matrices(class_vectors(generator)[layer][side][label], groups)
    centred = matrix - matrix.mean(1, keepdim=True)
    lengths = centred.norm(dim=1, keepdim=True)
    constant = lengths <= 8 * torch.finfo(matrix.dtype).eps * matrix.norm(dim=1, keepdim=True)  # to rounding
    unit = torch.where(constant, 0.0, centred / lengths.clamp(min=1e-300))
    return unit @ unit.T


@torch.no_grad()
def largest_class_norms(generator: nn.Module, groups: int | str = "square") -> Tensor:
    """Return the largest spectral norm per class over all layers, gain and bias: (classes,) float64.

    The norms of all matrices of one shape are computed together.  Infinite for matrices that are not finite.
    groups: as in `group_shape`.  Raises GeneratorError if no class-conditional layer can be read.
    """
    maps: dict[int, list[Tensor]] = defaultdict(list)  # by number of channels
    for sides in class_vectors(generator).values():
        for vectors in sides.values():
            maps[vectors.shape[-1]].append(vectors)
    norms = [exact_norms(_matrices(torch.stack(vectors), groups)) for vectors in maps.values()]
    return torch.cat(norms).amax(0)


def exploding(norms: Sequence[float], start: Sequence[float], threshold: float = THRESHOLD) -> list[int]:
    """Return the labels of classes whose norms explode (see THRESHOLD) or are not finite.

    norms: the largest norm per class now.  start: the same at the start of training.
    A norm that only grows along with the others does not explode, nor does one that stays constant while a penalty
    shrinks the others.
    """
    now = torch.tensor(norms, dtype=torch.float64)
    bound = threshold * max(max(start), float(now.median()))
    labels: list[int] = torch.nonzero(~(now.isfinite() & (now <= bound))).flatten().tolist()
    return labels


def _matrices(vectors: Tensor, groups: int | str) -> Tensor:
    return vectors.double().reshape(*vectors.shape[:-1], *group_shape(vectors.shape[-1], groups))
