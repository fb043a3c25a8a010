"""All metrics of generated images: overall, per class, and per group of classes (head, tail, many, few, ...).

Distances between few images mislead: with fewer images than features a Fréchet distance is mostly the sampling error
of two covariances.  It is therefore reported with a note, next to the kernel distance, which is unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from studiogan_gsr.class_groups import frequency_thirds, shot_groups
from studiogan_gsr.evaluation.features import Sample
from studiogan_gsr.evaluation.frechet import Gaussian, frechet_distance
from studiogan_gsr.evaluation.kernel import kernel_distance
from studiogan_gsr.evaluation.manifold import (
    mean_pairwise_distance,
    neighbour_radii,
    precision_recall_density_coverage,
)

METRICS = ("frechet", "kernel", "inception_score", "precision", "recall", "density", "coverage", "diversity")
_OF_NEIGHBOURS = ("precision", "recall", "density", "coverage")  # computed together
# Metrics are multiplied by these factors in the terminal and on pages, but not in records.
SHOWN_TIMES = {"kernel": 1000}
_SPLITS = 10  # the inception score over all images is the mean over this many parts
# At most this many real and this many generated images are used in metrics that compare pairs of images (all but
# Frechet distance and inception score), because their time grows quadratically.  The choice has a fixed seed.
MOST = 10_000


class _RealImages:
    """The real images of some classes, with their statistics, which are computed on first use."""

    def __init__(self, sample: Sample, neighbours: int) -> None:
        self.sample, self.neighbours = sample, neighbours
        self.chosen = _at_most(sample.features)

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian.of(self.sample.features)

    @cached_property
    def radii(self) -> Tensor:
        return neighbour_radii(self.chosen, self.neighbours)

    @cached_property
    def spread(self) -> float:
        return mean_pairwise_distance(self.chosen)


class Reference:
    """Features of real images.  The statistics of each set of classes are computed once.

    neighbours: k of the nearest-neighbour metrics (precision, recall, density and coverage).
    """

    def __init__(self, sample: Sample, neighbours: int = 5) -> None:
        self.sample, self.neighbours = sample, neighbours
        self._known: dict[tuple[int, ...] | None, _RealImages] = {}

    def of(self, labels: Sequence[int] | None) -> _RealImages:
        """Return the real images of these classes, or of all classes if `labels` is None."""
        key = None if labels is None else tuple(labels)
        if key not in self._known:
            sample = self.sample if labels is None else self.sample.of(list(labels))
            self._known[key] = _RealImages(sample, self.neighbours)
        return self._known[key]


def measure(
    reference: Reference,
    fake: Sample,
    class_counts: Sequence[int],
    conditional: bool = True,
    given: Mapping[str, list[int]] | None = None,
) -> dict[str, Any]:
    """Return {"all": metrics, "groups": {name: metrics}, "classes": [metrics of class 0, ...]}.

    class_counts: training images per class, which define the `groups`.  given: labels of more groups, by name.
    conditional: whether the generator has classes; if not, "groups" is empty and all metrics of the classes are None.
    A metric is None if there are too few images for it.
    """
    every = metrics(reference, fake, None)
    if not conditional:
        return {"all": every, "groups": {}, "classes": [dict.fromkeys(every) for _ in class_counts]}
    named = groups(class_counts, given)
    return {
        "all": every,
        "groups": {name: metrics(reference, fake, labels) for name, labels in named.items()},
        "classes": [metrics(reference, fake, [label]) for label in range(len(class_counts))],
    }


def groups(class_counts: Sequence[int], given: Mapping[str, list[int]] | None = None) -> dict[str, list[int]]:
    """Return {name: labels} of the groups of classes that are not empty.

    "many" (more than 100 training images), "medium" and "few" (fewer than 20), as in Liu et al. 2019; and the thirds
    "head", "middle" and "tail" by number of training images.
    given: labels of more groups, by name; one with the name of a standard group replaces it.
    """
    found = {**shot_groups(class_counts), **frequency_thirds(class_counts), **(given or {})}
    return {name: labels for name, labels in found.items() if labels}


def metrics(
    reference: Reference, fake: Sample, labels: Sequence[int] | None, names: Sequence[str] = METRICS
) -> dict[str, float | None]:
    """Return the named METRICS for the images of some classes, or for all images if `labels` is None.

    Without class logits there is no inception score.
    """
    real = reference.of(labels)
    if labels is not None:
        fake = fake.of(list(labels))
    found: dict[str, float | None] = dict.fromkeys(names)
    if fake.logits is None:
        found.pop("inception_score", None)
    enough, chosen = min(len(real.sample), len(fake)), _at_most(fake.features)
    if "frechet" in found and enough > 1:
        found["frechet"] = frechet_distance(real.gaussian, Gaussian.of(fake.features))
    if fake.logits is not None and "inception_score" in found and len(fake):
        found["inception_score"] = inception_score(fake.logits, _SPLITS if labels is None else 1)
    if "kernel" in found and enough > 1:
        found["kernel"] = kernel_distance(real.chosen, chosen)
    if "diversity" in found and enough > 1 and real.spread:
        found["diversity"] = mean_pairwise_distance(chosen) / real.spread
    if enough > reference.neighbours and not found.keys().isdisjoint(_OF_NEIGHBOURS):
        four = precision_recall_density_coverage(real.chosen, chosen, reference.neighbours, lambda: real.radii)
        found |= {name: value for name, value in four.items() if name in found}
    return found


def as_text(values: dict[str, dict[str, float | None]], metric: str) -> str:
    """Return a metric of `summarise` as text, "mean ± deviation", times its factor in SHOWN_TIMES; "-" if None."""
    found = values.get(metric, {"mean": None, "deviation": None})
    mean, deviation, times = found["mean"], found["deviation"], SHOWN_TIMES.get(metric, 1)
    if mean is None:
        return "-"
    if deviation is None:
        return f"{mean * times:.4g}"
    width = deviation * times
    return f"{mean * times:.4g} ± {f'{width:.2g}' if width < 100 else f'{width:.0f}'}"


def inception_score(logits: Tensor, splits: int) -> float:
    """Return the mean over equal parts of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016), from logits (N, k)."""
    probabilities = softmax(logits.cpu().double().numpy(), axis=1)
    images, number = len(probabilities), min(splits, len(probabilities))
    parts = np.split(probabilities, [i * images // number for i in range(1, number)])
    return float(np.mean([np.exp(rel_entr(part, part.mean(0)).sum(1).mean()) for part in parts]))


def _at_most(features: Tensor) -> Tensor:
    """Return at most MOST rows, chosen with a fixed seed."""
    if len(features) <= MOST:
        return features
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    return features[order[:MOST]]


def summarise(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return {"mean", "deviation"} of every number over repeats of `measure`.

    The deviation has n - 1 in the denominator and is None for a single repeat.  Both are None if a repeat has no
    number.
    """

    def over(values: list[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
        result = {}
        for name in values[0]:
            numbers = [v[name] for v in values]
            given = [n for n in numbers if n is not None]
            whole = torch.tensor(given, dtype=torch.float64) if len(given) == len(numbers) else None
            result[name] = {
                "mean": None if whole is None else float(whole.mean()),
                "deviation": None if whole is None or len(whole) < 2 else float(whole.std()),
            }
        return result

    first = repeats[0]
    return {
        "all": over([r["all"] for r in repeats]),
        "groups": {name: over([r["groups"][name] for r in repeats]) for name in first["groups"]},
        "classes": [over([r["classes"][y] for r in repeats]) for y in range(len(first["classes"]))],
    }
