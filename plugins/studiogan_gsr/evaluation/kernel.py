"""Kernel distance (Binkowski et al. 2018, KID): unbiased also for few images, where a Fréchet distance is not."""

from __future__ import annotations

from torch import Tensor

_BLOCK = 4096


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the unbiased estimate of the squared MMD with the kernel (x.y / d + 1)^3, of features (N, d) and (M, d).

    It may be below 0, as an unbiased estimate of 0 must.  N and M are at least 2.
    """
    one, other = real.double(), fake.double()
    same_one, same_other = _kernel_sum(one, one, True), _kernel_sum(other, other, True)
    n, m = len(one), len(other)
    crossed = _kernel_sum(one, other, False) / (n * m)
    return same_one / (n * (n - 1)) + same_other / (m * (m - 1)) - 2 * crossed


def _kernel_sum(one: Tensor, other: Tensor, without_diagonal: bool) -> float:
    total = 0.0
    for block in one.split(_BLOCK):  # type: ignore[no-untyped-call]
        total += float((block @ other.T / one.shape[1] + 1).pow(3).sum())
    if without_diagonal:
        total -= float((one.square().sum(1) / one.shape[1] + 1).pow(3).sum())
    return total
