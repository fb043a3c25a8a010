"""The records beside StudioGAN's checkpoints: config.yaml and run.json, which `evaluate` and other commands read."""

from __future__ import annotations

import functools
import json
import os
import time
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.checkpoint_files import KEEP_VARIABLE
from studiogan_gsr.hosts.class_norms import ClassNorms
from studiogan_gsr.hosts.keys import KEYS
from studiogan_gsr.hosts.regularization.plugins import with_all_options
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.hosts.studiogan.hooked.data import class_counts, class_names
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun, number_of_ranks, settings_of
from studiogan_gsr.hosts.studiogan.types import StudioGANDataset, Worker
from studiogan_gsr.machine import device_name, versions
from studiogan_gsr.settings import SECTION, regularizer_section


def write_records(run: HookedRun, worker: Worker, folder: Path) -> None:
    """Write config.yaml and run.json into the checkpoint's folder, and into $STUDIOGAN_KEEP if it is set."""
    copies = os.environ.get(KEEP_VARIABLE)
    sections, record = _sections(worker), _record(run, worker, folder)
    for where in [folder, *([Path(copies)] if copies else [])]:
        where.mkdir(parents=True, exist_ok=True)
        write_atomically(where / "config.yaml", yaml.safe_dump(sections, sort_keys=False))
        write_atomically(where / "run.json", json.dumps(record) + "\n")


def watch_norms(run: HookedRun, generator: nn.Module) -> ClassNorms:
    """Start to track each class's spectral norms, and return the tracker.

    Called after the first step, or when a checkpoint is loaded.
    """
    own = None if run.regularization is None else run.regularization.read_norms
    run.norms = ClassNorms(generator, class_names(run.training_set), own)
    return run.norms


def _sections(worker: Worker) -> dict[str, Any]:
    """Return the sections of the run's configuration, as they would be in a YAML file."""
    theirs = worker.cfgs.super_cfgs
    sections: dict[str, Any] = {
        name: {key: vars(theirs[name])[key] for key in keys if hasattr(theirs[name], key)}
        for name, keys in KEYS.items()
        if name in theirs
    }
    if settings := settings_of(worker.cfgs):
        sections = with_all_options({**sections, SECTION: regularizer_section(settings)})
    if worker.RUN.distributed_data_parallel:  # StudioGAN has divided it by the number of ranks
        sections["OPTIMIZATION"]["batch_size"] *= worker.OPTIMIZATION.world_size
    return sections


def _record(run: HookedRun, worker: Worker, folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": worker.DATA.name,
        "root": str(Path(worker.RUN.data_dir).resolve()),
        "preprocessing": {"resizer": worker.RUN.pre_resizer},
    }
    if run.training_set is not None:
        data |= _describe_images(run.training_set)
    return {
        "host": "studiogan",
        "checkout": _checkout(),
        "seed": worker.RUN.seed,
        "starts": [*_earlier_starts(run, folder), _this_start(run)],
        "ranks": number_of_ranks(),
        "regularizers": _regularizers(run),
        "data": data,
    }


def _regularizers(run: HookedRun) -> list[dict[str, Any]]:
    regularization = run.regularization
    if regularization is None:
        return []
    return [
        {**record, "acted": method.active}
        for record, method in zip(regularization.records(), regularization.methods, strict=True)
    ]


def _this_start(run: HookedRun) -> dict[str, Any]:
    step, began = run.began or (0, time.time())
    origin = {} if run.origin is None else {"checkpoint": str(run.origin[0]), "checkpoint_step": run.origin[1]}
    digest = None if run.training_set is None else _describe_images(run.training_set).get("images_sha256")
    return {
        "step": step,
        "time": datetime.fromtimestamp(began, timezone.utc).isoformat(),
        "seconds": round(time.time() - began, 3),
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "versions": versions(),
        "images_sha256": digest,
        **origin,
    }


def _earlier_starts(run: HookedRun, folder: Path) -> list[dict[str, Any]]:
    """Return the starts in run.json that began before the first step of this process."""
    path, here = folder / "run.json", _this_start(run)["step"]
    before = json.loads(path.read_text()).get("starts", []) if path.is_file() else []
    return [start for start in before if start["step"] < here]


@functools.cache
def _describe_images(images: StudioGANDataset) -> dict[str, Any]:
    """Return what run.json holds about a `Dataset_`: class counts, class names, and sometimes more.

    A plug-in's images that are not packed get the same entries as in the native host's run.json.
    """
    if images.hdf5_path is None and isinstance(images.data, Prepared):
        return describe(images.data.dataset, images.gsr_preparation[1])
    return {"class_counts": class_counts(images), "classes": class_names(images)}


@functools.cache
def _checkout() -> dict[str, Any]:
    checkout = Checkout(Path(str(import_module("loader").__file__)).resolve().parents[1])
    return {"commit": checkout.commit(), "changed_files": checkout.changed_files()}
