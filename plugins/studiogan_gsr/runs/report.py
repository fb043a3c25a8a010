"""Write an HTML page about one run, or several runs side by side; the page can be read offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from studiogan_gsr.charts import curves_chart, norms_chart
from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import GSRError
from studiogan_gsr.evaluation.manifold import nearest
from studiogan_gsr.evaluation.samples import generate, grid, to_pixels
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.files import write_atomically
from studiogan_gsr.pages import (
    chart,
    facts,
    notes,
    page,
    paragraph,
    picture,
    side_by_side,
    table,
    warning,
    wide,
)
from studiogan_gsr.progress import console
from studiogan_gsr.runs.evaluate import real_images
from studiogan_gsr.runs.options import EvaluateOptions
from studiogan_gsr.runs.report_downstream import downstream_section
from studiogan_gsr.runs.report_metrics import metrics_section
from studiogan_gsr.runs.reported import ReportedRun, open_runs
from studiogan_gsr.runs.same_data import check_same_data
from studiogan_gsr.settings import SECTION, Configured

_CLASSES, _SAMPLES = 5, 10  # rows, in both of head and tail, and columns of a gallery
_RAREST = 3  # the most tail classes whose nearest training images are shown
_NEIGHBOURS = 6  # samples of a tail class beside their nearest training images
_SEED = 0


def report(paths: Sequence[Path], out: Path) -> Path:
    """Write `out`/index.html and return its path.

    Raises RequestError if the runs have different data sets or class counts, or if one has no checkpoint.
    """
    runs = open_runs(paths)
    check_same_data([(run.name, run.trained) for run in runs])
    order = sorted(range(len(runs[0].counts)), key=lambda y: -runs[0].counts[y])
    sections = [
        ("", _at_different_steps(runs) + _summary(runs)),
        ("Configurations", _configurations(runs)),
        ("Losses", _losses(runs)),
        ("Spectral norms by class", _norms(runs)),
        *_while_training(runs),
        *metrics_section(runs, order),
        *downstream_section(runs),
        ("Samples", _samples(runs, order)),
        *_memory(runs, order),
    ]
    out.mkdir(parents=True, exist_ok=True)
    target = out / "index.html"
    write_atomically(target, page(" and ".join(run.name for run in runs), sections))
    console().print(f"written to {target}")
    return target


def _summary(runs: Sequence[ReportedRun]) -> Markup:
    pairs = []
    for run in runs:
        record, configuration = run.trained.record, run.trained.configuration
        data = configuration.DATA
        summary = [
            *([] if run.name == run.folder else [f"folder {run.folder}"]),
            f"step {run.trained.step} of {configuration.OPTIMIZATION.total_steps}",
            _regularizers(configuration),
            f"{data.name}, {data.img_size} pixels, {data.num_classes} classes",
            f"{max(run.counts)} to {min(run.counts)} images per class",
            f"host {record.get('host', 'unknown')}",
            f"seed {'unknown' if run.trained.seed is None else run.trained.seed}",
            f"device {_device(record)}",
            f"averaged generator: {'yes' if run.trained.averaged else 'no'}",
        ]
        pairs.append((run.name, "; ".join(summary)))
    return facts(pairs)


def _regularizers(configuration: Configured) -> str:
    described = []
    for settings in configuration.regularizers:
        options = ", ".join(f"{key} {value}" for key, value in settings.options.items())
        described.append(f"regularizer {settings.name} ({options})" if options else f"regularizer {settings.name}")
    return " + ".join(described) or "no regularizer"


def _device(record: dict[str, Any]) -> str:
    """Return the device of a run's last start, from records of either host and any version."""
    starts = record.get("starts") or [{}]
    return str(starts[-1].get("device") or record.get("device", "unknown"))


def _at_different_steps(runs: Sequence[ReportedRun]) -> Markup:
    """Return a note if the runs were trained for different numbers of steps; otherwise nothing."""
    steps = {run.trained.step for run in runs}
    if len(steps) < 2:
        return Markup()
    each = ", ".join(f"{run.name} at {run.trained.step:,}" for run in runs)
    return warning(f"The runs are at different steps: {each}. Their norms, samples and metrics are not comparable.")


