"""Write one page about one run or several side by side; the page needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from studiogan_gsr.charts import curves_chart, metric_chart, norms_chart
from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import GSRError, RequestError
from studiogan_gsr.evaluation.manifold import nearest
from studiogan_gsr.evaluation.measure import METRICS, SHOWN_TIMES, as_text
from studiogan_gsr.evaluation.samples import generate, grid, to_pixels
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.files import write_atomically
from studiogan_gsr.pages import (
    chart,
    comma_separated,
    copyable,
    facts,
    latex,
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
from studiogan_gsr.runs.evaluate import real_images, terms_of
from studiogan_gsr.runs.options import EvaluateOptions
from studiogan_gsr.runs.trained import Trained, load_trained

_CLASSES, _SAMPLES = 5, 10  # rows and columns of a gallery
_NEIGHBOURS = 6  # samples of a tail class beside their nearest training images
_ROWS = 40  # of a table; longer tables are cut in the middle, and complete as CSV and LaTeX
_SEED = 0


@dataclass(frozen=True)
class Run:
    """A run on the page.

    log: the lines of its log.  evaluations: results of `evaluate`, oldest first.
    """

    name: str
    trained: Trained
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def counts(self) -> list[int]:
        """Training images per class."""
        counts = self.trained.data.get("class_counts")
        return list(counts) if counts else [0] * self.trained.configuration.DATA.num_classes


def report(paths: Sequence[Path], out: Path) -> Path:
    """Write `out`/index.html and return its path.

    Raises RequestError for runs of different data or without checkpoints.
    """
    runs = [_open(path) for path in paths]
    first = runs[0].trained.configuration.DATA
    for run in runs[1:]:
        if (run.trained.configuration.DATA.name, run.counts) != (first.name, runs[0].counts):
            other = run.trained.configuration.DATA.name
            raise RequestError(
                f"{run.name}: was trained on {other}, {runs[0].name} on {first.name}: compare like runs"
            )
    order = sorted(range(first.num_classes), key=lambda y: -runs[0].counts[y])
    sections = [
        ("", _at_different_steps(runs) + _summary(runs)),
        ("Configurations", _configurations(runs)),
        *_curves(runs),
        *_while_training(runs),
        *_metrics(runs, order),
        ("Samples", _samples(runs, order)),
        *_memory(runs, order),
    ]
    out.mkdir(parents=True, exist_ok=True)
    target = out / "index.html"
    write_atomically(target, page(" and ".join(run.name for run in runs), sections))
    console().print(f"written to {target}")
    return target


def _open(path: Path) -> Run:
    trained = load_trained(path)
    run = trained.run or trained.folder
    found = [json.loads(file.read_text()) for file in run.glob("evaluations/*.json")]
    found.sort(key=lambda result: str(result["protocol"]["time"]))
    return Run(path.resolve().name, trained, trained.log, found)


def _summary(runs: Sequence[Run]) -> Markup:
    pairs = []
    for run in runs:
        record, configuration = run.trained.record, run.trained.configuration
        data, regularizer = configuration.DATA, configuration.regularizer
        acts = "no regularizer"
        if regularizer is not None:
            options = ", ".join(f"{key} {value}" for key, value in regularizer.options.items())
            acts = f"regularizer {regularizer.name}" + f" ({options})" * bool(options)
        told = [
            f"step {run.trained.step} of {configuration.OPTIMIZATION.total_steps}",
            acts,
            f"{data.name}, {data.img_size} pixels, {data.num_classes} classes",
            f"{max(run.counts)} to {min(run.counts)} images a class",
            f"host {record.get('host', 'unknown')}",
            f"seed {'unknown' if run.trained.seed is None else run.trained.seed}",
            f"device {_device(record)}",
            f"averaged generator: {'yes' if run.trained.averaged else 'no'}",
        ]
        pairs.append((run.name, "; ".join(told)))
    return facts(pairs)


def _device(record: dict[str, Any]) -> str:
    """Return the device of a run's last start, from records of either host and any version."""
    starts = record.get("starts") or [{}]
    return str(starts[-1].get("device") or record.get("device", "unknown"))


def _at_different_steps(runs: Sequence[Run]) -> Markup:
    """Return a note if the runs were trained for different numbers of steps; otherwise nothing."""
    steps = {run.trained.step for run in runs}
    if len(steps) < 2:
        return Markup()
    each = ", ".join(f"{run.name} at {run.trained.step:,}" for run in runs)
    return warning(f"The runs are at different steps: {each}. Norms, samples and metrics compare unequal training.")


def _configurations(runs: Sequence[Run]) -> Markup:
    """Return a table of the keys that differ between the runs; for a single run, of all keys."""
    flat: list[dict[str, Any]] = []
    for run in runs:
        sections = run.trained.configuration.sections()
        flat.append({f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()})
    keys = list(dict.fromkeys(key for values in flat for key in values))
    differ = [key for key in keys if len(runs) == 1 or len({str(values.get(key)) for values in flat}) > 1]
    if not differ:
        return paragraph("The runs have one configuration.", note=True)
    rows = [[key, *(values.get(key, "-") for values in flat)] for key in differ]
    shown = wide(table(["key", *(run.name for run in runs)], rows))
    return (
        shown if len(runs) == 1 else shown + paragraph("Keys that are not shown are the same in all runs.", note=True)
    )


