"""Measure a checkpoint of either host against real images: overall, per group, per class."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from studiogan_gsr.class_groups import STANDARD_GROUPS
from studiogan_gsr.contract import Backbone, Labelled
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.labels import some_names
from studiogan_gsr.datasets.packed import open_packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, EvaluationError, RequestError, WeightsError
from studiogan_gsr.evaluation.features import extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.groups import read_groups
from studiogan_gsr.evaluation.measure import MOST, Reference, groups, measure, summarise
from studiogan_gsr.evaluation.perceptual import Album, Perceptual, installed
from studiogan_gsr.evaluation.perceptual import add_to as add_lpips
from studiogan_gsr.evaluation.reference import (
    MissingReference,
    Real,
    choose_backbone,
    measure_real,
    open_full,
    open_reference,
)
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import choose_device, device_name
from studiogan_gsr.progress import console
from studiogan_gsr.runs.evaluation_table import table_lines
from studiogan_gsr.runs.options import EvaluateOptions
from studiogan_gsr.runs.protocol import Protocol, preset_groups, preset_record, protocol_of
from studiogan_gsr.runs.trained import Trained, load_trained


class Seconds(NamedTuple):
    """Seconds spent on all repeats: in the backbone alone, and in generation and feature extraction together."""

    network: float
    all: float


@dataclasses.dataclass(frozen=True)
class _Setting:
    """A loaded generator, and everything that is needed to measure it.

    counts: training images per class.  conditional: whether the generator's images have classes.
    groups: labels of the groups that the user or a preset names.
    perceptual: the network of LPIPS; None if LPIPS is left out.
    """

    trained: Trained
    options: EvaluateOptions
    how: Protocol
    device: torch.device
    backbone_name: str
    backbone: Backbone
    split: str
    real: Real
    counts: list[int]
    conditional: bool
    groups: dict[str, list[int]]
    perceptual: Perceptual | None

    @property
    def batch_size(self) -> int:
        """Number of images in a generated batch."""
        return self.options.batch_size or int(self.trained.configuration.OPTIMIZATION.batch_size)

    @property
    def seeds(self) -> list[int]:
        """Seeds of noise and labels, one per repeat."""
        return [self.options.seed + repeat for repeat in range(self.how.repeats)]


def evaluate(path: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Measure a generator, print a table and write the result as JSON; return the result.

    Raises RequestError, ConfigurationError, PluginError, CheckpointError, DataError or WeightsError before the first
    image is generated, and EvaluationError if a generated image is not finite.
    """
    setting = _prepare(path, options)
    dataset, real, perceptual = setting.real.dataset, setting.real, setting.perceptual
    lpips_of_real = [] if perceptual is None else perceptual.by_class(real.album())
    repeats, seconds = _measure_repeats(setting)
    protocol = _protocol(setting, seconds)
    result = {
        "protocol": protocol,
        "column": setting.backbone.column,
        "class_names": dataset.classes,
        "training_images": setting.counts,
        "reference_images": _images_per_class(real),
        "reference_notes": list(dataset.notes),
        "features": real.sample.features.shape[1],
        **summarise(repeats),
    }
    if perceptual is not None:
        result["lpips_of_real_images"] = lpips_of_real
    target = options.out or _place(setting.trained, protocol)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(result, indent=1) + "\n")
    show = console()
    for line in table_lines(result):
        show.print(line)
    show.print(f"written to {target}")
    return result


def _prepare(path: Path, options: EvaluateOptions) -> _Setting:
    """Load the generator, the backbone and the real images; print which metrics are left out."""
    how = protocol_of(options)
    if options.out is not None:
        check_out(options.out)
    trained = load_trained(path, options.config, options.averaged, "best" if options.best else "last")
    _ = trained.sha256  # the checkpoint may be gone when the images are measured
    device = torch.device(choose_device(options.device))
    name, backbone = choose_backbone(how.backbone, device)
    split = how.split or _default_split(trained)
    dataset, counts = real_images(trained, options, split)
    conditional = trained.configuration.MODEL.g_cond_mtd != "W/O"
    given = read_groups(options.groups, dataset.classes)
    if given and not conditional:
        raise RequestError("--groups: the generator has no classes (MODEL.g_cond_mtd is W/O); leave --groups out")
    setting = _Setting(
        trained=trained,
        options=options,
        how=how,
        device=device,
        backbone_name=name,
        backbone=backbone,
        split=split,
        real=measure_real(dataset, split, backbone, device),
        counts=counts,
        conditional=conditional,
        groups={**preset_groups(options, dataset.name, counts), **given} if conditional else {},
        perceptual=None,
    )
    show, images = console(), _images_per_class(setting.real)
    empty = [class_name for class_name, number in zip(dataset.classes, images, strict=True) if number == 0]
    if empty:
        show.print(
            f"{len(empty)} classes have no reference images ({some_names(empty)}): "
            "metrics that compare with real images are missing for them"
        )
    if not setting.conditional:
        show.print("MODEL.g_cond_mtd is W/O: images have no classes; metrics are overall only")
        return setting
    return dataclasses.replace(setting, perceptual=_perceptual(options.lpips, device))


