"""AnimalFaces_LT and Flowers102_LT, whose original data sets are already unbalanced.

As in the code of UTLO (Khorram et al., "Taming the Tail in Class-Conditional GANs", CVPR 2024), classes are sorted
by falling number of images, n_max is the size of the largest class, and a class with fewer images than its share
keeps all of them.  Unlike in that code, some images of each class are held out for the reference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from studiogan_gsr.datasets.download import downloaded
from studiogan_gsr.datasets.folder import class_folders
from studiogan_gsr.datasets.images import ImageFiles, checked_reference, first_existing
from studiogan_gsr.datasets.lists import CROPPED
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError

_FACES_KEPT = 20  # reference images per class


class _Parts(NamedTuple):
    """The pool to choose training images from, and the images held out for the reference."""

    pool: ImageFiles
    reference: ImageFiles


def animal_faces_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """Return AnimalFace (Si and Zhu): 20 kinds of animals.

    "reference": the last 20 images of each kind, in order of file name.  "train": chosen from all other images;
    without a ratio, all of them.
    root: contains Image/<kind>/ from AnimalFace.zip; the folder Natural, which is not a kind of animal, is left out.
    """
    check_split(split)
    variant = Variant(ratio, profile, seed, reversed)
    base = first_existing(
        Path(root),
        ["Image", "AnimalFace/Image", "AnimalFace"],
        "AnimalFaces_LT's folder of kinds",
        "get https://vcla.stat.ucla.edu/people/zhangzhang-si/HiT/AnimalFace.zip and unpack it there",
    )
    layout = f"AnimalFaces_LT: {base} needs one folder of images per kind"
    found = class_folders(base.parent, base.name, layout)
    kinds = [label for label, name in enumerate(found.classes) if name != "Natural"]
    targets = np.asarray(found.targets)
    kept: list[int] = []
    pool: list[int] = []
    for kind in kinds:
        images = np.flatnonzero(targets == kind).tolist()
        if len(images) <= _FACES_KEPT:
            raise DataError(
                f"{layout}; {found.classes[kind]} has {len(images)} images; more than "
                f"{_FACES_KEPT} are needed, as {_FACES_KEPT} become the reference"
            )
        pool += images[:-_FACES_KEPT]
        kept += images[-_FACES_KEPT:]
    return _split_of(_by_size(found, pool, kept), split, variant, "AnimalFaces_LT")


def flowers102_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """Return Oxford 102 Flowers.

    "reference": its 10 validation images per class.  "train": chosen from all other images; without a ratio, all of
    them.  Missing files are downloaded to root.
    """
    from torchvision.datasets import Flowers102

    check_split(split)
    variant = Variant(ratio, profile, seed, reversed)
    root = os.path.expanduser(root)  # as torchvision does
    parts = downloaded(
        "Flowers102",
        root,
        ("flowers-102",),
        lambda download: {part: Flowers102(root, part, download=download) for part in ("train", "val", "test")},
        "flowers-102/jpg/ (102flowers.tgz, 345 MB), flowers-102/imagelabels.mat and flowers-102/setid.mat there, "
        f"from {Flowers102._download_url_prefix}",
    )
    paths = [path for part in parts.values() for path in part._image_files]
    labels = [label for part in parts.values() for label in part._labels]
    names = [Path(path).relative_to(root).as_posix() for path in paths]
    # torchvision has the class names from version 0.22 on.
    classes = getattr(Flowers102, "classes", [str(label) for label in range(max(labels) + 1)])
    found = ImageFiles(Path(root), names, labels, classes)
    first, last = len(parts["train"]), len(parts["train"]) + len(parts["val"])
    pool, kept = [*range(first), *range(last, len(labels))], list(range(first, last))
    return _split_of(_by_size(found, pool, kept), split, variant, "Flowers102_LT")


def _by_size(found: ImageFiles, pool: list[int], kept: list[int]) -> _Parts:
    """Return the pool and the reference, with classes sorted by falling number of images in the pool.

    pool, kept: indices of the images in `found`.
    """
    sizes = np.bincount(np.asarray(found.targets)[pool], minlength=len(found.classes))
    order = [label for label in np.argsort(-sizes, kind="stable").tolist() if sizes[label]]
    rank = {label: place for place, label in enumerate(order)}

    def part(indices: list[int]) -> ImageFiles:
        return ImageFiles(
            root=found.root,
            names=[found.where(i) for i in indices],
            targets=[rank[found.targets[i]] for i in indices],
            classes=[found.classes[label] for label in order],
            notes=found.notes,
        )

    return _Parts(pool=part(pool), reference=part(kept))


def _split_of(parts: _Parts, split: str, variant: Variant, name: str) -> View:
    train = variant.view(parts.pool, capped=True, preprocessing=CROPPED)
    if split == "train":
        return train
    return checked_reference(train, Whole(parts.reference, parts.reference.classes, CROPPED), name)
