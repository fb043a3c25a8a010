"""The study of when classes collapse: its definitions on made-up courses, and the published page."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.paths import RECORDS, RESULTS
from benchmarks.studies import collapse
from benchmarks.studies.collapse import Alarms, ClassCourse, alarms, best_threshold

STEPS = [100, 200, 300, 400, 500]
FALLEN = [0.9, 0.9, 0.9, 0.4, 0.3]  # of the median class's diversity
HEALTHY = [0.9, 0.9, 0.9, 0.9, 0.9]


def course(diversity: list[float], norms: list[float], row: str = "plain", seed: int = 0, **more: Any) -> ClassCourse:
    """A class of rank 2 beside two whose norms stay 1 and whose diversity stays 1."""
    return ClassCourse(
        row=row,
        seed=seed,
        label=2,
        images=more.pop("images", 10),
        regularized=more.pop("regularized", False),
        steps=STEPS,
        norms=[[1.0, 1.0, norm] for norm in norms],
        start=[1.0, 1.0, 0.8],
        diversity=[[1.0, 1.0, value] for value in diversity],
    )


@pytest.mark.parametrize(
    ("diversity", "step"),
    [
        (FALLEN, 300),  # there (0.9 + 0.9 + 0.4) / 3 is below 0.8
        (HEALTHY, None),
        ([0.3, 0.3, 0.3, 0.9, 0.9], None),  # it comes back
        ([1.0, 0.9, 0.9, 0.9, 0.1], None),
        ([0.9, 0.9, 0.9, 0.75, 0.9], None),  # nor is one low evaluation in the middle
        ([0.5, 0.5, 0.5, 0.5, 0.5], 100),  # never diverse
    ],
)
def test_a_class_has_collapsed_where_it_stays_below_the_others(diversity: list[float], step: int | None) -> None:
    assert course(diversity, [1.0] * 5).collapse() == step


def test_diversity_is_relative_to_the_median_class() -> None:
    half = course(FALLEN, [1.0] * 5)
    all_low = [[value, value, value] for _, _, value in half.diversity]
    assert ClassCourse(**{**vars(half), "diversity": all_low}).collapse() is None


def test_an_alarm_is_the_first_norm_above_the_start_and_above_the_others() -> None:
    rising = course(HEALTHY, [1.0, 1.2, 1.3, 1.6, 2.1])
    assert [rising.alarm(threshold) for threshold in (1.1, 1.25, 1.5, 2.0, 2.2)] == [200, 300, 400, 500, None]
    together = ClassCourse(**{**vars(rising), "norms": [[n, n, n] for _, _, n in rising.norms]})
    assert together.alarm(1.25) is None


def test_half_way_is_between_evaluations() -> None:
    # The norm rises from 0.8 to 1.8: 1.3 is half-way from 1.2 at 200 to 1.4 at 300.  Averaged, the diversity is 0.9,
    # 0.9, 0.7, 0.5, 0.3: half-way, 0.6, is between 0.7 at 300 and 0.5 at 400.
    risen, fallen = course([0.9, 0.9, 0.9, 0.3, 0.3], [1.0, 1.2, 1.4, 1.6, 1.8]).half_way()
    assert (risen, fallen) == (pytest.approx(250), pytest.approx(350))
    flat, low = course([0.3, 0.3, 0.9, 0.9, 0.3], [0.8] * 5).half_way()
    assert math.isnan(flat)
    assert low == pytest.approx(450)  # from its highest, 0.7 at 300 and at 400, to 0.6


def test_alarms_are_counted_by_what_becomes_of_the_class() -> None:
    early, late, never = [1.0, 1.6, 1.6, 1.6, 1.6], [1.0, 1.0, 1.0, 1.6, 1.6], [1.0] * 5
    courses = [course(FALLEN, norms) for norms in (early, late, never)]
    courses += [course(HEALTHY, norms) for norms in (early, never, never)]
    found = alarms(courses, 1.5)
    assert found == Alarms(threshold=1.5, in_time=1, late=1, missed=1, false=1, quiet=2, ahead=[100])
    assert found.score == pytest.approx(1 / 3 - 1 / 3)


def test_the_threshold_warns_of_collapses_and_of_nothing_else() -> None:
    warned, harmless = course(FALLEN, [1.5, 1.7, 1.9, 1.9, 1.9]), course(HEALTHY, [1.3] * 5)
    assert best_threshold([warned, harmless]) == 1.3  # above 1.3 times the start, and the lowest of those in time
    assert best_threshold([harmless]) is None


def test_the_page_shows_thresholds_on_other_seeds_than_chose_them() -> None:
    courses = [course(FALLEN, [1.5, 1.7, 1.9, 1.9, 1.9], seed=seed) for seed in range(3)]
    courses += [course(HEALTHY, [1.3] * 5, seed=seed, images=20) for seed in range(3)]
    courses += [course(HEALTHY, [0.5] * 5, row="gSR", seed=seed, regularized=True) for seed in range(3)]
    courses = [ClassCourse(**{**vars(c), "label": 2 if c.images == 10 else 1}) for c in courses]
    text = collapse.page(["table"], courses, set_on=[0, 1])
    assert "| plain | 3 | - | 3 from 300 |" in text  # by falling number of images
    assert "| gSR | 3 | - | - |" in text
    assert "| gSR | 0 | - | - | - | - | 0 |" in text
    assert "yet" not in text
    assert "| 0.7 | 0 | 0 | - | 0 | 0 | - |" in text  # below 0.7 at the last two alone
    assert "| 0.8 | 3 | 0 | 1.05 | 3 | 0 | 200 |" in text
    assert "| 1.25 | 0, 1 | 2 | 0 | 0 |" in text
    assert "| 1.25 | 2 | 1 | 0 | 0 |" in text
    assert "**" in text
    drawn = collapse.chart(courses)
    assert "plain" in drawn
    assert "gSR" in drawn


def test_records_without_diversities_are_left_out_and_said() -> None:
    with pytest.raises(collapse.RequestError, match="no record of cpu-study has diversities"):
        collapse.read_courses(["cpu-study"], RECORDS)


def test_the_published_page_is_what_the_committed_records_make() -> None:
    names = ["cpu-study-2x2"]
    courses = collapse.read_courses(names, RECORDS)
    assert (RESULTS / "collapse.md").read_text() == collapse.page(names, courses)
    assert all(math.isfinite(value) for c in courses for value in c.relative_diversity())
