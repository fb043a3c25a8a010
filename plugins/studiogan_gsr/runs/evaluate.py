"""Measure a checkpoint of either host against real images: overall, per group, per class."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.datasets.packed import open_packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, EvaluationError, RequestError, WeightsError
from studiogan_gsr.evaluation.choices import BATCH_NORM
from studiogan_gsr.evaluation.features import extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.measure import MOST, SHOWN_TIMES, Reference, as_text, groups, measure, summarise
from studiogan_gsr.evaluation.perceptual import Album, Perceptual, installed
from studiogan_gsr.evaluation.perceptual import add_to as add_lpips
from studiogan_gsr.evaluation.reference import MissingReference, choose_backbone, measure_real, open_reference
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import choose_device, device_name
from studiogan_gsr.pages import shortened
from studiogan_gsr.progress import console
from studiogan_gsr.runs.options import EvaluateOptions
from studiogan_gsr.runs.trained import Trained, load_trained

_WIDTH = 24  # letters of a class name in the table


def evaluate(path: Path, options: EvaluateOptions) -> dict[str, Any]:
    """Measure a generator, print a table and write the result as JSON; return the result.

    Raises RequestError, DataError, CheckpointError, WeightsError before the first image is made.
    """
    if options.batch_norm not in BATCH_NORM:
        raise RequestError(f"--batch-norm: found {options.batch_norm}; allowed: {', '.join(BATCH_NORM)}")
    if options.out is not None:
        _check_out(options.out)
    trained = load_trained(path, options.config, options.averaged, options.best)
    device = torch.device(choose_device(options.device))
    show = console()
    name, backbone = choose_backbone(options.backbone, device)
    split = options.split or _default_split(trained)
    dataset, train_counts = real_images(trained, options, split)
    real = measure_real(dataset, split, backbone, device)
    reference_counts = torch.bincount(real.sample.labels, minlength=len(dataset.classes)).tolist()
    empty = [c for c, n in zip(dataset.classes, reference_counts, strict=True) if n == 0]
    if empty:
        show.print(f"no reference images of {len(empty)} classes ({', '.join(empty[:5])}...): they have no metrics")
    conditional = trained.configuration.MODEL.g_cond_mtd != "W/O"
    if not conditional:
        show.print("MODEL.g_cond_mtd is W/O: images have no classes, and only all of them are measured")
    perceptual = _perceptual(options.lpips, device) if conditional else None
    lpips_of_real = [] if perceptual is None else perceptual.by_class(real.album())
    reference = Reference(real.sample.to(device), options.neighbours)
    batch_size = options.batch_size or trained.configuration.OPTIMIZATION.batch_size
    repeats, seconds = [], np.zeros(2)
    for repeat in range(options.repeats):
        seed, what = options.seed + repeat, f"repeat {repeat + 1} of {options.repeats}"
        made = generated(
            trained.generator, trained.configuration, options.images, batch_size, seed, options.batch_norm, device
        )
        album = Album(len(train_counts))
        try:
            fake = extract(backbone, album.watching(made) if perceptual else made, options.images, what)
        except EvaluationError as error:
            raise EvaluationError(f"{trained.folder}: {error}") from error
        seconds += fake.seconds
        repeats.append(measure(reference, fake.to(device), train_counts, conditional))
        if perceptual is not None:
            add_lpips(repeats[-1], perceptual.by_class(album), groups(train_counts))
    protocol = {
        "step": trained.step,
        "checkpoint": str(trained.folder.resolve()),
        "checkpoint_rule": _checkpoint_rule(trained, split),
        "selection": None if trained.chosen is None else trained.chosen["rule"],
        "data": trained.configuration.DATA.name,
        "averaged_generator": trained.averaged,
        "backbone": name,
        "backbone_digest": backbone.digest,
        "reference": real.record,
        "reference_cache": real.key,
        "images": options.images,
        "images_in_pairs": f"at most {MOST:,} a side, chosen with seed 0: kernel, precision to coverage, diversity",
        "labels": "drawn uniformly over the classes",
        "repeats": options.repeats,
        "repeats_are_over": "seeds of noise and labels, of one checkpoint; not training seeds",
        "seeds": [options.seed + i for i in range(options.repeats)],
        "batch_size": batch_size,
        "batch_norm": options.batch_norm,
        "neighbours": options.neighbours,
        "lpips": None if perceptual is None else perceptual.record,
        "device": device_name(device.type),
        "network_share_of_time": round(float(seconds[0] / max(seconds[1], 1e-9)), 3),
        "images_per_second": round(options.images * options.repeats / max(float(seconds[1]), 1e-9), 1),
        "versions": {package: version(package) for package in ("studiogan-gsr", "torch", "numpy")},
        "time": datetime.now(timezone.utc).isoformat(),
    }
    result = {
        "protocol": protocol,
        "column": backbone.column,
        "class_names": dataset.classes,
        "training_images": train_counts,
        "reference_images": reference_counts,
        "reference_notes": list(dataset.notes),
        "features": real.sample.features.shape[1],
        **summarise(repeats),
    }
    if perceptual is not None:
        result["lpips_of_real_images"] = lpips_of_real
    target = options.out or _place(trained, protocol)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(result, indent=1) + "\n")
    for line in _table(result):
        show.print(line)
    show.print(f"written to {target}")
    return result


def _perceptual(wanted: bool | None, device: torch.device) -> Perceptual | None:
    """Return the network of LPIPS; None if it is switched off, or optional and not available."""
    if wanted is False or (wanted is None and not installed()):
        return None
    try:
        return Perceptual(device)
    except WeightsError as error:
        if wanted:
            raise
        console().print(f"measuring without LPIPS: {error}")
        return None


def real_images(trained: Trained, options: EvaluateOptions, split: str) -> tuple[Prepared, list[int]]:
    """Return real images, prepared like the run's own, and the number of training images per class."""
    data, known = trained.configuration.DATA, trained.data
    root = options.data or known.get("root")
    if root is None:
        raise RequestError("--data is needed: nothing beside the checkpoint says where the images are")
    resizer = options.resizer or known.get("preprocessing", {}).get("resizer", "wo_resize")
    packed = None if options.data or not known.get("packed") else Path(known["packed"])
    if packed is not None and packed.is_file():  # may hold fewer images than the folder, or replace it
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
    try:
        return open_reference(trained_on, root, resizer), trained_on.class_counts
    except MissingReference as error:
        raise DataError(f"{error}; --split train measures against the training images") from error


