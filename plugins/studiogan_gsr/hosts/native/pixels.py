"""Images of a data set as arrays of pixels, one by one and in batches, for the workers of a DataLoader."""

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

Item = tuple[Tensor, int]  # an image, (3, size, size) uint8, and its label


class Pixels(Dataset[Item | DataError]):
    """Images and labels.

    An image that cannot be read is returned as the error: raised in a worker, it would arrive as text.
    """

    def __init__(self, images: Prepared) -> None:
        self.images, self.name, self.size = images, images.name, images.size
        self.decoded = isinstance(images.dataset, Packed)

    def __len__(self) -> int:
        return len(self.images)

    def preload(self) -> None:
        """Read what a data set decompresses as a whole now, so that all workers share it."""
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
    """Images, labels, and how often each of PECULIARITIES occurs in the image.

    Each worker counts for itself, so the counts have to travel with the images.
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


def collate(items: list[tuple[Any, ...] | DataError]) -> tuple[npt.NDArray[Any], ...] | DataError:
    """Return a batch as arrays, or the first image's error.

    Arrays, because tensors would pass through shared memory, of which a container has little.
    """
    for item in items:
        if isinstance(item, DataError):
            return item
    images, *numbers = zip(*items, strict=True)
    return np.stack([image.numpy() for image in images]), *map(np.array, numbers)
