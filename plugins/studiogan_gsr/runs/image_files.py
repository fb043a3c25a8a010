"""Store images as a folder of PNG files, or as one array; a store that was interrupted knows what it has."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from studiogan_gsr.errors import DataError
from studiogan_gsr.files import write_atomically

Pixels = npt.NDArray[np.uint8]
_PNG_END = b"IEND\xaeB`\x82"  # the last bytes of a whole PNG file
_SAVE_SECONDS = 1.0
_TAKEN = ("manifest.json", "request.json")  # names of files beside the classes' folders


class ImageStore(Protocol):
    """Images of a fixed number of rows, in a folder; the folder may hold some of them already."""

    def missing(self) -> list[int]:
        """Return the rows without an image."""
        ...

    def write(self, rows: Sequence[int], images: Pixels) -> None:
        """Store images (N, H, W, 3) uint8 as these rows."""
        ...

    def finish(self) -> None:
        """Complete the files; all rows have images."""
        ...

    def close(self) -> None:
        """Keep what was written, so that another process can continue."""
        ...


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class: its name, without characters that file systems refuse.

    Names that would be hidden, or equal to another's where capitals do not count, get their label; so do names of
    other files there.
    """
    names = [re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" ") for name in classes]
    lower = [name.casefold() for name in names]

    def is_good(name: str) -> bool:
        return name.strip(".") != "" and name[0] != "." and name[-1] != "." and lower.count(name.casefold()) == 1

    def numbered(label: int) -> str:
        return f"{label}_{names[label]}"

    folders = [
        name if is_good(name) and name.casefold() not in _TAKEN else numbered(label)
        for label, name in enumerate(names)
    ]
    if len({name.casefold() for name in folders}) < len(folders):  # one class is called "1_a", and class 1 "a"
        return [numbered(label) for label in range(len(names))]
    return folders


class PNGFolder:
    """PNG files, written by threads while the next images are made.

    files: the path of each row below `folder`.
    """

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder, self.files = folder, files
        self._threads = max(1, min(4, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(self._threads)
        self._begun: deque[Future[None]] = deque()
        for name in {Path(file).parent for file in files}:
            (folder / name).mkdir(parents=True, exist_ok=True)

    def missing(self) -> list[int]:
        return [row for row, file in enumerate(self.files) if not _is_whole(self.folder / file)]

    def write(self, rows: Sequence[int], images: Pixels) -> None:
        # Parts, not single images: handing over a small image takes as long as compressing it.
        for part in np.array_split(np.arange(len(rows)), self._threads):
            self._begun.append(self._pool.submit(self._save, [rows[i] for i in part], images[part]))
        while len(self._begun) > 4 * self._threads:
            self._begun.popleft().result()

    def _save(self, rows: Sequence[int], images: Pixels) -> None:
        for row, image in zip(rows, images, strict=True):
            path = self.folder / self.files[row]
            partial = path.with_suffix(".partial")
            Image.fromarray(image).save(partial, "PNG")
            partial.replace(path)

    def finish(self) -> None:
        self.close()
        for partial in self.folder.glob("*/*.partial"):
            partial.unlink()

    def close(self) -> None:
        try:
            while self._begun:
                self._begun.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)


def _is_whole(path: Path) -> bool:
    """Return whether a PNG file is there and has its end; after a power failure it may be empty."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


class ImageArray:
    """One array in `train.hdf5`, in StudioGAN's layout, or in `images.npz`, with labels.

    Until it is finished, the images are in an .npy file, beside a list of the rows that it has.
    Raises DataError if the disk is too full.
    """

    def __init__(self, folder: Path, labels: Sequence[int], size: int, format: str) -> None:
        self.folder, self.format = folder, format
        self.labels = np.asarray(labels, dtype=np.int64)
        self._pixels, self._rows = folder / "pixels.npy", folder / "rows.npy"
        shape = (len(labels), size, size, 3)
        needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(folder).free  # finish() copies them
        try:
            self.images: Any = np.lib.format.open_memmap(self._pixels, "r+")
            self.done = np.load(self._rows)
            if self.images.shape != shape or self.done.shape != shape[:1]:
                raise ValueError
        except (OSError, ValueError):
            if needed > free:
                raise DataError(
                    f"{folder}: writing the images needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"
                ) from None
            self.images = np.lib.format.open_memmap(self._pixels, "w+", np.uint8, shape)
            if hasattr(os, "posix_fallocate"):  # writing to a mapped file on a full disk would kill the process
                with self._pixels.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self._pixels.stat().st_size)
            self.done = np.zeros(shape[0], dtype=bool)
        self._saved = time.monotonic()

    def missing(self) -> list[int]:
        found: list[int] = np.flatnonzero(~self.done).tolist()
        return found

    def write(self, rows: Sequence[int], images: Pixels) -> None:
        self.images[np.asarray(rows)] = images
        self.done[np.asarray(rows)] = True
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.close()
            self._saved = time.monotonic()

    def finish(self) -> None:
        self.close()
        if self.format == "npz":
            np.savez(self.folder / "images.npz", self.images, labels=self.labels)
        else:
            import h5py

            with h5py.File(self.folder / "train.hdf5", "w") as file:
                file["labels"] = self.labels
                file.create_dataset("imgs", data=self.images)
        del self.images
        self._pixels.unlink()
        self._rows.unlink()

    def close(self) -> None:
        self.images.flush()  # before the list that says that they are there
        content = io.BytesIO()
        np.save(content, self.done)
        write_atomically(self._rows, content.getvalue())
