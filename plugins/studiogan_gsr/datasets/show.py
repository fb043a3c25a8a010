"""Show a data set by name: print its counts, and write a page with images of head and tail classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from studiogan_gsr.charts import counts_chart
from studiogan_gsr.class_groups import shot_groups
from studiogan_gsr.contract import Dataset
from studiogan_gsr.datasets.by_name import open_named
from studiogan_gsr.datasets.preprocessing import Prepared, inspect_files, preprocessing_of
from studiogan_gsr.datasets.splits import check_target, description, write_split
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.files import write_atomically
from studiogan_gsr.pages import chart, facts, page, picture, side_by_side, table
from studiogan_gsr.progress import console

_SHOWN = 10  # images per class, and classes at each end
_TILE = 64  # side of an image on the page, in pixels


@dataclass(frozen=True)
class Shown:
    """Result of `data show`: the page, and the digest of the chosen images."""

    page: Path
    images_sha256: str


def show(
    name: str, root: str, out: Path, split: str = "train", write: Path | None = None, overwrite: bool = False
) -> Shown:
    """Print a data set's counts, and write a page with their chart and with images of head and tail.

    write: a CSV file for the chosen images, see `write_split`; None: none.  overwrite: whether it may replace a file
    that this package has not written.
    Raises ConfigurationError for an unknown name, DataError for missing or damaged data, and RequestError if the CSV
    file cannot be written.
    """
    if write is not None:
        check_target(write, overwrite)
    dataset, _ = open_named(name, root, split)
    summary = describe(dataset)
    notes = [*summary["notes"], *inspect_files(dataset, preprocessing_of(dataset))]
    counts, classes = summary["class_counts"], [str(c) for c in dataset.classes]
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    groups = shot_groups(counts)
    properties = [
        ("images", f"{sum(counts):,}"),
        ("classes", f"{len(counts)}, from {max(counts):,} to {min(counts):,} images (ratio {_ratio(counts)})"),
        ("head and tail", _ends(summary)),
        ("many-shot", f"{len(groups['many'])} classes with more than 100 images"),
        ("medium-shot", f"{len(groups['medium'])} classes with 20 to 100"),
        ("few-shot", f"{len(groups['few'])} classes with fewer than 20"),
        ("preprocessing", str(preprocessing_of(dataset))),
        ("digest of the chosen images", summary["images_sha256"]),
        *(("note", note) for note in notes),
    ]
    console().print(f"{name}, {split}")
    _print_counts(order, counts, classes)
    for what, found in properties:
        console().print(f"{what}: {found}")
    rows = [(label, classes[label], f"{counts[label]:,}", _group(label, groups)) for label in order]
    sections = [
        ("", facts(properties)),
        ("Images per class", chart(counts_chart(counts, classes), "Classes in descending order of image count.")),
        *_galleries(dataset, name, order, counts, classes),
        ("Counts", table(("label", "class", "images", "shots"), rows)),
    ]
    path = out / "index.html"
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(f"{name}, {split}", sections))
    console().print(f"Images and chart: {path}")
    if write is not None:
        write_split(dataset, name, split, summary["images_sha256"], write)
        console().print(f"Chosen images: {write}; data set, split and digest: {description(write)}")
    return Shown(path, summary["images_sha256"])


def _ends(summary: dict[str, Any]) -> str:
    if summary["head_class"] is None:
        return f"none, each class has {max(summary['class_counts']):,} images"
    return f"{summary['head_class']}; {summary['tail_class']}"


def _ratio(counts: Sequence[int]) -> str:
    return f"{max(counts) / min(counts):.4g}" if min(counts) else "infinite"


def _group(label: int, groups: dict[str, list[int]]) -> str:
    return next(group for group, labels in groups.items() if label in labels)


def _print_counts(order: Sequence[int], counts: Sequence[int], classes: Sequence[str]) -> None:
    """Print one line per class with a bar; for more than 40 classes, only both ends."""
    width = max(len(classes[label]) for label in order)
    shown = list(order) if len(order) <= 40 else [*order[:_SHOWN], -1, *order[-_SHOWN:]]
    for label in shown:
        if label < 0:
            console().print(f"{'...':>6}")
            continue
        # Even a class with few images gets a visible bar.
        bar = "█" * max(1, round(40 * counts[label] / max(counts)))
        console().print(f"{label:>6}  {classes[label]:<{width}}  {counts[label]:>8,}  {bar}")


def _galleries(
    dataset: Dataset, name: str, order: Sequence[int], counts: Sequence[int], classes: Sequence[str]
) -> list[tuple[str, Markup]]:
    """Return a section with the largest and smallest classes side by side; each row is one class's first images."""
    half = min(_SHOWN, (len(order) + 1) // 2)
    # Without a resizer of the data set's own, use "box", which repeats or averages pixels.
    own = preprocessing_of(dataset).resizer != "wo_resize"
    tiles = Prepared(dataset, name, _TILE, "wo_resize" if own else "box")
    targets = np.asarray(tiles.targets)
    halves = []
    for title, labels in (("head", order[:half]), ("tail", order[-half:])):
        rows = [[tiles[i][0] for i in np.flatnonzero(targets == label)[:_SHOWN].tolist()] for label in labels]
        caption = f"The {title}, one row per class: " + ", ".join(f"{classes[y]} ({counts[y]:,})" for y in labels)
        halves.append(picture(_grid(rows), caption))
    return [("Images", side_by_side(halves))]


def _grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    gap = 2
    sheet = Image.new("RGBA", (_SHOWN * (_TILE + gap) - gap, len(rows) * (_TILE + gap) - gap))
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * (_TILE + gap), y * (_TILE + gap)))
    return sheet
