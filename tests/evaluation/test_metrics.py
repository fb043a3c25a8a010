"""Distances between sets of features: against torch-fidelity, prdc and definitions, and for their meaning."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor, nn

from studiogan_gsr.errors import EvaluationError
from studiogan_gsr.evaluation import manifold
from studiogan_gsr.evaluation.features import Sample
from studiogan_gsr.evaluation.frechet import Gaussian, Moments, frechet_distance, nuclear_norm
from studiogan_gsr.evaluation.kernel import kernel_distance
from studiogan_gsr.evaluation.manifold import (
    mean_pairwise_distance,
    nearest,
    neighbour_radii,
    precision_recall_density_coverage,
)
from studiogan_gsr.evaluation.measure import METRICS, Reference, inception_score, metrics
from studiogan_gsr.regularizers.norms import group_correlation, spectrum


def features(count: int, dimensions: int, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> Tensor:
    """Correlated, rectified, as a network's are."""
    mix = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(99)) / dimensions**0.5
    noise = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))
    return (noise @ mix * scale + shift).relu()


PAIRS = [
    (features(900, 64), features(700, 64, 1.2, 0.1, 1)),
    (features(20, 64), features(700, 64, 0.8, 0.0, 1)),  # fewer images than features
    (features(9, 64), features(12, 64, 1.0, 0.3, 1)),
    (features(900, 64) + 300, features(700, 64, 1.2, 0.1, 1) + 300),  # far from the origin
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_frechet_distance_is_torch_fidelitys(one: Tensor, other: Tensor, device: torch.device) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    theirs = fid.fid_statistics_to_metric(
        *(fid.fid_features_to_statistics(x.double()) for x in (one, other)), verbose=False
    )["frechet_inception_distance"]
    found = frechet_distance(Gaussian.of(one.to(device)), Gaussian.of(other.to(device)))
    assert found == pytest.approx(theirs, rel=1e-5)


def test_the_frechet_distance_of_known_gaussians(device: torch.device) -> None:
    """Two diagonal ones: |m1 - m2|^2 + sum (s1 - s2)^2."""
    mean, one, other = (torch.tensor(x, device=device) for x in ([3.0, 4.0], [2.0, 5.0], [1.0, 9.0]))
    mean = mean.double()
    found = frechet_distance(
        Gaussian(mean, torch.diag(one.double()), 9), Gaussian(0 * mean, torch.diag(other.double()), 9)
    )
    assert found == pytest.approx(25 + 1 + 16)


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("rows", "columns"), [(20, 300), (300, 300), (300, 19), (1, 5)])
def test_the_nuclear_norm_by_eigenvalues_is_that_of_an_svd(rows: int, columns: int, decay: float) -> None:
    """Also of matrices whose singular values fall to rounding, where a root of M M^T alone is off by 1e-7."""
    stream = torch.Generator().manual_seed(0)
    u, v = (
        torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64)).Q[:, : min(rows, columns)]
        for n in (rows, columns)
    )
    values = torch.arange(1.0, 1 + min(rows, columns)).double() ** -(3 * decay)
    values[200:] = 0  # dead features
    found = float(nuclear_norm(u * values @ v.T))
    assert found == pytest.approx(float(values.sum()), rel=1e-11)


def test_the_nuclear_norm_of_features_is_that_of_an_svd() -> None:
    for pair in [*PAIRS, (PAIRS[0][0], PAIRS[0][0])]:
        one, other = map(Gaussian.of, pair)
        expected = torch.linalg.svdvals(one.root @ other.root.T).sum()
        torch.testing.assert_close(nuclear_norm(one.root @ other.root.T), expected, rtol=1e-12, atol=0)
    assert nuclear_norm(torch.zeros(3, 4).double()) == 0


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_frechet_distance_that_is_not_finite_is_an_evaluation_error(
    count: int, value: float, device: torch.device
) -> None:
    one, other = features(count, 8).double().to(device), features(40, 8, seed=1).double().to(device)
    one[3] = value
    for pair in ((one, other), (other, one), (one, one)):
        with pytest.raises(EvaluationError, match="a Frechet distance is not finite"):
            frechet_distance(*map(Gaussian.of, pair))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 5))
