"""Image files under a folder, by their names and labels: what list files, JSON and class folders become."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.identity import file_of, identities, source_of, where
from studiogan_gsr.datasets.labels import class_counts_of
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.overlap import has_files, shared_files, shared_images
from studiogan_gsr.datasets.preprocessing import Prepared
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


# StudioGAN's own sets that are two parts of one published archive.
_PUBLISHED = ("CIFAR10", "CIFAR100")
_LISTED = 20  # names in a message, so that they can be taken out at once


def checked_reference(train: View, reference: View, name: str, published: bool = True) -> View:
    """Return the reference, where it is balanced and shares classes and no image with the training images.

    published: others chose the two; copies of training images are then counted in its notes, and no error.
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
        trained = {image: i for i, image in enumerate(identities(train))}
        same = [(i, trained[image]) for i, image in enumerate(identities(reference)) if image in trained]
        copied = shared_files(train, reference) if has_files(train) and has_files(reference) else []
    except OSError as error:
        raise DataError(f"{name}: an image cannot be found: {reason(error)}") from error
    if shared := same or ([] if published else copied):
        raise DataError(f"{name}: {_shared_message(train, reference, shared)}; take them out of one of the two")
    if copied:
        reference.notes = (*reference.notes, f"{_shared_message(train, reference, copied)}, as published")
    reference.checked = True
    return reference


def check_reference(train: Labelled | None, reference: Labelled, name: str, plugin: bool) -> list[str]:
    """Check that a reference is balanced and shares no image with the training images; for hosts, of every data set.

    A set that this package has checked passes.  Otherwise: train is None where training images are not available,
    and only balance is checked.  plugin: whether a plug-in has made the set, which promises a balanced reference;
    a user's own folder need not be balanced.  A set with `published_split` true has its faults counted, not refused.
    Returns, in lines, what a reader of numbers against this reference must know.  Raises DataError.
    """
    if is_checked(reference):
        return []
    below = reference.dataset if isinstance(reference, Prepared) else reference
    published = name in _PUBLISHED if not plugin else getattr(below, "published_split", False) is True
    remedy = "; a data set that is meant so has published_split = True, and then this is a note" if plugin else ""
    notes = []
    if unbalanced := _unbalanced(below):
        if plugin and not published:
            raise DataError(
                f"{name}: {unbalanced}; give all classes {min(class_counts_of(below)) or 'equally many'}{remedy}"
            )
        notes.append(f"{unbalanced}; numbers over all classes weigh them so")
    if train is None:
        return notes
    try:
        shared, compared = shared_images(train, reference)
    except OSError as error:
        raise DataError(f"{name}: an image cannot be read: {reason(error)}") from error
    if compared < len(train):
        notes.append(f"the reference was compared with {compared:,} of {len(train):,} training images")
    if not shared:
        return notes
    message = _shared_message(train, reference, shared)
    if not published:
        raise DataError(f"{name}: {message}; take them out of one of the two{remedy}")
    return [*notes, message]


def is_checked(reference: Labelled) -> bool:
    """Return whether this package has compared a reference with its training images when it opened it."""
    below = reference.dataset if isinstance(reference, Prepared) else reference
    return isinstance(below, View) and below.checked


def _shared_message(train: Labelled, reference: Labelled, shared: Sequence[tuple[int, int]]) -> str:
    train, reference = (side.dataset if isinstance(side, Prepared) else side for side in (train, reference))
    (one, other), *others = shared
    names = ", ".join(_called(reference, i) for i, _ in others[:_LISTED])
    more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    return (
        f"{len(shared)} of {len(reference)} reference images are training images, the first is "
        f"{_called(reference, one)} (training: {_called(train, other)})" + (f", then {names}{more}" if others else "")
    )


def _called(dataset: Labelled, index: int) -> str:
    """An image's path as its data set says it, else that of its file, else its index."""
    source, at = source_of(dataset, index)
    file = None if callable(getattr(source, "where", None)) else file_of(source, at)
    return where(source, at) if file is None else str(file)


def _unbalanced(reference: Labelled) -> str:
    """The rarest and the most frequent class of a reference; nothing of one that is balanced."""
    counts = class_counts_of(reference)
    classes = getattr(reference, "classes", range(len(counts)))
    fewest, most = min(counts), max(counts)
    few, many = counts.index(fewest), counts.index(most)
    if fewest == most:
        return ""
    return (
        f"the reference is not balanced: class {classes[few]} has {fewest} images, class {classes[many]} has {most}"
    )


def check_balanced(reference: View, name: str) -> None:
    """DataError where a reference has more images of one class than of another."""
    if unbalanced := _unbalanced(reference):
        raise DataError(f"{name}: {unbalanced}; give all classes {min(reference.class_counts)}")


def balanced(dataset: Labelled) -> list[int]:
    """Indices of the first images of each class, class by class: as many of each as the rarest has."""
    targets = np.asarray(dataset.targets)
    counts = np.bincount(targets)
    order = np.argsort(targets, kind="stable")
    starts = np.cumsum(counts) - counts
    return [int(i) for start in starts for i in order[start : start + counts.min()]]
