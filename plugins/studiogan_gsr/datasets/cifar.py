"""CIFAR-10-LT and CIFAR-100-LT, with the images that the literature commonly uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from studiogan_gsr.datasets.download import downloaded
from studiogan_gsr.datasets.images import check_balanced
from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.variant import Variant


def cifar10_lt(
    root: str, split: str, ratio: float, profile: str = "exp", seed: int = 0, reversed: bool = False
) -> View:
    """Return CIFAR-10-LT.  "train": 5000 images in the largest class; "reference": the 10,000 test images."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root, split, Variant(ratio, profile, seed, reversed))


def cifar100_lt(
    root: str, split: str, ratio: float, profile: str = "exp", seed: int = 0, reversed: bool = False
) -> View:
    """Return CIFAR-100-LT.  "train": 500 images in the largest class; "reference": the 10,000 test images."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, root, split, Variant(ratio, profile, seed, reversed))


def open_cifar(cifar: Any, root: str, train: bool) -> Any:
    """Return torchvision's CIFAR10 or CIFAR100, downloaded if it is missing; DataError if that fails."""
    return downloaded(
        cifar.__name__,
        root,
        (cifar.filename, cifar.base_folder),
        lambda download: cifar(root=root, train=train, download=download),
        f"{cifar.filename} (170 MB) or the folder {cifar.base_folder} there, from {cifar.url}",
    )


def _cifar(cifar: Any, root: str, split: str, variant: Variant) -> View:
    check_split(split)
    train = split == "train"
    dataset = open_cifar(cifar, root, train)
    source = _Batches(dataset, f"{cifar.__name__}/{'train' if train else 'test'}")
    if train:
        return variant.view(source)
    reference = Whole(source, source.classes)
    # CIFAR's own test images; torchvision has checked the MD5 digest of each file.
    check_balanced(reference, f"{cifar.__name__}_LT")
    reference.published_split = True
    return reference


class _Batches:
    """torchvision's CIFAR without transforms; `where` names an image by part and number, as "CIFAR10/train/7"."""

    def __init__(self, cifar: Any, part: str) -> None:
        self._pixels, self._part = cifar.data, part
        self.targets, self.classes = cifar.targets, cifar.classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.read_pixels(index)), self.targets[index]

    def read_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return an image's pixels, uint8 (32, 32, 3)."""
        found: npt.NDArray[np.uint8] = self._pixels[index]
        return found

    def where(self, index: int) -> str:
        """Return an image's name: its part of the archive and its number there."""
        return f"{self._part}/{index}"
