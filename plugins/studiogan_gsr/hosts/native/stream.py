"""An endless, resumable stream of batches of real images.

The seed and the number of a batch determine its images, and which of them are mirrored.  So a run can resume at any
batch, and each rank takes its part of the same batch.  Images in memory and streamed images give equal batches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from studiogan_gsr.hosts.native.images import Images
from studiogan_gsr.seeds import mixed


class ImageStream:
    """Endless iterator over batches of this rank: (images (B, 3, H, W) float32 in [-1, 1], labels (B,)).

    One shuffled pass over the images follows another.  A batch may span several passes, so no image is left out, and
    a data set may be smaller than a batch.

    number: how many images there are.  batch_size: images per batch on all ranks together; B is batch_size / ranks.
    flip: mirror each image with probability 1/2.  drawn: batches drawn so far; the first batch has this number.
    """

    def __init__(
        self,
        images: Images,
        number: int,
        batch_size: int,
        flip: bool,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        drawn: int = 0,
    ) -> None:
        self.number, self.batch_size, self.flip, self.seed = number, batch_size, flip, seed
        self.drawn = drawn
        part = batch_size // ranks
        self._part = slice(rank * part, (rank + 1) * part)
        self._passes: dict[int, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()  # the reader's thread calls _draw, too
        self._fetched = images.fetch(self._indices(drawn))

    def close(self) -> None:
        """End the workers now.  Without this, the garbage collector would end them, maybe much later."""
        self._fetched.close()

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        images, labels = next(self._fetched)
        if self.flip:
            _, mirrored = self._draw(self.drawn)
            mirrored = mirrored.to(images.device, non_blocking=True)[:, None, None, None]
            images = torch.where(mirrored, images.flip(3), images)
        self.drawn += 1
        # Rounds as ToTensor and Normalize(0.5, 0.5) do.
        return images.float().div_(255).sub_(0.5).div_(0.5), labels

    def _indices(self, batch: int) -> Iterator[Tensor]:
        """Yield the indices of a batch and of all that follow it."""
        while True:
            yield self._draw(batch)[0]
            batch += 1

    def _draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the image indices of this rank's part of a batch, and which of them are mirrored."""
        start = batch * self.batch_size + self._part.start
        places = torch.arange(start, start + self._part.stop - self._part.start)
        first, last = start // self.number, int(places[-1]) // self.number
        with self._lock:
            # Workers fetch batches ahead of `__next__`, so the passes of the last 64 batches are kept.
            for old in [p for p in self._passes if p < first - 64 * self.batch_size // self.number - 1]:
                del self._passes[old]
            parts = [self._pass(p) for p in range(first, last + 1)]
        offsets = places - first * self.number
        if len(parts) == 1:  # most batches; the whole pass is not copied for them
            order, mirrored = parts[0]
        else:
            order, mirrored = (torch.cat(whole) for whole in zip(*parts, strict=True))
        return order[offsets], mirrored[offsets]

    def _pass(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the order of all images in one pass, and which of them are mirrored."""
        if number not in self._passes:
            stream = torch.Generator().manual_seed(mixed(self.seed, number))
            order = torch.randperm(self.number, generator=stream)
            self._passes[number] = order, torch.rand(self.number, generator=stream) < 0.5
        return self._passes[number]
