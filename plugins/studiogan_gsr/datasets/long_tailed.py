"""The long-tailed view of any map-style data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from studiogan_gsr.datasets.counts import long_tailed_counts, long_tailed_indices
from studiogan_gsr.errors import OptionError


def check_split(split: str) -> None:
    """OptionError for anything but the two splits of our data sets."""
    if split not in ("train", "reference"):
        raise OptionError("split", split, "train or reference")


def check_ratio_given(ratio: float | None, profile: str, seed: int, reversed: bool) -> None:
    """OptionError for options of a long tail without its ratio."""
    if ratio is None and (profile, seed, reversed) != ("exp", 0, False):
        raise OptionError("ratio", ratio, "a ratio (_rho<ratio>), which step, reversed and seed need")


class LongTailed:
    """A long-tailed subset of a torchvision-style data set; usable without any GAN.

    dataset: map-style, (image, int label), with `targets` (labels 0 .. C-1) and, if it has them,
        `classes` (names).
    ratio: imbalance ratio rho >= 1.
    profile: "exp" or "step"; see `long_tailed_counts`.
    seed: of the choice of images within each class; see `long_tailed_indices`.
    reversed: class 0 is the rarest, the last class the most frequent.
    n_max: images of the most frequent class; None: all that it has.

    Attributes: `indices` into `dataset`; `targets`, `class_counts` (both in label order) and
    `classes` of the subset.
    Raises OptionError as the two functions above do.
    """

    def __init__(
        self,
        dataset: Any,
        ratio: float,
        profile: str = "exp",
        seed: int = 0,
        reversed: bool = False,
        n_max: int | None = None,
    ) -> None:
        targets = np.asarray(dataset.targets)
        num_classes = len(np.unique(targets))
        if not np.array_equal(np.unique(targets), np.arange(num_classes)):
            raise OptionError(
                "targets", np.unique(targets).tolist()[:20], f"each of the labels 0 to {num_classes - 1}"
            )
        if n_max is None:
            n_max = int(np.sum(targets == (num_classes - 1 if reversed else 0)))
        counts = long_tailed_counts(n_max, num_classes, ratio, profile)
        if reversed:
            counts.reverse()
        self.dataset = dataset
        self.indices = long_tailed_indices(targets, counts, seed)
        self.targets: list[int] = targets[self.indices].tolist()
        self.class_counts = counts
        self.classes: list[str] = [str(c) for c in getattr(dataset, "classes", range(num_classes))]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[self.indices[index]]
        return image, int(label)


class Whole:
    """A data set as it is, with `class_counts`: a reference split, or a tail that nature made.

    Raises OptionError where a label from 0 to the largest does not occur.
    """

    def __init__(self, dataset: Any, classes: Sequence[str]) -> None:
        self.dataset = dataset
        self.targets = [int(t) for t in dataset.targets]
        self.classes = list(classes)
        counts = np.bincount(self.targets, minlength=len(self.classes))
        self.class_counts: list[int] = counts.tolist()
        if 0 in self.class_counts or len(counts) != len(self.classes):
            raise OptionError("class_counts", self.class_counts, f"images in each of {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        return image, int(label)
