"""Packed images: one HDF5 file in StudioGAN's layout, with an index that describes it.

It has `imgs` (N, size, size, 3) uint8 and `labels` (N,) int64, in the data set's order, and the index as JSON in
`studiogan_gsr`.  The index is written last; then the file gets its final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from studiogan_gsr.datasets.chunks import Chunks, fits_in_memory, read_whole
from studiogan_gsr.datasets.labels import whole_numbers
from studiogan_gsr.datasets.names import is_variant
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.errors import DataError, reason

INDEX = "studiogan_gsr"
FORMAT = 1
_LARGEST_LABEL = 10**6


@dataclass(frozen=True)
class Index:
    """Description of a packed file's content.  `skipped`: one message per damaged image that was left out."""

    name: str
    split: str
    size: int
    images: int
    class_counts: list[int]
    classes: list[str]
    preprocessing: dict[str, Any]
    images_sha256: str  # digest of names and labels, see `identity.digest`
    source_sha256: str  # digest that also covers the sizes of the files, or the pixels if there are no files
    version: str  # version of this package
    options: dict[str, Any] = field(default_factory=dict)  # ratio, profile, seed, ...
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    # Numbers of images with each of preprocessing.PECULIARITIES.
    rotated: int = 0
    transparent: int = 0
    elongated: int = 0
    format: int = FORMAT

    def record(self) -> dict[str, Any]:
        """Return the index as plain data, for JSON."""
        return asdict(self)


def packed_path(root: str | Path, name: str, size: int, resizer: str, split: str = "train") -> Path:
    """Return the path of a packed file, with StudioGAN's own name for it, so that main.py's -hdf5 finds it."""
    return Path(root) / f"{name}_{size}_{resizer}_{split}.hdf5"


class Packed:
    """Map-style data set of (PIL image, int label) from an HDF5 file in StudioGAN's layout; picklable.

    Attributes: `targets`, `class_counts`, `classes`, `pixels` (uint8 (N, H, W, 3), read on demand), and
    `index` (None for a file packed by another program).
    Raises DataError for a file that is damaged, cut off, or of another layout.
    """

    def __init__(self, path: str | Path) -> None:
        import h5py

        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                images, labels = file["imgs"], whole_numbers(np.asarray(file["labels"][:]))
                shape, kind, offset = images.shape, images.dtype, images.id.get_offset()
                text = bytes(file[INDEX][()]).decode() if INDEX in file else None
                compressed = images.chunks is not None and images.chunks[0] > 1
                notes = [_slow_note(self.path, images)] if compressed and not fits_in_memory(images) else []
            self.index = None if text is None else _read_index(json.loads(text))
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(f"{self.path} {_unreadable(self.path, error)}") from error
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or kind != np.uint8 or labels.shape != shape[:1]:
            raise DataError(
                f"{self.path}: found imgs {shape} of {kind} and labels {labels.shape}; expected: imgs (N, H, W, 3) "
                "of uint8 and labels (N,)"
            )
        if not _are_labels(labels):
            raise DataError(
                f"{self.path}: labels must be whole numbers from 0 to {_LARGEST_LABEL}, at least one; pack it again"
            )
        self.targets: list[int] = labels.tolist()
        classes = self.index.classes if self.index else []
        self.class_counts: list[int] = np.bincount(labels, minlength=len(classes)).tolist()
        self.classes = classes or [str(label) for label in range(len(self.class_counts))]
        self.preprocessing: Preprocessing | None = Preprocessing(**self.index.preprocessing) if self.index else None
        self.notes = (*(self.index.notes if self.index else ()), *notes)
        if self.index:
            self._check_index(self.index, shape)
            self.images_sha256 = self.index.images_sha256
        self._shape, self._offset = shape, offset
        self._opened: tuple[int, Any] = (0, None)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.ascontiguousarray(self.read_pixels(index))), self.targets[index]

    def read_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return an image's pixels, uint8 (H, W, 3)."""
        found: npt.NDArray[np.uint8] = self.pixels[index]
        return found

    def where(self, index: int) -> str:
        """Return an image's name, <file name>/<index>."""
        return f"{self.path.name}/{index}"

    @property
    def pixels(self) -> Any:
        """Return all images as an array that reads from the file when indexed.

        Compressed images that fit in memory are read at once.
        """
        process, array = self._opened
        if process != os.getpid() and not isinstance(array, np.ndarray):  # a forked process reopens the file
            array = self._open()
            self._opened = os.getpid(), array
        return array

    def _open(self) -> Any:
        images = self._stored()
        if self._shape[3] == 3:
            return images
        return np.moveaxis(images, 1, 3) if isinstance(images, np.ndarray) else _ChannelsLast(images)

    def _stored(self) -> Any:
        """Return the images in their stored layout, (N, H, W, 3) or (N, 3, H, W)."""
        if self._offset is not None:  # contiguous, as this package packs: mapped without HDF5
            return np.memmap(self.path, np.uint8, "r", self._offset, self._shape)
        import h5py

        images = h5py.File(self.path, "r")["imgs"]
        if images.chunks is None or images.chunks[0] == 1:
            return images
        return read_whole(self.path, images) if fits_in_memory(images) else Chunks(images)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (0, None)}

    @property
    def content_sha256(self) -> str:
        """Return the index's digest of names and labels; without an index, a digest of up to 64 images' pixels."""
        if self.index is not None:
            return self.index.images_sha256
        places = sorted({round(place) for place in np.linspace(0, len(self) - 1, 64)})
        return hashlib.sha256(b"".join(self.read_pixels(i).tobytes() for i in places)).hexdigest()

    def _check_index(self, index: Index, shape: tuple[int, ...]) -> None:
        found = (len(self.targets), self.class_counts, shape[1:])
        stated = (index.images, index.class_counts, (index.size, index.size, 3))
        if found != stated:
            raise DataError(
                f"{self.path}: the index says {stated[0]} images of {index.size} pixels, found {found[0]} of "
                f"{shape[1]} x {shape[2]}{'' if found[1] == stated[1] else ', with other labels'}; pack it again"
            )


