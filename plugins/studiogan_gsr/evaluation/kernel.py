"""Kernel distance (Binkowski et al. 2018, KID): unbiased even for few images, unlike a Fréchet distance."""

from __future__ import annotations

from torch import Tensor

_BLOCK = 4096  # rows of the kernel matrix in memory at a time


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD of features (N, d) and (M, d), with the kernel (x.y / d + 1)^3.

    N and M must be at least 2.  The estimate may be below 0, because it is unbiased.
    """
    one, other = real.double(), fake.double()
    same_one, same_other = _kernel_sum(one, one, True), _kernel_sum(other, other, True)
    n, m = len(one), len(other)
    crossed = _kernel_sum(one, other, False) / (n * m)
    return same_one / (n * (n - 1)) + same_other / (m * (m - 1)) - 2 * crossed


def _kernel_sum(one: Tensor, other: Tensor, without_diagonal: bool) -> float:
    """Return the sum of the kernel over all pairs of rows of (N, d) and (M, d).

    without_diagonal: leave out the pairs of a row with itself; needs one = other.
    """
    total = 0.0
    for block in one.split(_BLOCK):  # type: ignore[no-untyped-call]
        total += float((block @ other.T / one.shape[1] + 1).pow(3).sum())
    if without_diagonal:
        total -= float((one.square().sum(1) / one.shape[1] + 1).pow(3).sum())
    return total
