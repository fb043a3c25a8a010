"""Real images: an endless, resumable stream of batches, from the device's memory or from workers.

Which image stands where in the stream, and whether it is mirrored, follows from the seed and the
place alone.  So a run goes on anywhere in the stream, and every rank takes its part of the same
batch, from wherever the images come.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from studiogan_gsr.class_groups import listed
from studiogan_gsr.datasets.by_name import find_dataset, open_images
from studiogan_gsr.datasets.packed import Packed, open_packed, packed_path
from studiogan_gsr.datasets.preprocessing import PECULIARITIES, Prepared, describe_marks, inspect_files
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.native.reader import LIMIT, Reader, workers_explained
from studiogan_gsr.machine import cores, free_memory
from studiogan_gsr.progress import track
from studiogan_gsr.seeds import mixed

# Sets that take more than this share of the free memory are streamed.
_SHARE_OF_MEMORY = 0.3
# Fewer images than this are decoded sooner than workers start.
_WORTH_WORKERS = 4000


@dataclass(frozen=True)
class TrainingSet:
    """Real images to train on: their counts per class, and what a run's record says of them."""

    pixels: Pixels
    class_counts: list[int]
    record: dict[str, Any]
    summary: str


def open_training_set(name: str, root: str, num_classes: int, size: int, resizer: str) -> TrainingSet:
    """The training images that DATA.name means, as squares of `size` pixels.

    A plug-in's set, from its packed file where `studiogan-gsr data prepare` made one; StudioGAN's CIFAR10
    or CIFAR100; or, by any other name, the image folder `root`/train.
    Raises DataError where it is missing, its classes are not DATA.num_classes, or a packed file is not
    what its name says.
    """
    found = find_dataset(name)
    packed = packed_path(root, name, size, resizer)
    use_packed = found is not None and packed.exists()
    dataset = open_packed(packed, name, size, resizer) if use_packed else open_images(name, root, "train")
    prepared = Prepared(dataset, name, size, resizer)
    counts = prepared.class_counts
    if len(counts) != num_classes:
        raise DataError(
            f"DATA.num_classes: found {num_classes}; {name} has {len(counts)} classes, with {listed(counts)} images"
        )
    record = {
        "name": name,
        "plugin": None if found is None else str(found[0].plugin),
        "root": str(Path(root).resolve()),
        "packed": str(dataset.path.resolve()) if isinstance(dataset, Packed) else None,
        **describe(dataset, resizer),
    }
    # Where the images themselves are not at hand, a packed file is all there is; so it is not compared with them.
    source = f" from {dataset.path}" if isinstance(dataset, Packed) else ""
    summary = "; ".join([f"{name}{source}: class counts {listed(counts)}", *record["notes"]])
    return TrainingSet(Pixels(prepared), counts, record, summary)


class Pixels(Dataset[Any]):
    """Images as (uint8 (3, size, size), label).

    A failure is given in place of an image, because errors of worker processes arrive as text.
    """

    def __init__(self, images: Prepared) -> None:
        self.images, self.name, self.size = images, images.name, images.size
        self.decoded = isinstance(images.dataset, Packed)

    def __len__(self) -> int:
        return len(self.images)

    def preload(self) -> None:
        """Let workers share what is decompressed as a whole at the first image, where a set does that."""
        read = getattr(self.images.dataset, "read_pixels", None)
        if read is not None:
            read(0)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        try:
            image, label = self.images.read(index)
        except DataError as error:
            return error
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), label


def _together(items: list[tuple[Any, ...] | DataError]) -> tuple[npt.NDArray[Any], ...] | DataError:
    """A batch as arrays: tensors would reach this process through shared memory, of which a container has little."""
    for item in items:
        if isinstance(item, DataError):
            return item
    images, *numbers = zip(*items, strict=True)
    return np.stack([image.numpy() for image in images]), *map(np.array, numbers)


Batches = Generator[tuple[Tensor, Tensor], None, None]


class Images(Protocol):
    """Real images by their places in the data set."""

    notes: list[str]

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        """For every batch of indices (B,), its images (B, 3, H, W) uint8 and labels (B,), on the device."""
        ...


