"""Measure packing of an image folder into an HDF5 file, by StudioGAN and by us, and loading of images."""

from __future__ import annotations

import hashlib
import resource
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import torch

from benchmarks.speed.hosts import in_a_process
from benchmarks.speed.part import Part
from studiogan_gsr.datasets.folder import class_folders
from studiogan_gsr.datasets.long_tailed import Whole
from studiogan_gsr.datasets.pack import pack
from studiogan_gsr.datasets.packed import packed_path
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.hosts.native.images import load_images
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.stream import ImageStream
from studiogan_gsr.hosts.studiogan.checkout import find_checkout


def packing(data: str, size: int, resizer: str, workers: int, turns: int) -> Part:
    """Time packing of the image folder data/train by StudioGAN's packer and ours, in turns; the files must match."""
    results: dict[str, list[dict[str, Any]]] = {"StudioGAN": [], "ours": []}
    for _ in range(turns):
        for name in results:
            with tempfile.TemporaryDirectory(dir=Path(data)) as folder:
                (Path(folder) / "train").symlink_to((Path(data) / "train").resolve())
                results[name].append(in_a_process("packer", name, folder, str(size), resizer, str(workers)))
    if len({found["pixels"] for runs in results.values() for found in runs}) != 1:
        sys.exit("the packers' files differ")
    images = results["ours"][0]["images"]
    part = Part(f"Packing {images:,} images to {size} pixels ({resizer}), {workers} workers")
    part.columns("packer", "seconds", "images/s", "main process, peak MB", "a worker, peak MB")
    medians = {name: statistics.median(found["seconds"] for found in runs) for name, runs in results.items()}
    for name, runs in results.items():
        peaks = [max(found[key] for found in runs) for key in ("main_mb", "worker_mb")]
        part.row(name, f"{medians[name]:.2f}", f"{images / medians[name]:,.0f}", *(f"{peak:.0f}" for peak in peaks))
    part.ratios["StudioGAN's packer to ours"] = medians["StudioGAN"] / medians["ours"]
    part.note(f"Median of {turns} turns; the files' images and labels are equal.")
    return part


def loading(data: str, size: int, resizer: str, workers: int, batch: int = 64) -> Part:
    """Time what training in the native host waits for: reading all images into memory, then drawing batches."""
    source = class_folders(Path(data), "train", "an image folder")
    images = Prepared(Whole(source, source.classes), "Any", size, resizer)
    begun = time.perf_counter()
    held = load_images(Pixels(images), torch.device("cpu"), workers, in_memory=True)
    taken, batches = time.perf_counter() - begun, 500
    with closing(ImageStream(held, len(images), batch, flip=True, seed=0)) as stream:
        next(stream)
        begun = time.perf_counter()
        for _ in range(batches):
            next(stream)
        drawn = time.perf_counter() - begun
    part = Part(f"Loading {len(images):,} images of {size} pixels in the native host, {workers} workers")
    part.columns("part", "images/s")
    part.row("into memory, once", f"{len(images) / taken:,.0f}")
    part.row(f"batches of {batch}, shuffled and flipped", f"{batches * batch / drawn:,.0f}")
    return part


def packer(name: str, folder: str, size: int, resizer: str, workers: int) -> dict[str, Any]:
    """Pack once in this process; return the seconds (without imports), peak memory, and a digest of the file."""
    path = packed_path(folder, "Any", size, resizer)
    sys.path.insert(0, str(find_checkout(None).source))
    from utils.hdf5 import make_hdf5  # type: ignore[import-not-found]

    start = time.perf_counter()
    if name == "StudioGAN":
        settings = SimpleNamespace(name="Any", num_workers=workers, data_dir=folder)
        make_hdf5("Any", size, True, size, folder, resizer, settings, settings)
    else:
        source = class_folders(Path(folder), "train", "an image folder")
        prepared = Prepared(Whole(source, source.classes), "Any", size, resizer)
        pack(prepared, path, workers=workers)
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        images = len(file["imgs"])
        for begin in range(0, images, 1000):
            digest.update(file["imgs"][begin : begin + 1000].tobytes())
        digest.update(file["labels"][:].tobytes())
    found = {"seconds": seconds, "images": images, "main_mb": peaks[0], "worker_mb": peaks[1]}
    return found | {"pixels": digest.hexdigest()}
