"""Pack a data set into one HDF5 file: in parallel, resumable, and published only when complete.

The full file is allocated under a temporary name, and workers write their rows straight into it.
A journal beside it lists the finished chunks, so that an interrupted packing can resume.
The file gets its final name when all rows are written.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from studiogan_gsr.datasets.identity import content_digests, digest
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.packed import INDEX, Index, Packed, open_packed
from studiogan_gsr.datasets.preprocessing import Prepared, describe_marks
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DamagedImage, DataError, reason
from studiogan_gsr.files import flush, locked, publish, write_atomically
from studiogan_gsr.progress import track

_CHUNK_BYTES = 2 << 20
_JOURNAL_SECONDS = 1.0


def pack(
    source: Prepared,
    path: Path,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    workers: int = 0,
    skip_damaged: bool = False,
) -> Index:
    """Write the source's images to path, and return the index of what was written.

    An interrupted packing of the same images resumes; if an image has changed since, it starts over.
    If two processes pack the same file, the second waits and then finds the file.
    options: the options that the data set's name selects (ratio, profile, seed, ...); stored in the index.
    workers: additional processes; 0: none.
    skip_damaged: leave out unreadable images and list them in the index; if there are any, the disk space needed
        doubles.
    Raises DataError for the first image that cannot be read, if images change during packing, if the disk is
    full, or if `path` is a file that was packed from other images.
    """

    def packing() -> _Packing:
        return _Packing(path, *_index_of(source, split, options or {}))

    try:
        # The folder may be read-only: return an existing file before taking the lock, which writes.
        if path.exists() and not list(path.parent.glob(f".{glob.escape(path.name)}.*partial")):
            return packing().already()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock"), f"another process that packs {path.name}"):
            # List the images only now: they may have changed while this process waited for the lock.
            if path.exists():
                return packing().already()
            return packing().write(source, workers, skip_damaged)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason(error)}") from error


def check_unindexed(path: Path, source: Prepared, looks: int = 64) -> None:
    """Raise DataError if a file packed by another program differs from the source's images.

    Compares the number of images, all labels, and the pixels of `looks` evenly spaced images, including the last:
    in an interrupted packing, the last images are missing.
    """
    packed = Packed(path)
    places = sorted({round(place) for place in np.linspace(0, len(packed) - 1, looks)})
    if len(packed) != len(source):
        wrong = f"it has {len(packed)} images, {source.name} has {len(source)}"
    elif packed.targets != source.targets:
        wrong = "its labels differ"
    elif differing := [i for i in places if not np.array_equal(packed.read_pixels(i), source.read(i)[0])]:
        wrong = f"its image {differing[0]} differs"
    else:
        return
    raise DataError(f"{path} is incomplete, or holds other images: {wrong}; move it away to pack it again")


def _index_of(source: Prepared, split: str, options: Mapping[str, Any]) -> tuple[Index, str]:
    """Return the index of a data set's packed file, and a digest of its current images on this machine."""
    summary = describe(source.dataset)
    portable, local = _contents(source, summary["images_sha256"])
    index = Index(
        name=source.name,
        split=split,
        size=source.size,
        images=len(source),
        class_counts=summary["class_counts"],
        classes=source.classes,
        preprocessing=source.preprocessing.record(),
        images_sha256=summary["images_sha256"],
        source_sha256=portable,
        version=version("studiogan-gsr"),
        options=dict(options),
        notes=summary["notes"],
    )
    return index, local


def _contents(source: Prepared, images_sha256: str) -> tuple[str, str]:
    try:
        return content_digests(source.dataset, images_sha256)
    except OSError as error:
        raise DataError(f"{source.name}: an image cannot be read: {reason(error)}") from error


@dataclass(frozen=True)
class _Rows:
    """Result of packing one chunk.

    damaged: reasons by row.  marks: number of images with each of `preprocessing.PECULIARITIES`.
    """

    chunk: int
    damaged: dict[int, str]
    marks: Counter[str]


@dataclass
class _State:
    """Progress of a packing; the journal stores it, with the index and the digest of the images."""

    partial: str  # name of the temporary file
    done: bytearray  # one byte per chunk: 1 once the chunk is finished
    damaged: dict[int, str] = field(default_factory=dict)  # reason by row
    marks: dict[int, dict[str, int]] = field(default_factory=dict)  # by chunk, as in _Rows

    def add(self, found: _Rows) -> None:
        self.done[found.chunk] = 1
        self.damaged |= found.damaged
        self.marks[found.chunk] = dict(found.marks)

    def record(self) -> dict[str, Any]:
        return {**vars(self), "done": self.done.hex()}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> _State:
        damaged, marks = ({int(key): value for key, value in record[name].items()} for name in ("damaged", "marks"))
        return cls(str(record["partial"]), bytearray.fromhex(record["done"]), damaged, marks)


