"""Compute the class counts of long-tailed splits, and choose their images; needs only numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from studiogan_gsr.datasets.labels import start_hint
from studiogan_gsr.errors import OptionError

PROFILES = ("exp", "step")


def long_tailed_counts(n_max: int, num_classes: int, ratio: float, profile: str = "exp") -> list[int]:
    """Return the images per class of a long-tailed split, the most frequent class first.

    "exp": n_y = int(n_max * ratio^(-y / (C - 1))), the usual long-tailed CIFAR.  "step": the first
    C // 2 classes keep n_max, the others get int(n_max / ratio).  As in the usual program, 1 / ratio is computed
    first; its rounding may make a count smaller by 1, but never 0.
    y: the class, from 0; C: num_classes.  ratio: the imbalance ratio rho >= 1, largest count over smallest.
    Raises OptionError for impossible values, and if a class would have no image.
    """
    if num_classes < 2:
        raise OptionError("num_classes", num_classes, "at least 2: one class has no tail")
    if not 1 <= ratio < float("inf"):
        raise OptionError("ratio", ratio, "an imbalance ratio >= 1 (largest class over smallest)")
    if n_max < 1:
        raise OptionError("n_max", n_max, "a positive number of images")
    # (1 / ratio) ** x, not ratio ** -x: this rounds as the common long-tailed CIFAR code does.
    if profile == "exp":
        counts = [int(n_max * (1 / ratio) ** (y / (num_classes - 1))) for y in range(num_classes)]
    elif profile == "step":
        head = num_classes // 2
        counts = [n_max] * head + [int(n_max * (1 / ratio))] * (num_classes - head)
    else:
        raise OptionError("profile", profile, " or ".join(PROFILES))
    if ratio > n_max:
        raise OptionError("ratio", ratio, f"at most {n_max}: the rarest class would have no image")
    return [max(1, count) for count in counts]  # int(49 * (1 / 49)) is 0


def long_tailed_indices(
    targets: Sequence[int] | npt.NDArray[np.integer], counts: Sequence[int], seed: int | None = 0
) -> list[int]:
    """Return the indices of the images that a long-tailed split keeps, class by class.

    Shuffles the indices of one class after the other, in label order, and keeps the first counts[y] of class y.  All
    classes share one numpy RandomState.  Seed 0 keeps exactly the images of the common long-tailed CIFAR.
    targets: labels 0 to C-1 of all images, with C = len(counts).
    seed: None does not shuffle: it keeps the first counts[y] images, as the common long-tailed LSUN does.
    Raises OptionError for a missing or unexpected label, for a class with too few images, and for an invalid seed.
    """
    labels = np.asarray(targets)
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(counts))):
        raise OptionError(
            "targets", present.tolist()[:20], f"each of the labels 0 to {len(counts) - 1}{start_hint(present)}"
        )
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32):
        raise OptionError("seed", seed, "an integer from 0 to 2^32 - 1")
    stream = np.random.RandomState(seed) if seed is not None else None
    kept: list[int] = []
    for label, count in enumerate(counts):
        indices = np.flatnonzero(labels == label)
        if count > len(indices):
            raise OptionError(
                "counts",
                int(count),
                f"at most {len(indices)}, the images of class {label} (in Python, lower n_max to shrink all classes)",
            )
        if stream is not None:
            stream.shuffle(indices)
        kept += indices[:count].tolist()
    return kept
