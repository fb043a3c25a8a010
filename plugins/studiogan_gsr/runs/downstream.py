"""Train classifiers with and without a run's generated images: does filling the rare classes help?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.labels import some_names
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import EvaluationError, RequestError
from studiogan_gsr.evaluation.cache import find_numbers, keep_numbers
from studiogan_gsr.evaluation.class_images import ClassImages
from studiogan_gsr.evaluation.classifier import Recipe, recognised, train
from studiogan_gsr.evaluation.filled import (
    CONFIDENCE,
    Way,
    descriptions,
    filled_counts,
    four_ways,
    summary,
    wanted_images,
)
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.keys import KEYS
from studiogan_gsr.hosts.native.images import InMemory
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.threads import choose, measure, using_threads
from studiogan_gsr.machine import arithmetic, choose_device, cores, device_name, free_memory, most_threads, versions
from studiogan_gsr.progress import console, counting
from studiogan_gsr.runs.downstream_table import table_lines
from studiogan_gsr.runs.evaluate import check_out, checkpoint_rule, real_images
from studiogan_gsr.runs.generator import check_conditional
from studiogan_gsr.runs.options import DownstreamOptions, EvaluateOptions
from studiogan_gsr.runs.run_names import short_names
from studiogan_gsr.runs.same_data import check_same_data
from studiogan_gsr.runs.trained import Trained, load_trained

_MARGIN = 0.8  # share of the free memory that images may take


class _Images(NamedTuple):
    """Images uint8 (N, 3, H, W) on the device, and labels int64 (N,) on the CPU."""

    pixels: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What is the same for all runs.

    digests: of the pixels and labels of real and reference.
    counts, references: training and reference images per class.  fill: images per class after filling.
    """

    options: DownstreamOptions
    device: torch.device
    recipe: Recipe
    dataset: Prepared
    reference_set: Prepared
    real: _Images
    reference: _Images
    digests: tuple[str, str]
    counts: list[int]
    references: list[int]
    fill: int
    notes: list[str]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the classifiers."""
        return list(range(self.options.seeds))


def downstream(paths: Sequence[Path], options: DownstreamOptions) -> list[dict[str, Any]]:
    """Train the classifiers of all runs, print a table, and write each run's result as JSON; return the results.

    Classifiers that were trained before, for another run or before this command was killed, are not trained again.
    Raises RequestError, ConfigurationError, PluginError, CheckpointError or DataError before the first classifier is
    trained, and EvaluationError if a generated image is not finite.
    """
    if options.out is not None and len(paths) > 1:
        raise RequestError(f"--out: found {len(paths)} runs; allowed with one run: its result is one file")
    if options.out is not None:
        check_out(options.out)
    loaded = [load_trained(path, checkpoint=options.checkpoint) for path in paths]
    names = short_names([(path, run.configuration.DATA.name) for path, run in zip(paths, loaded, strict=True)])
    runs = list(zip(names, loaded, strict=True))
    setting = _prepare(runs, options)
    show = console()
    for note in setting.notes:
        show.print(note)
    results = []
    for name, trained in runs:
        result = _measure(name, trained, setting)
        target = options.out or _place(trained, result["protocol"])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, json.dumps(result, indent=1) + "\n")
        show.print(f"written to {target}")
        results.append(result)
    for line in table_lines([(name, result) for (name, _), result in zip(runs, results, strict=True)]):
        show.print(line)
    return results


# ------------------------------------------------------------------ what is the same for all runs


def _prepare(runs: Sequence[tuple[str, Trained]], options: DownstreamOptions) -> _Setting:
    """Check that the runs can be compared, and load their real images."""
    for _, trained in runs:
        check_conditional(trained)
        _ = trained.sha256  # the checkpoint may be gone when the classifiers are trained
    check_same_data(runs)
    _check_same_images(runs)
    first = runs[0][1]
    recipe = Recipe(options.updates, options.width, _flip(runs, options.flip))
    device = torch.device(choose_device(options.device))
    dataset, counts = real_images(first, EvaluateOptions(data=options.data), "train")
    reference_set, _ = real_images(first, EvaluateOptions(data=options.data), "reference")
    fill = options.fill or max(counts)
    needed = 2 * (sum(counts) + sum(filled_counts(counts, fill))) + len(reference_set)  # all, and the current way's
    _check_memory(needed, dataset.size, fill, device)
    real, reference = _loaded(dataset, device), _loaded(reference_set, device)
    references = torch.bincount(reference.labels, minlength=len(counts)).tolist()
    return _Setting(
        options=options,
        device=device,
        recipe=recipe,
        dataset=dataset,
        reference_set=reference_set,
        real=real,
        reference=reference,
        digests=(_sha256(*real), _sha256(*reference)),
        counts=counts,
        references=references,
        fill=fill,
        notes=_notes(dataset.classes, counts, references, fill),
    )


def _check_same_images(runs: Sequence[tuple[str, Trained]]) -> None:
    """Raise RequestError if runs were trained on images of different size, choice or preprocessing."""
    first_name, first = runs[0]
    for name, trained in runs[1:]:
        sizes = [run.configuration.DATA.img_size for run in (trained, first)]
        if sizes[0] != sizes[1]:
            raise RequestError(
                f"{name}: was trained on images of {sizes[0]} pixels, {first_name} on {sizes[1]}: compare like runs"
            )
        if trained.data.get("images_sha256") != first.data.get("images_sha256"):
            raise RequestError(f"{name}: was trained on other images than {first_name}: compare like runs")
        # The record of StudioGAN's runs has the resizer alone.
        resizers = [run.data.get("preprocessing", {}).get("resizer") for run in (trained, first)]
        if resizers[0] != resizers[1]:
            raise RequestError(
                f"{name}: was trained on images resized by {resizers[0]}, {first_name} by {resizers[1]}: "
                "compare like runs"
            )


def _flip(runs: Sequence[tuple[str, Trained]], given: bool | None) -> bool:
    """Return whether training images are mirrored: as given, or as in the runs, whose answers must be equal."""
    if given is not None:
        return given
    found = []
    for _, trained in runs:
        section = trained.configuration.sections().get("PRE", {})
        found.append(bool(section.get("apply_rflip", KEYS["PRE"]["apply_rflip"].default)))
    if len(set(found)) > 1:
        other = next(name for (name, _), flip in zip(runs, found, strict=True) if flip != found[0])
        raise RequestError(
            f"PRE.apply_rflip: found {str(not found[0]).lower()} in {other}, {str(found[0]).lower()} in "
            f"{runs[0][0]}; --flip or --no-flip says whether the classifiers mirror images"
        )
    return found[0]


def _check_memory(images: int, size: int, fill: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    needed = images * 3 * size**2
    if needed > _MARGIN * free:
        raise RequestError(
            f"--fill {fill}: {images:,} images of {size} pixels need {needed / 1e9:.3g} GB of memory, and "
            f"{free / 1e9:.3g} GB are free on {device.type}; a smaller --fill needs less"
        )


def _loaded(dataset: Prepared, device: torch.device) -> _Images:
    images = InMemory(Pixels(dataset), device, cores())
    return _Images(images.images, images.labels.cpu())


def _sha256(pixels: Tensor, labels: Tensor) -> str:
    total = hashlib.sha256(labels.numpy().tobytes())
    for some in pixels.split(4096):  # type: ignore[no-untyped-call]
        total.update(some.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _notes(classes: Sequence[str], counts: Sequence[int], references: Sequence[int], fill: int) -> list[str]:
    """Return what a reader must know about the classes."""
    notes = []
    for numbers, what, consequence in (
        (counts, "training", "classifiers learn them from generated images alone"),
        (references, "reference", "without an accuracy"),
    ):
        empty = [name for name, number in zip(classes, numbers, strict=True) if not number]
        if empty:
            have = "1 class has" if len(empty) == 1 else f"{len(empty)} classes have"
            notes.append(f"{have} no {what} images ({some_names(empty)}): {consequence}")
    if min(counts) >= fill:
        notes.append(
            f"nothing to fill: each class has {min(counts):,} or more training images, and --fill is {fill:,}; "
            "the ways real and filled are the same"
        )
    return notes


# ------------------------------------------------------------------ one run


def _measure(name: str, trained: Trained, setting: _Setting) -> dict[str, Any]:
    """Return the result of a run."""
    pool = _pool(name, trained, setting)
    ways = four_ways(setting.counts, setting.fill)
    found = _recognised(name, ways, pool, setting)
    right = {way: [numbers["recognised"] for numbers in by_seed] for way, by_seed in found.items()}
    described = descriptions(setting.fill)
    of_ways = summary(right, setting.counts, setting.references)
    devices = sorted({numbers["device"] for by_seed in found.values() for numbers in by_seed})
    return {
        "protocol": _protocol(trained, setting, devices),
        "class_names": setting.dataset.classes,
        "training_images": setting.counts,
        "reference_images": setting.references,
        "notes": [*setting.notes, *setting.reference_set.notes],
        "ways": {
            way.name: {
                "description": described[way.name],
                "images": torch.bincount(pool.labels[way.places], minlength=len(setting.counts)).tolist(),
                **of_ways[way.name],
                "recognised": right[way.name],
            }
            for way in ways
        },
    }


def _pool(name: str, trained: Trained, setting: _Setting) -> _Images:
    """Return the real images and, after them, the generated ones."""
    options, wanted, real = setting.options, wanted_images(setting.counts, setting.fill), setting.real
    images = ClassImages(
        trained.generator,
        trained.configuration,
        seed=options.seed,
        batch_norm=options.batch_norm,
        device=setting.device,
    )
    pixels = torch.cat([real.pixels, real.pixels.new_empty(len(wanted), *real.pixels.shape[1:])])
    try:
        with counting(f"{name}: images", len(wanted)) as advance:
            for some, places in images.batches(wanted):
                pixels[len(real.pixels) + torch.tensor(places, device=setting.device)] = some
                advance(len(places))
    except EvaluationError as error:
        raise EvaluationError(f"{trained.folder}: {error}") from error
    return _Images(pixels, torch.cat([real.labels, torch.tensor([label for label, _ in wanted])]))


def _recognised(name: str, ways: Sequence[Way], pool: _Images, setting: _Setting) -> dict[str, list[dict[str, Any]]]:
    """Return what the classifiers of each way recognise, by seed.

    Each classifier's numbers are kept, so that a command that was killed trains only those that are missing.
    """
    terms: dict[tuple[str, int], dict[str, Any]] = {}
    for way in ways:
        of_way = _terms(way, pool, setting)
        terms |= {(way.name, seed): {**of_way, "seed": seed} for seed in setting.seeds}
    unknown = {json.dumps(of_one, sort_keys=True) for of_one in terms.values() if find_numbers(of_one) is None}
    threads, updates = _threads(setting) if unknown else 1, setting.recipe.updates
    if unknown:
        console().print(
            f"{name}: {len(unknown)} of {len(terms)} classifiers to train; updates {updates:,}, threads {threads}"
        )
    found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    with using_threads(threads), counting(f"{name}: updates", len(unknown) * updates) as advance:
        for way in ways:
            images, labels = pool.pixels[way.places.to(setting.device)], pool.labels[way.places]
            for seed in setting.seeds:
                numbers = find_numbers(terms[way.name, seed])
                if numbers is None:
                    network = train(images, labels, len(setting.counts), setting.recipe, way.sampler, seed, advance)
                    right = recognised(network, *setting.reference, len(setting.counts))
                    numbers = {"recognised": right, "device": device_name(setting.device.type)}
                    keep_numbers(terms[way.name, seed], numbers)
                found[way.name].append(numbers)
    return found


def _terms(way: Way, pool: _Images, setting: _Setting) -> dict[str, Any]:
    """Return what determines the classifiers of a way, except for their seed and the number of threads."""
    packages = versions()
    return {
        "images_sha256": _sha256(pool.pixels[way.places.to(setting.device)], pool.labels[way.places]),
        "sampler": way.sampler.__name__,
        "reference_sha256": setting.digests[1],
        "classes": len(setting.counts),
        "recipe": setting.recipe.record(),
        **arithmetic(setting.device),
        "versions": {name: packages[name] for name in ("studiogan-gsr", "torch", "torchvision")},
    }


def _threads(setting: _Setting) -> int:
    """Return the number of threads: as given, or the fastest of a few updates."""
    most = most_threads()
    if setting.options.threads is not None or most == 1 or setting.device.type != "cpu":
        return setting.options.threads or most
    one = dataclasses.replace(setting.recipe, updates=1)
    some = (setting.real.pixels[: one.batch_size], setting.real.labels[: one.batch_size])

    def update(threads: int) -> float:
        with using_threads(threads):
            began = time.perf_counter()
            train(*some, len(setting.counts), one)
            return time.perf_counter() - began

    return choose(measure(update, sorted({1, max(1, most // 2), most})))


def _protocol(trained: Trained, setting: _Setting, devices: Sequence[str]) -> dict[str, Any]:
    """Return everything that determines the numbers."""
    options, dataset, reference = setting.options, setting.dataset, setting.reference_set
    return {
        "step": trained.step,
        "checkpoint": str(trained.file.resolve()),
        "checkpoint_sha256": trained.sha256,
        "checkpoint_rule": checkpoint_rule(trained, "reference"),
        "selection": None if trained.chosen is None else trained.chosen["rule"],
        "averaged_generator": trained.averaged,
        "data": dataset.name,
        "size": dataset.size,
        "preprocessing": dataset.preprocessing.record(),
        "training": {"names_sha256": digest(dataset.dataset), "pixels_sha256": setting.digests[0]},
        "reference": {"names_sha256": digest(reference.dataset), "pixels_sha256": setting.digests[1]},
        "fill": setting.fill,
        "image_seed": options.seed,
        "batch_norm": options.batch_norm,
        "classifier": "ResNet-18 of torchvision's blocks, with a stem of 3 x 3, stride 1 and no pooling",
        "recipe": setting.recipe.record(),
        "seeds": setting.seeds,
        "seeds_are_over": "a classifier's first weights, order and augmentation; one checkpoint and its images",
        "interval": f"{CONFIDENCE:.0%} of the mean over seeds, Student's t; differences are paired by seed",
        "devices": list(devices),
        "versions": versions(),
        "time": datetime.now(timezone.utc).isoformat(),
    }


# Keys of the protocol that must be equal for results to be comparable.  Their digest is part of a result's file name.
_TERMS = (
    "checkpoint_rule",
    "averaged_generator",
    "training",
    "reference",
    "fill",
    "image_seed",
    "batch_norm",
    "recipe",
    "seeds",
)


def terms_of(protocol: dict[str, Any]) -> str:
    """Return as JSON the part of a protocol that must be equal for two results to be comparable."""
    return json.dumps({name: protocol.get(name) for name in _TERMS}, sort_keys=True)


def _place(trained: Trained, protocol: dict[str, Any]) -> Path:
    key = hashlib.sha256(terms_of(protocol).encode()).hexdigest()[:8]
    folder = trained.folder if trained.run is None else trained.run / "downstream"
    return folder / f"step={trained.step}-{key}.json"
