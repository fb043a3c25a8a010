"""What an image of a data set is called, wherever it lies; and digests of whole sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_THREADS = 16  # that wait for a network's file system at a time


def source_of(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that holds an image, below all views and subsets, and its index there."""
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    return dataset, index


def file_of(dataset: Any, index: int) -> Path | None:
    """An image's file, where ours or torchvision's data set has one for it."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "file", None)):
        return Path(source.file(index))
    files = getattr(source, "samples", getattr(source, "_image_files", None))
    if not isinstance(files, list):
        return None
    return Path(files[index][0] if isinstance(files[index], tuple) else files[index])


def where(dataset: Any, index: int) -> str:
    """An image's path below its data set's folder, or its key; its index where it has neither."""
    source, index = source_of(dataset, index)
    if callable(getattr(source, "where", None)):
        return str(source.where(index))
    file = file_of(source, index)
    return str(index) if file is None else os.path.relpath(file, getattr(source, "root", "."))


def identities(dataset: Any) -> list[Hashable]:
    """One for each image, equal for two places of the same image: links to a file included."""

    def some(part: Iterable[int]) -> list[Hashable]:
        return [_identity(dataset, i) for i in part]

    with ThreadPoolExecutor(_THREADS) as threads:
        parts = threads.map(some, (range(k, len(dataset), _THREADS) for k in range(_THREADS)))
    found: list[Hashable] = [None] * len(dataset)
    for k, part in enumerate(parts):
        found[k::_THREADS] = part
    return found


def _identity(dataset: Any, index: int) -> Hashable:
    file = file_of(dataset, index)
    if file is None:
        return where(dataset, index)
    status = file.stat()
    return status.st_dev, status.st_ino


def digest(dataset: Any, chosen: Iterable[int] | None = None) -> str:
    """SHA-256 of images' names and labels, in their order: equal for equal choices on any machine.

    chosen: of these images alone.
    """
    # A packed file was made from images that may be gone; it remembers their digest.
    remembered = getattr(dataset, "images_sha256", None)
    if remembered is not None:
        return str(remembered)
    total = hashlib.sha256()
    for i in range(len(dataset.targets)) if chosen is None else chosen:
        total.update(f"{where(dataset, i)}\t{int(dataset.targets[i])}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content_digests(dataset: Any, images_sha256: str) -> tuple[str, str]:
    """Two digests that tell of replaced images, beside their names and labels, whose digest is given.

    The first, of their files' sizes, is the same for copies; the second, of the times of the files'
    last change too, is for one place and a short time.  Both are of the bytes of images in memory.
    """
    portable, local = (hashlib.sha256(images_sha256.encode()) for _ in range(2))
    for i in range(len(dataset.targets)):
        source, index = source_of(dataset, i)
        if hasattr(source, "read_pixels"):
            pixels = source.read_pixels(index).tobytes()
            portable.update(pixels)
            local.update(pixels)
        elif (stamp := _stamp(source, index)) is not None:
            size, time = (number.to_bytes(8, "little", signed=True) for number in stamp)
            portable.update(size)
            local.update(size + time)
    return portable.hexdigest(), local.hexdigest()


def _stamp(source: Any, index: int) -> tuple[int, int] | None:
    if callable(getattr(source, "stamp", None)):
        found: tuple[int, int] = source.stamp(index)
        return found
    file = file_of(source, index)
    if file is None:
        return None
    status = file.stat()
    return status.st_size, status.st_mtime_ns
