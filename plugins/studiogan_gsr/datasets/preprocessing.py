"""Turn images of any size and mode into the square RGB images that a host trains on.

Both hosts and the packer crop and resize only with this module, so that their pixels are equal.
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
from studiogan_gsr.datasets.identity import file_of, source_of, where
from studiogan_gsr.datasets.labels import check_label, class_counts_of, notes_of
from studiogan_gsr.errors import DamagedImage, DataError, LabelError, reason

# Reasons why training may see an image differently from an image viewer; see `describe_marks`.
PECULIARITIES = ("rotated", "transparent", "elongated")
_ORIENTATION = 0x0112  # the tag's number in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# More than 8 bits per channel: Pillow silently clips such values at 255.
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Preprocessing:
    """Crop and resize settings.

    crop: whether to take the middle square; if not, the whole image is squashed to a square.
    resizer: one of RESIZERS.
    """

    crop: bool = True
    resizer: str = "wo_resize"

    def __call__(self, image: Image.Image, size: int) -> Image.Image:
        """Return the image, cropped if `crop` is set, at `size` x `size` pixels; without a resizer, only cropped."""
        if self.crop and image.width != image.height:
            # Rounded as in torchvision's center_crop, which StudioGAN uses.
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
        """Return the settings as plain data, for records and indices."""
        return asdict(self)


# Pillow's exceptions for bytes that are no image, are cut off, or hold too many pixels.
_DECODING = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# StudioGAN's preprocessing of its own data sets; the user may add a resizer.
STUDIOGAN = Preprocessing(crop=True, resizer="wo_resize")


def orientation_of(image: Image.Image) -> int:
    """Return an image's orientation by its EXIF tag, from 1 to 8; 1, as it is stored, without a valid tag."""
    if "exif" not in image.info:  # as in most images; getexif() would take longer
        return 1
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # cameras and programs may write invalid EXIF; the pixels are still good
        return 1
    return found if found in _TURNS else 1


def turned(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation tag says, without EXIF; unchanged without such a tag."""
    # Not PIL.ImageOps.exif_transpose: it copies images without a tag, and raises errors for invalid EXIF.
    orientation = orientation_of(image)
    if orientation == 1:
        return image
    image = image.transpose(_TURNS[orientation])
    del image.info["exif"]
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image's pixels, as they are stored, in RGB.

    Raises DataError for more than 8 bits per channel, which would be clipped.
    """
    if image.mode in DEEP_MODES:
        raise DataError(f"mode {image.mode} has more than 8 bits per channel; convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image if image.mode == "RGB" else image.convert("RGB")


class Prepared:
    """Map-style data set of (RGB PIL image of size x size, int label): another data set's images, preprocessed.

    Attributes: `targets`, `class_counts`, `classes` and `notes`, as a plug-in's data set has them.

    dataset: a data set of PIL images; its own `preprocessing` is used, or StudioGAN's if it has none.
    name: the data set's name, for messages.  size: width and height in pixels.
    resizer: the user's; anything but "wo_resize" replaces the data set's own.

    `marks` counts the images with each of PECULIARITIES among those read so far in this process.
    Reading an item raises DamagedImage for an image that cannot be decoded, LabelError for a label that differs from
    `targets`, and DataError for an image of another size or an error of the file system or the data set.
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
        check_label(label, self.targets[index], self._title(index))
        if marks:  # a new counter: copies of this object count separately
            self.marks = self.marks + Counter(marks)
        image = self.preprocessing(image, self.size)
        if image.size != (self.size, self.size):
            raise DataError(
                f"DATA.img_size: found {self.size}; {self._title(index)} is {image.width} x {image.height} pixels "
                "(--resizer lanczos, or StudioGAN's --pre_resizer, resizes them)"
            )
        return image, int(label)

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return (uint8 (size, size, 3), label), without creating a PIL image if the data set stores pixels."""
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
        # Errors of the file system, and most errors in a data set's code, do not mean a damaged image.
        damaged = isinstance(error, _DECODING) and getattr(error, "errno", None) is None
        kind = DamagedImage if damaged else DataError
        return kind(f"{self._title(index)} cannot be read: {reason(error)}")

    def _title(self, index: int) -> str:
        place = str(file_of(self.dataset, index) or where(self.dataset, index))
        return f"image {index} of {self.name}" + (f" ({place})" if place != str(index) else "")


def preprocessing_of(dataset: Labelled, resizer: str = "wo_resize") -> Preprocessing:
    """Return the preprocessing of a data set's images, with the user's resizer ("wo_resize": not set)."""
    own = getattr(dataset, "preprocessing", None)
    own = own if isinstance(own, Preprocessing) else STUDIOGAN
    return own if resizer == "wo_resize" else replace(own, resizer=resizer)


def peculiarities(image: Image.Image) -> list[str]:
    """Return which of PECULIARITIES an image has."""
    found = {
        "rotated": orientation_of(image) != 1,
        "transparent": _is_transparent(image),
        "elongated": max(image.size) >= 2 * min(image.size),
    }
    return [name for name, holds in found.items() if holds]


def describe_marks(marks: Mapping[str, int], preprocessing: Preprocessing, prefix: str = "") -> list[str]:
    """Return one line for each of PECULIARITIES that occurs, with its number of images.

    marks: number of images with each of PECULIARITIES.  prefix: text at the start of each line.
    """
    shape = "half or more of each is cropped away" if preprocessing.crop else "they are squashed to squares"
    lines = {
        "rotated": "images have an orientation tag; it is not applied, as in torchvision",
        "transparent": "images have transparent pixels; the colours hidden there are used, as in torchvision",
        "elongated": f"images are at least twice as long as wide; {shape}",
    }
    return [f"{prefix}{marks[name]} {line}" for name, line in lines.items() if marks.get(name)]


def inspect_files(
    dataset: Labelled, preprocessing: Preprocessing, most: int = 1000, seconds: float = 10.0
) -> list[str]:
    """Return the lines of `describe_marks` for up to `most` images, chosen at random, within `seconds`.

    Returns no lines for a set without files.  Files are opened directly, so that the data set's own random transforms
    are not run.  Few files are read completely.
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
        applied = getattr(source_of(dataset, place)[0], "upright", False) is True
        try:
            with Image.open(file) as image:
                marks.update(mark for mark in peculiarities(image) if not (applied and mark == "rotated"))
        except Exception:  # reading the whole image later reports the error
            continue
    return describe_marks(marks, preprocessing, "" if looked == number else f"of {looked:,} images inspected, ")


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getbands()[-1]
    if alpha not in ("A", "a"):
        return False
    return bool(np.asarray(image.getchannel(alpha)).min() < 255)
