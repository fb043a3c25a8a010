"""Summary of a data set, for records, `data show` and the index of a packed file."""

from __future__ import annotations

from typing import Any

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.labels import class_counts_of, notes_of
from studiogan_gsr.datasets.preprocessing import preprocessing_of


def describe(dataset: Labelled, resizer: str = "wo_resize") -> dict[str, Any]:
    """Return class counts and names, a digest of image names and labels, preprocessing and notes, as plain data.

    The head and tail class of a balanced set are None.
    """
    counts = class_counts_of(dataset)
    balanced = len(set(counts)) == 1
    classes = [str(name) for name in getattr(dataset, "classes", range(len(counts)))]
    return {
        "class_counts": counts,
        "classes": classes,
        "head_class": None if balanced else classes[counts.index(max(counts))],
        "tail_class": None if balanced else classes[counts.index(min(counts))],
        "images_sha256": digest(dataset),
        "preprocessing": preprocessing_of(dataset, resizer).record(),
        "notes": list(notes_of(dataset)),
    }
