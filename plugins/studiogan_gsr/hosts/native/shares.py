"""Read a whole data set once for all ranks: each rank decodes its share, and gets the rest from the others."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from torch.utils.data import DataLoader

from studiogan_gsr.errors import DataError, GSRError
from studiogan_gsr.hosts.native.pixels import Arrays, CountedPixels, Pixels, collate
from studiogan_gsr.hosts.native.process import Ranks
from studiogan_gsr.hosts.native.reader import Reader, workers_explained
from studiogan_gsr.progress import track

# Images that a rank decodes before the ranks exchange what they have.
_BLOCK = 256
# With fewer images for a rank than this, starting workers takes longer than decoding the images.
_WORTH_WORKERS = 4000


def read_blocks(pixels: Pixels, workers: int, ranks: Ranks) -> Iterator[Arrays]:
    """Yield all images in order, in blocks: images (B, 3, size, size) uint8, labels (B,), marks (B, 3).

    Rank r of n decodes every n-th block from the r-th on.  All ranks have to call this, and to take all blocks.
    marks: those of `CountedPixels`.
    Raises DataError for an image that cannot be read and ImagesLost if a worker is lost, the same on all ranks.
    Raises DataError if the ranks' data sets differ in size.
    """
    number = len(pixels)
    numbers = ranks.gather(number)
    if len(set(numbers)) > 1:
        raise DataError(f"{pixels.name}: found {numbers} images on the ranks; expected: the same images on each")
    blocks = [list(range(start, min(start + _BLOCK, number))) for start in range(0, number, _BLOCK)]
    own = blocks[ranks.rank :: ranks.number]
    workers = workers if sum(map(len, own)) >= _WORTH_WORKERS and not pixels.decoded else 0
    loader = DataLoader(CountedPixels(pixels), batch_sampler=own, num_workers=workers, collate_fn=collate)
    rounds = range(0, len(blocks), ranks.number)
    with closing(_decoded(loader, f"images of {pixels.name}")) as decoded:
        for _ in track(rounds, f"reading {pixels.name}", len(rounds)) if ranks.first else rounds:
            for block in ranks.gather(next(decoded, None)):  # None: this rank has no more
                if isinstance(block, GSRError):
                    raise block
                if block is not None:
                    yield block


def _decoded(loader: DataLoader[Any], what: str) -> Generator[Arrays | GSRError, None, None]:
    """Yield the batches of a loader, and at last the error that ended them, if any."""
    try:
        with workers_explained():
            reader = Reader(loader, lambda batch: batch)
            try:
                while (batch := reader.next(lambda: False, what)) is not None:
                    yield batch
            finally:
                reader.end()
    except GSRError as error:
        yield error
