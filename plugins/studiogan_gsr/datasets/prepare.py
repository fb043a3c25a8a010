"""Pack a data set by name, for the command `data prepare`."""

from __future__ import annotations

from pathlib import Path

from studiogan_gsr.contract import Dataset
from studiogan_gsr.datasets.by_name import open_named
from studiogan_gsr.datasets.identity import file_of, where
from studiogan_gsr.datasets.pack import pack
from studiogan_gsr.datasets.packed import packed_path
from studiogan_gsr.datasets.preprocessing import Prepared, preprocessing_of
from studiogan_gsr.errors import DataError, reason
from studiogan_gsr.machine import cores
from studiogan_gsr.progress import console


def prepare(
    name: str,
    root: str,
    size: int | None = None,
    split: str = "train",
    resizer: str = "wo_resize",
    workers: int | None = None,
    skip_damaged: bool = False,
) -> Path:
    """Pack a data set into one HDF5 file in `root`, where both hosts find it; return the file's path.

    size: width and height in pixels; None: the shorter side of the first image, only for a set without a resizer.
    resizer: one of RESIZERS; "wo_resize" keeps the data set's own.
    workers: processes; None: one per core.
    skip_damaged: leave out damaged images; if not, the first one is an error.
    Raises ConfigurationError for an unknown name, DataError for missing or damaged data, a full disk, and
    an existing file with other images.
    """
    dataset, options = open_named(name, root, split)
    size = _own_size(dataset, name, resizer) if size is None else size
    prepared = Prepared(dataset, name, size, resizer)
    path = packed_path(root, name, size, resizer, split)
    there = path.exists()
    out = console()
    done = pack(prepared, path, split, options, cores() if workers is None else workers, skip_damaged)
    out.print(
        f"{path}{' is there already' if there else ''}: {done.images} images of {done.size} x {done.size} pixels "
        f"({path.stat().st_size / 1e6:,.1f} MB), {len(done.class_counts)} classes with {max(done.class_counts)} to "
        f"{min(done.class_counts)} images"
    )
    for note in done.notes:
        out.print(f"  {note}")
    for line in done.skipped[:20]:
        out.print(f"    {line}")
    if len(done.skipped) > 20:
        out.print(f"    and {len(done.skipped) - 20} more; all are in the file's index")
    return path


def _own_size(dataset: Dataset, name: str, resizer: str) -> int:
    preprocessing = preprocessing_of(dataset, resizer)
    if preprocessing.resizer != "wo_resize":
        raise DataError(f"{name} is resized ({preprocessing.resizer}): --size N is needed, as in DATA.img_size")
    try:
        image, _ = dataset[0]
        return int(min(image.size))
    except Exception as error:
        raise DataError(
            f"image 0 of {name} ({file_of(dataset, 0) or where(dataset, 0)}) cannot be read: {reason(error)}; give "
            "the size of the images with --size N"
        ) from error
