"""The labels of any data set, how many images each class has, and what the data set notes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.errors import OptionError


def labels_of(dataset: Any) -> npt.NDArray[np.int64]:
    """The labels of all images, by the names that torchvision's data sets have for them.

    Raises OptionError where there are none, or what is there are not whole numbers.
    """
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            array = np.asarray(labels)
            if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
                raise OptionError(name, str(labels)[:60], f"one integer an image, not {array.dtype} of {array.shape}")
            return array.astype(np.int64)
    raise OptionError("dataset", type(dataset).__name__, "a data set with targets, the labels of all its images")


def class_counts_of(dataset: Any) -> list[int]:
    """Images of each class, in label order: as the data set says, or counted."""
    counts = getattr(dataset, "class_counts", None)
    return np.bincount(labels_of(dataset)).tolist() if counts is None else [int(count) for count in counts]


def notes_of(dataset: Any) -> tuple[str, ...]:
    """Return what a data set says that a reader of its numbers must know."""
    notes = getattr(dataset, "notes", ())
    return tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()  # a stranger's attribute may be anything