def _default_split(trained: Trained) -> str:
    """Return the half of the reference that the best checkpoint was not selected on; otherwise the reference."""
    chosen_on_half = trained.chosen is not None and trained.chosen["rule"]["select_on"] == "validation"
    return "test" if chosen_on_half else "reference"


def _checkpoint_rule(trained: Trained, split: str) -> str:
    """Return how the checkpoint was selected, and whether on images that it is measured on."""
    if trained.rule != "best":
        return "last" if trained.rule == "last" else f"step {trained.step}, by name; not the last of its run"
    if trained.chosen is None:
        return "best, by the metrics that StudioGAN trained with"
    rule = trained.chosen["rule"]
    chosen_on = rule["select_on"]
    told = (
        f"best: {rule['best']} among evaluations while training, {rule['images']:,} generated images against "
        f"{rule['reference']['images']:,} of {chosen_on}"
    )
    if split == chosen_on:
        return f"{told}; chosen on the images that it is measured on here"
    if split == "reference":
        return f"{told}; chosen on half of the images that it is measured on here"
    if chosen_on == "reference" and split != "train":
        return f"{told}; chosen on these images and others"
    return told


# What makes a protocol.  A digest of it is part of a result's name, so that two results do not overwrite each other.
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
    """Return as text what two evaluations must have in common for their numbers to be compared."""
    return json.dumps({name: protocol.get(name) for name in _TERMS}, sort_keys=True)


def _check_out(out: Path) -> None:
    """Raise RequestError before hours of measuring if the result's file cannot be written."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        found = (
            "a folder" if out.is_dir() else f"{folder}, {'a file' if folder.is_file() else 'not to be written to'}"
        )
        raise RequestError(f"--out {out}: found {found}; name a file in a folder that can be written to")


def _place(trained: Trained, protocol: dict[str, Any]) -> Path:
    key = hashlib.sha256(terms_of(protocol).encode()).hexdigest()[:8]
    folder = trained.folder if trained.run is None else trained.run / "evaluations"
    return folder / f"step={trained.step}-{protocol['backbone']}-{key}.json"


def _table(result: dict[str, Any]) -> list[str]:
    """Return lines for a terminal: all images, the groups, and, if there are few, every class."""
    network = result["column"].removeprefix("FD")
    kernel, score = ("KID", "IS") if network == "FID" else (f"KD{network}", f"IS{network}")
    columns = {"frechet": result["column"], "kernel": kernel, "inception_score": score, "precision": "precision"}
    columns |= {name: name for name in result["all"] if name not in columns}
    rows = [("all", None, result["all"])]
    rows += [(name, None, values) for name, values in result["groups"].items()]
    counts = result["training_images"]
    if len(counts) <= 20 and result["groups"]:
        order = sorted(range(len(counts)), key=lambda y: -counts[y])
        names = [shortened(name, _WIDTH) for name in result["class_names"]]
        rows += [(class_title(y, names), counts[y], result["classes"][y]) for y in order]
    cells = [["", "training", *columns.values()]]
    for name, count, values in rows:
        cells.append([name, "" if count is None else str(count)])
        cells[-1] += [as_text(values, key) for key in columns]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    diversity = "Diversity: mean distance of two images of a set, over that of real ones."
    lines.append(f"{kernel} times {SHOWN_TIMES['kernel']}. {diversity}")
    if "lpips_of_real_images" in result:
        of_real = [value for value in result["lpips_of_real_images"] if value is not None]
        lines.append(
            f"LPIPS: of two images of a class, AlexNet; a group's is the mean over its classes. Real ones: "
            f"{sum(of_real) / max(1, len(of_real)):.4g}."
        )
    if result["groups"]:
        thirds = "head, middle, tail: thirds of the classes" if len(counts) > 2 else "head, tail: the two classes"
        lines.append(f"Many: over 100 training images; few: under 20; {thirds} by them.")
    if result["protocol"]["images"] < 10 * len(counts) * result["protocol"]["neighbours"]:
        lines.append(
            f"{result['protocol']['images']} images are too few to read numbers of a class; 50,000 are usual."
        )
    if max(result["protocol"]["images"], sum(result["reference_images"])) > MOST:
        lines.append(
            f"Of more than {MOST:,} images, so many are compared in pairs ({kernel}, precision to diversity)."
        )
    if result["protocol"]["reference"]["split"] == "train":
        lines.append(
            "The real images are the training images (--split train): a generator that copies them scores best."
        )
    lines += [f"Real images: {note}." for note in result["reference_notes"]]
    if result["groups"] and len(set(counts)) == 1 and len(counts) > 1:
        lines.append("All classes have equally many training images: head, middle and tail only follow the labels.")
    few = min(n for n in result["reference_images"] if n) if any(result["reference_images"]) else 0
    if few < result["features"]:
        lines.append(
            f"A class has as few as {few} reference images, and the features {result['features']} dimensions: of so "
            f"few, {result['column']} is mostly sampling error; compare classes by {kernel}, precision and coverage."
        )
    return lines