def _images_per_class(real: Real) -> list[int]:
    return torch.bincount(real.sample.labels, minlength=len(real.dataset.classes)).tolist()


def _measure_repeats(setting: _Setting) -> tuple[list[dict[str, Any]], Seconds]:
    """Generate and measure once per seed; return the metrics per seed, and the total seconds."""
    trained, how, device = setting.trained, setting.how, setting.device
    reference = Reference(setting.real.sample.to(device), how.neighbours)
    repeats: list[dict[str, Any]] = []
    seconds = np.zeros(2)
    for repeat, seed in enumerate(setting.seeds):
        images = generated(
            trained.generator,
            trained.configuration,
            number=how.images,
            batch_size=setting.batch_size,
            seed=seed,
            batch_norm=how.batch_norm,
            device=device,
        )
        album = Album(len(setting.counts))
        if setting.perceptual is not None:
            images = album.watching(images)
        try:
            fake = extract(setting.backbone, images, how.images, f"repeat {repeat + 1} of {how.repeats}")
        except EvaluationError as error:
            raise EvaluationError(f"{trained.folder}: {error}") from error
        seconds += fake.seconds
        repeats.append(measure(reference, fake.to(device), setting.counts, setting.conditional, setting.groups))
        if setting.perceptual is not None:
            of_groups = groups(setting.counts, setting.groups)
            add_lpips(repeats[-1], setting.perceptual.by_class(album), of_groups)
    return repeats, Seconds(network=float(seconds[0]), all=float(seconds[1]))


def _protocol(setting: _Setting, seconds: Seconds) -> dict[str, Any]:
    """Return the protocol: everything that determines the metrics, and how fast they were computed."""
    trained, how = setting.trained, setting.how
    whole = max(seconds.all, 1e-9)
    overlap = {"training_images_in_it": sum(setting.counts)} if setting.split == "full" else {}
    protocol = {
        "step": trained.step,
        "checkpoint": str(trained.folder.resolve()),
        "checkpoint_sha256": trained.sha256,
        "checkpoint_rule": checkpoint_rule(trained, setting.split),
        "selection": None if trained.chosen is None else trained.chosen["rule"],
        "data": trained.configuration.DATA.name,
        "averaged_generator": trained.averaged,
        "backbone": setting.backbone_name,
        "backbone_digest": setting.backbone.digest,
        "reference": setting.real.record | overlap,
        "reference_cache": setting.real.key,
        "images": how.images,
        "images_in_pairs": f"at most {MOST:,} a side, chosen with seed 0: kernel, precision to coverage, diversity",
        "labels": "drawn uniformly over the classes",
        "repeats": how.repeats,
        "repeats_are_over": "seeds of noise and labels, of one checkpoint; not training seeds",
        "seeds": setting.seeds,
        "batch_size": setting.batch_size,
        "batch_norm": how.batch_norm,
        "neighbours": how.neighbours,
        "groups": setting.groups,
        "groups_replaced": [name for name in setting.groups if name in STANDARD_GROUPS],
        "lpips": None if setting.perceptual is None else setting.perceptual.record,
        "device": device_name(setting.device.type),
        "network_share_of_time": round(seconds.network / whole, 3),
        "images_per_second": round(how.images * how.repeats / whole, 1),
        "versions": {package: version(package) for package in ("studiogan-gsr", "torch", "numpy")},
        "time": datetime.now(timezone.utc).isoformat(),
    }
    theirs = preset_groups(setting.options, setting.real.dataset.name, setting.counts) if setting.conditional else {}
    return {**protocol, "preset": preset_record(setting.options, protocol, theirs, trained.configuration)}


def _perceptual(requested: bool | None, device: torch.device) -> Perceptual | None:
    """Return the network of LPIPS; None if LPIPS is switched off, or if it was not requested and is not available."""
    if requested is False or (requested is None and not installed()):
        return None
    try:
        return Perceptual(device)
    except WeightsError as error:
        if requested:
            raise
        console().print(f"measuring without LPIPS: {error}")
        return None


