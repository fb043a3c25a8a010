"""Batches of real images on the training device: from its memory, or prefetched while the model trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from studiogan_gsr.datasets.preprocessing import PECULIARITIES, describe_marks, inspect_files
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.native.pixels import CountedPixels, Pixels, collate
from studiogan_gsr.hosts.native.reader import LIMIT, Reader, workers_explained
from studiogan_gsr.hosts.native.workers import set_up_worker
from studiogan_gsr.machine import cores, free_memory
from studiogan_gsr.progress import track

# Data sets that need more than this share of the device's free memory are streamed.
_SHARE_OF_MEMORY = 0.3
# With fewer images than this, starting workers takes longer than decoding the images.
_WORTH_WORKERS = 4000

Batches = Generator[tuple[Tensor, Tensor], None, None]


class Images(Protocol):
    """Real images, by their index in the data set.  `notes`: messages about them for the user."""

    notes: list[str]

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """Yield images (B, 3, H, W) uint8 and labels (B,), on the device, for every batch of indices (B,)."""
        ...


class InMemory:
    """All images in the memory of the training device, and indexed there."""

    def __init__(self, pixels: Pixels, device: torch.device, workers: int) -> None:
        workers = workers if len(pixels) >= _WORTH_WORKERS and not pixels.decoded else 0
        loader = DataLoader(
            CountedPixels(pixels),
            batch_size=256,
            num_workers=workers,
            collate_fn=collate,
            timeout=LIMIT if workers else 0,
        )
        images = torch.empty(len(pixels), 3, pixels.size, pixels.size, dtype=torch.uint8)
        labels = torch.empty(len(pixels), dtype=torch.int64)
        marks = torch.zeros(len(PECULIARITIES), dtype=torch.int64)
        start = 0
        with workers_explained():
            for batch in track(loader, f"reading {pixels.name}", len(loader)):
                if isinstance(batch, DataError):
                    raise batch
                stop = start + len(batch[0])
                images[start:stop], labels[start:stop], found = map(torch.from_numpy, batch)
                marks += found.sum(0)
                start = stop
        counted = dict(zip(PECULIARITIES, marks.tolist(), strict=True))
        self.notes = describe_marks(counted, pixels.images.preprocessing)
        self.images, self.labels, self.device = images.to(device), labels.to(device), device

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """Yield images and labels of every batch of indices."""
        for indices in batches:
            places = indices.to(self.device, non_blocking=True)
            yield self.images[places], self.labels[places]


class Streamed:
    """Images that are prefetched during training, by worker processes or, with 0 workers, by a thread.

    stopped: returns whether the run has to end; if so, `fetch` waits only a few seconds for the next batch.
    `fetch` raises ImagesLost if a worker dies, or if no batch arrives for LIMIT seconds.
    """

    def __init__(
        self, pixels: Pixels, device: torch.device, workers: int, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.pixels, self.device, self.workers, self.stopped = pixels, device, workers, stopped
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
            reader = Reader(loader, pin=self.device.type == "cuda")
            try:
                while (batch := reader.next(self.stopped, f"images of {self.pixels.name}")) is not None:
                    images, labels = batch
                    yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            finally:
                reader.end()


def load_images(
    pixels: Pixels,
    device: torch.device,
    workers: int,
    in_memory: bool | None,
    stopped: Callable[[], bool] = lambda: False,
) -> Images:
    """Read all images into memory, or prepare to stream them.

    in_memory: None reads them into memory if they need at most _SHARE_OF_MEMORY of what is free.
    stopped: as in `Streamed`.
    Raises DataError for an image that cannot be read or is not of size DATA.img_size; streaming raises it in `fetch`.
    """
    workers = min(workers, cores())
    if in_memory is None:
        in_memory = len(pixels) * 3 * pixels.size**2 <= _SHARE_OF_MEMORY * _free_memory(device)
    return InMemory(pixels, device, workers) if in_memory else Streamed(pixels, device, workers, stopped)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()
