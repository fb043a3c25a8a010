"""Views of any map-style data set: long-tailed, whole, or a slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.class_groups import shot_groups
from studiogan_gsr.contract import MapStyle
from studiogan_gsr.datasets.counts import long_tailed_counts, long_tailed_indices
from studiogan_gsr.datasets.labels import check_label, classes_of, labels_of, notes_of, start_hint
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.errors import OptionError


def check_split(split: str) -> None:
    """Raise OptionError unless the split is "train" or "reference"."""
    if split not in ("train", "reference"):
        raise OptionError("split", split, "train or reference")


class View:
    """Images of another map-style data set, chosen by index; picklable; a slice of a view is a view.

    Attributes: `dataset`; `indices` into it; `targets` and `class_counts` (in label order) of the chosen
    images; `classes` (names); `preprocessing` (None: the host's); `notes`, remarks to show with all results,
    starting with those of `dataset`.
    For a reference: `published_split`, whether the authors of the data set chose it, so that its faults are noted
    and raise no error; `checked`, whether it was compared with its training images.
    """

    published_split = False
    checked = False

    def __init__(
        self,
        dataset: MapStyle,
        indices: Sequence[int],
        classes: Sequence[str],
        preprocessing: Preprocessing | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.dataset = dataset
        self.indices = list(indices)
        self.classes = list(classes)
        self.preprocessing = preprocessing
        self.notes = tuple(dict.fromkeys([*notes_of(dataset), *notes]))
        labels = labels_of(dataset)[np.asarray(self.indices, dtype=np.int64)]
        self.targets: list[int] = labels.tolist()
        self.class_counts: list[int] = np.bincount(labels, minlength=len(self.classes)).tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        """Return (image, int label); for a slice, a View."""
        if isinstance(index, slice):
            return View(self.dataset, self.indices[index], self.classes, self.preprocessing, self.notes)
        image, label = self.dataset[self.indices[index]]
        check_label(label, self.targets[index], f"image {self.indices[index]} of {type(self.dataset).__name__}")
        return image, int(label)

    def read_pixels(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Return an image's pixels, uint8 (H, W, 3), if `dataset` stores pixels; None if it stores files."""
        read = getattr(self.dataset, "read_pixels", None)
        return None if read is None else read(self.indices[index])

    def full(self) -> View | None:
        """Return the balanced set that these images were chosen from; None if there is none."""
        return None

    def few_shot_classes(self, fewer_than: int = 20, more_than: int = 100) -> dict[str, list[int]]:
        """Return the labels of the "many"-, "medium"- and "few"-shot classes; see `shot_groups`."""
        return shot_groups(self.class_counts, fewer_than, more_than)


class LongTailed(View):
    """Long-tailed subset of a torchvision-style data set; usable without any GAN.

    dataset: map-style, (image, int label), with labels 0 to C-1 in `targets` (or `labels` or `_labels`, as in some
        torchvision data sets) and optionally `classes` (names); or a Subset or ConcatDataset of such data sets.
        A `target_transform` is applied to the labels.
    ratio: imbalance ratio rho >= 1, the largest class count over the smallest.
    profile: "exp" or "step"; see `long_tailed_counts`.
    seed: seeds the choice of images within each class; None chooses the first; see `long_tailed_indices`.
    reversed: class 0 is the rarest, the last class the most frequent.
    n_max: images of the most frequent class; None: all images of class 0 (of the last class if reversed; of the
        largest class if capped).
    capped: whether a class with fewer images than its share keeps all of them; if not, this is an error.

    Raises OptionError for impossible values, as `long_tailed_counts` and `long_tailed_indices` do, and for a data set
    that is more long-tailed than `ratio` already, unless n_max or capped says what to keep of it.
    """

    def __init__(
        self,
        dataset: MapStyle,
        ratio: float,
        profile: str = "exp",
        seed: int | None = 0,
        reversed: bool = False,
        n_max: int | None = None,
        capped: bool = False,
        preprocessing: Preprocessing | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        targets = labels_of(dataset)
        present = np.unique(targets)
        if not np.array_equal(present, np.arange(len(present))):
            allowed = f"each of the labels 0 to {len(present) - 1}{start_hint(present)}"
            raise OptionError("targets", present.tolist()[:20], allowed)
        available = np.bincount(targets, minlength=1)
        if n_max is None:
            if not capped:
                _check_ratio_of(available, ratio)
            n_max = int(available.max() if capped else available[-1 if reversed else 0])
        counts = long_tailed_counts(n_max, len(present), ratio, profile)
        if reversed:
            counts.reverse()
        if capped:
            counts = np.minimum(counts, available).tolist()
        self._capped = capped
        classes = classes_of(dataset, len(present))
        super().__init__(dataset, long_tailed_indices(targets, counts, seed), classes, preprocessing, notes)

    def full(self) -> View | None:
        """Return all images of the data set; None if its classes were capped, so that it is not balanced."""
        return None if self._capped else Whole(self.dataset, self.classes, self.preprocessing, self.notes)


def _check_ratio_of(available: npt.NDArray[np.integer], ratio: float) -> None:
    """Raise OptionError if a data set is more long-tailed than `ratio`: a subset would lose most of its images.

    Ratio 1, a balanced subset, is allowed for any data set.
    """
    fewest, most = int(available.min()), int(available.max())
    if 1 < ratio < most / max(1, fewest):
        raise OptionError(
            "ratio",
            ratio,
            f"at least {most / fewest:.3g}, as the classes already have {fewest:,} to {most:,} images: use all of "
            "them, without a ratio (in Python, take the data set itself, or capped=True: a class with fewer images "
            "than its share keeps all of them; or choose n_max)",
        )


class Whole(View):
    """All images of a data set, with `class_counts`: a reference split, or a naturally long-tailed set.

    Raises OptionError if a class has no image, or if a label has no class name.
    """

    def __init__(
        self,
        dataset: MapStyle,
        classes: Sequence[str],
        preprocessing: Preprocessing | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(dataset, range(len(labels_of(dataset))), classes, preprocessing, notes)
        counts, hint = self.class_counts, start_hint(np.unique(self.targets))
        if 0 in counts:
            found = counts if len(counts) <= 20 else f"none for label {counts.index(0)}"
            raise OptionError("class_counts", found, f"images in each of {len(self.classes)} classes{hint}")
        if len(counts) != len(self.classes):
            raise OptionError(
                "classes", f"{len(self.classes)} names", f"one for each of the labels 0 to {len(counts) - 1}"
            )
