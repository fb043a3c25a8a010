"""Every metric of generated images, over all, by class, and by how many training images a class has.

Distances between few images mislead: with fewer images than features a Fréchet distance is mostly the sampling
error of two covariances.  It is given all the same, beside the kernel distance, which is unbiased, and with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
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
# Numbers of a metric are shown times this, in the terminal and on pages; records hold them as they are.
SHOWN_TIMES = {"kernel": 1000}
_SPLITS = 10  # of the inception score over all images
# Images a side in metrics of pairs (all but Frechet distance and inception score), where time grows with the square;
# of more, so many are chosen with a fixed seed.
MOST = 10_000


class _Real:
    """Some classes' real images, and what metrics need of them, computed when they are first asked for."""

    def __init__(self, sample: Sample, neighbours: int) -> None:
        self.sample, self.neighbours = sample, neighbours
        self.some = _some(sample.features)

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian.of(self.sample.features)

    @cached_property
    def radii(self) -> Tensor:
        return neighbour_radii(self.some, self.neighbours)

    @cached_property
    def spread(self) -> float:
        return mean_pairwise_distance(self.some)


class Reference:
    """Real images' features; what metrics need of any set of classes is computed once."""

    def __init__(self, sample: Sample, neighbours: int = 5) -> None:
        self.sample, self.neighbours = sample, neighbours
        self._known: dict[tuple[int, ...] | None, _Real] = {}

    def of(self, labels: Sequence[int] | None) -> _Real:
        """Of some classes; None: of all."""
        key = None if labels is None else tuple(labels)
        if key not in self._known:
            sample = self.sample if labels is None else self.sample.of(list(labels))
            self._known[key] = _Real(sample, self.neighbours)
        return self._known[key]


def measure(
    reference: Reference, fake: Sample, class_counts: Sequence[int], conditional: bool = True
) -> dict[str, Any]:
    """{"all": metrics, "groups": {name: metrics}, "classes": [metrics of class 0, ...]}.

    class_counts: training images of each class, by which `groups` are made.
    A metric that so few images do not give is None; so are all of classes where images have none (conditional).
    """
    if not conditional:
        none = [dict.fromkeys(METRICS) for _ in class_counts]
        return {"all": metrics(reference, fake, None), "groups": {}, "classes": none}
    return {
        "all": metrics(reference, fake, None),
        "groups": {name: metrics(reference, fake, labels) for name, labels in groups(class_counts).items()},
        "classes": [metrics(reference, fake, [label]) for label in range(len(class_counts))],
    }


def groups(class_counts: Sequence[int]) -> dict[str, list[int]]:
    """Names and labels of the groups that are not empty, by training images a class.

    many, medium and few (Liu et al. 2019: more than 100, fewer than 20), and thirds: head, middle, tail.
    """
    found = {**shot_groups(class_counts), **frequency_thirds(class_counts)}
    return {name: labels for name, labels in found.items() if labels}


def metrics(
    reference: Reference, fake: Sample, labels: Sequence[int] | None, names: Sequence[str] = METRICS
) -> dict[str, float | None]:
    """The METRICS of these names, of some classes (None: all)."""
    real = reference.of(labels)
    if labels is not None:
        fake = fake.of(list(labels))
    found: dict[str, float | None] = dict.fromkeys(names)
    enough, some = min(len(real.sample), len(fake)), _some(fake.features)
    if "frechet" in found and enough > 1:
        found["frechet"] = frechet_distance(real.gaussian, Gaussian.of(fake.features))
    if "inception_score" in found and len(fake):
        found["inception_score"] = inception_score(fake.logits, _SPLITS if labels is None else 1)
    if "kernel" in found and enough > 1:
        found["kernel"] = kernel_distance(real.some, some)
    if "diversity" in found and enough > 1 and real.spread:
        found["diversity"] = mean_pairwise_distance(some) / real.spread
    if "precision" in found and enough > reference.neighbours:
        found |= precision_recall_density_coverage(real.some, some, reference.neighbours, real.radii)
    return found


def as_text(values: dict[str, dict[str, float | None]], metric: str) -> str:
    """Return mean and deviation of one of `summarise`'s metrics as text, times SHOWN_TIMES; "-" for none."""
    found = values.get(metric, {"mean": None, "deviation": None})
    mean, deviation, times = found["mean"], found["deviation"], SHOWN_TIMES.get(metric, 1)
    if mean is None:
        return "-"
    if deviation is None:
        return f"{mean * times:.4g}"
    width = deviation * times
    return f"{mean * times:.4g} ± {f'{width:.2g}' if width < 100 else f'{width:.0f}'}"


def inception_score(logits: Tensor, splits: int) -> float:
    """Return the mean over equal parts of exp E KL(p(y|x) | p(y)) (Salimans et al. 2016), of logits (N, k)."""
    probabilities = softmax(logits.cpu().double().numpy(), axis=1)
    images, number = len(probabilities), min(splits, len(probabilities))
    parts = np.split(probabilities, [i * images // number for i in range(1, number)])
    return float(np.mean([np.exp(rel_entr(part, part.mean(0)).sum(1).mean()) for part in parts]))


def _some(features: Tensor) -> Tensor:
    """At most so many rows, chosen with a fixed seed."""
    if len(features) <= MOST:
        return features
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    return features[order[:MOST]]


def summarise(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation (n - 1; None of one repeat) of every number over repeats of `measure`."""

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
