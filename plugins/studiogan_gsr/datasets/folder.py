"""Folder_LT: any image folder with train/<class>/ and valid/<class>/."""

from __future__ import annotations

from pathlib import Path

from studiogan_gsr.datasets.images import ImageFiles, checked_reference, listing
from studiogan_gsr.datasets.long_tailed import LongTailed, View, Whole, check_variant
from studiogan_gsr.errors import DataError


def folder_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """An image folder made long-tailed by `ratio`, or, without a ratio, as long-tailed as it is.

    "train": of train/; "reference": all of valid/, which must be balanced and share no file with it.
    Images as StudioGAN takes them: the middle square, resized only where the host is told to.
    """
    check_variant(split, ratio, profile, seed, reversed)
    layout = f"{Path(root).resolve()} needs train/ and valid/, each with one folder of images a class"
    source = class_folders(Path(root), "train", layout)
    train = Whole(source, source.classes) if ratio is None else LongTailed(source, ratio, profile, seed, reversed)
    if split == "train":
        return train
    reference = class_folders(Path(root), "valid", layout)
    return checked_reference(train, Whole(reference, reference.classes), "Folder_LT")


def class_folders(root: Path, folder: str, layout: str) -> ImageFiles:
    """The images of root/folder/<class>/, at any depth, as torchvision's ImageFolder finds them.

    layout: what the errors say is needed.  Raises DataError where there are none, or an empty class.
    """
    from torchvision.datasets import ImageFolder

    if not (root / folder).is_dir():
        raise DataError(f"{layout}; found: {listing(root)}")
    try:
        found = ImageFolder(str(root / folder))
    except FileNotFoundError as error:
        raise DataError(f"{layout}; in {folder}/: {' '.join(str(error).split())}") from error
    names = [Path(path).relative_to(root).as_posix() for path, _ in found.samples]
    return ImageFiles(root, names, found.targets, found.classes)
