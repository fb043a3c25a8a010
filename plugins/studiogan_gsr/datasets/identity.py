"""What an image of a data set is called, wherever it lies; and digests of whole sets."""

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

_THREADS = 16  # that wait for a network's file system at a time
_FIRST, _SLOW = 200, 1e-4  # images that are timed, and seconds an image that are slow


def source_of(dataset: MapStyle, index: int) -> tuple[Any, int]:
    """The data set that holds an image, below all views and subsets, and its index there."""
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
    """An image's file, where ours or torchvision's data set has one for it."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "file", None)):
        return Path(source.file(index))
    files = getattr(source, "samples", getattr(source, "_image_files", None))
    if not isinstance(files, list):
        return None
    return Path(files[index][0] if isinstance(files[index], tuple) else files[index])


def where(dataset: MapStyle, index: int) -> str:
    """An image's path below its data set's folder, or its key; its index where it has neither."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "where", None)):
        return str(source.where(index))
    file = file_of(source, index)
    return str(index) if file is None else os.path.relpath(file, getattr(source, "root", "."))


def identities(dataset: Labelled) -> list[Hashable]:
    """One for each image, equal for two places of the same image: links to a file included."""
    return for_each(partial(_identity, dataset), range(len(dataset.targets)))


def for_each(ask: Callable[[int], T], places: Sequence[int]) -> list[T]:
    """Return what `ask` says of each place, in order; asked of many at a time where answers are slow."""
    start = time.perf_counter()
    first = [ask(i) for i in places[:_FIRST]]
    seconds = time.perf_counter() - start
    rest = places[len(first) :]
    if seconds < _SLOW * len(first):  # threads would only take turns
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
    """SHA-256 of images' names and labels, in their order: equal for equal choices on any machine."""
    # A packed file was made from images that may be gone; it remembers their digest.
    remembered = getattr(dataset, "images_sha256", None)
    if remembered is not None:
        return str(remembered)
    total = hashlib.sha256()
    for i, label in enumerate(dataset.targets):
        source, index = source_of(dataset, i)
        if i == 0:  # rows of a file are no names
            total.update(str(getattr(source, "content_sha256", "")).encode())
        total.update(f"{where(source, index)}\t{int(label)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content_digests(dataset: Labelled, images_sha256: str) -> tuple[str, str]:
    """Two digests that tell of replaced images, beside their names and labels, whose digest is given.

    The first, of their files' sizes, or of the pixels of sets that have pixels in place of files, is the
    same for copies; the second, of the times of the files' last change too, is for one place and a short time.
    """
    portable, times = hashlib.sha256(images_sha256.encode()), hashlib.sha256()
    for i, stamp in enumerate(for_each(partial(_stamp, dataset), range(len(dataset.targets)))):
        source, index = source_of(dataset, i)
        if stamp is not None:
            portable.update(stamp[0].to_bytes(8, "little"))
            times.update(stamp[1].to_bytes(8, "little", signed=True))
        elif hasattr(source, "read_pixels"):
            portable.update(source.read_pixels(index).tobytes())
    return portable.hexdigest(), hashlib.sha256(portable.digest() + times.digest()).hexdigest()


def _stamp(dataset: Labelled, index: int) -> tuple[int, int] | None:
    """Size and last change of an image's file; None where it has none."""
    source, at = source_of(dataset, index)
    if callable(getattr(source, "stamp", None)):
        found: tuple[int, int] = source.stamp(at)
        return found
    file = file_of(source, at)
    if file is None:
        return None
    status = file.stat()
    return status.st_size, status.st_mtime_ns
