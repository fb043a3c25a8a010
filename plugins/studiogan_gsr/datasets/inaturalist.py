"""iNaturalist 2017, 2018 and 2019: naturally long-tailed, so they take no ratio."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studiogan_gsr.datasets.images import ImageFiles, balanced, checked_reference, first_existing
from studiogan_gsr.datasets.lists import CROPPED, read_list
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.errors import DataError, reason


@dataclass(frozen=True)
class _Year:
    year: str
    classes: int
    archives: str


_2017 = _Year("2017", 5089, "train_val_images.tar.gz (186 GB) and train_val2017.zip (26 MB)")
_2018 = _Year("2018", 8142, "train_val2018.tar.gz (120 GB), train2018.json.tar.gz and val2018.json.tar.gz")
_2019 = _Year("2019", 1010, "train_val2019.tar.gz (74 GB), train2019.json.tar.gz and val2019.json.tar.gz")


def inaturalist2017(root: str, split: str) -> View:
    """Return iNaturalist 2017: 5089 classes, 579,184 training images.

    "reference": a balanced part of its 95,986 validation images: the first n of each class, where n is the size of
    the rarest class.  Files and labels are laid out as for `inaturalist2019`.
    """
    return _inaturalist(_2017, Path(root), split)


def inaturalist2018(root: str, split: str) -> View:
    """Return iNaturalist 2018: 8142 classes, 437,513 training images; files as for `inaturalist2019`."""
    return _inaturalist(_2018, Path(root), split)


def inaturalist2019(root: str, split: str) -> View:
    """Return iNaturalist 2019: 1010 classes, one of the paper's sets.

    "train": train2019.json, or the list file iNaturalist19_train.txt; "reference": val2019.json or
    iNaturalist19_val.txt.  Labels follow the order of category ids.
    root: contains these files and the folder of images, train_val2019.
    Raises DataError if they are missing or malformed, or if the reference shares images with the training set.
    """
    return _inaturalist(_2019, Path(root), split)


def _inaturalist(release: _Year, root: Path, split: str) -> View:
    check_split(split)
    name, short = f"iNaturalist{release.year}", release.year[2:]
    get = (
        f"get {release.archives} from https://ml-inat-competition-datasets.s3.amazonaws.com/{release.year}/ "
        "(see github.com/visipedia/inat_comp) and unpack them in that folder"
    )

    def open_part(part: str) -> ImageFiles:
        listed = [f"iNaturalist{short}_{part}.txt", f"iNaturalist{short}/iNaturalist{short}_{part}.txt"]
        path = first_existing(root, [f"{part}{release.year}.json", *listed], f"{name}'s list of images", get)
        files = read_coco(path, root) if path.suffix == ".json" else read_list(path, root)
        if len(files.classes) != release.classes:
            raise DataError(f"{path}: found {len(files.classes)} classes; {name} has {release.classes}")
        files.check_present()
        return files

    source = open_part("train")
    train = Whole(source, source.classes, CROPPED)
    if split == "train":
        return train
    validation = open_part("val")
    chosen = balanced(validation)
    notes = []
    if len(chosen) < len(validation):
        each = len(chosen) // release.classes
        notes = [f"the reference has {each} of each class, {len(chosen)} of {len(validation)} validation images"]
    # A JSON and a list may name classes differently; labels are the same.
    return checked_reference(train, View(validation, chosen, train.classes, CROPPED, notes), name)


def read_coco(path: Path, root: Path) -> ImageFiles:
    """Return the images of a COCO-style JSON file.

    It has "images" (id, file_name), "annotations" (image_id, category_id; one per image) and "categories".
    Labels follow the order of category ids.
    Raises DataError for malformed files, and for annotations of images or categories that are not listed.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        categories = sorted(content["categories"], key=lambda category: int(category["id"]))
        pairs = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a COCO-style JSON file: {reason(error)}; expected: images (id, file_name), annotations "
            "(image_id, category_id) and categories (id, name)"
        ) from error
    labels = {category["id"]: label for label, category in enumerate(categories)}
    if len({image for image, _ in pairs}) != len(pairs):
        raise DataError(f"{path}: an image has two annotations; expected: one annotation per image")
    for image, category in pairs:
        if image not in files or category not in labels:
            raise DataError(
                f"{path}: an annotation names image {image} and category {category}, at least one of which "
                "is not listed"
            )
    names = [files[image] for image, _ in pairs]
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{path}: {name} leads out of {root}; expected: a path below it")
    targets = [labels[category] for _, category in pairs]
    absent = np.flatnonzero(np.bincount(targets, minlength=len(categories)) == 0)
    if len(absent):
        raise DataError(
            f"{path}: category {categories[absent[0]]['id']} has no image; expected: at least one per category"
        )
    return ImageFiles(root, names, targets, [str(category.get("name", category["id"])) for category in categories])
