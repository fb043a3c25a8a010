"""Map-style data sets of images as pixels, and their collate function, for the workers of a DataLoader."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from studiogan_gsr.datasets.packed import Packed
from studiogan_gsr.datasets.preprocessing import PECULIARITIES, Prepared
from studiogan_gsr.errors import DataError

Arrays = tuple[npt.NDArray[Any], ...]
Item = tuple[Tensor, int]  # an image, (3, size, size) uint8, and its label


class Pixels(Dataset[Item | DataError]):
    """Map-style data set of (image, label).

    For an image that cannot be read, the item is the DataError.  If a worker raised it, it would arrive as text only.
    decoded: whether the data set is a packed file, which needs no decoding.
    """

    def __init__(self, images: Prepared) -> None:
        self.images, self.name, self.size = images, images.name, images.size
        self.decoded = isinstance(images.dataset, Packed)

    def __len__(self) -> int:
        return len(self.images)

    def preload(self) -> None:
        """Load a data set that is decompressed as a whole.  Called before workers start, so that they share it."""
        read = getattr(self.images.dataset, "read_pixels", None)
        if read is not None:
            read(0)

    def __getitem__(self, index: int) -> Item | DataError:
        try:
            image, label = self.images.read(index)
        except DataError as error:
            return error
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), label


class CountedPixels(Dataset[tuple[Tensor, int, list[int]] | DataError]):
    """Map-style data set of (image, label, marks); marks: 1 for each of PECULIARITIES that the image has, else 0.

    Each worker counts in its own process, so the counts are returned with the images.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, list[int]] | DataError:
        before = self.pixels.images.marks.copy()
        item = self.pixels[index]
        if isinstance(item, DataError):
            return item
        return *item, [self.pixels.images.marks[name] - before[name] for name in PECULIARITIES]


def collate(items: list[tuple[Any, ...] | DataError]) -> Arrays | DataError:
    """Return a batch as arrays: images (B, 3, size, size) uint8, labels (B,), ...; or the first error of the items.

    Tensors would pass through shared memory, and a container has little of it.
    """
    for item in items:
        if isinstance(item, DataError):
            return item
    images, *numbers = zip(*items, strict=True)
    contiguous = np.empty((len(images), *images[0].shape), np.uint8)  # by itself, np.stack would keep channels last
    return np.stack([image.numpy() for image in images], out=contiguous), *map(np.array, numbers)
