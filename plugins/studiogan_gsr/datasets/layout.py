"""Where a folder of images has its training and its reference classes, whatever these folders are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.datasets.folder import class_folders, is_hidden
from studiogan_gsr.datasets.images import ImageFiles, listing
from studiogan_gsr.errors import DataError, reason

# In the order in which they are preferred; the first of each is Folder_LT's name.
TRAIN = ("train", "training")
REFERENCE = ("valid", "val", "validation", "test", "testing", "eval")


@dataclass(frozen=True)
class Layout:
    """The folders of a data set's classes.

    root: the data set's folder.  train, reference: the names of the folders in it that hold one folder per class.
    train is None if the class folders are in `root` itself; reference is None if there is no reference.
    """

    root: Path
    train: str | None
    reference: str | None

    def training_images(self) -> ImageFiles:
        """Return the training images as Folder_LT counts them; DataError if there are none, or one class alone."""
        images = self._images(self.root if self.train is None else self.root / self.train)
        if len(images.classes) < 2:
            top = self.root / (self.train or "")
            raise DataError(
                f"{top}: found one class, {images.classes[0]}, with {listing(top / images.classes[0])}; a "
                "class-conditional GAN needs two or more: --data names the folder with one folder per class, or with "
                "train/ and valid/"
            )
        return images

    def reference_images(self) -> ImageFiles | None:
        """Return the reference images; None if there are none."""
        return None if self.reference is None else self._images(self.root / self.reference)

    def _images(self, top: Path) -> ImageFiles:
        top = top.resolve()  # so that it has a name, unlike "."
        needs = f"{self.root} needs one folder of images per class, or train/ and valid/ with them"
        return class_folders(top.parent, top.name, needs, upright=True)


def find_layout(root: Path) -> Layout:
    """Return the layout of a folder; DataError if it is not there or cannot be read."""
    try:
        folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)]
        # A folder `train` that holds images alone is a class: trains.
        parts = {name.lower(): name for name in sorted(folders) if _has_folders(root / name)}
    except OSError as error:
        raise DataError(f"{root}: {listing(root)}; expected: a folder of images ({reason(error)})") from error
    train = next((parts[name] for name in TRAIN if name in parts), None)
    if train is None:
        return Layout(root, None, None)
    return Layout(root, train, next((parts[name] for name in REFERENCE if name in parts), None))


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not is_hidden(entry.name) for entry in entries)
