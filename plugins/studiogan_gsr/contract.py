"""What a plug-in is: the objects that the factories of the three entry-point groups give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # data sets are read and counted without torch
    from PIL import Image
    from torch import Tensor


class Regularizer(Protocol):
    """What a factory of the entry-point group `studiogan.regularizers` gives."""

    def penalty(self) -> Tensor:
        """Return a scalar with gradient to the generator's parameters."""
        ...

    def scalars(self) -> dict[str, float]:
        """Return numbers to log, of the last penalty; may wait for the device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors and plain data."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Restore what `state_dict` returned."""
        ...


class MapStyle(Protocol):
    """Images by index, as torchvision's data sets and PyTorch's Subset and ConcatDataset give them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class Labelled(MapStyle, Protocol):
    """Images whose labels are known without reading them.  `targets`: the label of every image."""

    @property
    def targets(self) -> Sequence[int]: ...


class Dataset(Labelled, Protocol):
    """What a factory of the entry-point group `studiogan.datasets` gives.

    class_counts: images per class, in label order.  classes: names of the classes.

    A data set may also have
        notes             lines that a reader of its numbers must know
        preprocessing     a `Preprocessing`: how its images become squares
        published_split   True for a reference that others chose: its faults are notes and no errors
        file(i)           the file of an image; where(i): its path or key in the data set
        read_pixels(i)    its bytes, uint8 (H, W, 3), or None
        stamp(i)          size and time of the last change of what holds it
    """

    @property
    def class_counts(self) -> Sequence[int]: ...

    @property
    def classes(self) -> Sequence[str]: ...


class Backbone(Protocol):
    """What a factory of the entry-point group `studiogan.backbones` gives for a device.

    column: what a Frechet distance in its features is called: "FID" for the one network that this means.
    digest: identifies everything that determines the features: weights, resizing, layer.
    """

    column: str
    digest: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, d) and class logits (N, k), float32, of uint8 images (N, 3, H, W) on the device."""
        ...


def missing_methods(regularizer: object) -> list[str]:
    """Return the names of the methods that an object is missing to be a regularizer."""
    expected = ("penalty", "scalars", "state_dict", "load_state_dict")
    return [f"{name}()" for name in expected if not callable(getattr(regularizer, name, None))]
