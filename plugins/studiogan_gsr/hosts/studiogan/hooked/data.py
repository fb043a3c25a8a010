"""Hooks on StudioGAN's data sets: use a plug-in's images, and pack HDF5 files completely or not at all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studiogan_gsr.class_groups import listed
from studiogan_gsr.datasets.by_name import find_dataset, make_dataset
from studiogan_gsr.datasets.folder import class_folders, differences
from studiogan_gsr.datasets.images import check_reference, is_checked
from studiogan_gsr.datasets.pack import check_unindexed, pack
from studiogan_gsr.datasets.packed import Packed, open_packed, packed_path
from studiogan_gsr.datasets.preprocessing import STUDIOGAN, Prepared, Preprocessing, inspect_files
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DataError, TrainingError, in_one_line, reason
from studiogan_gsr.hosts.checkpoint_files import networks_of, whole_steps
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun, say
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.types import Original, Section, StudioGANDataset, Worker
from studiogan_gsr.registry import LoadedPlugin

_MAKE_HDF5 = ("name", "img_size", "resize_size", "data_dir", "resizer", "DATA", "RUN")


class DataHooks:
    """Hooks on `Dataset_`, on packing into HDF5, and on batches."""

    def __init__(self, run: HookedRun) -> None:
        self.run = run

    def surfaces(self) -> list[Surface]:
        """Return the functions to wrap, with their hooks."""
        return [
            Surface("data_util", "Dataset_.__init__", ("resize_size", "resizer", "hdf5_path"), self.prepare),
            Surface("data_util", "Dataset_.load_dataset", ("self",), self.load),
            Surface("utils.hdf5", "make_hdf5", _MAKE_HDF5, self.make_hdf5),
            Surface("worker", "WORKER.sample_data_basket", ("self",), self.sample),
        ]

    def prepare(self, original: Original, images: StudioGANDataset, **arguments: Any) -> None:
        """Store the size and resizer of a `Dataset_`: `load`, which `original` calls, needs them."""
        images.gsr_preparation = arguments["resize_size"], arguments["resizer"] or "wo_resize"
        original(images, **arguments)

    def load(self, original: Original, images: StudioGANDataset) -> None:
        """Load a plug-in's images if `Dataset_` has a plug-in's name; store the training set in the run."""
        name = str(images.data_name)
        found = find_dataset(name)
        if images.hdf5_path is not None:
            packed = Packed(images.hdf5_path) if found is None else open_packed(images.hdf5_path, name)
            if packed.index is not None:
                say(f"{packed.path}: {_description(packed)}")
            original(images)
        elif found is None:
            original(images)
            _say_differences(images)
        else:
            size, resizer = images.gsr_preparation
            split = "train" if images.train else "reference"
            dataset = make_dataset(found[0], images.data_dir, split, found[1])
            say(f"{name}, {split}: {_description(dataset, resizer)}")
            images.data = dataset if size is None else Prepared(dataset, name, size, resizer)
        if not images.train:
            self._check_reference(images, found)
        # A rank trains on the first training set that it opens; evaluation may open another.
        if images.train and self.run.training_set is None:
            self.run.training_set = images

    def _check_reference(self, images: StudioGANDataset, found: tuple[LoadedPlugin, dict[str, Any]] | None) -> None:
        """Raise DataError for reference images that are also training images; print notes about the reference.

        A plug-in's reference images also have to be balanced.  Both faults of a published split are only notes.
        """
        if is_checked(images.data):
            return
        training, train = self.run.training_set, None
        if training is not None and training.hdf5_path is None:
            train = training.data
        elif found is not None:
            train = make_dataset(found[0], images.data_dir, "train", found[1])
        elif hasattr(images.data, "samples") and (Path(images.data_dir) / "train").is_dir():
            train = class_folders(Path(images.data_dir), "train", str(images.data_name))
        if isinstance(images.data, Prepared) and train is not None and not isinstance(train, Prepared):
            train = Prepared(train, images.data.name, images.data.size, images.gsr_preparation[1])
        for note in check_reference(train, images.data, str(images.data_name), plugin=found is not None):
            say(f"{images.data_name}, reference: {note}")

    def make_hdf5(
        self,
        original: Original,
        name: str,
        img_size: int,
        resize_size: int | None,
        resizer: str,
        data_dir: str,
        DATA: Section,
        RUN: Section,
        **others: Any,
    ) -> Any:
        """Pack a file completely or not at all; check an existing file before it is used.

        StudioGAN itself writes in place, and takes any existing file for a complete one.
        """
        path = packed_path(data_dir, name, img_size, resizer)
        if resize_size is None:
            path = path.with_name(f"{name}_{img_size}_train.hdf5")
        found = find_dataset(name)
        if path.exists() and (found is not None or Packed(path).index is not None):
            open_packed(path, name, img_size, resizer)
            return str(path), False, None
        try:
            images = import_module("data_util").Dataset_(
                data_name=name,
                data_dir=data_dir,
                train=True,
                resize_size=resize_size,
                resizer=resizer,
                normalize=False,
                **others,
            )
        except Exception as error:
            if found is not None or not path.exists():
                raise
            say(f"{path} is not compared with its images, as they cannot be opened: {reason(error)}")
            return str(path), False, None
        if found is not None:
            check_data(images, name, DATA)
        self.run.training_set = None  # the run trains on the packed file, which is opened later
        plain = images.data
        prepared = plain if isinstance(plain, Prepared) else Prepared(plain, name, img_size, resizer)
        if path.exists():
            check_unindexed(path, prepared)
        else:
            pack(prepared, path, "train", found[1] if found else {}, RUN.num_workers)
        return str(path), False, None

    def sample(self, original: Original, worker: Worker) -> Any:
        """Turn an image that cannot be read into a TrainingError that names the checkpoint to resume from."""
        try:
            return original(worker)
        except DataError as error:
            # Without -ckpt, StudioGAN sets ckpt_dir on rank 0 only, to this folder.
            usual = Path(worker.RUN.save_dir) / "checkpoints" / worker.run_name
            remedy, folder = "there is no checkpoint yet", Path(worker.RUN.ckpt_dir or usual)
            networks = networks_of(worker.MODEL.apply_g_ema)
            if steps := whole_steps(folder, "current", networks):
                remedy = f"-ckpt {folder} resumes from step {max(steps)}"
            raise TrainingError(f"{in_one_line(error).text}; repair or remove it; {remedy}") from error


def check_data(images: StudioGANDataset, name: str, DATA: Section) -> list[int]:
    """Return the class counts of a `Dataset_`; raise DataError if classes or image size contradict DATA."""
    counts = class_counts(images)
    if len(counts) != DATA.num_classes:
        raise DataError(
            f"DATA.num_classes: found {DATA.num_classes}; {name} has {len(counts)} classes (images: "
            f"{listed(counts, class_names(images))}); write num_classes: {len(counts)}"
        )
    with torch.random.fork_rng(devices=[]):  # the random flip draws a number
        image, _ = images[0]
    if tuple(image.shape[-2:]) != (DATA.img_size, DATA.img_size):
        raise DataError(
            f"DATA.img_size: found {DATA.img_size}; the images of {name} are {image.shape[-1]} x "
            f"{image.shape[-2]} pixels (--pre_resizer resizes them)"
        )
    return counts


def class_counts(images: StudioGANDataset) -> list[int]:
    """Return the images per class of a `Dataset_`; raise DataError if they are unknown."""
    if images is None:
        raise DataError("no training set was opened to read the class counts from")
    if images.hdf5_path is not None:
        return Packed(images.hdf5_path).class_counts
    if hasattr(images.data, "class_counts"):
        return [int(n) for n in images.data.class_counts]
    targets = getattr(images.data, "targets", None)
    if targets is None:
        raise DataError(f"{images.data_name}: {type(images.data).__name__} has neither class_counts nor targets")
    counts: list[int] = np.bincount(np.asarray(targets, dtype=np.int64)).tolist()
    return counts


def class_names(images: StudioGANDataset) -> list[str]:
    """Return the names of a `Dataset_`'s classes, in label order; the labels as text if it has no names."""
    number = len(class_counts(images))
    source = images.data if images.hdf5_path is None else Packed(images.hdf5_path)
    names = list(getattr(source, "classes", ()))
    return [str(name) for name in (names if len(names) == number else range(number))]


def _say_differences(images: StudioGANDataset) -> None:
    """Print how the images that StudioGAN finds in a folder differ from `Folder_LT`'s, and notes about the files."""
    if not hasattr(images.data, "samples"):  # CIFAR has no image files
        return
    folder = Path(images.data.root)
    found = differences(folder.parent, folder.name, (path for path, _ in images.data.samples))
    for line in [*found, *inspect_files(images.data, STUDIOGAN)]:
        say(f"{images.data_name}, {'train' if images.train else 'reference'}: {line}")


def _description(dataset: Any, resizer: str = "wo_resize") -> str:
    """Return one line that describes a run's images, with the facts that the native host records."""
    found = describe(dataset, resizer)
    preprocessing = Preprocessing(**found["preprocessing"])
    head = "balanced" if found["head_class"] is None else f"head class {found['head_class']}"
    facts = f"{len(dataset.targets)} images, {head}, {preprocessing}"
    notes = [*found["notes"], *inspect_files(dataset, preprocessing)]
    return "; ".join([f"{facts}; images_sha256 {found['images_sha256']}", *notes])
