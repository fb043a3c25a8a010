"""TinyImageNet_LT: 200 classes of ImageNet at 64 pixels."""

from __future__ import annotations

import os
from pathlib import Path

from studiogan_gsr.datasets.folder import class_folders
from studiogan_gsr.datasets.images import ImageFiles, checked_reference, listing
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError, reason

_FOLDER = "tiny-imagenet-200"


def tiny_imagenet_lt(
    root: str, split: str, ratio: float, profile: str = "exp", seed: int = 0, reversed: bool = False
) -> View:
    """Return Tiny-ImageNet-LT.  "train": 500 images in the largest class; "reference": 50 validation images a class.

    root: contains the unpacked folder tiny-imagenet-200, or is that folder.  Class names are WordNet ids.
    Raises DataError if it is missing or has another layout.
    """
    check_split(split)
    base = Path(root) / _FOLDER if os.path.isdir(Path(root) / _FOLDER) else Path(root)
    layout = (
        f"TinyImageNet_LT: {Path(root).resolve()} needs {_FOLDER}/ with train/<class>/images/ and "
        f"val/val_annotations.txt; get {_FOLDER}.zip (248 MB) from http://cs231n.stanford.edu/{_FOLDER}.zip"
    )
    source = class_folders(base, "train", layout)
    train = Variant(ratio, profile, seed, reversed).view(source)
    if split == "train":
        return train
    reference = _validation(base, source.classes, layout)
    return checked_reference(train, Whole(reference, reference.classes), "TinyImageNet_LT")


def _validation(base: Path, classes: list[str], layout: str) -> ImageFiles:
    """Return the validation images, listed in val_annotations.txt (tab-separated: file, class, box).

    If val/images/ is missing, the images are those of val/<class>/.
    """
    annotations = base / "val" / "val_annotations.txt"
    if not os.path.isdir(base / "val" / "images"):
        if not os.path.isdir(base / "val" / classes[0]):
            raise DataError(f"{layout}; found: {listing(base / 'val')}")
        return class_folders(base, "val", layout)
    try:
        rows = [line.split("\t")[:2] for line in annotations.read_text(encoding="utf-8").splitlines() if line.strip()]
        labels = {name: label for label, name in enumerate(classes)}
        files = ImageFiles(base, [f"val/images/{file}" for file, _ in rows], [labels[y] for _, y in rows], classes)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{annotations} is missing or malformed: {reason(error)}; expected: <file> <tab> <class> ..."
        ) from error
    files.check_present()
    return files
