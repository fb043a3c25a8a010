"""ImageNet_LT and Places_LT, from list files: one line per image, with its path and label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from studiogan_gsr.datasets.images import ImageFiles, checked_reference, first_existing
from studiogan_gsr.datasets.labels import start_hint
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.errors import DataError, reason

# As in the authors' program: the middle square, resized bilinearly.
CROPPED = Preprocessing(crop=True, resizer="bilinear")
_LISTS = "get the lists that github.com/zhmiao/OpenLongTailRecognition-OLTR links to"


def imagenet_lt(root: str, split: str) -> View:
    """Return ImageNet-LT (Liu et al., CVPR 2019): 1000 classes, already long-tailed, so it takes no ratio.

    "train": ImageNet_LT_train.txt; "reference": ImageNet_LT_val.txt, as in the authors' program.
    root: contains the lists (or a folder ImageNet_LT with them) and the listed paths: train/n01440764/...
    Raises DataError for missing lists or images, and for a reference that shares images with the training set.
    """
    return _listed(
        Path(root), split, "ImageNet_LT", 1000, f"{_LISTS}, and ImageNet (ILSVRC 2012, 138 GB) as train/<class>/"
    )


def places_lt(root: str, split: str) -> View:
    """Return Places-LT (Liu et al., CVPR 2019): 365 classes, already long-tailed, so it takes no ratio.

    "train": Places_LT_train.txt; "reference": Places_LT_val.txt.  root: as for ImageNet-LT.
    """
    return _listed(Path(root), split, "Places_LT", 365, f"{_LISTS}, and Places365 (256 x 256), at the listed paths")


def _listed(root: Path, split: str, name: str, classes: int, get: str) -> View:
    check_split(split)

    def open_list(part: str) -> ImageFiles:
        path = first_existing(root, [f"{name}_{part}.txt", f"{name}/{name}_{part}.txt"], f"{name}'s list", get)
        files = read_list(path, root)
        if len(files.classes) != classes:
            raise DataError(f"{path}: found labels of {len(files.classes)} classes; {name} has {classes}")
        files.check_present()
        return files

    source = open_list("train")
    train = Whole(source, source.classes, CROPPED)
    # Both lists use the same labels, but the names of folders may differ.
    return (
        train if split == "train" else checked_reference(train, Whole(open_list("val"), train.classes, CROPPED), name)
    )


def read_list(path: Path, root: Path) -> ImageFiles:
    """Return the images of a list file: UTF-8, one line per image, its path below root and its label from 0.

    A tab, a comma or spaces separate path and label; a path may contain spaces, and may be quoted.
    Classes are named after their folders if each class has one folder and all names differ; if not, after labels.
    Raises DataError for an unreadable or empty list, a malformed line, a path outside the root, and a missing label.
    """
    names: list[str] = []
    targets: list[int] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                name, label = _parts(line)
                if not name or not label.isdecimal():
                    found = line.strip()[:120]
                    raise DataError(f"{path}, line {number}: found {found!r}; expected: <path> <label from 0>")
                if name.startswith("/") or ".." in name.split("/"):
                    raise DataError(f"{path}, line {number}: {name} leads out of {root}; expected: a path below it")
                names.append(name)
                targets.append(int(label))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {reason(error)}") from error
    if not names:
        raise DataError(f"{path} is empty; expected: one line per image, <path> <label from 0>")
    absent = sorted(set(range(min(max(targets), len(targets)))) - set(targets))
    if absent:
        hint = start_hint(np.unique(targets))
        raise DataError(
            f"{path}: no image has label {absent[0]}, but one has {max(targets)}; expected: 0 to C-1{hint}"
        )
    return ImageFiles(root, names, targets, _class_names(names, targets))


def _parts(line: str) -> tuple[str, str]:
    """Return the path, without quotes, and the label of a line."""
    line = line.strip()
    for separator in ("\t", ",", None):
        name, *rest = line.rsplit(separator, 1)
        if rest and rest[0].strip().isdecimal():
            name = name.strip()
            quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
            return (name[1:-1] if quoted else name).removeprefix("./"), rest[0].strip()
    return line, ""


def _class_names(names: list[str], targets: list[int]) -> list[str]:
    folders: dict[int, set[str]] = {}
    for name, label in zip(names, targets, strict=True):
        folders.setdefault(label, set()).add(name.rpartition("/")[0])
    unique = [Path(next(iter(found))).name if len(found) == 1 else "" for _, found in sorted(folders.items())]
    return unique if all(unique) and len(set(unique)) == len(unique) else [str(label) for label in sorted(folders)]