class _Marked(Dataset[Any]):
    """Images as (uint8 (3, size, size), label, how often each of PECULIARITIES is counted): workers count apart."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, list[int]] | DataError:
        before = self.pixels.images.marks.copy()
        item = self.pixels[index]
        if isinstance(item, DataError):
            return item
        return *item, [self.pixels.images.marks[name] - before[name] for name in PECULIARITIES]


class InMemory:
    """All images on the training device, indexed there.  `notes`: what a user must know of them."""

    def __init__(self, pixels: Pixels, device: torch.device, workers: int) -> None:
        workers = workers if len(pixels) >= _WORTH_WORKERS and not pixels.decoded else 0
        limit = LIMIT if workers else 0
        loader = DataLoader(_Marked(pixels), batch_size=256, num_workers=workers, collate_fn=_together, timeout=limit)
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
        for indices in batches:
            places = indices.to(self.device, non_blocking=True)
            yield self.images[places], self.labels[places]


class Streamed:
    """Images read ahead of the training, by worker processes, or without any by a thread of this one.

    stopped: whether the run is to end; then the next batch is waited for no longer than a moment.
    `notes`: what a user must know of the images.
    Raises ImagesLost where a worker dies, or where no batch comes for minutes.
    """

    def __init__(
        self, pixels: Pixels, device: torch.device, workers: int, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.pixels, self.device, self.workers, self.stopped = pixels, device, workers, stopped
        self.notes = inspect_files(pixels.images.dataset, pixels.images.preprocessing)

    def fetch(self, batches: Iterator[Tensor]) -> Batches:
        loader = DataLoader(
            self.pixels,
            batch_sampler=(indices.tolist() for indices in batches),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            collate_fn=_together,
            worker_init_fn=partial(_undisturbed, os.getpid()),
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


def _undisturbed(run: int, worker: int) -> None:
    """Make a worker end with its run, of process `run`, and leave SIGINT and SIGTERM to it, unless it sends them.

    A terminal or batch system signals all processes, and the run wants its next batches until it has stopped.
    A worker whose run was killed would wait for somebody to read what it has read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread begins: they inherit it
        threading.Thread(target=_end_when_told_by, args=(run,), daemon=True).start()
    if (parent := parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)


def _end_when_told_by(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)


def load_images(
    pixels: Pixels,
    device: torch.device,
    workers: int,
    in_memory: bool | None,
    stopped: Callable[[], bool] = lambda: False,
) -> Images:
    """All in memory, or streamed; None: in memory where they fit well.  stopped: as in `Streamed`.

    DataError for the first image that cannot be read or has another size than DATA.img_size.
    """
    workers = min(workers, cores())
    if in_memory is None:
        in_memory = len(pixels) * 3 * pixels.size**2 <= _SHARE_OF_MEMORY * _free_memory(device)
    return InMemory(pixels, device, workers) if in_memory else Streamed(pixels, device, workers, stopped)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


class ImageStream:
    """Batches (images (B, 3, H, W) float32 in [-1, 1], labels (B,)) without end.

    One shuffled pass over the images follows another.  A batch may span two, so that none is lost and
    a set may be smaller than a batch.  `drawn`: batches so far; `batch_size`: of all ranks together.
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
        self._lock = threading.Lock()  # what reads ahead asks for places, too
        self._fetched = images.fetch(self._indices(drawn))

    def close(self) -> None:
        """End the workers now; left to the garbage collector, they may take their time."""
        self._fetched.close()

    def __iter__(self) -> ImageStream:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        images, labels = next(self._fetched)
        if self.flip:
            _, mirrored = self._places(self.drawn)
            mirrored = mirrored.to(images.device, non_blocking=True)[:, None, None, None]
            images = torch.where(mirrored, images.flip(3), images)
        self.drawn += 1
        # As ToTensor and Normalize(0.5, 0.5) round.
        return images.float().div_(255).sub_(0.5).div_(0.5), labels

    def _indices(self, batch: int) -> Iterator[Tensor]:
        while True:
            yield self._places(batch)[0]
            batch += 1

    def _places(self, batch: int) -> tuple[Tensor, Tensor]:
        """Indices and mirroring of this rank's part of a batch."""
        start = batch * self.batch_size + self._part.start
        places = torch.arange(start, start + self._part.stop - self._part.start)
        first, last = start // self.number, int(places[-1]) // self.number
        with self._lock:
            # Workers fetch ahead of the mirroring: a few passes are in use at a time.
            for old in [p for p in self._passes if p < first - 64 * self.batch_size // self.number - 1]:
                del self._passes[old]
            parts = [self._shuffled(p) for p in range(first, last + 1)]
        offsets = places - first * self.number
        return torch.cat([order for order, _ in parts])[offsets], torch.cat([m for _, m in parts])[offsets]

    def _shuffled(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self._passes:
            stream = torch.Generator().manual_seed(mixed(self.seed, number))
            order = torch.randperm(self.number, generator=stream)
            self._passes[number] = order, torch.rand(self.number, generator=stream) < 0.5
        return self._passes[number]
