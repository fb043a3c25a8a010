"""Spectral norms of stacks: against SVD, closed forms and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studiogan_gsr import group_spectral_norms
from studiogan_gsr.errors import OptionError
from studiogan_gsr.regularizers.spectral import (
    MAX_ITERATIONS,
    exact_norms,
    group_shape,
    leading_vectors,
    power_iteration,
)

SHAPES = {256: (16, 16), 384: (16, 24), 1024: (32, 32), 512: (16, 32), 128: (8, 16), 1280: (32, 40)}
SHAPES |= {640: (20, 32), 320: (16, 20), 160: (10, 16), 80: (8, 10), 97: (1, 97), 1: (1, 1), 2: (1, 2)}


@pytest.mark.parametrize(("channels", "shape"), SHAPES.items())
def test_the_square_factorisation_is_that_of_the_authors_program(channels: int, shape: tuple[int, int]) -> None:
    assert group_shape(channels) == shape


def test_a_number_of_groups_must_divide_the_channels() -> None:
    assert group_shape(12, 6) == (6, 2)
    with pytest.raises(OptionError, match="a divisor of 12 channels: 1, 2, 3, 4, 6, 12"):
        group_shape(12, 5)


def random_stack(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


matrices = st.builds(
    random_stack,
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 9),
)


@settings(deadline=None)
@given(matrices)
def test_exact_norms_and_gradients_equal_svd(stack: Tensor) -> None:
    stack = stack.requires_grad_()
    u, s, vh = torch.linalg.svd(stack.detach(), full_matrices=False)
    sigma = group_spectral_norms(stack)
    torch.testing.assert_close(sigma, s[..., 0])
    (gradient,) = torch.autograd.grad(sigma.sum(), stack)
    torch.testing.assert_close(gradient, u[..., :, :1] @ vh[..., :1, :], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 5, 16, 24), (4, 40, 32), (7, 1, 9), (2, 9, 1)])
def test_exact_norms_without_gradient_equal_svd(shape: tuple[int, ...]) -> None:
    """Also of matrices with equal singular values, of rank one and of zeros, in both precisions."""
    stack = random_stack(0, *shape)
    flat = torch.linalg.svd(stack, full_matrices=False)
    one = flat.U[..., :1] @ flat.Vh[..., :1, :]
    for some in (stack, flat.U @ flat.Vh, 1e-30 * one, torch.zeros(shape), 1e-5 * stack.float()):
        norms = group_spectral_norms(some)
        assert norms.dtype == some.dtype
        torch.testing.assert_close(norms, torch.linalg.svdvals(some.double())[..., 0].to(some), rtol=1e-14, atol=0)
    stack[0, ..., 0, 0], stack[1, ..., 0, 0] = math.nan, 1e200
    found = exact_norms(stack)
    assert found[:2].isinf().all()
    assert found[2:].isfinite().all()


def test_zero_matrices_have_a_finite_gradient_of_the_exact_norm() -> None:
    stack = torch.zeros(2, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(group_spectral_norms(stack).sum(), stack)
    torch.testing.assert_close(gradient.norm(dim=(1, 2)), torch.ones(2))  # of any unit vectors


@settings(deadline=None)
@given(matrices)
def test_converged_vectors_give_the_exact_norms_and_gradients(stack: Tensor) -> None:
    stack = stack.requires_grad_()
    exact = group_spectral_norms(stack)
    sigma = group_spectral_norms(stack, *leading_vectors(stack.detach()))
    # Two nearly equal singular values leave an error below their gap.
    torch.testing.assert_close(sigma, exact, rtol=2e-4, atol=1e-9)
    assert (sigma <= exact * (1 + 1e-9)).all()
    s = torch.linalg.svdvals(stack.detach())
    gap = (s[..., 0] - (s[..., 1] if s.shape[-1] > 1 else 0)) / s[..., 0]
    if (gap > 0.02).all():
        a, b = (torch.autograd.grad(t.sum(), stack, retain_graph=True)[0] for t in (sigma, exact))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(matrices, st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_norms_scale_and_follow_permutations(stack: Tensor, factor: float, seed: int) -> None:
    sigma = group_spectral_norms(stack)
    torch.testing.assert_close(group_spectral_norms(stack * factor), sigma * factor)
    torch.testing.assert_close(group_spectral_norms(-stack), sigma)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(n, generator=generator) for n in stack.shape[-2:])
    torch.testing.assert_close(group_spectral_norms(stack[..., rows, :][..., columns]), sigma)
    torch.testing.assert_close(group_spectral_norms(stack.mT), sigma)
    torch.testing.assert_close(group_spectral_norms(stack.flip(0)), sigma.flip(0))


@pytest.mark.parametrize("exact", [True, False])
def test_closed_forms(exact: bool) -> None:
    def norm(matrix: Tensor) -> float:
        vectors = (None, None) if exact else leading_vectors(matrix)
        return float(group_spectral_norms(matrix, *vectors))

    assert norm(torch.diag(torch.tensor([1.0, -7.0, 3.0]))) == pytest.approx(7)
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0])
    assert norm(torch.outer(a, b)) == pytest.approx(5 * 3)
    assert norm(torch.zeros(4, 6)) == 0
    assert norm(torch.ones(4, 9)) == pytest.approx(6)
    assert norm(b.unsqueeze(0)) == pytest.approx(3)  # prime channels: one group, the Euclidean norm
    assert norm(torch.eye(5)) == pytest.approx(1)  # all singular values equal
    assert norm(torch.outer(a, b) * 1e-15) == pytest.approx(15e-15)  # no underflow
    assert norm(torch.outer(a, b) * 1e12) == pytest.approx(15e12)  # no overflow


def test_gradcheck_in_double_precision() -> None:
    stack = random_stack(3, 2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(group_spectral_norms, stack)
    vectors = leading_vectors(stack.detach())
    assert torch.autograd.gradcheck(lambda m: group_spectral_norms(m, *vectors), stack)


@pytest.mark.parametrize("shape", [(6, 7), (7, 6), (16, 24), (32, 40), (40, 3)])
@pytest.mark.parametrize("scale", [1e-6, 0.05, 1.0, 1e6])
@pytest.mark.parametrize("rounds", [1, 2, 4, MAX_ITERATIONS])
def test_power_iteration_is_the_textbook_loop(shape: tuple[int, int], scale: float, rounds: int) -> None:
    """In float32, in a random matrix and in one whose singular values are all equal."""
    random = random_stack(5, 30, *shape)
    flat = torch.linalg.svd(random, full_matrices=False)
    for stack in (random * scale, flat.U @ flat.Vh * scale):
        u, v = random_stack(6, 30, shape[0]), random_stack(7, 30, shape[1])
        expected_u, expected_v = u, v
        for _ in range(rounds):
            expected_v = torch.einsum("brc,br->bc", stack, expected_u)
            expected_v = expected_v / expected_v.norm(dim=-1, keepdim=True)
            expected_u = torch.einsum("brc,bc->br", stack, expected_v)
            expected_u = expected_u / expected_u.norm(dim=-1, keepdim=True)
        new_u, new_v = power_iteration(stack.float(), u.float(), v.float(), rounds)
        torch.testing.assert_close(new_u.double(), expected_u, rtol=0, atol=1e-3)
        torch.testing.assert_close(new_v.double(), expected_v, rtol=0, atol=1e-3)


def test_many_groups_cost_no_large_gram_matrix() -> None:
    tall = torch.randn(3, 256, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        vectors = leading_vectors(tall)
        vectors = power_iteration(tall, *vectors, 4)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 3 * 256 * 256 * 4
    torch.testing.assert_close(group_spectral_norms(tall, *vectors), tall.norm(dim=(1, 2)))


def test_a_matrix_that_leaves_zero_is_seen_again() -> None:
    """A zero-initialised bias must not stay invisible once it has grown."""
    zero = torch.zeros(3, 4)
    u, v = leading_vectors(zero)
    u, v = power_iteration(zero, u, v, 4)
    assert math.isclose(float(u.norm()), 1, rel_tol=1e-6)
    grown = torch.arange(12.0).view(3, 4)
    u, v = power_iteration(grown, u, v, 4)
    assert float(group_spectral_norms(grown, u, v)) == pytest.approx(float(group_spectral_norms(grown)), rel=1e-5)


def test_the_number_of_operations_grows_neither_with_matrices_nor_classes() -> None:
    def operations(maps: int, classes: int) -> int:
        stack = torch.randn(maps, classes, 4, 6)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            group_spectral_norms(stack, *leading_vectors(stack))
        return sum(event.count for event in profile.key_averages())

    assert operations(2, 3) == operations(24, 100)
