"""Find reference images that are also training images, and duplicates within a data set."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.identity import file_of, for_each
from studiogan_gsr.datasets.preprocessing import Prepared, to_rgb
from studiogan_gsr.errors import DamagedImage
from studiogan_gsr.progress import track

# At most this many training images are decoded for the comparison, evenly spread over the set.
MOST_DECODED = 50_000
_BLOCK = 4096  # bytes of a file that distinguish most files of equal size

Pairs = list[tuple[int, int]]
Look = Callable[[Labelled, int], Hashable]


def shared_images(train: Labelled, reference: Labelled) -> tuple[Pairs, int]:
    """Return (reference index, training index) pairs of equal images, and the number of training images compared.

    If both sides are files, their bytes are compared; if not, pixels.  If training images must be decoded for that,
    only MOST_DECODED of them are compared, evenly spread.
    train, reference: map-style data sets of PIL images, or `Prepared`.
    """
    if has_files(train) and has_files(reference):
        return shared_files(train, reference), len(train)
    places = np.arange(len(train))
    if not _has_pixels(train) and len(places) > MOST_DECODED:
        places = np.linspace(0, len(train) - 1, MOST_DECODED).astype(int)
    return shared_pixels(train, reference, places.tolist()), len(places)


def duplicates(dataset: Labelled) -> Pairs:
    """Return (index, index of the first equal image) for each image that repeats an earlier one.

    Compares files by bytes, other images by pixels.  Raises OSError for a file that cannot be read.
    """
    files = has_files(dataset)
    below = _below(dataset) if files else copy.copy(dataset)
    looks: Sequence[Look] = (_size, _middle_block, _whole_file) if files else (_middle_row, _all_pixels)
    keys: dict[int, tuple[Hashable, ...]] = dict.fromkeys(range(len(dataset)), ())
    for look in looks:
        keys = _looked(below, keys, look, threads=files)
        counts = Counter(keys.values())
        keys = {i: key for i, key in keys.items() if counts[key] > 1}
    first = {key: i for i, key in sorted(keys.items(), reverse=True)}
    return [(i, first[key]) for i, key in sorted(keys.items()) if first[key] != i]


def has_files(dataset: Labelled) -> bool:
    """Return whether a data set's images are files; only the first and the last are checked."""
    below = _below(dataset)
    return all(file_of(below, index) is not None for index in (0, len(dataset) - 1))


def shared_files(train: Labelled, reference: Labelled) -> Pairs:
    """Return (reference index, training index) pairs of equal files, whether links or copies.

    Both data sets must have files.  Only files of equal size are read, and for most of them a single block.
    Raises OSError for a file that cannot be read.
    """
    return _equal(
        _below(train), _below(reference), range(len(train)), (_size, _middle_block, _whole_file), threads=True
    )


def shared_pixels(train: Labelled, reference: Labelled, places: Sequence[int] | None = None) -> Pairs:
    """Return (reference index, training index) pairs of images with equal pixels.

    places: indices of the training images to compare; None: all.
    """
    places = range(len(train)) if places is None else places
    # Copies, so that reading here does not change the counters of the run's data sets.
    return _equal(copy.copy(train), copy.copy(reference), places, (_middle_row, _all_pixels), threads=False)


def _equal(
    train: Labelled, reference: Labelled, places: Sequence[int], looks: Sequence[Look], threads: bool
) -> Pairs:
    """Return each reference image with the first training image for which all `looks` return equal values.

    Each function reads only the images that matched in all functions before it.
    """
    ours: dict[int, tuple[Hashable, ...]] = dict.fromkeys(range(len(reference)), ())
    theirs: dict[int, tuple[Hashable, ...]] = dict.fromkeys(places, ())
    for look in looks:
        ours, theirs = _looked(reference, ours, look, threads), _looked(train, theirs, look, threads)
        common = set(ours.values()) & set(theirs.values())
        ours, theirs = ({i: key for i, key in keys.items() if key in common} for keys in (ours, theirs))
    first = {key: i for i, key in sorted(theirs.items(), reverse=True)}
    return [(i, first[key]) for i, key in ours.items()]


def _looked(
    dataset: Labelled, keys: dict[int, tuple[Hashable, ...]], look: Look, threads: bool
) -> dict[int, tuple[Hashable, ...]]:
    places = list(keys)
    if threads:
        found = for_each(lambda i: look(dataset, i), places)
    else:  # another project's data set may not be thread-safe
        shown = track(places, "comparing images", len(places))
        found = [look(dataset, i) for i in shown]
    return {i: (*keys[i], key) for i, key in zip(places, found, strict=True)}


def _below(dataset: Labelled) -> Any:
    return dataset.dataset if isinstance(dataset, Prepared) else dataset


def _size(dataset: Labelled, index: int) -> int:
    return _file(dataset, index).stat().st_size  # type: ignore[no-any-return]


def _middle_block(dataset: Labelled, index: int) -> bytes:
    file = _file(dataset, index)
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _BLOCK) // 2)
        return hashlib.blake2b(opened.read(_BLOCK), digest_size=16).digest()


def _whole_file(dataset: Labelled, index: int) -> bytes:
    return hashlib.blake2b(_file(dataset, index).read_bytes(), digest_size=32).digest()


def _file(dataset: Labelled, index: int) -> Any:
    file = file_of(dataset, index)
    if file is None:
        raise FileNotFoundError(f"image {index} has no file, but other images of its data set have one")
    return file


def _has_pixels(dataset: Labelled) -> bool:
    """Return whether a data set's pixels can be read without decoding; only the first image is checked."""
    read = getattr(_below(dataset), "read_pixels", None)
    return callable(read) and read(0) is not None


def _middle_row(dataset: Labelled, index: int) -> Hashable:
    pixels = _pixels(dataset, index)
    if pixels is None:
        return "unreadable", id(dataset), index
    return pixels.shape, hashlib.blake2b(pixels[len(pixels) // 2].tobytes(), digest_size=16).digest()


def _all_pixels(dataset: Labelled, index: int) -> bytes:
    pixels = _pixels(dataset, index)
    return b"" if pixels is None else hashlib.blake2b(pixels.tobytes(), digest_size=32).digest()


def _pixels(dataset: Labelled, index: int) -> npt.NDArray[np.uint8] | None:
    """Return an image's pixels, uint8 (H, W, 3); None for a damaged image, which matches no other."""
    try:
        if isinstance(dataset, Prepared):
            return dataset.read(index)[0]
        pixels = dataset.read_pixels(index) if hasattr(dataset, "read_pixels") else None
        return np.asarray(to_rgb(dataset[index][0])) if pixels is None else pixels
    except DamagedImage:
        return None
