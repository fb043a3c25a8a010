"""Precision, recall, density and coverage (Kynkäänniemi et al. 2019, Naeem et al. 2020).

The package `prdc` computes them where its matrices of all pairs fit; otherwise the same numbers are computed block by
block, on the features' device, with a block of rows in memory at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator

import torch
from prdc import compute_prdc
from torch import Tensor

_PAIRS = 2**20  # of distances at a time: 8 MiB
_PRDC_PAIRS = 2048**2  # that prdc gets, in three matrices of 32 MiB
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
    """Return the four numbers, for features (N, d) and (M, d) of more than `neighbours` images each.

    real_radii: `neighbour_radii(real, neighbours)`, where they are known.
    """
    if _is_for_prdc(real, fake, neighbours):
        return _by_prdc(real, fake, neighbours)
    return _block_by_block(real, fake, neighbours, real_radii)


def _is_for_prdc(real: Tensor, fake: Tensor, neighbours: int) -> bool:
    """Return whether the package can hold all pairs, and rounds none of them to another side of a radius.

    Where an image occurs more than `neighbours` times its radius is 0, and what rounding leaves of a distance of 0
    would decide: see `distances`.
    """
    sizes = len(real), len(fake)
    if real.device.type != "cpu" or max(sizes) ** 2 > _PRDC_PAIRS or min(sizes) < neighbours + 2:
        return False
    return max(_most_copies(real), _most_copies(fake)) <= neighbours


def _most_copies(features: Tensor) -> int:
    """Return how often the most frequent of the features (N, d) occurs."""
    return max(Counter(row.tobytes() for row in features.numpy()).values())


def _by_prdc(real: Tensor, fake: Tensor, neighbours: int) -> dict[str, float]:
    with contextlib.redirect_stdout(None):  # it prints the numbers of images
        found = compute_prdc(real.double().numpy(), fake.double().numpy(), neighbours)
    return {name: float(found[name]) for name in ("precision", "recall", "density", "coverage")}


def _block_by_block(real: Tensor, fake: Tensor, neighbours: int, real_radii: Tensor | None) -> dict[str, float]:
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
