"""The interfaces of plug-ins: what the factories of the three entry-point groups must return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # data sets do not need torch
    from PIL import Image
    from torch import Tensor


class Regularizer(Protocol):
    """What a factory of the entry-point group `studiogan.regularizers` returns."""

    def penalty(self) -> Tensor:
        """Return a scalar tensor that is differentiable in the generator's parameters."""
        ...

    def scalars(self) -> dict[str, float]:
        """Return numbers to log about the last penalty; may synchronize with the device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors and plain data."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Restore what `state_dict` returned."""
        ...


class MapStyle(Protocol):
    """A map-style data set of (image, label), such as torchvision's, or a PyTorch Subset or ConcatDataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class Labelled(MapStyle, Protocol):
    """A map-style data set whose labels are known without reading images.  `targets`: the label of each image."""

    @property
    def targets(self) -> Sequence[int]: ...


class Dataset(Labelled, Protocol):
    """What a factory of the entry-point group `studiogan.datasets` returns.

    class_counts: images per class, in label order.  classes: names of the classes.

    A data set may also have
        notes             remarks to show with all results
        preprocessing     a `Preprocessing`: how its images become squares
        published_split   True for a reference that its authors published: its faults become notes, not errors
        file(i)           the file of image i
        where(i)          the path or key of image i in the data set
        read_pixels(i)    the pixels of image i, uint8 (H, W, 3); None if it is stored as a file
        stamp(i)          size (bytes) and modification time (ns) of what stores image i
    """

    @property
    def class_counts(self) -> Sequence[int]: ...

    @property
    def classes(self) -> Sequence[str]: ...


class Backbone(Protocol):
    """What a factory of the entry-point group `studiogan.backbones` returns for a device.

    column: the name of the Frechet distance in its features; only the original Inception network's is "FID".
    digest: identifies everything that determines the features: weights, resizing, layer.
    """

    column: str
    digest: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, d) and class logits (N, k), float32, of uint8 images (N, 3, H, W) on the device."""
        ...


def missing_methods(regularizer: object) -> list[str]:
    """Return the methods of `Regularizer` that an object lacks, such as "penalty()"."""
    expected = ("penalty", "scalars", "state_dict", "load_state_dict")
    return [f"{name}()" for name in expected if not callable(getattr(regularizer, name, None))]
