"""The labels of any data set, how many images each class has, and what the data set notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.errors import OptionError


def labels_of(dataset: Any) -> npt.NDArray[np.int64]:
    """The labels of all images, by the names that torchvision's data sets have for them; 1.0 is the label 1.

    Raises OptionError where there are none, or what is there are not whole numbers.
    """
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            array = whole_numbers(np.asarray(labels))
            if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
                raise OptionError(name, str(labels)[:60], f"one integer an image, not {array.dtype} of {array.shape}")
            return array.astype(np.int64)
    raise OptionError("dataset", type(dataset).__name__, "a data set with targets, the labels of all its images")


def whole_numbers(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels as integers where they are whole numbers stored as floats; others as they are."""
    if np.issubdtype(labels.dtype, np.floating) and bool((np.abs(labels) < 2**53).all()):
        integers = labels.astype(np.int64)
        return integers if np.array_equal(integers, labels) else labels
    return labels


def start_hint(present: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """Return, for an error, that labels begin at 1, where those that occur are 1, 2, ...; else nothing."""
    begin_at_1 = len(present) > 0 and np.array_equal(present, np.arange(1, len(present) + 1))
    return "; the labels begin at 1: subtract 1 from each" if begin_at_1 else ""


def class_title(label: int, classes: Sequence[str] | None, *details: str) -> str:
    """Return a class's name with its label and details, "beaver (label 4, 30 images)".

    classes: names in label order; None: unknown.  Where the name is the label's number, that number stands alone.
    """
    name = str(label) if classes is None else classes[label]
    inside = ", ".join([*([] if name == str(label) else [f"label {label}"]), *details])
    return f"{name} ({inside})" if inside else name


def class_counts_of(dataset: Any) -> list[int]:
    """Images of each class, in label order: as the data set says, or counted."""
    counts = getattr(dataset, "class_counts", None)
    return np.bincount(labels_of(dataset)).tolist() if counts is None else [int(count) for count in counts]


def notes_of(dataset: Any) -> tuple[str, ...]:
    """Return what a data set says that a reader of its numbers must know."""
    notes = getattr(dataset, "notes", ())
    return tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()  # a stranger's attribute may be anything
