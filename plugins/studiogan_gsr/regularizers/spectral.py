"""Largest singular values of many small matrices at once.

All functions work on stacks (..., n_g, n_c): each trailing matrix is one class vector of d = n_g *
n_c channels, cut row by row into n_g groups.  The number of kernels that a function launches does
not depend on how many matrices there are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from studiogan_gsr.errors import OptionError

# Number of squarings of M M^T, after which its leading vector counts as converged; as 2^12 power iterations.
_SQUARINGS = 12
# Most power iterations per call: up to here, float32 neither overflows nor underflows (see `power_iteration`).
MAX_ITERATIONS = 16
# The authors' program divides a vector by its length, but by no less than this.
_RELEASED_EPS = 1e-3


def group_shape(channels: int, groups: int | str = "square") -> tuple[int, int]:
    """Return (n_g, n_c), the shape of the matrix that `channels` numbers are cut into.

    "square" is the most square factorisation with n_g <= n_c, as in the authors' program (256 ->
    16 x 16, 384 -> 16 x 24; a prime d -> 1 x d); an integer is n_g itself.
    Raises OptionError if that integer does not divide `channels`.
    """
    if groups == "square":
        rows = next(r for r in range(math.isqrt(channels), 0, -1) if channels % r == 0)
    elif isinstance(groups, int) and groups >= 1 and channels % groups == 0:
        rows = groups
    else:
        divisors = ", ".join(str(r) for r in range(1, channels + 1) if channels % r == 0)
        raise OptionError("groups", groups, f"'square' or a divisor of {channels} channels: {divisors}")
    return rows, channels // rows


def group_spectral_norms(matrix_stack: Tensor, u: Tensor | None = None, v: Tensor | None = None) -> Tensor:
    """Return the spectral norms (...) of a stack of matrices (..., n_g, n_c).

    Without u and v: exact, computed in float64, returned in the stack's dtype.
    With u (..., n_g) and v (..., n_c), unit vectors that are constants to autograd: u^T M v, whose
    gradient u v^T is that of the spectral norm where u and v are the leading singular vectors.
    """
    if u is None or v is None:
        # The gradient is that of an SVD, which is finite for zero matrices, too.
        follows = torch.is_grad_enabled() and matrix_stack.requires_grad
        exact = torch.linalg.svdvals(matrix_stack.double())[..., 0] if follows else exact_norms(matrix_stack)
        return exact.to(matrix_stack.dtype)
    return (u * _times(matrix_stack, v)).sum(-1)


@torch.no_grad()
def exact_norms(matrices: Tensor) -> Tensor:
    """Return the spectral norms (...) of matrices (..., n_g, n_c): float64, without gradient.

    They are the roots of the largest eigenvalues of M M^T or M^T M, whichever is smaller: as exact as an SVD for the
    largest singular value, faster, and a single call for all matrices.  Infinite where M M^T is not finite.
    """
    wide = matrices.double() if matrices.shape[-2] <= matrices.shape[-1] else matrices.double().mT
    gram = wide @ wide.mT
    finite = gram.isfinite().all(-1).all(-1)
    squares: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))
    return torch.where(finite, squares[..., -1].clamp(min=0).sqrt(), torch.inf)


@torch.no_grad()
def power_iteration(matrices: Tensor, u: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return (u, v) after `iterations` rounds of v <- unit(M^T u), u <- unit(M v).

    All but the last round multiply by M M^T or M^T M, whichever is smaller, scaled so that nothing
    overflows or underflows in float32 for up to MAX_ITERATIONS rounds.  Where M is zero, the given
    vectors are kept: zero vectors would stay zero, and so would the norm, even if the matrix grew later.
    """
    n_g, n_c = matrices.shape[-2:]
    left, rounds = u, iterations - 1
    if n_g <= n_c:
        left = _times_power(_scaled(matrices @ matrices.mT), left, rounds) if rounds else left
        right = _times(matrices.mT, left)
    else:
        right = _times(matrices.mT, left)
        right = _times_power(_scaled(matrices.mT @ matrices), right, rounds) if rounds else right
    v = _unit(right, v)
    return _unit(_times(matrices, v), u), v


@torch.no_grad()
def leading_vectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leading singular vectors u (..., n_g) and v (..., n_c), as after 4096 power iterations.

    Squares M M^T repeatedly: its 2^k-th power approaches u u^T up to scale, and the column with the
    largest diagonal element is then u up to scale.  Deterministic: there is no start vector.
    """
    n_g, n_c = matrices.shape[-2:]
    if n_g > n_c:
        v, u = leading_vectors(matrices.mT)
        return u, v
    gram = _scaled(matrices @ matrices.mT)
    for _ in range(_SQUARINGS):
        gram = _scaled(gram @ gram)
    column = gram.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    left = gram.gather(-1, column.expand(*gram.shape[:-1], 1)).squeeze(-1)
    u = _unit(left, torch.full_like(matrices[..., 0], n_g**-0.5))
    v = torch.full_like(matrices[..., 0, :], n_c**-0.5)
    return power_iteration(matrices, u, v, 1)


@torch.no_grad()
def released_power_iteration(
    gain: Tensor, bias: Tensor, u: Tensor, v: Tensor, u_bias: Tensor, v_bias: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (u, v, u_bias, v_bias) as the authors' program updates them.

    The known departure from the definition: the bias side's left vector is computed from the *gain*
    side's right vector, so that u^T B v is below the spectral norm of B.  Kept for comparison
    with that program's numbers; off by default.
    """
    for _ in range(iterations):
        v = _released_unit(_times(gain.mT, u))
        u = _released_unit(_times(gain, v))
        v_bias = _released_unit(_times(bias.mT, u_bias))
        u_bias = _released_unit(_times(bias, v))
    return u, v, u_bias, v_bias


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _unit(vectors: Tensor, otherwise: Tensor) -> Tensor:
    """Return vectors scaled to length one; those of length zero are replaced by `otherwise`."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(length > 0, vectors / length, otherwise)


def _released_unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=_RELEASED_EPS)


def _times_power(matrices: Tensor, vectors: Tensor, power: int) -> Tensor:
    for _ in range(power):
        vectors = _times(matrices, vectors)
    return vectors


def _scaled(gram: Tensor) -> Tensor:
    """Return positive semi-definite n x n matrices scaled to the trace sqrt(n); zero matrices stay zero.

    The largest eigenvalue is then between 1 / sqrt(n) and sqrt(n), so its powers stay closest to one.
    """
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return gram * torch.where(trace > 0, gram.shape[-1] ** 0.5 / trace, 1.0)
