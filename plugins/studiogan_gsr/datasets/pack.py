"""Packing a data set into one HDF5 file: parallel, resumable, and never half there.

The file is laid out once, in one piece, under a temporary name.  Workers write their rows straight
into it; no pixel passes through the main process.  What is done stands in a journal beside it, so that
a packing that was killed goes on; the file gets its name when all is written.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset

from studiogan_gsr.datasets.identity import source_digest
from studiogan_gsr.datasets.packed import INDEX, Index, Packed, open_packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DamagedImage, DataError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.progress import track

_CHUNK_BYTES = 2 << 20
_JOURNAL_SECONDS = 1.0


class Source(Protocol):
    """What can be packed: images of one size, by number."""

    @property
    def targets(self) -> list[int]: ...

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """(uint8 (size, size, 3), label); DamagedImage where the image cannot be read."""
        ...


def pack(
    source: Source,
    path: Path,
    index: Index,
    workers: int = 0,
    skip_damaged: bool = False,
) -> Index:
    """Write the source's images to path, and return the index of what was written.

    A packing of the same index that was interrupted goes on; of another, it starts anew.  Two at once
    wait for one another, and the second finds the file.
    workers: processes beside this one; 0: none.  skip_damaged: leave unreadable images out, and say so.
    Raises DataError for the first image that cannot be read, and where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return _already(path, index)
        packing = _Packing(path, index)
        try:
            done = packing.write(source, workers, skip_damaged)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {reason(error)}") from error
        return done


def _already(path: Path, index: Index) -> Index:
    """The index of a file that is there; DataError where it is not what was to be written."""
    found = open_packed(path, index.name, index.size, split=index.split).index
    assert found is not None  # open_packed refuses a file without
    if (found.source_sha256, found.preprocessing) != (index.source_sha256, index.preprocessing):
        raise DataError(
            f"{path} was packed from other images, or in another way, than those that {index.name} has now "
            f"({found.images} then, {index.images} now); delete it and pack it again"
        )
    return found


def check_unindexed(path: Path, source: Prepared, looks: int = 64) -> None:
    """DataError where a file that another program packed is not, as far as a look tells, the source's images.

    Compared: how many there are, all labels, and `looks` images from first to last: a packing that was
    killed lacks the last ones.
    """
    packed = Packed(path)
    places = sorted({round(place) for place in np.linspace(0, len(packed) - 1, looks)})
    if packed.targets != source.targets:
        wrong = f"it has {len(packed)} images, {source.name} has {len(source)}"
        wrong = wrong if len(packed) != len(source) else "its labels are others"
    elif differing := [i for i in places if not np.array_equal(packed.pixels[i], source.read(i)[0])]:
        wrong = f"its image {differing[0]} is another"
    else:
        return
    raise DataError(f"{path} is not whole, or of other images: {wrong}; delete it")


def index_of(prepared: Prepared, split: str, options: Mapping[str, Any] | None = None) -> Index:
    """The index of a data set's packed file. options: of its name (ratio, profile, seed, ...)."""
    said = describe(prepared.dataset)
    return Index(
        name=prepared.name,
        split=split,
        size=prepared.size,
        images=len(prepared),
        class_counts=said["class_counts"],
        classes=[str(name) for name in getattr(prepared.dataset, "classes", range(len(said["class_counts"])))],
        preprocessing=prepared.preprocessing.record(),
        images_sha256=said["images_sha256"],
        source_sha256=source_digest(prepared.dataset, said["images_sha256"]),
        version=version("studiogan-gsr"),
        options=dict(options or {}),
        notes=said["notes"],
    )


@dataclass(frozen=True)
class _Rows:
    """What a worker did: a chunk's number, its damaged rows with what is wrong, its rotated images."""

    chunk: int
    damaged: dict[int, str]
    rotated: int