class _Packing:
    """One packing of a data set into a file; images: a digest of the source images, not the images."""

    def __init__(self, path: Path, index: Index, images: str) -> None:
        self.path, self.index, self.images = path, index, images
        self.journal = path.with_name(f".{path.name}.journal")
        self.bytes_of_image = 3 * index.size**2
        self.rows = max(1, min(512, _CHUNK_BYTES // self.bytes_of_image))
        self.chunks = -(-index.images // self.rows)

    def already(self) -> Index:
        """Return the index of the existing file; DataError if it holds other images."""
        found = open_packed(self.path, self.index.name, self.index.size, split=self.index.split).index
        assert found is not None  # open_packed raises DataError for a file without index
        if (found.source_sha256, found.preprocessing) != (self.index.source_sha256, self.index.preprocessing):
            raise DataError(
                f"{self.path} was packed from other images, or with other preprocessing, than {self.index.name} has "
                f"now ({found.images} then, {self.index.images} now); move it away and pack it again"
            )
        self._remove()
        return found

    def write(self, source: Prepared, workers: int, skip_damaged: bool) -> Index:
        labels = np.asarray(source.targets, dtype=np.int64)
        state = self._resume()
        self._remove(but=() if state is None else (self.journal, self._partial(state)))
        if state is None:
            # A new random name: surviving workers of a killed run must not write into the next run's file.
            state = _State(self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}.partial").name, bytearray())
            state.done = bytearray(self.chunks)
            _lay_out(self._partial(state), self.index, labels)
            self._save(state)
        partial = self._partial(state)
        remaining = [chunk for chunk in range(self.chunks) if not state.done[chunk]]
        chunks = _Chunks(source, labels, partial, _place(partial, "imgs")[0], self.rows, skip_damaged)
        # One item is one chunk: the loader sends chunk numbers and returns results without pixels.
        loader = DataLoader(chunks, batch_size=None, sampler=remaining, num_workers=min(workers, len(remaining)))
        saved = time.monotonic()
        try:
            for found in track(loader, f"packing {self.path.name}", len(remaining)):
                if isinstance(found, DataError):
                    raise found
                state.add(found)
                if time.monotonic() - saved > _JOURNAL_SECONDS:
                    self._save(state)
                    saved = time.monotonic()
        except RuntimeError as error:  # torch raises it for a dead worker
            raise DataError(
                f"a worker ended ({reason(error)}); finished chunks are kept: run again, with fewer --workers if "
                "memory was short"
            ) from error
        finally:
            self._save(state)
        if _contents(source, self.index.images_sha256)[1] != self.images:
            raise DataError(f"images of {source.name} changed while they were packed; run again; packing starts over")
        return self._finish(state, source)

    def _partial(self, state: _State) -> Path:
        return self.path.with_name(state.partial)

    def _resume(self) -> _State | None:
        """Return the progress from the journal; None if there is no journal, or if images have changed since."""
        try:
            saved = json.loads(self.journal.read_text())
            same = (saved["index"], saved["images"]) == (self.index.record(), self.images)
            state = _State.read(saved)
            partial = self._partial(state)
            whole = len(state.done) == self.chunks and partial.stat().st_size >= sum(_place(partial, "imgs"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not same or not whole:
            return None
        # Retry damaged rows: the fault may have been temporary, and this run may not skip damaged images.
        for row in state.damaged:
            state.done[row // self.rows] = 0
        state.damaged.clear()
        return state

    def _save(self, state: _State) -> None:
        """Flush the pixels, then write the journal that lists them."""
        flush(self._partial(state))
        record = {"index": self.index.record(), "images": self.images, **state.record()}
        write_atomically(self.journal, json.dumps(record))

    def _finish(self, state: _State, source: Prepared) -> Index:
        marks = sum(map(Counter, state.marks.values()), Counter[str]())
        notes = [*self.index.notes, *describe_marks(marks, source.preprocessing)]
        index, partial = replace(self.index, notes=notes), self._partial(state)
        index = replace(
            index, rotated=marks["rotated"], transparent=marks["transparent"], elongated=marks["elongated"]
        )
        if state.damaged:
            good = np.setdiff1d(np.arange(index.images), np.fromiter(state.damaged, dtype=np.int64))
            skipped = [state.damaged[row] for row in sorted(state.damaged)]
            index, partial = self._close_up(partial, source, good, replace(index, skipped=skipped))
        start, room = _place(partial, INDEX)
        with partial.open("r+b") as file:  # not with HDF5, which would corrupt the file if killed here
            file.seek(start)
            file.write(json.dumps(index.record()).encode().ljust(room))
        Packed(partial)
        publish(partial, self.path)
        self._remove()
        return index

    def _close_up(
        self, partial: Path, source: Prepared, good: npt.NDArray[np.int64], index: Index
    ) -> tuple[Index, Path]:
        """Copy the undamaged rows into a new file; return its index and path."""
        kept = View(source.dataset, good.tolist(), index.classes)
        for name, left, before in zip(index.classes, kept.class_counts, index.class_counts, strict=True):
            if before and not left:
                raise DataError(f"every image of class {name} is damaged; replace them")
        index = replace(
            index,
            images=len(kept),
            class_counts=kept.class_counts,
            images_sha256=digest(kept),
            notes=[*index.notes, f"{len(index.skipped)} damaged images were left out"],
        )
        closed = self.path.with_name(f".{self.path.name}.closed.partial")
        _lay_out(closed, index, np.asarray(kept.targets))
        shape = (self.index.images, self.bytes_of_image)
        images = np.memmap(partial, np.uint8, "r", _place(partial, "imgs")[0], shape)
        with closed.open("r+b") as file:
            file.seek(_place(closed, "imgs")[0])
            for first in range(0, len(good), self.rows):
                file.write(images[good[first : first + self.rows]].tobytes())
        return index, closed

    def _remove(self, but: Iterable[Path] = ()) -> None:
        """Remove the temporary files of this and earlier packings, except those in `but`."""
        name = glob.escape(self.path.name)
        for file in (*self.path.parent.glob(f".{name}.*"), *self.path.parent.glob(f"..{name}.*")):
            if file.suffix in (".journal", ".partial") and file not in but:
                file.unlink(missing_ok=True)


class _Chunks(Dataset[Any]):
    """Map-style data set whose item k writes the images of chunk k into the file and returns its result.

    start: offset of the first image in the file, in bytes.  rows: images per chunk.
    """

    def __init__(
        self, source: Prepared, labels: npt.NDArray[np.int64], file: Path, start: int, rows: int, skip_damaged: bool
    ) -> None:
        self.source, self.labels, self.file, self.start = source, labels, file, start
        self.rows, self.skip_damaged = rows, skip_damaged

    def __getitem__(self, chunk: int) -> _Rows | DataError:
        # Errors are returned, not raised: those raised in a worker process arrive as text.
        try:
            return self._write(chunk)
        except DataError as error:
            return error
        except OSError as error:
            return DataError(f"{self.file} cannot be written: {reason(error)}")

    def _write(self, chunk: int) -> _Rows:
        first, stop = chunk * self.rows, min((chunk + 1) * self.rows, len(self.labels))
        pixels = np.zeros((stop - first, self.source.size, self.source.size, 3), dtype=np.uint8)
        damaged: dict[int, str] = {}
        before = self.source.marks.copy()
        for row in range(first, stop):
            try:
                pixels[row - first], label = self.source.read(row)
            except DamagedImage as error:
                if not self.skip_damaged:
                    raise
                damaged[row] = str(error)
                continue
            if label != self.labels[row]:
                raise DataError(f"image {row} has the label {label}, but targets say {self.labels[row]}")
        with self.file.open("r+b") as file:
            file.seek(self.start + first * pixels[0].nbytes)
            file.write(pixels.data)
        return _Rows(chunk, damaged, self.source.marks - before)


def _lay_out(path: Path, index: Index, labels: npt.NDArray[np.int64]) -> None:
    """Create a file with all labels and contiguous space for the images and the index.

    Raises DataError if the disk is too full for it.
    """
    size = index.size
    needed = index.images * (3 * size**2 + 8)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(f"the packed images need {needed / 1e9:.1f} GB; {path.parent} has {free / 1e9:.1f} GB free")
    room = len(json.dumps(index.record())) + 1000  # space for notes that are added once the images are read
    with h5py.File(path, "w") as file:
        file["labels"] = labels
        _make_room(file, INDEX, h5py.string_dtype("utf-8", room), ())
        _make_room(file, "imgs", np.dtype("u1"), (index.images, size, size, 3))
    end = sum(_place(path, "imgs"))
    with path.open("r+b") as opened:  # HDF5 may leave out the unwritten end of the file
        opened.truncate(max(end, path.stat().st_size))


def _make_room(file: Any, name: str, kind: Any, shape: tuple[int, ...]) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind, logical=True), space, plan)


def _place(path: Path, name: str) -> tuple[int, int]:
    """Return the offset and the length, in bytes, of an HDF5 data set in its file."""
    with h5py.File(path, "r") as file:
        found = file[name]
        return int(found.id.get_offset()), int(found.size * found.dtype.itemsize)
