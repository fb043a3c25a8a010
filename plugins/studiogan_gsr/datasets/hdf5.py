"""HDF5_LT: a StudioGAN HDF5 file, whoever packed it."""

from __future__ import annotations

from pathlib import Path

from studiogan_gsr.datasets.images import check_balanced, listing
from studiogan_gsr.datasets.long_tailed import LongTailed, View, Whole, check_ratio_given, check_split
from studiogan_gsr.datasets.packed import Packed
from studiogan_gsr.errors import DataError

_PATTERNS = {"train": ("train.hdf5", "*_train.hdf5"), "reference": ("valid.hdf5", "*_valid.hdf5", "*_reference.hdf5")}


def hdf5_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """The images of an HDF5 file made long-tailed by `ratio`, or, without a ratio, as they are.

    root: has train.hdf5 (or one *_train.hdf5) and, for the reference, valid.hdf5 (or one *_valid.hdf5
    or *_reference.hdf5), each with imgs (N, H, W, 3) uint8 and labels (N,).
    Raises DataError where a file is missing, or there are several, or it is cut off; and for a reference
    that is not balanced or has the training file's bytes.
    """
    check_split(split)
    check_ratio_given(ratio, profile, seed, reversed)
    source = Packed(_find(Path(root), split))
    if split == "train":
        view = Whole(source, source.classes) if ratio is None else LongTailed(source, ratio, profile, seed, reversed)
    else:
        view = Whole(source, source.classes)
        check_balanced(view, "HDF5_LT")
        _check_apart(Packed(_find(Path(root), "train")), source)
    return view


def _find(root: Path, split: str) -> Path:
    for pattern in _PATTERNS[split]:
        found = sorted(root.glob(pattern)) if root.is_dir() else []
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"HDF5_LT: {root} has {names}; which one? call it {_PATTERNS[split][0]}")
        if found:
            return found[0]
    raise DataError(f"HDF5_LT: {root.resolve()} needs {' or '.join(_PATTERNS[split])}; found: {listing(root)}")


def _check_apart(train: Packed, reference: Packed) -> None:
    """DataError where images are, byte for byte, in both files: they have no names to compare."""
    trained = {hash(train.pixels[i].tobytes()) for i in range(len(train))}
    shared = [i for i in range(len(reference)) if hash(reference.pixels[i].tobytes()) in trained]
    if shared:
        raise DataError(
            f"HDF5_LT: {len(shared)} of {len(reference)} images of {reference.path} are in {train.path} too, first "
            f"image {shared[0]}; take them out of one of the two"
        )