def _configurations(runs: Sequence[ReportedRun]) -> Markup:
    """Return a table of the keys that differ between the runs; for a single run, of all keys."""
    flat: list[dict[str, Any]] = []
    for run in runs:
        flat.append(_keys(run.trained.configuration))
    keys = list(dict.fromkeys(key for values in flat for key in values))
    differ = [key for key in keys if len(runs) == 1 or len({str(values.get(key)) for values in flat}) > 1]
    if not differ:
        return paragraph("All runs have the same configuration.", note=True)
    rows = [[key, *(values.get(key, "-") for values in flat)] for key in differ]
    shown = wide(table(["key", *(run.name for run in runs)], rows))
    return (
        shown if len(runs) == 1 else shown + paragraph("Keys that are not shown are the same in all runs.", note=True)
    )


def _keys(configuration: Configured) -> dict[str, Any]:
    """Return all keys of a configuration by their path, such as OPTIMIZATION.g_lr or REGULARIZER.gsr.weight."""
    sections = {name: keys for name, keys in configuration.sections().items() if name != SECTION}
    keys = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    if configuration.regularizers:
        keys[SECTION] = ", ".join(settings.name for settings in configuration.regularizers)
    for settings in configuration.regularizers:
        keys |= {f"{SECTION}.{settings.name}.{key}": value for key, value in settings.options.items()}
    return keys


def _losses(runs: Sequence[ReportedRun]) -> Markup:
    """Return a chart of the losses, and which runs have none."""
    losses, missing = [], []
    for run in runs:
        lines = [line for line in run.log if "d_loss" in line and "g_loss" in line]
        curves = {name: [line[name] for line in lines] for name in ("d_loss", "g_loss")}
        if lines:
            losses.append((run.name, [line["step"] for line in lines], curves))
        else:
            missing.append(run.name)
    caption = "Losses of one batch at every print interval; the axis leaves out outliers."
    shown = chart(curves_chart(losses, "loss"), caption) if losses else Markup()
    return shown + _without("losses", missing)


def _norms(runs: Sequence[ReportedRun]) -> Markup:
    """Return a chart of each class's largest norm, and which runs have none."""
    panels, missing = [], []
    for run in runs:
        lines = [line for line in run.log if "class_norms" in line]
        if lines:
            panels.append((run.name, [line["step"] for line in lines], [line["class_norms"] for line in lines]))
        else:
            missing.append(run.name)
    caption = "Each class's largest exact spectral norm over layers, gain and bias."
    shown = Markup()
    if panels:
        shown = chart(norms_chart(panels, runs[0].counts, "svg", runs[0].trained.classes), caption)
    return shown + _without("norms", missing, "a run whose generator has no gains and biases per class")


def _without(what: str, names: Sequence[str], *more: str) -> Markup:
    """Return a note that says why runs have no `what` in their logs; nothing if there are no such runs.

    more: further runs that have none.
    """
    if not names:
        return Markup()
    kinds = ["a run that is shorter", *more, "a run of StudioGAN without studiogan-gsr", "an exported generator"]
    return paragraph(
        f"No {what} in the log of {', '.join(names)}. Training logs them at every print interval (--print-freq, by "
        f"default 100 steps). There are none of {', '.join(kinds[:-1])}, or {kinds[-1]}.",
        note=True,
    )


def _while_training(runs: Sequence[ReportedRun]) -> list[tuple[str, Markup]]:
    """Return a section with charts of the Fréchet distances measured while training; an empty list if there are none.

    Runs that were measured by another rule than the first are left out.
    """
    measured = []
    for run in runs:
        lines = [] if run.trained.run is None else evaluations(run.trained.run)
        lines = [line for line in lines if line["step"] <= run.trained.step]
        if lines:
            measured.append((run.name, lines))
    if not measured:
        return []
    rule = measured[0][1][0]["rule"]
    panels, texts = [], []
    for name, lines in measured:
        other = lines[0]["rule"]
        if any(other.get(key) != rule.get(key) for key in {*rule, *other} - {"seed"}):
            texts.append(f"{name} was measured by another rule while it trained, and is left out.")
            continue
        curves = {"all": [line["all"]["frechet"] for line in lines]}
        for group in ("head", "tail"):
            if all(line["groups"].get(group, {}).get("frechet") is not None for line in lines):
                curves[group] = [line["groups"][group]["frechet"] for line in lines]
        panels.append((name, [line["step"] for line in lines], curves))
        chosen = min(lines, key=lambda line: float(line["all"]["frechet"]))
        texts.append(f"{name}: the best is step {chosen['step']}, {chosen['all']['frechet']:.4g}.")
    column = rule["best"].removeprefix("lowest ").removesuffix(" of all images")
    caption = (
        f"{rule['images']:,} images an evaluation, against {rule['reference']['images']:,} of {rule['select_on']}; "
        "a group uses only the images of its classes, and fewer images give larger distances. The axis leaves out "
        "outliers."
    )
    return [(f"{column} while training", chart(curves_chart(panels, column), caption) + notes(texts))]


