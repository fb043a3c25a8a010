"""Labels, class names, class counts and notes of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.contract import MapStyle
from studiogan_gsr.errors import LabelError, OptionError, RequestError, near_miss

_LISTED = 20  # up to this many class names are listed in a message


def labels_of(dataset: MapStyle) -> npt.NDArray[np.int64]:
    """Return the labels of all images, without reading the images; 1.0 counts as 1.

    They are read from the attributes that torchvision's data sets use, and a `target_transform` is applied.
    For a Subset or ConcatDataset, they come from the data sets inside.
    Raises OptionError if there are no labels, or if they are not whole numbers.
    """
    inside, indices = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inside is not None and indices is not None and getattr(dataset, "targets", None) is None:
        return labels_of(inside)[np.asarray(indices, dtype=np.int64)]
    if isinstance(parts := getattr(dataset, "datasets", None), list | tuple) and parts:
        return np.concatenate([labels_of(part) for part in parts])
    return _transformed(dataset, _stored_labels(dataset))


def is_relabelled(dataset: MapStyle) -> bool:
    """Return whether a `target_transform` changes labels, so that class names no longer match them."""
    if inside := getattr(dataset, "dataset", None):
        return is_relabelled(inside)
    if isinstance(parts := getattr(dataset, "datasets", None), list | tuple):
        return any(map(is_relabelled, parts))
    if getattr(dataset, "target_transform", None) is None:
        return False
    stored = _stored_labels(dataset)
    return not np.array_equal(stored, _transformed(dataset, stored))


def classes_of(dataset: MapStyle, number: int) -> list[str]:
    """Return `number` class names: the data set's own if they match its labels; if not, the labels as text."""
    inside: Any = dataset
    while not hasattr(inside, "classes"):
        if parts := getattr(inside, "datasets", None):
            inside = parts[0]
        elif hasattr(inside, "indices"):
            inside = inside.dataset
        else:
            break
    names = [str(name) for name in getattr(inside, "classes", ())]
    return names if len(names) == number and not is_relabelled(dataset) else [str(label) for label in range(number)]


def _transformed(dataset: MapStyle, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the labels after `target_transform`, which torchvision applies only when an item is read."""
    transform = getattr(dataset, "target_transform", None)
    if not callable(transform) or not len(labels):
        return labels
    present, places = np.unique(labels, return_inverse=True)
    made = whole_numbers(np.asarray([transform(int(label)) for label in present]))
    if made.ndim != 1 or not np.issubdtype(made.dtype, np.integer):
        found = str(made.tolist())[:60]
        raise OptionError("target_transform", found, "a function that returns an integer for each label")
    return made.astype(np.int64)[places]


def _stored_labels(dataset: MapStyle) -> npt.NDArray[np.int64]:
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            array = whole_numbers(np.asarray(labels))
            if array.ndim == 2 and array.shape[1] == 1:  # a list of one-element tensors
                array = array[:, 0]
            if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
                raise OptionError(
                    name, str(labels)[:60], f"one integer per image, not {array.dtype} of shape {array.shape}"
                )
            return array.astype(np.int64)
    raise OptionError("dataset", type(dataset).__name__, "a data set with targets, the labels of all its images")


def whole_numbers(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels as integers if they are whole numbers stored as floats; if not, unchanged."""
    if np.issubdtype(labels.dtype, np.floating) and bool((np.abs(labels) < 2**53).all()):
        integers = labels.astype(np.int64)
        return integers if np.array_equal(integers, labels) else labels
    return labels


def check_label(found: Any, expected: int, what: str) -> None:
    """Raise LabelError if an item's label differs from `targets`, from which class counts are computed."""
    if int(found) != expected:
        raise LabelError(
            f"{what} has the label {int(found)}, and the data set's targets say {expected}: the class counts "
            "would be wrong; make targets equal the labels of the items"
        )


def start_hint(present: Sequence[int] | npt.NDArray[np.integer]) -> str:
    """Return a hint for an error message if labels begin at 1; if not, an empty string."""
    begin_at_1 = len(present) > 0 and np.array_equal(present, np.arange(1, len(present) + 1))
    return "; the labels begin at 1: subtract 1 from each" if begin_at_1 else ""


def some_names(names: Sequence[str], most: int = 5) -> str:
    """Return names as text for a message: at most so many, then "..."."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def class_title(label: int, classes: Sequence[str] | None, *details: str) -> str:
    """Return a class's name with its label and details, "beaver (label 4, 30 images)".

    classes: names in label order; None: unknown.  A name that equals the label is not repeated.
    """
    name = str(label) if classes is None else classes[label]
    inside = ", ".join([*([] if name == str(label) else [f"label {label}"]), *details])
    return f"{name} ({inside})" if inside else name


def label_of(text: str, classes: Sequence[str]) -> int:
    """Return the label of a class, given its name or its label as text; a name comes first.

    Raises RequestError, with a near miss, if there is no such class.
    """
    if classes.count(text) == 1:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < len(classes) and text not in classes:
        return int(text)
    found = f"{text!r}, the name of {classes.count(text)} classes" if text in classes else repr(text)
    names = "" if len(classes) > _LISTED or all(map(str.isdecimal, classes)) else f" ({', '.join(classes)})"
    raise RequestError(
        f"class: found {found}; allowed: a name{names}, or a label from 0 to {len(classes) - 1}"
        f"{near_miss(text, classes)}"
    )


def class_counts_of(dataset: MapStyle) -> list[int]:
    """Return the images per class, in label order: the data set's `class_counts`, or counted labels."""
    counts = getattr(dataset, "class_counts", None)
    return np.bincount(labels_of(dataset)).tolist() if counts is None else [int(count) for count in counts]


def notes_of(dataset: MapStyle) -> tuple[str, ...]:
    """Return a data set's notes: remarks to show with all results."""
    notes = getattr(dataset, "notes", ())
    # Another project's `notes` may be anything.
    return tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()
