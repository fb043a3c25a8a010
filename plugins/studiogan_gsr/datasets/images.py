"""A data set of image files with names and labels, and the checks of a reference split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.identity import file_of, identities, source_of, where
from studiogan_gsr.datasets.labels import class_counts_of
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.overlap import has_files, shared_files, shared_images
from studiogan_gsr.datasets.preprocessing import Prepared, orientation_of, turned
from studiogan_gsr.errors import DataError, near_miss, reason


class ImageFiles:
    """Map-style data set of (PIL image, int label); picklable, opens a file only to read its image.

    root: the folder; names: paths below it, with `/`; targets: labels; classes: names in label order;
    notes: remarks to be shown with all results on these images.
    upright: whether images are turned as their EXIF orientation tags say.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        targets: Iterable[int],
        classes: Sequence[str],
        notes: Sequence[str] = (),
        upright: bool = False,
    ) -> None:
        self.upright = upright
        self.root, self._folder = Path(root), str(root)
        # One array, not a million strings: workers share its memory, and it pickles small.
        width = max((len(os.fsencode(name)) for name in names), default=1)
        self._names = np.fromiter(map(os.fsencode, names), f"S{width}", len(names))
        self.targets = [int(label) for label in targets]
        self.classes = list(classes)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        # Not a Path: reading an image may take only 100 microseconds, so the time to create one is noticeable.
        with Image.open(f"{self._folder}/{self.where(index)}") as image:
            image.load()
            return turned(image) if self.upright else image, self.targets[index]

    def where(self, index: int) -> str:
        """Return the image's path below the root."""
        return os.fsdecode(bytes(self._names[index]))

    def file(self, index: int) -> Path:
        """Return the image's file."""
        return self.root / self.where(index)

    def turned_by(self, index: int) -> int:
        """Return by which EXIF orientation the image is turned when it is read, from 1 (not at all) to 8."""
        if not self.upright:
            return 1
        try:
            with Image.open(self.file(index)) as image:
                return orientation_of(image)
        except Exception:  # Pillow's readers of formats raise many kinds; reading the image reports the error
            return 1

    def check_present(self) -> None:
        """Raise DataError if the first, middle or last image is missing."""
        for index in {0, len(self) // 2, len(self) - 1} if len(self) else ():
            file = self.file(index)
            if not os.path.isfile(file):
                there = next(parent for parent in file.parents if os.path.isdir(parent))
                raise DataError(f"a list names {file}, which is not there; in {there}: {listing(there)}")


def listing(folder: Path) -> str:
    """Return a folder's contents for an error message: 'a/, b.txt', 'nothing', 'no such folder'.

    For a folder that cannot be read, return why.
    """
    try:
        shown = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in shown)
    except (FileNotFoundError, NotADirectoryError):
        return "a file" if os.path.exists(folder) else "no such folder"
    except OSError as error:
        return f"a folder that cannot be read ({reason(error)})"
    return f"{', '.join(names[:6]) or 'nothing'}{', ...' if len(names) > 6 else ''}"


def first_existing(root: Path, candidates: Sequence[str], what: str, get: str) -> Path:
    """Return the first of several paths that exists below the root.

    what, get: name of the missing item and how to get it, for the error message.
    Raises DataError if none of the paths exists.
    """
    for candidate in candidates:
        if os.path.exists(root / candidate):
            return root / candidate
    try:
        hint = near_miss(Path(candidates[0]).name, os.listdir(root))
    except OSError:  # `listing` says why
        hint = ""
    expected = " or ".join(candidates)
    raise DataError(f"{what} is missing: {root.resolve()} needs {expected}; found: {listing(root)}{hint}; {get}")


# StudioGAN's own data sets whose training and test images come from one published archive.
_PUBLISHED = ("CIFAR10", "CIFAR100")
_LISTED = 20  # names in a message, so that a user can remove several images at a time


def checked_reference(train: View, reference: View, name: str, published: bool = True) -> View:
    """Return the reference after checking its balance, its classes, and that it shares no image with training.

    published: the authors of the data set chose both splits; copied files are then a note, not an error.
    Raises DataError for an unbalanced reference, different classes, or shared images.
    """
    if train.classes != reference.classes:
        raise DataError(
            f"{name}: training has {len(train.classes)} classes, the reference {len(reference.classes)}; "
            f"{_class_difference(train.classes, reference.classes)}"
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


def _class_difference(train: Sequence[str], reference: Sequence[str]) -> str:
    if differing := sorted(set(train) ^ set(reference))[:5]:
        return f"only one of them has {', '.join(differing)}"
    pairs = enumerate(zip_longest(train, reference, fillvalue="no class"))
    label, (one, other) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
    return f"label {label} is {one} in training, and {other} in the reference"


def check_reference(train: Labelled | None, reference: Labelled, name: str, plugin: bool) -> list[str]:
    """Check that a reference is balanced and shares no image with training; return notes to show with results.

    A reference that this package has already checked is not checked again.
    train: None if the training images are not available; then only the balance is checked.
    plugin: whether a plug-in made the set.  If not, an unbalanced reference is only noted.
    Faults of a published split (`published_split` is true, or StudioGAN's own CIFAR) are only noted.
    Other faults raise DataError.
    """
    if is_checked(reference):
        return []
    below = reference.dataset if isinstance(reference, Prepared) else reference
    published = name in _PUBLISHED if not plugin else getattr(below, "published_split", False) is True
    remedy = (
        "; if this is intended, set published_split = True on the data set: then it is only a note" if plugin else ""
    )
    notes = []
    if unbalanced := _unbalanced(below):
        if plugin and not published:
            raise DataError(
                f"{name}: {unbalanced}; give all classes {min(class_counts_of(below)) or 'equally many'}{remedy}"
            )
        notes.append(f"{unbalanced}; overall metrics weight frequent classes more")
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
    """Return whether this package compared the reference with its training images when it opened it."""
    below = reference.dataset if isinstance(reference, Prepared) else reference
    return isinstance(below, View) and below.checked


def _shared_message(train: Labelled, reference: Labelled, shared: Sequence[tuple[int, int]]) -> str:
    train, reference = (side.dataset if isinstance(side, Prepared) else side for side in (train, reference))
    (one, other), *others = shared
    names = ", ".join(_image_name(reference, i) for i, _ in others[:_LISTED])
    more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    return (
        f"{len(shared)} of {len(reference)} reference images are training images, the first is "
        f"{_image_name(reference, one)} (training: {_image_name(train, other)})"
        + (f", then {names}{more}" if others else "")
    )


def _image_name(dataset: Labelled, index: int) -> str:
    """Return an image's path from its data set, or its file, or its index."""
    source, at = source_of(dataset, index)
    file = None if callable(getattr(source, "where", None)) else file_of(source, at)
    return where(source, at) if file is None else str(file)


def _unbalanced(reference: Labelled) -> str:
    """Return a message with the rarest and the most frequent class; empty if the reference is balanced."""
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
    """Raise DataError if the classes of a reference have different numbers of images."""
    if unbalanced := _unbalanced(reference):
        raise DataError(f"{name}: {unbalanced}; give all classes {min(reference.class_counts)}")


def balanced(dataset: Labelled) -> list[int]:
    """Return the indices of the first n images of each class, where n is the size of the rarest class."""
    targets = np.asarray(dataset.targets)
    counts = np.bincount(targets)
    order = np.argsort(targets, kind="stable")
    starts = np.cumsum(counts) - counts
    return [int(i) for start in starts for i in order[start : start + counts.min()]]
