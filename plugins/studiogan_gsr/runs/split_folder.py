"""Write a data folder with train/ and a balanced valid/ from any folder of images, by hard links or copies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from studiogan_gsr.datasets.images import ImageFiles, balanced
from studiogan_gsr.datasets.layout import Layout
from studiogan_gsr.errors import DataError, RequestError
from studiogan_gsr.progress import console, track
from studiogan_gsr.runs.staging import staged

_SHARE, _MOST = 5, 50  # a fifth of the rarest class's images, at most 50, are held out of each class


def write_split(layout: Layout, out: Path, hold_out: int | None) -> None:
    """Write out/train and out/valid, and print what they hold; nothing in the layout's own folder changes.

    valid/ has equally many images of each class: the first ones of the reference, if there is one, or else `hold_out`
    images chosen at random, which train/ then lacks.
    hold_out: None: a fifth of the rarest class, at most 50 and at least 1; 0 if a class has a single image.
    Raises RequestError if `out` has files, if a class would lose all its images, or if copies do not fit on the disk.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "files there" if out.is_dir() else "a file"
        raise RequestError(f"--split {out}: found {found}; name a new folder, or, if it is done, --data {out} alone")
    if out.resolve().is_relative_to(layout.root.resolve()):
        raise RequestError(f"--split {out}: found a folder in --data {layout.root}; name one outside of it")
    train, reference = layout.training_images(), layout.reference_images()
    if reference is None:
        held = _held_out(train, hold_out)
        parts = [("train", train, sorted({*range(len(train))} - {*held})), ("valid", train, held)]
    elif hold_out is not None:
        raise RequestError(f"--hold-out {hold_out}: {layout.root} has a reference, {layout.reference}/; leave it out")
    elif train.classes != reference.classes:
        differing = ", ".join(sorted({*train.classes} ^ {*reference.classes})[:5])
        raise DataError(f"{layout.root}: {layout.train}/ and {layout.reference}/ differ in the classes {differing}")
    else:
        parts = [("train", train, [*range(len(train))]), ("valid", reference, balanced(reference))]
    linked = _fits(train, out)
    request = {"command": "init", "from": str(layout.root.resolve()), "hold_out": hold_out}
    with staged(out, request) as folder:
        for part, images, places in parts:
            for place in track(places, f"writing {part}/", len(places)):
                # Below the folder of classes: <class>/, and what is below that.
                _put(images.file(place), folder / part / images.where(place).partition("/")[2])
    how = "hard links, which take no space" if linked else "copies"
    console().print(f"{out}: written, {how}; {len(parts[0][2]):,} images in train/, {len(parts[1][2]):,} in valid/")


def _held_out(train: ImageFiles, hold_out: int | None) -> list[int]:
    """Return the indices of the images to hold out, equally many of each class."""
    targets = np.asarray(train.targets)
    counts = np.bincount(targets)
    rarest = int(counts.min())
    number = min(max(rarest // _SHARE, int(rarest > 1)), _MOST) if hold_out is None else hold_out
    if number >= rarest:
        raise RequestError(
            f"--hold-out {number}: class {train.classes[int(counts.argmin())]} has {rarest} images; at most "
            f"{rarest - 1} can be held out of each class"
        )
    stream = np.random.default_rng(0)
    chosen = [stream.permutation(np.flatnonzero(targets == label))[:number] for label in range(len(counts))]
    return sorted(int(place) for places in chosen for place in places)


def _fits(images: ImageFiles, out: Path) -> bool:
    """Return whether files can be linked to `out`; RequestError if they must be copied and do not fit there."""
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    source = os.path.realpath(images.file(0))
    probe = folder / f".{out.name}.{os.getpid()}.probe"
    try:
        os.link(source, probe)
    except OSError:
        needed, free = sum(map(os.path.getsize, map(images.file, range(len(images))))), shutil.disk_usage(folder).free
        if needed > free:
            raise RequestError(
                f"--split {out}: hard links are not possible there, and copies need {needed:,} bytes of {free:,} "
                f"free ones; name a folder on the disk of {images.root}"
            ) from None
        return False
    probe.unlink()
    return True


def _put(source: Path, target: Path) -> None:
    if target.exists():  # written before an interruption
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)  # the image itself, where the data folder has a link
    except OSError:
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.rename(target)
