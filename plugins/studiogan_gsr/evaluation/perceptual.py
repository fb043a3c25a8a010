"""Intra-class LPIPS (Zhang et al. 2018, Ojha et al. 2021): how different two images of a class look, on average.

Computed by the package `lpips`, if it is installed, with AlexNet, at the images' own size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studiogan_gsr.errors import WeightsError, reason

IMAGES = 20  # per class, at most; all their pairs are compared
_BATCH = 256  # pairs


class Perceptual:
    """The network of LPIPS.  Raises WeightsError if the package or its weights are not available."""

    def __init__(self, device: torch.device) -> None:
        if not installed():
            raise WeightsError("LPIPS needs the package lpips: pip install lpips")
        import lpips

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchvision deprecates how lpips loads its weights
                network = lpips.LPIPS(net="alex", verbose=False)
        except Exception as error:
            raise WeightsError(
                f"LPIPS needs torchvision's AlexNet, which is not available ({reason(error)}); put "
                f"{weights_path().name} into {weights_path().parent}, or leave LPIPS out with --no-lpips"
            ) from error
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = device
        self.record = {"package": f"lpips {version('lpips')}", "network": "alex", "images_of_a_class": IMAGES}

    @torch.inference_mode()
    def mean_distance(self, images: Tensor) -> float | None:
        """Return the mean distance over all pairs of uint8 images (N, 3, H, W); None for fewer than two."""
        if len(images) < 2:
            return None
        scaled = images.to(self.device).float() / 127.5 - 1
        pairs = torch.triu_indices(len(images), len(images), 1, device=self.device)
        found = [self.network(scaled[a], scaled[b]).flatten() for a, b in torch.split(pairs, _BATCH, 1)]
        return float(torch.cat(found).double().mean())

    def by_class(self, images: Iterable[Tensor]) -> list[float | None]:
        """Return the `mean_distance` of each class."""
        return [self.mean_distance(some) for some in images]


def weights_path() -> Path:
    """Return where torchvision keeps the weights of AlexNet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


def installed() -> bool:
    """Return whether the package is installed."""
    return find_spec("lpips") is not None


class Album:
    """Collects the first IMAGES images of each class; iterating yields uint8 (N, 3, H, W) per class, on the CPU."""

    def __init__(self, classes: int) -> None:
        self._kept: list[list[Tensor]] = [[] for _ in range(classes)]

    def watching(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches (images, labels) unchanged, and collect from them."""
        for images, labels in batches:
            self.keep(images, labels.tolist())
            yield images, labels

    def wants(self, label: int) -> bool:
        """Return whether more images of a class are needed."""
        return len(self._kept[label]) < IMAGES

    def keep(self, images: Tensor, labels: Sequence[int]) -> None:
        """Collect the images (N, 3, H, W) whose classes need more."""
        for image, label in zip(images, labels, strict=True):
            if self.wants(label):
                self._kept[label].append(image.cpu().clone())  # a view would keep the whole batch in memory

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.stack(some) if some else torch.empty(0) for some in self._kept)


def add_to(measured: dict[str, Any], distances: Sequence[float | None], of_groups: dict[str, list[int]]) -> None:
    """Add "lpips" to the result of `measure`: each class's distance, and the means over all classes and per group.

    distances: per class, None for fewer than two images; such classes are left out of the means.
    of_groups: labels of each group, by name.
    """

    def mean(labels: Iterable[int]) -> float | None:
        given = [value for label in labels if (value := distances[label]) is not None]
        return sum(given) / len(given) if given else None

    measured["all"]["lpips"] = mean(range(len(distances)))
    for name, values in measured["groups"].items():
        values["lpips"] = mean(of_groups[name])
    for label, values in enumerate(measured["classes"]):
        values["lpips"] = distances[label]
