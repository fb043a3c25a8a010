"""Four ways to train a classifier on long-tailed data, with and without generated images; what each recognises.

The images of all ways are in one pool: the real training images, then the generated ones, sorted by class and number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from studiogan_gsr.evaluation.classifier import Sampler, as_they_are, equally_often
from studiogan_gsr.evaluation.measure import groups

CONFIDENCE = 0.95
# The ways.  The first is what the others are compared with.
WAYS = ("real", "balanced", "filled", "generated")
OF_DATA_ALONE = ("real", "balanced")  # the same for all generators
Statistic = dict[str, float | None]


@dataclass(frozen=True)
class Way:
    """A training set, as places (N,) int64 in the pool, and how batches are drawn from it."""

    name: str
    places: Tensor
    sampler: Sampler


def descriptions(fill: int) -> dict[str, str]:
    """Return {way: what it is, in words} for records, tables and pages."""
    return {
        "real": "the real training images, drawn as they are",
        "balanced": "the real training images, classes drawn equally often",
        "filled": f"the real and generated images, at least {fill:,} of each class, drawn as they are",
        "generated": "generated images alone, as many of each class as in filled (classification accuracy score)",
    }


def filled_counts(counts: Sequence[int], fill: int) -> list[int]:
    """Return the images per class after the rare classes are filled up to `fill`."""
    return [max(count, fill) for count in counts]


def wanted_images(counts: Sequence[int], fill: int) -> list[tuple[int, int]]:
    """Return (label, number) of the generated images of the pool, in its order."""
    return [(label, number) for label, total in enumerate(filled_counts(counts, fill)) for number in range(total)]


def four_ways(counts: Sequence[int], fill: int) -> list[Way]:
    """Return the four ways; counts: real training images per class."""
    real = torch.arange(sum(counts))
    wanted = wanted_images(counts, fill)
    generated = len(real) + torch.arange(len(wanted))
    used = torch.tensor([number < fill - counts[label] for label, number in wanted], dtype=torch.bool)
    return [
        Way("real", real, as_they_are),
        Way("balanced", real, equally_often),
        Way("filled", torch.cat([real, generated[used]]), as_they_are),
        Way("generated", generated, as_they_are),
    ]


def summary(
    recognised: Mapping[str, Sequence[Sequence[int]]], counts: Sequence[int], references: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Return {way: {"all", "groups", "classes", "over_real"}}: accuracies, and differences to the way "real".

    recognised: by way and seed, the number of recognised reference images of each class.
    counts: training images per class, which define the groups.  references: reference images per class.
    An accuracy is the share of recognised images of all images, of a group's, or of a class's.  Accuracies and
    differences are {"mean", "half_width"}, those of `interval`, and None without reference images.
    """
    every = range(len(counts))
    found = {}
    for way, by_seed in recognised.items():

        def over(labels: Sequence[int], by_seed: Sequence[Sequence[int]] = by_seed) -> list[float]:
            total = sum(references[label] for label in labels)
            return [sum(right[label] for label in labels) / total for right in by_seed] if total else []

        found[way] = {
            "all": over(every),
            "groups": {name: over(labels) for name, labels in groups(counts).items()},
            "classes": [over([label]) for label in every],
        }
    return {
        way: {**_map(interval, values), "over_real": _map(_difference, values, found["real"])}
        for way, values in found.items()
    }


def _map(work: Any, *found: Mapping[str, Any]) -> dict[str, Any]:
    """Return work(numbers of each), for all images, every group and every class."""
    first = found[0]
    return {
        "all": work(*(of["all"] for of in found)),
        "groups": {name: work(*(of["groups"][name] for of in found)) for name in first["groups"]},
        "classes": [work(*parts) for parts in zip(*(of["classes"] for of in found), strict=True)],
    }


def _difference(ours: Sequence[float], of_real: Sequence[float]) -> Statistic:
    return interval([one - other for one, other in zip(ours, of_real, strict=True)])


def interval(values: Sequence[float]) -> Statistic:
    """Return {"mean", "half_width"} of the 95 % confidence interval of the mean (Student's t).

    The half width is None for a single value; both are None without values.
    """
    if not values:
        return {"mean": None, "half_width": None}
    if len(values) == 1:
        return {"mean": values[0], "half_width": None}
    width = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": mean(values), "half_width": width}
