"""Batches of real images on the training device: from its memory, or prefetched while the model trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from studiogan_gsr.datasets.preprocessing import PECULIARITIES, describe_marks, inspect_files
from studiogan_gsr.hosts.native.pixels import Pixels, collate
from studiogan_gsr.hosts.native.process import Ranks
from studiogan_gsr.hosts.native.reader import Reader, workers_explained
from studiogan_gsr.hosts.native.shares import read_blocks
from studiogan_gsr.hosts.native.transfer import Transfer
from studiogan_gsr.hosts.native.workers import set_up_worker
from studiogan_gsr.machine import cores, free_memory

# Data sets that need more than this share of the device's free memory are streamed.
_SHARE_OF_MEMORY = 0.3

Batches = Generator[tuple[Tensor, Tensor], None, None]


class Images(Protocol):
    """Real images, by their index in the data set.

    notes: messages about them for the user.  index_device: where `fetch` expects indices.
    """

    notes: list[str]
    index_device: torch.device

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """Yield images (B, 3, H, W) uint8 and labels (B,), on the training device, for each batch of indices (B,)."""
        ...


class InMemory:
    """All images in the memory of the training device, and indexed there.

    Of several ranks, each decodes its share; all have to call this, and each holds all images.
    Raises what `read_blocks` raises.
    """

    def __init__(self, pixels: Pixels, device: torch.device, workers: int, ranks: Ranks | None = None) -> None:
        self.device = self.index_device = device
        self.images = torch.empty(len(pixels), 3, pixels.size, pixels.size, dtype=torch.uint8, device=device)
        self.labels = torch.empty(len(pixels), dtype=torch.int64, device=device)
        marks, start = np.zeros(len(PECULIARITIES), dtype=np.int64), 0
        for images, labels, found in read_blocks(pixels, workers, ranks or Ranks(0, 1, device)):
            stop = start + len(images)
            self.images[start:stop] = torch.from_numpy(images)
            self.labels[start:stop] = torch.from_numpy(labels)
            marks += found.sum(0)
            start = stop
        counted = dict(zip(PECULIARITIES, marks.tolist(), strict=True))
        self.notes = describe_marks(counted, pixels.images.preprocessing)

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """Yield images and labels of every batch of indices, without waiting for the device."""
        for indices in batches:
            yield self.images.index_select(0, indices), self.labels.index_select(0, indices)


class Streamed:
    """Images that are prefetched during training, by worker processes or, with 0 workers, by a thread.

    stopped: returns whether the run has to end; if so, `fetch` waits only a few seconds for the next batch.
    `fetch` raises ImagesLost if a worker dies, or if no batch arrives for LIMIT seconds.
    """

    def __init__(
        self, pixels: Pixels, device: torch.device, workers: int, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.pixels, self.device, self.workers, self.stopped = pixels, device, workers, stopped
        self.index_device = torch.device("cpu")
        self.notes = inspect_files(pixels.images.dataset, pixels.images.preprocessing)

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """Yield images and labels of every batch of indices."""
        loader = DataLoader(
            self.pixels,
            batch_sampler=(indices.tolist() for indices in batches),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            collate_fn=collate,
            worker_init_fn=partial(set_up_worker, os.getpid()),
        )
        if self.workers:
            self.pixels.preload()
        with workers_explained():
            transfer = Transfer(self.device)
            reader = Reader(loader, transfer.send)  # the next batches are copied before they are asked for
            try:
                while (sent := reader.next(self.stopped, f"images of {self.pixels.name}")) is not None:
                    yield transfer.receive(sent)
            finally:
                reader.end()


def load_images(
    pixels: Pixels,
    device: torch.device,
    workers: int,
    in_memory: bool | None,
    stopped: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> Images:
    """Read all images into memory, or prepare to stream them.  All ranks have to call this.

    in_memory: None reads them into memory if they need at most _SHARE_OF_MEMORY of what is free, on all ranks.
    stopped: as in `Streamed`.  ranks: None means that there is one.
    Raises DataError for an image that cannot be read or is not of size DATA.img_size; streaming raises it in `fetch`.
    """
    workers, ranks = min(workers, cores()), ranks or Ranks(0, 1, device)
    if in_memory is None:
        in_memory = not ranks.any(len(pixels) * 3 * pixels.size**2 > _SHARE_OF_MEMORY * _free_memory(device))
    return InMemory(pixels, device, workers, ranks) if in_memory else Streamed(pixels, device, workers, stopped)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()
