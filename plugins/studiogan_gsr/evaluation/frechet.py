"""Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, FID), also for few images.

The term Tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2^T, where Ri^T Ri = Si.  A root R has at most
as many rows as there are images.  So a class with 20 images needs no 2048 x 2048 covariance, no square root of a
singular matrix, and no offset on its diagonal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studiogan_gsr.errors import EvaluationError

_NOT_FINITE = "a Frechet distance is not finite: the features are not finite, or too large"
# Singular values below this share of the largest are not read from squares (see `nuclear_norm`).
_SMALL = 1e-4


class Gaussian:
    """Mean (d,) and a root (r, d) of the covariance, r <= min(images, d), float64; count: number of images."""

    def __init__(self, mean: Tensor, root: Tensor, count: int) -> None:
        self.mean, self.root, self.count = mean, root, count

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Fit features (N, d), N at least 2, with the unbiased covariance.

        With more images than features, raises EvaluationError if the covariance is not finite.
        """
        if len(features) <= features.shape[1]:
            mean = features.double().mean(0)
            return cls(mean, (features.double() - mean) / (len(features) - 1) ** 0.5, len(features))
        moments = Moments(features.shape[1], features.device)
        for block in features.split(8192):  # type: ignore[no-untyped-call]
            moments.update(block)
        return moments.gaussian()

    @property
    def variance(self) -> Tensor:
        """The trace of the covariance."""
        return self.root.square().sum()


class Moments:
    """Count, mean and centred second moment of features that come in blocks (Chan et al. 1979); float64."""

    def __init__(self, dimensions: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Add features (N, d)."""
        if not len(features):
            return
        block = features.double()
        mean = block.mean(0)
        centred = block - mean
        shift, total = mean - self.mean, self.count + len(block)
        self.scatter += centred.T @ centred
        self.scatter += torch.outer(shift, shift) * (self.count * len(block) / total)
        self.mean = self.mean + shift * (len(block) / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Return the Gaussian with the unbiased covariance; needs a count of at least 2.

        Raises EvaluationError if the covariance is not finite.
        """
        covariance = self.scatter / (self.count - 1)
        root, failed = torch.linalg.cholesky_ex(covariance)
        if not failed:  # ten times as fast as eigh
            return Gaussian(self.mean, root.T, self.count)
        if not bool(covariance.isfinite().all()):
            raise EvaluationError(_NOT_FINITE)
        values, vectors = torch.linalg.eigh(covariance)
        return Gaussian(self.mean, values.clamp(min=0).sqrt()[:, None] * vectors.T, self.count)


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Return the sum of the singular values of a finite matrix (r, c), float64, by eigenvalues on its device.

    The eigenvalues of M M^T are exact to rounding of the largest, so their roots are inexact where they are small.
    Therefore only singular values above _SMALL times the largest are such roots.  The others are computed in the same
    way from V^T M, where V holds the eigenvectors of the small eigenvalues: there the largest is small, too.
    In features of real images the result differs from that of an SVD by at most 1e-11 of itself.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    squares, vectors = torch.linalg.eigh(wide @ wide.T)  # rising
    small = int((squares <= _SMALL**2 * squares[-1]).sum())
    rest = vectors[:, :small].T @ wide
    return torch.cat([squares[small:], torch.linalg.eigvalsh(rest @ rest.T)]).clamp(min=0).sqrt().sum()


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the squared distance |m1 - m2|^2 + Tr (S1 + S2 - 2 (S1 S2)^(1/2)), 0 or more.

    Raises EvaluationError if it is not finite.
    """
    product = one.root @ other.root.T
    squared = (one.mean - other.mean).square().sum() + one.variance + other.variance
    if not bool((squared + product.square().sum()).isfinite()):
        raise EvaluationError(_NOT_FINITE)
    # On a GPU a large SVD is slow; on a CPU it is the faster of the two.
    shared = torch.linalg.svdvals(product).sum() if product.is_cpu else nuclear_norm(product)
    distance = float(squared - 2 * shared)
    if not math.isfinite(distance):
        raise EvaluationError(_NOT_FINITE)
    return max(0.0, distance)
