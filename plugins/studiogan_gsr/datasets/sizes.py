"""The sizes and modes of a folder's images, from the headers of some of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from studiogan_gsr.datasets.images import ImageFiles

_MOST = 1000  # images to look at


@dataclass(frozen=True)
class Sizes:
    """What the headers of a sample of images say.

    sides: the shorter side of each image in pixels, sorted.  modes: number of images by Pillow's mode.
    unreadable: the images that Pillow cannot open.  of: the number of images that the sample was drawn from.
    """

    sides: list[int]
    modes: Counter[str]
    unreadable: list[str]
    of: int

    @property
    def median(self) -> int:
        """The largest side that at least half of the images have."""
        return self.sides[len(self.sides) // 2]

    def smaller_than(self, size: int) -> int:
        """Return how many images of the sample are smaller than `size` pixels."""
        return sum(side < size for side in self.sides)

    def all_square_of(self, size: int) -> bool:
        """Return whether every image of the sample becomes `size` x `size` pixels by cropping alone."""
        return self.sides[0] == self.sides[-1] == size


def sample_sizes(images: ImageFiles, most: int = _MOST) -> Sizes:
    """Return the sizes of up to `most` images, chosen at random; no image is decoded."""
    chosen = np.random.default_rng(0).permutation(len(images))[:most].tolist()
    sides: list[int] = []
    modes, unreadable = Counter[str](), []
    for index in chosen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of large images, and of odd metadata
                with Image.open(images.file(index)) as image:
                    sides.append(min(image.size))
                    modes[image.mode] += 1
        except Exception:  # Pillow's readers of formats raise many kinds
            unreadable.append(images.where(index))
    return Sizes(sorted(sides), modes, unreadable, len(images))


def largest_without_upscaling(sizes: Sizes, allowed: Sequence[int]) -> int:
    """Return the largest allowed size that upscales at most half of the images, or else the smallest."""
    return max((size for size in allowed if size <= sizes.median), default=min(allowed))
