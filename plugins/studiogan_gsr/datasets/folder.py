"""Folder_LT: any image folder with train/<class>/ and valid/<class>/."""

from __future__ import annotations

from pathlib import Path

from studiogan_gsr.datasets.long_tailed import LongTailed, Whole, check_ratio_given, check_split
from studiogan_gsr.errors import DataError

# The splits of our contract, and the folders that hold them in StudioGAN's layout.
_FOLDERS = {"train": "train", "reference": "valid"}


def folder_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> LongTailed | Whole:
    """An image folder made long-tailed by `ratio`, or, without a ratio, as long-tailed as it is."""
    from torchvision.datasets import ImageFolder

    check_split(split)
    check_ratio_given(ratio, profile, seed, reversed)
    folder = Path(root) / _FOLDERS[split]
    layout = f"{Path(root).resolve()} needs train/ and valid/, each with one folder of images a class"
    if not folder.is_dir():
        found = sorted(p.name for p in Path(root).iterdir())[:5] if Path(root).is_dir() else "no such folder"
        raise DataError(f"{layout}; found {found}")
    try:
        dataset = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{layout}; in {folder.name}/: {' '.join(str(error).split())}") from error
    if split == "train" and ratio is not None:
        return LongTailed(dataset, ratio, profile, seed, reversed)
    return Whole(dataset, dataset.classes)
