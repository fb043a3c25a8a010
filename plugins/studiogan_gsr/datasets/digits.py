"""Digits_LT: scikit-learn's handwritten digits, made long-tailed; small, and nothing to download."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from studiogan_gsr.datasets.long_tailed import View, Whole, check_split
from studiogan_gsr.datasets.variant import Variant
from studiogan_gsr.errors import DataError, reason

_REFERENCE = 40  # images per class
# Images of the head class: the training images of the smallest class.  With "step" or `reversed`, any class may be in
# the head.
_N_MAX = 134
_SIZE = 32


def digits_lt(
    root: str,
    split: str,
    ratio: float | None = None,
    profile: str = "exp",
    seed: int = 0,
    reversed: bool = False,
) -> View:
    """Return handwritten digits, RGB, 32 x 32 pixels, enlarged from 8 x 8.

    "train": 134 images in the largest class, or, without a ratio, all 1397 (134 to 143 per class);
    "reference": the last 40 images of each class, none of which is in "train".
    root: not used; scikit-learn contains the images.
    Raises OptionError for impossible options, DataError without scikit-learn.
    """
    check_split(split)
    variant = Variant(ratio, profile, seed, reversed)
    digits = _Digits(split)
    return variant.view(digits, n_max=_N_MAX) if split == "train" else Whole(digits, digits.classes)


class _Digits:
    """The images of one split, in scikit-learn's order: `images` (N x 32 x 32 x 3, uint8) and `targets`."""

    def __init__(self, split: str) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError(
                f"Digits_LT takes its images from scikit-learn, which cannot be imported ({reason(error)}); "
                "pip install scikit-learn"
            ) from error
        digits: Any = load_digits()
        labels = np.asarray(digits.target)
        reference = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            reference[np.flatnonzero(labels == label)[-_REFERENCE:]] = True
        kept = reference if split == "reference" else ~reference
        self.images = np.stack([_enlarged(image) for image in digits.images[kept]])
        self._places = np.flatnonzero(kept)
        self.targets: list[int] = labels[kept].tolist()
        self.classes = [str(name) for name in digits.target_names]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.read_pixels(index)), self.targets[index]

    def read_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return an image's pixels, uint8 (32, 32, 3)."""
        found: npt.NDArray[np.uint8] = self.images[index]
        return found

    def where(self, index: int) -> str:
        """Return an image's name: its number among scikit-learn's digits."""
        return f"digits/{self._places[index]}"


def _enlarged(image: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return an image of 8 x 8 values from 0 to 16 as 32 x 32 x 3 values from 0 to 255."""
    grey = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8))
    return np.asarray(grey.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC).convert("RGB"))
