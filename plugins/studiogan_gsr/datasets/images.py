"""Image files under a folder, by their names and labels: what list files, JSON and class folders become."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from studiogan_gsr.datasets.identity import identities, where
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.errors import DataError, near_miss, reason


class ImageFiles:
    """Map-style, (PIL image, int label); picklable, and opens a file only when it is asked for.

    root: the folder; names: paths below it, with `/`; targets: labels; classes: names in label order;
    notes: what a reader of its numbers must know.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        targets: Iterable[int],
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self._folder = Path(root), str(root)
        # One array, not a million strings: workers share its memory, and pickles of it are small.
        width = max((len(os.fsencode(name)) for name in names), default=1)
        self._names = np.fromiter(map(os.fsencode, names), f"S{width}", len(names))
        self.targets = [int(label) for label in targets]
        self.classes = list(classes)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        # Not a Path: at a hundred microseconds an image, making one shows.
        with Image.open(f"{self._folder}/{self.where(index)}") as image:
            image.load()
            return image, self.targets[index]

    def where(self, index: int) -> str:
        """The image's path below the root."""
        return os.fsdecode(bytes(self._names[index]))

    def file(self, index: int) -> Path:
        """The image's file."""
        return self.root / self.where(index)

    def check_present(self) -> None:
        """DataError where the first, middle or last image is not where its list says."""
        for index in {0, len(self) // 2, len(self) - 1} if len(self) else ():
            file = self.file(index)
            if not file.is_file():
                there = next(parent for parent in file.parents if parent.is_dir())
                raise DataError(f"a list names {file}, which is not there; in {there}: {listing(there)}")


def listing(folder: Path) -> str:
    """What a folder holds, as an error's message tells it: 'a/, b.txt', 'nothing', 'no such folder'."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    return f"{', '.join(names[:6]) or 'nothing'}{', ...' if len(names) > 6 else ''}"


def first_existing(root: Path, candidates: Sequence[str], what: str, get: str) -> Path:
    """The first of several paths that exists below the root.

    Raises DataError with what is missing, what to get, and what is there.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    there = [entry.name for entry in root.iterdir()] if root.is_dir() else []
    hint = near_miss(Path(candidates[0]).name, there)
    wanted = " or ".join(candidates)
    raise DataError(f"{what} is missing: {root.resolve()} needs {wanted}; found: {listing(root)}{hint}; {get}")


def checked_reference(train: View, reference: View, name: str) -> View:
    """The reference, where it is balanced and shares classes and no image with the training images.

    Raises DataError where not, with the first class or image that is at fault.
    """
    if train.classes != reference.classes:
        differing = sorted(set(train.classes) ^ set(reference.classes))[:5]
        raise DataError(
            f"{name}: training has {len(train.classes)} classes, the reference {len(reference.classes)}; "
            f"only one of them has {', '.join(differing)}"
        )
    check_balanced(reference, name)
    try:
        trained = set(identities(train))
        shared = [i for i, image in enumerate(identities(reference)) if image in trained]
    except OSError as error:
        raise DataError(f"{name}: an image cannot be found: {reason(error)}") from error
    if shared:
        raise DataError(
            f"{name}: {len(shared)} of {len(reference)} reference images are training images, the first is "
            f"{where(reference, shared[0])}; take them out of one of the two"
        )
    return reference


def check_balanced(reference: View, name: str) -> None:
    """DataError where a reference has more images of one class than of another."""
    fewest, most = min(reference.class_counts), max(reference.class_counts)
    if fewest != most:
        few, many = reference.class_counts.index(fewest), reference.class_counts.index(most)
        raise DataError(
            f"{name}: the reference is not balanced: class {reference.classes[few]} has {fewest} images, class "
            f"{reference.classes[many]} has {most}; give all classes {fewest}"
        )


def balanced(dataset: Any) -> list[int]:
    """Indices of the first images of each class, class by class: as many of each as the rarest has."""
    targets = np.asarray(dataset.targets)
    counts = np.bincount(targets)
    order = np.argsort(targets, kind="stable")
    starts = np.cumsum(counts) - counts
    return [int(i) for start in starts for i in order[start : start + counts.min()]]
