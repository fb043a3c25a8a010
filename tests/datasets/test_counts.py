"""Long-tailed counts and choices: against the tables and the program of the literature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studiogan_gsr import long_tailed_counts, long_tailed_indices
from studiogan_gsr.class_groups import frequency_thirds
from studiogan_gsr.errors import OptionError
from studiogan_gsr.evaluation.measure import groups

CIFAR10_TARGETS = np.random.RandomState(1).permutation(np.repeat(np.arange(10), 5000))


@pytest.fixture(autouse=True)
def _global_stream() -> Iterator[None]:
    state = np.random.get_state()
    yield
    np.random.set_state(state)


def usual_program(targets: Sequence[int] | npt.NDArray[Any], counts: Sequence[int]) -> list[int]:
    """The long-tailed CIFAR of the literature: seeds and draws from numpy's global stream."""
    np.random.seed(0)
    kept: list[int] = []
    for label, count in zip(np.unique(targets), counts, strict=True):
        indices = np.where(np.asarray(targets) == label)[0]
        np.random.shuffle(indices)
        kept.extend(indices[:count].tolist())
    return kept


@pytest.mark.parametrize(
    ("n_max", "ratio", "counts"),
    [
        (5000, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
        (5000, 1000, [5000, 2320, 1077, 500, 232, 107, 50, 23, 10, 5]),
        (50000, 100, [50000, 15811, 5000, 1581, 500]),
        (50000, 1000, [50000, 8891, 1581, 281, 50]),
        (7, 1, [7, 7, 7]),
    ],
    ids=["CIFAR-10 rho 100", "CIFAR-10 rho 1000", "LSUN rho 100", "LSUN rho 1000", "balanced"],
)
def test_exponential_counts_are_those_of_the_literature(n_max: int, ratio: float, counts: list[int]) -> None:
    assert long_tailed_counts(n_max, len(counts), ratio) == counts


@pytest.mark.parametrize(
    ("num_classes", "counts"), [(4, [5000, 5000, 50, 50]), (5, [5000, 5000, 50, 50, 50]), (2, [5000, 50])]
)
def test_a_step_keeps_the_first_half_of_the_classes_whole(num_classes: int, counts: list[int]) -> None:
    assert long_tailed_counts(5000, num_classes, 100, "step") == counts


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((5000, 10, 0.99), "ratio"),
        ((5000, 10, -100), "ratio"),
        ((5000, 10, float("nan")), "ratio"),
        ((5000, 10, float("inf")), "ratio"),
        ((5000, 10, 5001), "ratio"),
        ((5000, 10, 5001, "step"), "ratio"),
        ((5000, 1, 100), "num_classes"),
        ((0, 10, 1), "n_max"),
        ((5000, 10, 100, "linear"), "profile"),
    ],
)
def test_impossible_counts_are_refused_with_the_options_name(arguments: Any, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        long_tailed_counts(*arguments)
    assert caught.value.option == option


def test_a_ratio_that_leaves_the_rarest_class_empty_is_told_from_one_below_1() -> None:
    with pytest.raises(OptionError, match="at most 5000: the rarest class would have no image"):
        long_tailed_counts(5000, 10, 6000)
    with pytest.raises(OptionError, match=r"ratio: found 0\.5; allowed: an imbalance ratio >= 1"):
        long_tailed_counts(5000, 10, 0.5)


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_the_largest_ratio_leaves_the_rarest_class_one_image(profile: str) -> None:
    """As 1 / 49 is rounded, int(49 * (1 / 49)) is 0."""
    for n_max in range(1, 2000):
        counts = long_tailed_counts(n_max, 3, n_max, profile)
        assert (counts[0], counts[-1]) == (n_max, 1)
        with pytest.raises(OptionError, match=f"allowed: at most {n_max}: the rarest class would have no image"):
            long_tailed_counts(n_max, 3, n_max + 1, profile)


sizes_and_ratios = st.integers(2, 100_000).flatmap(lambda n: st.tuples(st.just(n), st.floats(1, n / 2)))


@settings(deadline=None)
@given(sizes_and_ratios, st.integers(2, 300), st.sampled_from(["exp", "step"]))
def test_counts_fall_from_n_max_by_the_ratio(size: tuple[int, float], num_classes: int, profile: str) -> None:
    n_max, ratio = size
    counts = long_tailed_counts(n_max, num_classes, ratio, profile)
    assert len(counts) == num_classes
    assert counts[0] == n_max
    assert counts == sorted(counts, reverse=True)
    assert n_max / ratio - 1 - 1e-6 <= counts[-1] <= n_max / ratio + 1e-6


@pytest.mark.parametrize("profile", ["exp", "step"])
@pytest.mark.parametrize("ratio", [1, 10, 100, 1000])
def test_indices_equal_the_usual_programs_one_for_one(ratio: int, profile: str) -> None:
    counts = long_tailed_counts(5000, 10, ratio, profile)
    assert long_tailed_indices(CIFAR10_TARGETS, counts) == usual_program(CIFAR10_TARGETS, counts)


def test_lists_of_labels_and_rising_counts_equal_the_usual_programs_too() -> None:
    targets, counts = [2, 0, 1, 2, 1, 0, 2, 2, 1, 0], [1, 2, 4]
    assert long_tailed_indices(targets, counts) == usual_program(targets, counts)


def test_the_global_stream_is_neither_read_nor_moved() -> None:
    counts = long_tailed_counts(5000, 10, 100)
    np.random.seed(7)
    before = np.random.get_state(legacy=True)
    first = long_tailed_indices(CIFAR10_TARGETS, counts, seed=3)
    np.testing.assert_equal(np.random.get_state(legacy=True), before)
    np.random.seed(8)
    assert long_tailed_indices(CIFAR10_TARGETS, counts, seed=3) == first


def test_another_seed_chooses_other_images() -> None:
    counts = long_tailed_counts(5000, 10, 100)
    choices = [set(long_tailed_indices(CIFAR10_TARGETS, counts, seed)[5000:]) for seed in (0, 1)]
    assert choices[0] != choices[1]


labels_and_counts = st.lists(st.integers(1, 30), min_size=1, max_size=8).flatmap(
    lambda sizes: st.tuples(
        st.permutations([label for label, size in enumerate(sizes) for _ in range(size)]),
        st.tuples(*(st.integers(0, size) for size in sizes)),
    )
)


@settings(deadline=None)
@given(labels_and_counts, st.integers(0, 2**32 - 1))
def test_indices_are_unique_and_bring_each_class_its_count(drawn: tuple[list[int], Any], seed: int) -> None:
    targets, counts = drawn
    indices = long_tailed_indices(targets, counts, seed)
    assert len(set(indices)) == len(indices)
    assert [targets[i] for i in indices] == [label for label, n in enumerate(counts) for _ in range(n)]


@pytest.mark.parametrize(
    ("targets", "counts", "seed", "option", "found"),
    [
        ([0, 0, 1], [2, 2], 0, "counts", 2),
        ([1, 1, 2], [1, 1], 0, "targets", [1, 2]),
        ([0, 2], [1, 1, 1], 0, "targets", [0, 2]),
        ([0, 1, 2], [1, 1], 0, "targets", [0, 1, 2]),
        ([-1, 0], [1, 1], 0, "targets", [-1, 0]),
        ([0, 1], [1, 1], -1, "seed", -1),
        ([0, 1], [1, 1], 2**32, "seed", 2**32),
        ([0, 1], [1, 1], 1.0, "seed", 1.0),
        ([0, 1], [1, 1], True, "seed", True),
    ],
)
def test_impossible_choices_are_refused_with_what_was_found(
    targets: list[int], counts: list[int], seed: Any, option: str, found: object
) -> None:
    with pytest.raises(OptionError) as caught:
        long_tailed_indices(targets, counts, seed)
    assert (caught.value.option, caught.value.found) == (option, found)


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(OptionError, match="found 2; allowed: at most 1, the images of class 1"):
        long_tailed_indices([0, 0, 1], [2, 2])


def test_of_two_classes_the_rarer_is_the_tail() -> None:
    assert frequency_thirds([5, 9]) == {"head": [1], "middle": [], "tail": [0]}
    assert frequency_thirds([7]) == {"head": [0], "middle": [], "tail": []}
    assert frequency_thirds([5, 9, 7]) == {"head": [1], "middle": [2], "tail": [0]}
    assert frequency_thirds([5, 9, 7, 1]) == {"head": [1, 2], "middle": [0], "tail": [3]}
    assert set(groups([5, 9])) == {"few", "head", "tail"}
