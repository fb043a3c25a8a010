"""Read HDF5 images that are stored in compressed chunks, as other programs pack them.

Reading one image decompresses its whole chunk, of 500 images for example.  So a set that fits in memory is read
once, chunk by chunk; for a larger one, the most recently used chunks are kept.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studiogan_gsr.machine import free_memory
from studiogan_gsr.progress import track

_SHARE_OF_MEMORY = 0.3
_KEPT_BYTES = 512 * 2**20
# Images of files read whole, kept while in use: a run opens its file several times but decompresses it once.
_READ: weakref.WeakValueDictionary[tuple[str, int, int], npt.NDArray[np.uint8]] = weakref.WeakValueDictionary()


def fits_in_memory(images: Any) -> bool:
    """Return whether an HDF5 data set's decompressed images fit in a share of the free memory, to be read whole."""
    return bool(images.size * images.dtype.itemsize <= _SHARE_OF_MEMORY * free_memory())


def read_whole(path: Path, images: Any) -> npt.NDArray[np.uint8]:
    """Return all images of a file, decompressed once; later calls return the same array while it is in use."""
    status = path.stat()
    key = str(path.resolve()), status.st_mtime_ns, status.st_size
    found = _READ.get(key)
    if found is None:
        rows = images.chunks[0]
        found = np.empty(images.shape, dtype=np.uint8)
        for start in track(range(0, len(images), rows), f"decompressing {path.name}", -(-len(images) // rows)):
            found[start : start + rows] = images[start : start + rows]
        _READ[key] = found
    return found


class Chunks:
    """Images (N, ...) of a data set too large for memory, read by index; the most recently used chunks are kept."""

    def __init__(self, images: Any) -> None:
        self._images, self.shape, self._rows = images, images.shape, images.chunks[0]
        self._kept: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()
        self._most = max(1, _KEPT_BYTES // (self._rows * images[:1].nbytes))

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        chunk, row = divmod(int(index), self._rows)
        if chunk not in self._kept:
            self._kept[chunk] = self._images[chunk * self._rows : (chunk + 1) * self._rows]
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(chunk)
        found: npt.NDArray[np.uint8] = self._kept[chunk][row]
        return found