def _are_labels(labels: npt.NDArray[Any]) -> bool:
    """Return whether an array is not empty and holds only integers from 0 to _LARGEST_LABEL."""
    if not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        return False
    return bool(labels.min() >= 0 and labels.max() <= _LARGEST_LABEL)


def _slow_note(path: Path, images: Any) -> str:
    return (
        f"{path.name} is stored in chunks of {images.chunks[0]} images, and does not fit in memory: in random order, "
        "most images need a whole chunk to be read; `studiogan-gsr data prepare` writes a file without chunks"
    )


def _unreadable(path: Path, error: Exception) -> str:
    """Return why a file cannot be read and what to do; never advise deleting a file that may be good."""
    again = "move it away and pack it again"
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if isinstance(error, IsADirectoryError):
        return "is a folder; an HDF5 file is expected"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied; its owner can allow it (chmod a+r)"
    if isinstance(error, BlockingIOError) or "unable to lock file" in text:
        return (
            "is open in another program, which may be writing it: wait until it ends (if nothing writes, "
            "HDF5_USE_FILE_LOCKING=FALSE in the environment allows reading)"
        )
    if "already open for write" in text:
        return f"was not closed by the program that wrote it: if that program has ended, `h5clear -s {path}` opens it"
    if found := re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", text):
        return f"is cut off: {int(found[1]):,} of {int(found[2]):,} bytes; copy it again, or {again}"
    if "signature not found" in text:
        what = "is empty" if path.stat().st_size == 0 else "is no HDF5 file"
        return f"{what}; if it was one, copy it again, or {again}"
    if isinstance(error, KeyError):
        return f"has another layout: {text}; expected: imgs (N, H, W, 3) of uint8 and labels (N,)"
    if isinstance(error, ValueError) and "its index has" in text:
        return f"cannot be used: {text}; install the studiogan-gsr that packed it, or {again}"
    return f"is damaged, or has another layout than imgs and labels: {reason(error)}; copy it again, or {again}"


class _ChannelsLast:
    """Images stored as (N, 3, H, W), as older programs pack them, and read as (H, W, 3)."""

    def __init__(self, images: Any) -> None:
        self._images = images
        self.shape = (images.shape[0], *images.shape[2:], 3)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        found: npt.NDArray[np.uint8] = np.moveaxis(self._images[index], -3, -1)
        return found


def _read_index(found: Any) -> Index:
    """Return the index from a file's JSON.

    Raises ValueError for another format or unknown entries, and KeyError or TypeError for missing entries.
    """
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, dict) else found
        raise ValueError(f"its index has the format {version!r}, this version reads {FORMAT}")
    known = {f.name for f in fields(Index)}
    if set(found) - known:
        raise ValueError(f"its index has the unknown entries {', '.join(sorted(set(found) - known))}")
    Preprocessing(**found["preprocessing"])  # TypeError for entries that this version does not know
    return Index(**found)


def open_packed(
    path: str | Path, name: str, size: int | None = None, resizer: str = "wo_resize", split: str = "train"
) -> Packed:
    """Return a packed file after checking that it holds the expected data set.

    size, resizer: the user's settings; None and "wo_resize" accept any.  size is in pixels.
    Raises DataError for a file that is incomplete, has no index, or holds other images.
    """
    packed = Packed(path)
    if packed.index is None:
        raise DataError(
            f"{path} has no index, so its content and completeness are unknown; move it away and pack it "
            f"again (studiogan-gsr data prepare {name}), or use it as HDF5_LT"
        )
    found = {**packed.index.record(), **packed.index.preprocessing}
    expected: dict[str, Any] = {"name": name, "split": split}
    if size is not None:
        expected["size"] = size
    if resizer != "wo_resize":
        expected["resizer"] = resizer
    if differing := [key for key in expected if found[key] != expected[key]]:
        differences = ", ".join(f"{key} is {found[key]!r}, expected {expected[key]!r}" for key in differing)
        raise DataError(f"{path} holds other images: {differences}; move it away and pack it again")
    if packed.index.rotated and is_variant(name, "Folder_LT"):
        raise DataError(
            f"{path} was packed by a version that did not turn images as their orientation tags say "
            f"({packed.index.rotated} have one); move it away and pack it again"
        )
    return packed
