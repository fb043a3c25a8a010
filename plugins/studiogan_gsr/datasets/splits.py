"""Write the images of a data set as a CSV file, so that others can have exactly these."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from studiogan_gsr.contract import Dataset
from studiogan_gsr.datasets.identity import where
from studiogan_gsr.errors import RequestError, reason
from studiogan_gsr.files import write_atomically

COLUMNS = ("index", "label", "class", "image")


def check_target(path: Path, overwrite: bool = False) -> None:
    """Raise RequestError if the CSV file cannot be made, or if there is a file that `write_split` has not written."""
    if path.is_dir() or not path.parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise RequestError(f"--write {path}: found {found}; name a file in a folder that exists")
    there = [file for file in (path, description(path)) if file.exists()]
    if there and not overwrite and not _is_ours(path):
        raise RequestError(
            f"--write {path}: found {there[0]}, which this command has not written or which has changed since; "
            "name another file, or add --overwrite"
        )


def description(path: Path) -> Path:
    """Return the path of the JSON file that describes a CSV file."""
    return path.with_name(f"{path.name}.json")


def write_split(dataset: Dataset, name: str, split: str, images_sha256: str, path: Path) -> None:
    """Write a row per image, in the data set's order, and a description beside it, `FILE.csv.json`.

    The columns: `index`, of the image in the set that the images are chosen from; its `label`; the name of its
    `class`; and `image`, its path below the data folder, or its name if the set has no files.
    images_sha256: the digest of the images in run.json.  It is that of the lines "<image> <tab> <label>", except for
    packed files, whose digest also covers the pixels.
    Raises RequestError if a file cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(COLUMNS)
    classes = [str(name) for name in dataset.classes]
    for i, label in enumerate(dataset.targets):
        rows.writerow((_index(dataset, i), int(label), classes[int(label)], where(dataset, i)))
    content = text.getvalue().encode("utf-8", "surrogateescape")  # file names may contain bytes that are no text
    described = {
        "data": name,
        "split": split,
        "images": len(dataset.targets),
        "class_counts": [int(count) for count in dataset.class_counts],
        "images_sha256": images_sha256,
        "csv_sha256": hashlib.sha256(content).hexdigest(),
        "version": version("studiogan-gsr"),
    }
    try:
        write_atomically(path, content)
        write_atomically(description(path), json.dumps(described, indent=1) + "\n")
    except OSError as error:
        raise RequestError(f"--write {path}: cannot be written: {reason(error)}") from error


def _index(dataset: Any, index: int) -> int:
    """Return an image's index in the set below all views of it."""
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    return index


def _is_ours(path: Path) -> bool:
    """Return whether a CSV file is as its description says."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return bool(json.loads(description(path).read_text())["csv_sha256"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False
