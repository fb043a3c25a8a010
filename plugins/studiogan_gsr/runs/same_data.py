"""Check that runs may be compared: trained on the same data set with the same class counts."""

from __future__ import annotations

from collections.abc import Sequence

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.errors import RequestError
from studiogan_gsr.runs.trained import Trained


def recorded_counts(trained: Trained) -> list[int]:
    """Return the training images per class; zeros if they are not recorded."""
    counts = trained.data.get("class_counts")
    return list(counts) if counts else [0] * trained.configuration.DATA.num_classes


def check_same_data(runs: Sequence[tuple[str, Trained]]) -> None:
    """Raise RequestError if runs, as (name, run), have different data sets or class counts."""
    for name, trained in runs[1:]:
        _check_pair(name, trained, *runs[0])


def _check_pair(name: str, trained: Trained, first_name: str, first: Trained) -> None:
    data, counts = trained.configuration.DATA, recorded_counts(trained)
    data_name, expected = first.configuration.DATA.name, recorded_counts(first)
    if data.name == data_name and counts == expected:
        return
    if data.name != data_name:
        why = f"was trained on {data.name}, {first_name} on {data_name}"
    elif len(counts) != len(expected):
        why = f"was trained on {len(counts)} classes of {data_name}, {first_name} on {len(expected)}"
    elif not (any(counts) and any(expected)):
        states = "are not recorded", "are"
        mine, theirs = states if any(expected) else states[::-1]
        why = f"its class counts {mine}, those of {first_name} {theirs}"
    else:
        label = next(y for y, count in enumerate(counts) if count != expected[y])
        title = class_title(label, trained.classes)
        why = (
            f"class {title} had {counts[label]:,} training images, in {first_name} {expected[label]:,} "
            f"(both on {data_name})"
        )
    raise RequestError(f"{name}: {why}: compare like runs")
