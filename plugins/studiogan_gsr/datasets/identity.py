"""What an image of a data set is called, wherever it lies; and one digest of a whole set."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any


def source_of(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that holds an image, below all views and subsets, and its index there."""
    while hasattr(dataset, "dataset"):
        if hasattr(dataset, "indices"):
            index = int(dataset.indices[index])
        dataset = dataset.dataset
    return dataset, index


def where(dataset: Any, index: int) -> str:
    """An image's path or key; its index where the data set has none (arrays in one file)."""
    source, index = source_of(dataset, index)
    if hasattr(source, "where"):
        return str(source.where(index))
    samples = getattr(source, "samples", None) or getattr(source, "_image_files", None)
    if samples:
        sample = samples[index]
        return str(sample[0] if isinstance(sample, tuple) else sample)
    return str(index)


def identity(dataset: Any, index: int) -> Hashable:
    """Equal for two places of the same image: links and copies of a path included, where it is a file."""
    source, at = source_of(dataset, index)
    found: Hashable = source.identity(at) if hasattr(source, "identity") else where(source, at)
    return found


def digest(dataset: Any) -> str:
    """SHA-256 of all images' names and labels, in their order: equal for equal choices on any machine."""
    # A packed file was made from images that may be gone; it remembers their digest.
    remembered = getattr(dataset, "images_sha256", None)
    if remembered is not None:
        return str(remembered)
    lines = (f"{where(dataset, i)}\t{label}\n" for i, label in enumerate(dataset.targets))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def source_digest(dataset: Any, images_sha256: str) -> str:
    """`digest`, which is given, with what tells of a replaced image: its file's size, or its bytes in memory."""
    total = hashlib.sha256(images_sha256.encode())
    for i in range(len(dataset)):
        source, index = source_of(dataset, i)
        if hasattr(source, "file_size"):
            total.update(source.file_size(index).to_bytes(8, "little"))
        elif hasattr(source, "pixels"):
            total.update(source.pixels[index].tobytes())
    return total.hexdigest()
