"""From an image of any size and mode to the square of RGB bytes that a host trains on.

The one place that crops and resizes: both hosts and the packer use it, so they train on equal pixels.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.identity import file_of, where
from studiogan_gsr.datasets.labels import check_label, class_counts_of, notes_of
from studiogan_gsr.errors import DamagedImage, DataError, LabelError, reason

# StudioGAN's names for Pillow's filters; "wo_resize": none.
# In what an image may look otherwise than it is used: see `describe_marks`.
PECULIARITIES = ("rotated", "transparent", "elongated")
_ORIENTATION = 0x0112  # the tag's number in EXIF
# More than 8 bits a channel: Pillow cuts such values off at 255 without a word.
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Preprocessing:
    """crop: take the middle square first, else squash the whole image; resizer: one of RESIZERS."""

    crop: bool = True
    resizer: str = "wo_resize"

    def __call__(self, image: Image.Image, size: int) -> Image.Image:
        """The image at `size` x `size` pixels; or as large as it is, without a resizer."""
        if self.crop and image.width != image.height:
            # As torchvision's center_crop, which StudioGAN uses, rounds.
            side = min(image.size)
            left, top = round((image.width - side) / 2), round((image.height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        if self.resizer != "wo_resize" and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling[self.resizer.upper()])
        return image

    def __str__(self) -> str:
        crop = "the middle square" if self.crop else "the whole image squashed to a square"
        return f"{crop}, {'not resized' if self.resizer == 'wo_resize' else f'resized ({self.resizer})'}"

    def record(self) -> dict[str, Any]:
        """Plain data, for records and indices."""
        return asdict(self)


# What Pillow raises for bytes that are no image, or are cut off.
_DECODING = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# What StudioGAN does to images of its own data sets; a resizer is the user's choice.
STUDIOGAN = Preprocessing(crop=True, resizer="wo_resize")


def to_rgb(image: Image.Image) -> Image.Image:
    """The stored pixels in RGB.  Orientation tags are not applied, as in torchvision and StudioGAN.

    Raises DataError for more than 8 bits a channel, which would be cut off.
    """
    if image.mode in _DEEP_MODES:
        raise DataError(f"mode {image.mode} has more than 8 bits a channel; convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns of the direct way
    return image if image.mode == "RGB" else image.convert("RGB")


class Prepared:
    """A data set's images at one size: map-style, (RGB PIL image of size x size, int label).

    Attributes: `targets`, `class_counts`, `classes` and `notes`, as a plug-in's data set has them.

    dataset: gives PIL images; its own `preprocessing` is used where it has one, else StudioGAN's.
    resizer: the user's; anything but "wo_resize" replaces the data set's own.

    `marks` counts, by PECULIARITIES, the images read so far in this process that look otherwise than they are used.
    An item raises DamagedImage for an image that cannot be read, DataError for one of another size.
    """

    def __init__(self, dataset: Labelled, name: str, size: int, resizer: str = "wo_resize") -> None:
        self.dataset, self.name, self.size = dataset, name, size
        self.preprocessing: Preprocessing = preprocessing_of(dataset, resizer)
        self.targets = [int(label) for label in dataset.targets]
        self.class_counts = class_counts_of(dataset)
        self.classes = [str(c) for c in getattr(dataset, "classes", range(len(self.class_counts)))]
        self.notes: tuple[str, ...] = notes_of(dataset)
        self.marks: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            image, label = self.dataset[index]
            if not isinstance(image, Image.Image):
                raise TypeError(f"expected a PIL image, found {type(image).__name__}")
            marks = peculiarities(image)
            image = to_rgb(image)
        except LabelError:
            raise
        except Exception as error:
            raise self._unreadable(index, error) from error
        check_label(label, self.targets[index], self._called(index))
        if marks:  # a new counter: copies of this object count for themselves
            self.marks = self.marks + Counter(marks)
        image = self.preprocessing(image, self.size)
        if image.size != (self.size, self.size):
            raise DataError(
                f"DATA.img_size: found {self.size}; {self._called(index)} is {image.width} x {image.height} pixels "
                "(--resizer lanczos, or StudioGAN's --pre_resizer, resizes them)"
            )
        return image, int(label)

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """(uint8 (size, size, 3), label): an item without the way over PIL where the set has the bytes."""
        if hasattr(self.dataset, "read_pixels"):
            try:
                pixels = self.dataset.read_pixels(index)
            except Exception as error:
                raise self._unreadable(index, error) from error
            if pixels is not None and pixels.shape == (self.size, self.size, 3):
                return pixels, self.targets[index]
        image, label = self[index]
        return np.asarray(image), label

    def _unreadable(self, index: int, error: Exception) -> DataError:
        # A file that cannot be opened just now, and most faults of a data set's program, are no damaged image.
        damaged = isinstance(error, _DECODING) and getattr(error, "errno", None) is None
        kind = DamagedImage if damaged else DataError
        return kind(f"{self._called(index)} cannot be read: {reason(error)}")

    def _called(self, index: int) -> str:
        place = str(file_of(self.dataset, index) or where(self.dataset, index))
        return f"image {index} of {self.name}" + (f" ({place})" if place != str(index) else "")


def preprocessing_of(dataset: Labelled, resizer: str = "wo_resize") -> Preprocessing:
    """How a data set's images are prepared, where the user asks for a resizer ("wo_resize": for none)."""
    own = getattr(dataset, "preprocessing", None)
    own = own if isinstance(own, Preprocessing) else STUDIOGAN
    return own if resizer == "wo_resize" else replace(own, resizer=resizer)


