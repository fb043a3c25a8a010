"""Precision, recall, density and coverage (Kynkäänniemi et al. 2019, Naeem et al. 2020), block by block.

As the package `prdc` defines them, without its matrices of all pairs: a block of rows is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_PAIRS = 2**20  # of distances at a time: 8 MiB
_ULPS = 4  # of a sum of products, times the root of their number: what rounding leaves


def distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, squared Euclidean distances (block, columns) float64) of all pairs, block by block.

    Products in float64: of features of length 30, float32 loses distances below 0.02.  What is below their rounding
    is 0: of equal features a residue would be left, and be divided by.
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
    """Squared distance (N,) of each point to its k-th nearest other point."""
    radii = torch.empty(len(features), dtype=torch.float64, device=features.device)
    for first, squared in distances(features, features):
        nearest = squared.topk(neighbours + 1, dim=1, largest=False).values
        radii[first : first + len(squared)] = nearest[:, -1]
    return radii


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, neighbours: int = 5, real_radii: Tensor | None = None
) -> dict[str, float]:
    """The four numbers, for features (N, d) and (M, d) of more than `neighbours` images each.

    real_radii: of `neighbour_radii(real, neighbours)`, where they are known.
    """
    radii = neighbour_radii(real, neighbours) if real_radii is None else real_radii
    fake_radii = neighbour_radii(fake, neighbours)
    spheres = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)  # of real points, that a fake is in
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
    """Of each query, the index of the nearest candidate and its distance: (N,) int64, (N,) float64."""
    found = [squared.min(1) for _, squared in distances(queries, candidates)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).sqrt()


def mean_pairwise_distance(features: Tensor) -> float:
    """Mean distance of two different points among features (N, d), N at least 2: diversity."""
    total = 0.0
    for first, squared in distances(features, features):
        squared.diagonal(first).zero_()  # but for rounding it is
        total += float(squared.sqrt().sum())
    return total / (len(features) * (len(features) - 1))