def real_images(trained: Trained, options: EvaluateOptions, split: str) -> tuple[Prepared, list[int]]:
    """Return the real images of a split, prepared as in training, and the number of training images per class.

    Raises RequestError if the images' folder is unknown, and DataError if the images are missing or not the run's.
    """
    data, known = trained.configuration.DATA, trained.data
    root = options.data or known.get("root")
    if root is None:
        raise RequestError("--data is needed: no run.json with the checkpoint records the folder of its images")
    resizer = options.resizer or known.get("preprocessing", {}).get("resizer", "wo_resize")
    packed = None if options.data or not known.get("packed") else Path(known["packed"])
    # A packed file may hold fewer images than the folder, or be the only copy; it does not know the full set.
    if packed is not None and packed.is_file() and split != "full":
        train: Labelled = open_packed(packed, data.name, data.img_size, resizer)
    else:
        try:
            train = open_images(data.name, root, "train")
        except DataError as error:
            moved = "" if options.data else "; --data names the folder, if the run's images have moved"
            raise DataError(f"{error}{moved}") from error
    if "images_sha256" in known and digest(train) != known["images_sha256"]:
        raise DataError(f"{root}: found other training images than the run was trained on; --data names their folder")
    trained_on = Prepared(train, data.name, data.img_size, resizer)
    if len(trained_on.classes) != data.num_classes:
        raise DataError(
            f"DATA.num_classes: found {data.num_classes}; {data.name} has {len(trained_on.classes)} classes"
        )
    if split == "train":
        return trained_on, trained_on.class_counts
    if split == "full":
        return open_full(train, trained_on, resizer), trained_on.class_counts
    try:
        return open_reference(trained_on, root, resizer), trained_on.class_counts
    except MissingReference as error:
        raise DataError(f"{error}; --split train measures against the training images") from error


def _default_split(trained: Trained) -> str:
    """Return "test" if the best checkpoint was selected on the other half, "validation"; otherwise "reference"."""
    chosen_on_half = trained.chosen is not None and trained.chosen["rule"]["select_on"] == "validation"
    return "test" if chosen_on_half else "reference"


def checkpoint_rule(trained: Trained, split: str) -> str:
    """Return as text how the checkpoint was selected, and whether on the images that it is measured on."""
    if trained.rule != "best":
        return "last" if trained.rule == "last" else f"step {trained.step}, by name; not the last of its run"
    if trained.chosen is None:
        return "best, by the metrics that StudioGAN trained with"
    rule = trained.chosen["rule"]
    chosen_on = rule["select_on"]
    text = (
        f"best: {rule['best']} among evaluations while training, {rule['images']:,} generated images against "
        f"{rule['reference']['images']:,} of {chosen_on}"
    )
    if split == chosen_on:
        return f"{text}; chosen on the images that it is measured on here"
    if split == "reference":
        return f"{text}; chosen on half of the images that it is measured on here"
    if chosen_on == "reference" and split not in ("train", "full"):
        return f"{text}; chosen on these images and others"
    return text


# Keys of the protocol that must be equal for results to be comparable.  Their digest is part of a result's file name,
# so that results of different protocols do not overwrite each other.
_TERMS = (
    "checkpoint_rule",
    "averaged_generator",
    "backbone_digest",
    "reference",
    "images",
    "repeats",
    "seeds",
    "batch_size",
    "batch_norm",
    "neighbours",
    "lpips",
)


def terms_of(protocol: dict[str, Any]) -> str:
    """Return as JSON the part of a protocol that must be equal for two evaluations to be comparable."""
    terms = {name: protocol.get(name) for name in _TERMS}
    if protocol.get("groups"):  # without given groups, as in results of versions that had none
        terms["groups"] = protocol["groups"]
    return json.dumps(terms, sort_keys=True)


def check_out(out: Path) -> None:
    """Raise RequestError if the result's file cannot be written; called before hours of measuring."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        found = (
            "a folder" if out.is_dir() else f"{folder}, {'a file' if folder.is_file() else 'which is not writable'}"
        )
        raise RequestError(f"--out {out}: found {found}; name a file in a folder that can be written to")


def _place(trained: Trained, protocol: dict[str, Any]) -> Path:
    # A result by a named protocol says what differs from it, and does not replace one without a name.
    named = f" {protocol['preset']['name']}" if protocol["preset"] else ""
    key = hashlib.sha256(f"{terms_of(protocol)}{named}".encode()).hexdigest()[:8]
    folder = (trained.run or trained.folder) / "evaluations"
    return folder / f"step={trained.step}-{protocol['backbone']}-{key}.json"
