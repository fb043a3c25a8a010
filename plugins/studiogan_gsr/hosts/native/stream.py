"""An endless, resumable stream of batches of real images.

The seed and the number of a batch determine its images, and which of them are mirrored.  So a run can resume at any
batch, and each rank takes its part of the same batch.  Images in memory and streamed images give equal batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from studiogan_gsr.hosts.native.images import Images
from studiogan_gsr.hosts.native.transfer import to_device
from studiogan_gsr.seeds import mixed


class ImageStream:
    """Endless iterator over batches of this rank: (images (B, 3, H, W) float32 in [-1, 1], labels (B,)).

    One shuffled pass over the images follows another.  A batch may span several passes, so no image is left out, and
    a data set may be smaller than a batch.

    number: how many images there are.  Their width W is a multiple of 8 pixels.
    batch_size: images per batch on all ranks together; B is batch_size / ranks.
    flip: mirror each image with probability 1/2.
    drawn: batches drawn so far; the first batch has this number.
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
        self._size = batch_size // ranks  # of this rank's part of a batch
        self._rank = rank
        self._device = images.index_device
        self._passes: dict[int, tuple[Tensor, Tensor]] = {}
        # Streamed images are read ahead, in another thread: which images of the batches since `drawn` are mirrored.
        self._mirrored: deque[Tensor] = deque()
        self._fetched = images.fetch(self._indices(drawn))

    def close(self) -> None:
        """End the workers now.  Without this, the garbage collector would end them, maybe much later."""
        self._fetched.close()

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        images, labels = next(self._fetched)
        mirrored = self._mirrored.popleft()
        if self.flip:
            mirrored = to_device(mirrored, images.device)[:, None, None, None]
            # Eight pixels at a time, as one integer.
            images = torch.where(mirrored, images.flip(3).view(torch.int64), images.view(torch.int64))
            images = images.view(torch.uint8)
        self.drawn += 1
        # Rounds as ToTensor and Normalize(0.5, 0.5) do, (x / 255 - 0.5) / 0.5, because doubling is exact; on a
        # GPU, which multiplies by the reciprocal, the last bit may differ.
        return images.div(127.5).sub_(1), labels

    def _indices(self, batch: int) -> Iterator[Tensor]:
        """Yield the indices of this rank's part of a batch, and of all that follow it."""
        while True:
            order, mirrored = self._draw(batch)
            self._mirrored.append(mirrored)
            yield order
            batch += 1

    def _draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the image indices of this rank's part of a batch, and which of them are mirrored."""
        start = batch * self.batch_size + self._rank * self._size
        numbers = range(start // self.number, (start + self._size - 1) // self.number + 1)
        self._passes = {number: self._passes.get(number) or self._pass(number) for number in numbers}
        parts = []
        for number, drawn in self._passes.items():
            first = start - number * self.number  # the batch's first place in this pass, maybe before it
            parts.append([tensor[max(0, first) : first + self._size] for tensor in drawn])
        order, mirrored = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return order, mirrored

    def _pass(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the order of all images in one pass, and which of them are mirrored, where images are indexed."""
        stream = torch.Generator().manual_seed(mixed(self.seed, number))
        order = torch.randperm(self.number, generator=stream)
        mirrored = torch.rand(self.number, generator=stream) < 0.5
        return to_device(order, self._device), to_device(mirrored, self._device)
