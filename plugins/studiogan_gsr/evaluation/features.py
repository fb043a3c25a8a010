"""Extract the features of images, once for all metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from studiogan_gsr.contract import Backbone
from studiogan_gsr.errors import EvaluationError
from studiogan_gsr.progress import counting


@dataclass(frozen=True)
class Sample:
    """Images as a backbone sees them: features (N, d) and logits (N, k) float32, labels (N,) int64, on one device.

    logits: None if the backbone gives none.
    seconds: time in the backbone, and total time, of the extraction.
    """

    features: Tensor
    logits: Tensor | None
    labels: Tensor
    seconds: tuple[float, float] = (0.0, 0.0)

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, labels: list[int]) -> Sample:
        """Return the images of these classes."""
        return self.rows(torch.isin(self.labels, torch.tensor(labels, device=self.labels.device)))

    def rows(self, chosen: Tensor) -> Sample:
        """Return the images at these indices, or where a mask is true."""
        logits = None if self.logits is None else self.logits[chosen]
        return Sample(self.features[chosen], logits, self.labels[chosen])

    def to(self, device: torch.device) -> Sample:
        """Return the sample on another device."""
        logits = None if self.logits is None else self.logits.to(device)
        return Sample(self.features.to(device), logits, self.labels.to(device), self.seconds)

    def halves(self) -> tuple[Tensor, Tensor]:
        """Split the images at random, always in the same way: return the indices of half of each class, and the rest.

        The first half is rounded down, so a class with one image is in the second only.
        """
        first = torch.zeros(len(self), dtype=torch.bool)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        for label in self.labels.unique():  # type: ignore[no-untyped-call]
            places = order[self.labels[order] == label]
            first[places[: len(places) // 2]] = True
        return first.nonzero().flatten(), (~first).nonzero().flatten()


@torch.inference_mode()
def extract(backbone: Backbone, batches: Iterable[tuple[Tensor, Tensor]], total: int, what: str) -> Sample:
    """Extract features from batches of uint8 images (B, 3, H, W) and labels (B,); return them on the CPU.

    total: expected number of images.  what: a name for the progress bar and error messages.
    Raises EvaluationError if there are fewer images than `total`, if features or logits are not finite, or if only
    some batches have logits.
    """
    begun, inside, filled = time.perf_counter(), 0.0, 0
    features = labels = torch.empty(0)
    logits: Tensor | None = None
    with counting(what, total) as advance:
        for images, of_images in batches:
            start = time.perf_counter()
            found, scores = backbone(images)
            found, scores = found.cpu(), None if scores is None else scores.cpu()  # waits for the device
            inside += time.perf_counter() - start
            if not filled:
                features, labels = torch.empty(total, found.shape[1]), torch.empty(total, dtype=torch.int64)
                logits = None if scores is None else torch.empty(total, scores.shape[1])
            part = slice(filled, filled + len(found))
            features[part], labels[part] = found, of_images.cpu()
            if (logits is None) != (scores is None):
                raise EvaluationError(f"{what}: the backbone gives class logits for some batches and not for others")
            if logits is not None and scores is not None:
                logits[part] = scores
            filled += len(found)
            advance(len(found))
    if filled != total:
        raise EvaluationError(f"{what}: found {filled} images where {total} were expected")
    if not all(bool(values.isfinite().all()) for values in (features, logits) if values is not None):
        raise EvaluationError(f"{what}: features are not finite")
    return Sample(features, logits, labels, (inside, time.perf_counter() - begun))