@settings(max_examples=30, deadline=None)
def test_moments_do_not_depend_on_the_blocks(sizes: list[int]) -> None:
    whole = features(sum(sizes), 5, seed=sum(sizes)) + 100
    moments = Moments(5)
    for block in whole.split(sizes):
        moments.update(block)
    np.testing.assert_allclose(moments.mean, whole.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.scatter / (moments.count - 1), np.cov(whole.double().T), atol=1e-10)
    gaussian = moments.gaussian()
    np.testing.assert_allclose(gaussian.root.T @ gaussian.root, np.cov(whole.double().T), atol=1e-10)


@pytest.mark.parametrize("pairs", [0, 2**24, 700, 1])
def test_precision_recall_density_and_coverage_are_prdcs(
    pairs: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pairs` at a time, by our blocks; 0: by the package itself."""
    if pairs:
        monkeypatch.setattr(manifold, "_PRDC_PAIRS", 0)
        monkeypatch.setattr(manifold, "_PAIRS", pairs)
    for seed, (n, m) in enumerate(((60, 80), (150, 90))):
        real, fake = (x.to(device) for x in (features(n, 24, seed=seed), features(m, 24, 1.1, 0.05, seed + 9)))
        for neighbours in (1, 5):
            theirs = compute_prdc(real.cpu().numpy(), fake.cpu().numpy(), neighbours)
            assert precision_recall_density_coverage(real, fake, neighbours) == pytest.approx(theirs, rel=1e-5)
            radii = partial(neighbour_radii, real, neighbours)
            assert precision_recall_density_coverage(real, fake, neighbours, radii) == pytest.approx(theirs, rel=1e-5)


def test_the_kernel_distance_is_torch_fidelitys_unbiased_estimate(device: torch.device) -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    one, other = features(300, 24), features(300, 24, 1.1, 0.05, 1)
    pairs = ((one, one), (one, other), (other, other))
    kernels = (kid.kernel_poly(x.double().numpy(), y.double().numpy(), **options) for x, y in pairs)
    assert kernel_distance(one.to(device), other.to(device)) == pytest.approx(kid.mmd2(*kernels), rel=1e-5)


def test_the_kernel_distance_of_few_images_is_right_on_average_where_a_frechet_distance_is_not() -> None:
    """Both should be 0 within one distribution: with ten images a side only one is."""
    draws = [(features(10, 32, seed=2 * i), features(10, 32, seed=2 * i + 1)) for i in range(200)]
    kernel = np.array([kernel_distance(*draw) for draw in draws])
    assert abs(kernel.mean()) < 3 * kernel.std() / len(kernel) ** 0.5
    few = np.mean([frechet_distance(*map(Gaussian.of, draw)) for draw in draws])
    many = frechet_distance(Gaussian.of(features(20000, 32)), Gaussian.of(features(20000, 32, seed=1)))
    assert many < 0.02 < 5 < few


def test_pairwise_distance_and_nearest_neighbours_are_those_of_all_pairs(device: torch.device) -> None:
    one, other = features(40, 6).to(device), features(30, 6, seed=1).to(device)
    pairs = [(one[i] - one[j]).double().norm().item() for i, j in itertools.permutations(range(40), 2)]
    assert mean_pairwise_distance(one) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert mean_pairwise_distance(one[:1].expand(7, -1)) == pytest.approx(0, abs=1e-6)
    index, distance = nearest(other, one)
    table = torch.cdist(other.double(), one.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert index.tolist() == table.argmin(1).tolist()
    np.testing.assert_allclose(distance.cpu(), table.min(1).values.cpu(), rtol=1e-6)


def test_the_numbers_mean_what_they_are_read_as() -> None:
    """A collapsed generator has precision and no recall; a scattered one has the reverse."""
    real = features(1500, 8)
    collapsed, scattered = real[:1] + 0.01 * features(1500, 8, seed=1), real * 3
    same = precision_recall_density_coverage(real, features(1500, 8, seed=2))
    narrow, wide = (precision_recall_density_coverage(real, fake) for fake in (collapsed, scattered))
    assert min(same["precision"], same["recall"], same["coverage"]) > 0.8
    assert 0.85 < same["density"] < 1.15
    assert narrow["precision"] > 0.9 > 0.1 > narrow["recall"]
    assert narrow["coverage"] < 0.1
    assert wide["recall"] > 0.9 > 0.7 > wide["precision"]
    assert mean_pairwise_distance(collapsed) < 0.1 * mean_pairwise_distance(real) < mean_pairwise_distance(scattered)


def test_the_package_and_our_blocks_give_the_same_numbers_also_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies within the neighbours are the package's; more of them have a radius of 0, which it misses."""
    real, fake = features(200, 32), features(150, 32, 1.1, 0.05, 1)
    few, many = fake.clone(), fake.clone()
    few[:5], many[:50] = few[0], many[0]
    asked: list[int] = []
    monkeypatch.setattr("prdc.compute_prdc", lambda *given: (asked.append(1), compute_prdc(*given))[1])
    for number, side in enumerate((fake, few, many)):
        found = precision_recall_density_coverage(real, side)
        assert found == pytest.approx(manifold._block_by_block(real, side, 5, None), rel=1e-12)
        assert len(asked) == min(number + 1, 2)


# ------------------------------------------------------------------ what rounding leaves is nothing


def test_only_the_named_metrics_are_returned(device: torch.device) -> None:
    stream = torch.Generator().manual_seed(0)
    real, fake = (
        Sample(torch.randn(30, 4, generator=stream), torch.randn(30, 3, generator=stream), torch.arange(30) % 2).to(
            device
        )
        for _ in range(2)
    )
    reference = Reference(real)
    found = metrics(reference, fake, None)
    assert tuple(found) == METRICS
    assert None not in found.values()
    for name in METRICS:
        assert metrics(reference, fake, None, [name]) == {name: found[name]}


def test_equal_images_have_no_diversity_to_divide_by() -> None:
    """A residue of rounding made a diversity of 3.5e7."""
    stream = torch.Generator().manual_seed(0)
    real = Sample(torch.randn(1, 1280, generator=stream).repeat(8, 1), torch.zeros(8, 5), torch.zeros(8).long())
    fake = Sample(torch.randn(8, 1280, generator=stream), torch.zeros(8, 5), torch.zeros(8).long())
    assert mean_pairwise_distance(real.features) == 0
    found = metrics(Reference(real), fake, None)
    assert found["diversity"] is None
    again = metrics(Reference(fake), real, None)
    assert again["diversity"] == 0
    assert all(value is None or math.isfinite(value) for value in (*found.values(), *again.values()))
    near = real.features.double() + 1e-4 * torch.randn(8, 1280, generator=stream, dtype=torch.float64)
    expected = float(torch.pdist(near).mean())
    assert mean_pairwise_distance(near) == pytest.approx(expected, rel=1e-6)


def test_a_probability_that_is_too_small_for_a_number_counts_as_none() -> None:
    logits = torch.tensor([[0.0, -2000.0], [0.0, -2000.0]])
    assert inception_score(logits, 1) == 1.0


def test_constant_groups_and_singular_matrices_are_that_to_rounding() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.bias = nn.Embedding(2, 16), nn.Embedding(2, 16)

    generator = nn.Sequential(Layer())
    with torch.no_grad():
        layer = generator[0]
        layer.gain.weight.copy_(torch.full((2, 16), 0.1))
        layer.bias.weight.zero_()
        layer.gain.weight[1] = torch.outer(torch.arange(1.0, 5), torch.rand(4)).flatten()  # of rank one
    found = spectrum(generator)
    assert found.conditions.isinf().all()
    assert not group_correlation(generator, "0", "gain", 0).any()
    torch.testing.assert_close(group_correlation(generator, "0", "gain", 1), torch.ones(4, 4).double())