def _curves(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    sections = []
    logged = [run for run in runs if len(run.log) > 1]
    losses = []
    for run in logged:
        lines = [line for line in run.log if "d_loss" in line and "g_loss" in line]
        if len(lines) > 1:
            curves = {name: [line[name] for line in lines] for name in ("d_loss", "g_loss")}
            losses.append((run.name, [line["step"] for line in lines], curves))
    if losses:
        caption = "At every print interval, of one batch each; what is outside of most values is cut off."
        sections.append(("Losses", chart(curves_chart(losses, "loss"), caption)))
    panels = []
    for run in logged:
        lines = [line for line in run.log if "class_norms" in line]
        if len(lines) > 1:
            panels.append((run.name, [line["step"] for line in lines], [line["class_norms"] for line in lines]))
    if panels:
        classes = runs[0].trained.classes
        caption = "Each class's largest exact spectral norm over layers, gain and bias."
        sections.append(
            ("Spectral norms by class", chart(norms_chart(panels, runs[0].counts, "svg", classes), caption))
        )
    return sections


def _while_training(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    """Return Fréchet distances while training, of runs that were measured by the same rule."""
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
        if any(lines[0]["rule"][key] != rule[key] for key in rule if key != "seed"):
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
        "of a group only those of its classes, and distances of fewer images are larger. What is outside of most "
        "values is cut off."
    )
    return [(f"{column} while training", chart(curves_chart(panels, column), caption) + notes(texts))]


def _metrics(runs: Sequence[Run], order: Sequence[int]) -> list[tuple[str, Markup]]:
    measured = _comparable([run for run in runs if run.evaluations])
    if not measured:
        text = Markup("No run has been measured: <code>studiogan-gsr evaluate RUN</code>.")
        return [("Metrics", paragraph(text, note=True))]
    first = measured[0][1]
    column, counts, names = first["column"], first["training_images"], first["class_names"]
    alike = [(name, result) for name, result in measured if result["column"] == column]
    metrics = [*METRICS, *["lpips"] * any("lpips" in result["all"] for _, result in alike)]
    titles = {**{name: name.replace("_", " ") for name in metrics}, "frechet": column, "lpips": "LPIPS"}
    titles["kernel"] = f"kernel distance x {SHOWN_TIMES['kernel']}"
    series = {
        titles[metric]: {name: [_mean(result, y, metric) for y in order] for name, result in alike}
        for metric in ("kernel", "diversity", "recall", "precision")
        if any(values[metric]["mean"] is not None for _, result in alike for values in result["classes"])
    }
    rows: list[tuple[str, object, object]] = [("all", "", "all")]
    rows += [(group, "", group) for group in first["groups"]]
    rows += [(class_title(y, names), counts[y], y) for y in order]
    header = ["classes", "images", *(f"{titles[metric]}, {name}" for metric in metrics for name, _ in alike)]
    columns = ["classes", "images", *(name for _ in metrics for name, _ in alike)]
    spans = {"": 2} | {titles[metric]: len(alike) for metric in metrics}
    cells: list[list[object]] = [
        [title, images, *(_cell(result, key, metric) for metric in metrics for _, result in alike)]
        for title, images, key in rows
    ]
    cut: list[list[object]] = [["..."] * len(header)]
    kept = cells if len(cells) <= _ROWS else [*cells[: _ROWS // 2], *cut, *cells[-_ROWS // 2 :]]
    texts = [_protocol(name, result) for name, result in alike]
    other = [(name, result["column"]) for name, result in measured if result["column"] != column]
    texts += [f"{name} was measured with {theirs}, not {column}, and is left out." for name, theirs in other]
    texts += [f"{run.name} has not been measured." for run in runs if not run.evaluations]
    if len({terms_of(result["protocol"]) for _, result in alike}) > 1:
        texts.insert(0, "The runs were measured in different ways, and their numbers cannot be compared:")
    if len({result["protocol"]["step"] for _, result in alike}) > 1:
        measured_at = ", ".join(f"{name} at {result['protocol']['step']:,}" for name, result in alike)
        texts.insert(0, f"The runs were measured at different steps: {measured_at}.")
    caption = "Class by class, by falling number of training images. Diversity: 1 is that of real images."
    content = (
        (
            chart(metric_chart(series, [counts[y] for y in order], [names[y] for y in order]), caption)
            if series
            else Markup()
        )
        + wide(table(columns, kept, spans))
        + notes(texts)
        + copyable("CSV", comma_separated(header, cells))
        + copyable("LaTeX", latex(header, cells))
    )
    return [("Metrics", content)]


def _comparable(runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
    """Return each run's newest evaluation by the newest protocol that all have in common; otherwise its newest.

    Runs that were only measured by other backbones are ignored.
    """
    if not runs:
        return []
    column = runs[0].evaluations[-1]["column"]
    shared = None
    for run in runs:
        terms = {terms_of(result["protocol"]) for result in run.evaluations if result["column"] == column}
        if terms:
            shared = terms if shared is None else shared & terms

    def newest(run: Run) -> dict[str, Any]:
        common = [result for result in run.evaluations if terms_of(result["protocol"]) in (shared or ())]
        order = [terms_of(result["protocol"]) for result in runs[0].evaluations]
        common.sort(key=lambda result: order.index(terms_of(result["protocol"])))
        return (common or run.evaluations)[-1]

    return [(run.name, newest(run)) for run in runs]


def _cell(result: dict[str, Any], key: object, metric: str) -> str:
    """Return mean and deviation of a metric over all images ("all"), a group (its name) or a class (its label)."""
    if isinstance(key, int):
        values = result["classes"][key]
    else:
        values = result["all"] if key == "all" else result["groups"].get(key)
    return "-" if values is None else as_text(values, metric)


def _mean(result: dict[str, Any], label: int, metric: str) -> float | None:
    mean = result["classes"][label][metric]["mean"]
    return None if mean is None else float(mean) * SHOWN_TIMES.get(metric, 1)


def _protocol(name: str, result: dict[str, Any]) -> str:
    told, reference = result["protocol"], result["protocol"]["reference"]
    return (
        f"{name}: step {told['step']} ({told['checkpoint_rule']}); {told['images']:,} images a repeat, repeats over "
        f"seeds of noise and labels: {told['repeats']}; {reference['images']:,} images of {reference['split']}; "
        f"{told['backbone']}; batch norm: {told['batch_norm']} statistics, batches of {told['batch_size']}; "
        f"k = {told['neighbours']}; averaged generator: {'yes' if told['averaged_generator'] else 'no'}; seeds "
        f"{', '.join(map(str, told['seeds']))}; {told['device']}."
    )


def _samples(runs: Sequence[Run], order: Sequence[int]) -> Markup:
    half = min(_CLASSES, (len(order) + 1) // 2)
    shown = []
    for title, labels in (("head", order[:half]), ("tail", order[-half:])):
        pictures = []
        for run in runs:
            sheet = grid(_generated(run, labels, _SAMPLES), _SAMPLES)
            rows = ", ".join(class_title(y, run.trained.classes, f"{run.counts[y]:,} images") for y in labels)
            pictures.append(picture(sheet, f"{run.name}, {title}; classes from top to bottom: {rows}"))
        shown.append(side_by_side(pictures))
    note = f"Noise of seed {_SEED}, the same in all runs; running batch-norm statistics."
    return Markup().join(shown) + paragraph(note, note=True)


def _generated(run: Run, labels: Sequence[int], each: int) -> Tensor:
    model = run.trained.configuration.MODEL
    wanted = torch.tensor(list(labels)).repeat_interleave(each)
    return to_pixels(generate(run.trained.generator, wanted, model.z_prior, model.z_dim, _SEED))


def _memory(runs: Sequence[Run], order: Sequence[int]) -> list[tuple[str, Markup]]:
    """Return samples of the rarest classes beside their nearest training images."""
    labels = [y for y in order if runs[0].counts[y] > 0][-3:]
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
        told = "; ".join(
            f"class {class_title(y, run.trained.classes, f'{run.counts[y]:,} images')}: {text}"
            for y, text in zip(labels, texts, strict=True)
        )
        parts.append(picture(sheet, f"{run.name}: pairs of a sample and its nearest training image. {told}"))
    note = (
        "Nearest by the Euclidean distance of pixels in [0, 1], among all training images of the class. A median far "
        "below that between two training images means that samples are copies."
    )
    return [("Nearest training images", side_by_side(parts) + paragraph(note, note=True))]


def _pairs(run: Run, images: Prepared, label: int) -> tuple[Tensor, str]:
    """Return samples and their neighbours in turn, uint8 (2 * _NEIGHBOURS, 3, H, W), and the distances as text."""
    places = [i for i, target in enumerate(images.targets) if target == label]
    real = torch.from_numpy(np.stack([np.array(images.read(i)[0]) for i in places])).permute(0, 3, 1, 2)
    fake = _generated(run, [label], _NEIGHBOURS)
    flat_real, flat_fake = (x.flatten(1).double() / 255 for x in (real, fake))
    index, distance = nearest(flat_fake, flat_real)
    told = f"median distance {distance.median():.2f}"
    if len(places) > 1:
        between = torch.cdist(flat_real[:500], flat_real[:500]).fill_diagonal_(float("inf")).min(1).values
        told += f", between training images {between.median():.2f}"
    return torch.stack([fake, real[index]], 1).flatten(0, 1), told