def _samples(runs: Sequence[ReportedRun], order: Sequence[int]) -> Markup:
    end = min(_CLASSES, len(order) // 3)
    galleries = {", head": order[:end], ", tail": order[-end:]} if len(order) > 2 * _CLASSES else {"": order}
    shown = []
    for title, labels in galleries.items():
        pictures = []
        for run in runs:
            sheet = grid(_generated(run, labels, _SAMPLES), _SAMPLES)
            rows = ", ".join(class_title(y, run.trained.classes, f"{run.counts[y]:,} images") for y in labels)
            pictures.append(picture(sheet, f"{run.name}{title}; classes from top to bottom: {rows}"))
        shown.append(side_by_side(pictures))
    note = f"Noise of seed {_SEED}, the same in all runs; running batch-norm statistics."
    return Markup().join(shown) + paragraph(note, note=True)


def _generated(run: ReportedRun, labels: Sequence[int], each: int) -> Tensor:
    model = run.trained.configuration.MODEL
    repeated = torch.tensor(list(labels)).repeat_interleave(each)
    return to_pixels(generate(run.trained.generator, repeated, model.z_prior, model.z_dim, _SEED))


def _memory(runs: Sequence[ReportedRun], order: Sequence[int]) -> list[tuple[str, Markup]]:
    """Return a section with samples of up to three tail classes beside their nearest training images."""
    present = [y for y in order if runs[0].counts[y] > 0]
    labels = present[-max(1, min(_RAREST, len(present) // 3)) :]  # the tail is a third of the classes
    parts = []
    for run in runs:
        try:
            images, _ = real_images(run.trained, EvaluateOptions(), "train")
            pairs = [_pairs(run, images, label) for label in labels]
        except GSRError as error:
            parts.append(paragraph(f"{run.name}: no training images: {error}", note=True))
            continue
        sheet = grid(torch.cat([images for images, _ in pairs]), 2 * _NEIGHBOURS)
        texts = [text for _, text in pairs]
        distances = "; ".join(
            f"class {class_title(y, run.trained.classes, f'{run.counts[y]:,} images')}: {text}"
            for y, text in zip(labels, texts, strict=True)
        )
        parts.append(picture(sheet, f"{run.name}: pairs of a sample and its nearest training image. {distances}"))
    note = (
        "Nearest by the Euclidean distance of pixels in [0, 1], among all training images of the class. Between "
        "training images: the median distance of a training image to its nearest neighbour. If the samples' median "
        "is far below it, samples are copies."
    )
    return [("Nearest training images", side_by_side(parts) + paragraph(note, note=True))]


def _pairs(run: ReportedRun, images: Prepared, label: int) -> tuple[Tensor, str]:
    """Return samples alternating with their nearest training images, and the distances as text.

    The images are uint8 (2 * _NEIGHBOURS, 3, H, W).
    """
    places = [i for i, target in enumerate(images.targets) if target == label]
    real = torch.from_numpy(np.stack([np.array(images.read(i)[0]) for i in places])).permute(0, 3, 1, 2)
    fake = _generated(run, [label], _NEIGHBOURS)
    flat_real, flat_fake = (x.flatten(1).double() / 255 for x in (real, fake))
    index, distance = nearest(flat_fake, flat_real)
    distances = f"median distance {distance.median():.2f}"
    if len(places) > 1:
        between = torch.cdist(flat_real[:500], flat_real[:500]).fill_diagonal_(float("inf")).min(1).values
        distances += f", between training images {between.median():.2f}"
    return torch.stack([fake, real[index]], 1).flatten(0, 1), distances
