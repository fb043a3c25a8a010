"""HDF5_LT: a StudioGAN HDF5 file, packed by any program."""

from __future__ import annotations

import os
from pathlib import Path

from studiogan_gsr.datasets.images import check_balanced, listing
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.overlap import shared_pixels
from studiogan_gsr.datasets.packed import Packed
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError

_FILES = {"train": "train.hdf5", "reference": "valid.hdf5"}


def hdf5_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """Return the images of an HDF5 file made long-tailed by `ratio`, or unchanged without a ratio.

    root: contains train.hdf5 and, for the reference, valid.hdf5, or links to such files; each has imgs (N, H, W, 3)
    uint8 and labels (N,).
    Raises DataError if a file is missing or cut off, and if the reference is not balanced or contains a training
    image.
    """
    check_split(split)
    variant = Variant(ratio, profile, seed, reversed)
    source = _open(Path(root), split)
    if split == "train":
        return variant.view(source)
    reference = Whole(source, source.classes)
    check_balanced(reference, "HDF5_LT")
    _check_apart(_open(Path(root), "train"), source)
    reference.checked = True
    return reference


def _open(root: Path, split: str) -> Packed:
    if not os.path.isfile(root / _FILES[split]):
        raise DataError(
            f"HDF5_LT: {root.resolve()} needs {_FILES[split]}, a StudioGAN HDF5 file or a link to one; found: "
            f"{listing(root)}"
        )
    return Packed(root / _FILES[split])


def _check_apart(train: Packed, reference: Packed) -> None:
    """Raise DataError if an image is in both files; pixels are compared, as the images have no names."""
    shared = shared_pixels(train, reference)
    if shared:
        raise DataError(
            f"HDF5_LT: {len(shared)} of {len(reference)} images of {reference.path} are in {train.path} too, first "
            f"image {shared[0][0]}; take them out of one of the two"
        )
