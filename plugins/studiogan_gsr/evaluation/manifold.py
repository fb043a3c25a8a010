"""Precision, recall, density and coverage (Kynkäänniemi et al. 2019, Naeem et al. 2020).

The package `prdc` computes them for features on the CPU, if its matrices of all pairs fit.  Otherwise the same
numbers are computed block by block on the features' device, with one block of distances in memory at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from joblib import parallel_config
from torch import Tensor

_PAIRS = 2**20  # distances per block: 8 MiB
_PRDC_PAIRS = 2048**2  # pairs that prdc may hold per matrix: it has three matrices, of 32 MiB each
_ULPS = 4  # the rounding error of a dot product of length d is at most about _ULPS * eps * sqrt(d)


def distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, squared Euclidean distances (block, columns) float64) for all pairs, block by block.

    In float64: in float32, distances below 0.02 vanish in the rounding error if features have norm 30.  Distances
    below the rounding error are set to 0; otherwise equal features would be a small distance apart.
    """
    others = columns.double()
    lengths = torch.linalg.vector_norm(others, dim=1).square()
    size = max(1, _PAIRS // max(1, len(others)))
    rounding = _ULPS * torch.finfo(torch.float64).eps * math.sqrt(max(1, rows.shape[1]))
    for first in range(0, len(rows), size):
        block = rows[first : first + size].double()
        both = block.square().sum(1)[:, None] + lengths
        squared = both - 2 * block @ others.T
        yield first, squared.masked_fill_(squared <= rounding * both, 0)


def neighbour_radii(features: Tensor, neighbours: int) -> Tensor:
    """Return the squared distance (N,) of each point to its k-th nearest other point; k is `neighbours`."""
    radii = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for first, squared in distances(features, features):
        nearest = squared.topk(neighbours + 1, dim=1, largest=False).values
        radii[first : first + len(squared)] = nearest[:, -1]
    return radii


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, neighbours: int = 5, real_radii: Callable[[], Tensor] | None = None
) -> dict[str, float]:
    """Return the four numbers, for features (N, d) and (M, d) of more than `neighbours` images each.

    real_radii: returns `neighbour_radii(real, neighbours)`, for example from a cache; default: compute them.
    """
    if _is_for_prdc(real, fake, neighbours):
        return _by_prdc(real, fake, neighbours)
    return _block_by_block(real, fake, neighbours, real_radii)


def _is_for_prdc(real: Tensor, fake: Tensor, neighbours: int) -> bool:
    """Return whether prdc can hold all pairs, and its rounding errors cannot change the result.

    An image that occurs more than `neighbours` times has a radius of 0.  prdc does not set small distances to 0, as
    `distances` does, and would compare that radius with rounding errors.
    """
    sizes = len(real), len(fake)
    if real.device.type != "cpu" or max(sizes) ** 2 > _PRDC_PAIRS or min(sizes) < neighbours + 2:
        return False
    return max(_most_copies(real), _most_copies(fake)) <= neighbours


def _most_copies(features: Tensor) -> int:
    """Return how often the most frequent of the features (N, d) occurs."""
    return max(Counter(row.tobytes() for row in features.numpy()).values())


def _by_prdc(real: Tensor, fake: Tensor, neighbours: int) -> dict[str, float]:
    from prdc import compute_prdc  # training does not need it

    # prdc prints the numbers of images, and starts eight workers, which takes longer than the computation.
    with contextlib.redirect_stdout(None), parallel_config(backend="sequential"):
        found = compute_prdc(real.double().numpy(), fake.double().numpy(), neighbours)
    return {name: float(found[name]) for name in ("precision", "recall", "density", "coverage")}


def _block_by_block(
    real: Tensor, fake: Tensor, neighbours: int, real_radii: Callable[[], Tensor] | None
) -> dict[str, float]:
    radii = neighbour_radii(real, neighbours) if real_radii is None else real_radii()
    fake_radii = neighbour_radii(fake, neighbours)
    spheres = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)  # real spheres around each fake point
    recalled = covered = 0
    for first, squared in distances(real, fake):
        inside = squared < radii[first : first + len(squared), None]
        spheres += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared < fake_radii).any(1).sum())
    return {
        "precision": float((spheres > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(spheres.double().mean()) / neighbours,
        "coverage": covered / len(real),
    }


def nearest(queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the nearest candidate of each query, (N,) int64, and its distance, (N,) float64."""
    found = [squared.min(1) for _, squared in distances(queries, candidates)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).sqrt()


def mean_pairwise_distance(features: Tensor) -> float:
    """Return the mean distance between two different points of features (N, d), N at least 2: the diversity."""
    total = 0.0
    for first, squared in distances(features, features):
        squared.diagonal(first).zero_()  # it is 0 except for rounding
        total += float(squared.sqrt().sum())
    return total / (len(features) * (len(features) - 1))
