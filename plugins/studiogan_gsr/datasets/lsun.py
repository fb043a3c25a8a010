"""LSUN_LT: five scenes of LSUN, in database order."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from studiogan_gsr.datasets.images import checked_reference, listing
from studiogan_gsr.datasets.long_tailed import View, check_split
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError, reason

SCENES = ("bedroom", "conference_room", "dining_room", "kitchen", "living_room")
N_MAX = 50_000  # images of the head class
REFERENCE = 2_000  # reference images per class
# As in the authors' program: the whole image, squashed to a square, bilinearly.
SQUASHED = Preprocessing(crop=False, resizer="bilinear")


def lsun_lt(
    root: str, split: str, ratio: float, profile: str = "exp", reversed: bool = False, released: bool = False
) -> View:
    """Return LSUN-LT: the first images of each database, 50,000 in the largest class, as in the authors' program.

    "reference": images 50,000 to 51,999 of each database, which are never trained on; with `released`, the
    first 2,000, as in the authors' program: most are training images, and a note counts them.
    root: the folder that contains bedroom_train_lmdb and the other four databases.
    Raises DataError if a database is missing, damaged or too small.
    """
    check_split(split)
    # seed None: take the first images of each database.
    variant = Variant(ratio, profile, None, reversed, released)
    after = 0 if released else N_MAX
    source = Scenes(Path(root), SCENES, N_MAX if split == "train" else max(N_MAX, after + REFERENCE))
    train = variant.view(source, n_max=N_MAX, preprocessing=SQUASHED)
    if split == "train":
        return train
    chosen = [start + after + i for start in source.starts for i in range(REFERENCE)]
    if not released:
        return checked_reference(train, View(source, chosen, SCENES, SQUASHED), "LSUN_LT")
    shared = sum(min(count, REFERENCE) for count in train.class_counts)
    note = f"{shared:,} of the {len(chosen):,} reference images are training images (the authors' reference)"
    reference = View(source, chosen, SCENES, SQUASHED, [note])
    reference.checked = True
    return reference


class Scenes:
    """The first `number` images of each scene's database, in the order of its keys.

    torchvision's LSUN reads the same images, but caches all keys in a pickle in the working folder.  The
    file's name keeps only the letters of the path, so two copies of the data may share one cache.
    """

    def __init__(self, root: Path, scenes: Sequence[str], number: int) -> None:
        self.classes = list(scenes)
        self.targets: list[int] = []
        self.starts: list[int] = []
        self._folders = [root.resolve() / f"{scene}_train_lmdb" for scene in scenes]
        self._keys: list[bytes] = []
        missing = [folder.name for folder in self._folders if not os.path.isfile(folder / "data.mdb")]
        if missing:
            raise DataError(
                f"LSUN_LT: {root.resolve()} needs {', '.join(missing)} (with data.mdb); found: {listing(root)}; "
                "get <scene>_train_lmdb.zip from http://dl.yf.io/lsun/scenes/ and unpack them there (bedroom 43 GB, "
                "conference_room 4, dining_room 11, kitchen 33, living_room 21)"
            )
        found = [(folder / "data.mdb").stat() for folder in self._folders]
        self._stamps = [(status.st_size, status.st_mtime_ns) for status in found]
        for label, folder in enumerate(self._folders):
            self.starts.append(len(self._keys))
            keys = self._first_keys(label, number)
            if len(keys) < number:
                raise DataError(f"LSUN_LT: {folder} has {len(keys):,} images; the first {number:,} are needed")
            self._keys += keys
            self.targets += [label] * len(keys)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        label = self.targets[index]
        with _database(self._folders[label]).begin() as transaction:
            data = transaction.get(self._keys[index])
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image, label

    def where(self, index: int) -> str:
        """Return the database's folder and the image's key."""
        key = self._keys[index].decode("utf-8", "backslashreplace")
        return f"{self._folders[self.targets[index]].name}/{key}"

    def stamp(self, index: int) -> tuple[int, int]:
        """Return the size and modification time of the image's database."""
        return self._stamps[self.targets[index]]

    def _first_keys(self, label: int, number: int) -> list[bytes]:
        try:
            with _database(self._folders[label]).begin() as transaction:
                return [bytes(key) for key in islice(transaction.cursor().iternext(values=False), number)]
        except Exception as error:  # lmdb.Error, or ImportError if lmdb is missing
            raise DataError(f"LSUN_LT: {self._folders[label]} cannot be read: {reason(error)}") from error


# This process's open databases: LMDB must not open a database twice, nor use it after a fork.
_open: dict[Path, Any] = {}


def _database(folder: Path) -> Any:
    import lmdb

    if folder not in _open:
        _open[folder] = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    return _open[folder]


def _close_all() -> None:
    while _open:
        _open.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
