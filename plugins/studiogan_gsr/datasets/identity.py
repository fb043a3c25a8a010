"""Identify images by name or file, independent of the data's location; compute digests of whole data sets."""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from studiogan_gsr.contract import Labelled, MapStyle

T = TypeVar("T")

_THREADS = 16  # concurrent requests to a network file system
_FIRST = 200  # images that are read without threads, to time them
_SLOW = 1e-4  # seconds per image; if slower, threads pay off


def source_of(dataset: MapStyle, index: int) -> tuple[Any, int]:
    """Return the data set that holds an image, below all views and subsets, and the image's index there."""
    source: Any = dataset
    while True:
        if hasattr(source, "dataset") and hasattr(source, "indices"):
            source, index = source.dataset, int(source.indices[index])
        elif hasattr(source, "datasets") and hasattr(source, "cumulative_sizes"):  # ConcatDataset
            part = bisect_right(source.cumulative_sizes, index)
            index -= source.cumulative_sizes[part - 1] if part else 0
            source = source.datasets[part]
        else:
            return source, index


def file_of(dataset: MapStyle, index: int) -> Path | None:
    """Return an image's file; None if its data set does not read images from files."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "file", None)):
        return Path(source.file(index))
    files = getattr(source, "samples", getattr(source, "_image_files", None))
    if not isinstance(files, list):
        return None
    return Path(files[index][0] if isinstance(files[index], tuple) else files[index])


def where(dataset: MapStyle, index: int) -> str:
    """Return an image's path below its data set's folder, or its key, or its index if it has neither."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "where", None)):
        return str(source.where(index))
    file = file_of(source, index)
    return str(index) if file is None else os.path.relpath(file, getattr(source, "root", "."))


def identities(dataset: Labelled) -> list[Hashable]:
    """Return one key per image; two images from the same file, also through links, have equal keys."""
    return for_each(partial(_identity, dataset), range(len(dataset.targets)))


def for_each(ask: Callable[[int], T], places: Sequence[int]) -> list[T]:
    """Return `ask(place)` for each place, in order; in threads if the calls are slow."""
    start = time.perf_counter()
    first = [ask(i) for i in places[:_FIRST]]
    seconds = time.perf_counter() - start
    rest = places[len(first) :]
    if seconds < _SLOW * len(first):  # nothing to wait for: threads would only contend for the GIL
        return first + [ask(i) for i in rest]
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = list(threads.map(lambda part: [ask(i) for i in part], (rest[k::_THREADS] for k in range(_THREADS))))
    return first + [parts[i % _THREADS][i // _THREADS] for i in range(len(rest))]


def _identity(dataset: Labelled, index: int) -> Hashable:
    file = file_of(dataset, index)
    if file is None:
        return where(dataset, index)
    status = file.stat()
    return status.st_dev, status.st_ino


def digest(dataset: Labelled) -> str:
    """Return the SHA-256 of the images' names and labels, in order: the same on every machine."""
    # A packed file's source images may be gone, so the file stores their digest.
    remembered = getattr(dataset, "images_sha256", None)
    if remembered is not None:
        return str(remembered)
    total = hashlib.sha256()
    for i, label in enumerate(dataset.targets):
        source, index = source_of(dataset, i)
        if i == 0:  # a packed file's rows have no names, so its content digest identifies them
            total.update(str(getattr(source, "content_sha256", "")).encode())
        total.update(f"{where(source, index)}\t{int(label)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content_digests(dataset: Labelled, images_sha256: str) -> tuple[str, str]:
    """Return two digests that change if images are replaced under the same names and labels.

    The first covers file sizes and how images are turned, or the pixels if the set has no files but has
    `read_pixels`.  With neither, it covers only names and labels.  It is the same for all copies of the data.
    The second also covers the files' modification times, so it holds only for one copy of the data.
    images_sha256: the digest of names and labels; both start from it.
    """
    portable, times = hashlib.sha256(images_sha256.encode()), hashlib.sha256()
    for i, stamp in enumerate(for_each(partial(_stamp, dataset), range(len(dataset.targets)))):
        source, index = source_of(dataset, i)
        if stamp is not None:
            portable.update(stamp[0].to_bytes(8, "little"))
            times.update(stamp[1].to_bytes(8, "little", signed=True))
            if stamp[2] != 1:  # so that the digests of sets without such images are those of earlier versions
                portable.update(f"{i} turned by orientation {stamp[2]}".encode())
        elif (pixels := source.read_pixels(index) if hasattr(source, "read_pixels") else None) is not None:
            portable.update(pixels.tobytes())
    return portable.hexdigest(), hashlib.sha256(portable.digest() + times.digest()).hexdigest()


def _stamp(dataset: Labelled, index: int) -> tuple[int, int, int] | None:
    """Return the size and modification time of an image's file, and by which EXIF orientation it is turned.

    The first two may be the source's own `stamp`.  None without a file or a stamp.
    """
    source, at = source_of(dataset, index)
    if callable(getattr(source, "stamp", None)):
        size, modified = source.stamp(at)
        return size, modified, 1
    file = file_of(source, at)
    if file is None:
        return None
    status = file.stat()
    turned = source.turned_by(at) if callable(getattr(source, "turned_by", None)) else 1
    return status.st_size, status.st_mtime_ns, turned