def peculiarities(image: Image.Image) -> list[str]:
    """Return in what, of PECULIARITIES, an image looks otherwise than it is used."""
    found = {
        "rotated": _is_rotated(image),
        "transparent": _is_transparent(image),
        "elongated": max(image.size) >= 2 * min(image.size),
    }
    return [name for name, holds in found.items() if holds]


def describe_marks(marks: Mapping[str, int], preprocessing: Preprocessing, of: str = "") -> list[str]:
    """Return, in lines, how many images look otherwise than they are used; of: begins each line."""
    shape = "half or more of each is cropped away" if preprocessing.crop else "they are squashed to squares"
    lines = {
        "rotated": "images have an orientation tag; it is not applied, as in torchvision",
        "transparent": "images have transparent pixels; the colours hidden there are used, as in torchvision",
        "elongated": f"images are at least twice as long as wide; {shape}",
    }
    return [f"{of}{marks[name]} {line}" for name, line in lines.items() if marks.get(name)]


def inspect_files(
    dataset: Labelled, preprocessing: Preprocessing, most: int = 1000, seconds: float = 10.0
) -> list[str]:
    """Return what `describe_marks` says of up to `most` images all over the set, as far as one gets in `seconds`.

    Nothing of sets without files.  Reads files alone, few of them whole, and draws no random number of a data set's.
    """
    number, marks, looked = len(dataset.targets), Counter[str](), 0
    until = time.monotonic() + seconds
    for place in np.random.RandomState(0).permutation(number)[:most].tolist():
        file = file_of(dataset, place)
        if file is None:
            return []
        if time.monotonic() > until:
            break
        looked += 1
        try:
            with Image.open(file) as image:
                marks.update(peculiarities(image))
        except Exception:  # reading it whole will name what is wrong
            continue
    return describe_marks(marks, preprocessing, "" if looked == number else f"of {looked:,} images looked at, ")


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getbands()[-1]
    if alpha not in ("A", "a"):
        return False
    return bool(np.asarray(image.getchannel(alpha)).min() < 255)


def _is_rotated(image: Image.Image) -> bool:
    if "exif" not in image.info:
        return False
    try:
        return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except Exception:  # what cameras and programs write there is not always EXIF; the pixels are well
        return False