class _Packing:
    def __init__(self, path: Path, index: Index) -> None:
        self.path, self.index = path, index
        self.journal = path.with_name(f".{path.name}.journal")
        # Another name for each beginning: workers that outlive a killed run must not find the next one's file.
        self.partial = self._named(os.urandom(4).hex())
        self.bytes_of_image = 3 * index.size**2
        self.rows = max(1, min(512, _CHUNK_BYTES // self.bytes_of_image))
        self.chunks = -(-index.images // self.rows)

    def write(self, source: Source, workers: int, skip_damaged: bool) -> Index:
        labels = np.asarray(source.targets, dtype=np.int64)
        state = self._resume() or self._begin(labels)
        self._remove(but=(self.journal, self.partial))
        remaining = [chunk for chunk in range(self.chunks) if not state.done[chunk]]
        chunks = _Chunks(source, labels, self.partial, state.offset, self.rows, self.index.size, skip_damaged)
        # One item is one chunk: the loader hands out numbers and brings back what was found, no pixels.
        loader = DataLoader(
            chunks, batch_size=None, sampler=remaining, num_workers=min(workers, len(remaining)), prefetch_factor=None
        )
        written = time.monotonic()
        try:
            for found in track(loader, f"packing {self.path.name}", len(remaining)):
                if isinstance(found, DataError):
                    raise found
                state.add(found)
                if time.monotonic() - written > _JOURNAL_SECONDS:
                    self._save(state)
                    written = time.monotonic()
        finally:
            if self.partial.exists():
                self._save(state)
        return self._finish(state, labels)

    def _begin(self, labels: npt.NDArray[np.int64]) -> _State:
        needed = self.index.images * (self.bytes_of_image + 8)
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise DataError(f"{self.path} needs {needed / 1e9:.1f} GB; its folder has {free / 1e9:.1f} GB free")
        offset = _lay_out(self.partial, self.index.images, self.index.size, labels)
        state = _State(bytearray(self.chunks), offset, {}, 0)
        self._save(state)
        return state

    def _resume(self) -> _State | None:
        """What a journal says is done; None where there is none, or it is another packing's."""
        try:
            saved = json.loads(self.journal.read_text())
            state = _State(
                bytearray.fromhex(saved["done"]),
                int(saved["offset"]),
                {int(row): str(text) for row, text in saved["damaged"].items()},
                int(saved["rotated"]),
            )
            partial = self._named(str(saved["partial"]))
            whole = partial.stat().st_size >= state.offset + self.index.images * self.bytes_of_image
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if saved.get("index") != json.loads(json.dumps(self.index.record())) or not whole:
            return None
        self.partial = partial
        return state if len(state.done) == self.chunks else None

    def _save(self, state: _State) -> None:
        """The pixels first, then the word that they are there."""
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        record = {
            "index": self.index.record(),
            "partial": self.partial.suffixes[-2].removeprefix("."),
            "done": state.done.hex(),
            "offset": state.offset,
            "damaged": state.damaged,
            "rotated": state.rotated,
        }
        write_atomically(self.journal, json.dumps(record))

    def _finish(self, state: _State, labels: npt.NDArray[np.int64]) -> Index:
        import h5py

        index = replace(self.index, rotated=state.rotated)
        if state.damaged:
            index = self._close_up(state, labels, index)
        try:
            with h5py.File(self.partial, "r+") as file:
                if INDEX in file:  # killed between here and the renaming
                    del file[INDEX]
                file[INDEX] = json.dumps(index.record())
            Packed(self.partial)
        except (OSError, DataError):  # an earlier packing was killed while it wrote the index
            self._remove()
            raise
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        self.partial.replace(self.path)
        self._remove()
        return index

    def _close_up(self, state: _State, labels: npt.NDArray[np.int64], index: Index) -> Index:
        """Move the good rows together, into a file of as many."""
        import h5py

        good = np.setdiff1d(np.arange(index.images), np.fromiter(state.damaged, dtype=np.int64))
        counts = np.bincount(labels[good], minlength=len(index.class_counts)).tolist()
        if 0 in counts:
            raise DataError(f"every image of class {index.classes[counts.index(0)]} is damaged; replace them")
        closed = self._named("closed")
        offset = _lay_out(closed, len(good), index.size, labels[good])
        with h5py.File(self.partial, "r") as file:
            start = file["imgs"].id.get_offset()
        images = np.memmap(self.partial, np.uint8, "r", start, (index.images, self.bytes_of_image))
        with closed.open("r+b") as file:
            file.seek(offset)
            for first in range(0, len(good), self.rows):
                file.write(images[good[first : first + self.rows]].tobytes())
        del images
        # From here on the partial file is that of another number of images: a killed run starts anew.
        self.journal.unlink(missing_ok=True)
        closed.replace(self.partial)
        skipped = [state.damaged[row] for row in sorted(state.damaged)]
        return replace(index, images=len(good), class_counts=counts, skipped=skipped)

    def _named(self, beginning: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{beginning}.partial")

    def _remove(self, but: tuple[Path, ...] = ()) -> None:
        """Whatever this and earlier packings have left, but for some."""
        name = glob.escape(self.path.name)
        for file in (*self.path.parent.glob(f".{name}.*"), *self.path.parent.glob(f"..{name}.*")):
            if file.suffix in (".journal", ".partial") and file not in but:
                file.unlink(missing_ok=True)


@dataclass
class _State:
    done: bytearray  # of chunks: 1 where all rows are written
    offset: int  # of the first pixel in the file, in bytes
    damaged: dict[int, str]
    rotated: int

    def add(self, found: _Rows) -> None:
        self.done[found.chunk] = 1
        self.damaged |= found.damaged
        self.rotated += found.rotated


class _Chunks(Dataset[Any]):
    """Item k writes the images of chunk k into the file, and tells how it went."""

    def __init__(
        self,
        source: Source,
        labels: npt.NDArray[np.int64],
        file: Path,
        offset: int,
        rows: int,
        size: int,
        skip_damaged: bool,
    ) -> None:
        self.source, self.labels, self.file, self.offset = source, labels, file, offset
        self.rows, self.size, self.skip_damaged = rows, size, skip_damaged

    def __getitem__(self, chunk: int) -> _Rows | DataError:
        # A failure is given, not raised: errors of worker processes arrive as text.
        try:
            return self._write(chunk)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"{self.file} cannot be written: {reason(error)}")

    def _write(self, chunk: int) -> _Rows:
        start, stop = chunk * self.rows, min((chunk + 1) * self.rows, len(self.labels))
        pixels = np.zeros((stop - start, self.size, self.size, 3), dtype=np.uint8)
        damaged: dict[int, str] = {}
        rotated = getattr(self.source, "rotated", 0)
        for row in range(start, stop):
            try:
                pixels[row - start], label = self.source.read(row)
            except DamagedImage as error:
                if not self.skip_damaged:
                    raise
                damaged[row] = str(error)
                continue
            if label != self.labels[row]:
                raise DataError(f"image {row} has the label {label}, and targets say {self.labels[row]}")
        with self.file.open("r+b") as file:
            file.seek(self.offset + start * pixels[0].nbytes)
            file.write(pixels.data)
        return _Rows(chunk, damaged, getattr(self.source, "rotated", 0) - rotated)


def _lay_out(path: Path, images: int, size: int, labels: npt.NDArray[np.int64]) -> int:
    """A file with all labels, and room for all images in one piece; gives where in bytes that begins."""
    import h5py

    with h5py.File(path, "w") as file:
        file["labels"] = labels
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((images, size, size, 3))
        made = h5py.h5d.create(file.id, b"imgs", h5py.h5t.STD_U8LE, space, plan)
        offset = int(made.get_offset())
    # HDF5 may leave the end of the file unwritten; then it would be cut off.
    with path.open("r+b") as opened:
        end = offset + images * size * size * 3
        opened.truncate(max(end, path.stat().st_size))
    return offset
