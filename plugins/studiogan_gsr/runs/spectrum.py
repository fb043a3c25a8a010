"""Print and draw the spectral norms of a generator's class parameters, and which classes explode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor, nn

from studiogan_gsr.charts import correlation_chart, norms_by_class_chart, norms_chart
from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.files import write_atomically
from studiogan_gsr.pages import chart, page, paragraph, shortened, table, wide
from studiogan_gsr.progress import console
from studiogan_gsr.regularizers.mapping import MAPPING
from studiogan_gsr.regularizers.norms import THRESHOLD, Spectrum, exploding, group_correlation, spectrum
from studiogan_gsr.runs.exported import is_exported
from studiogan_gsr.runs.trained import Trained, load_trained
from studiogan_gsr.settings import Configured

_PASSES = 30  # forward passes after which the estimates of spectral norm have converged
_LISTED, _WIDTH = 30, 24  # at most: rows of the table, characters of a class name


def inspect(path: Path, config: str | None, out: Path | None) -> dict[str, Any]:
    """Print the norms per class and a verdict, write spectrum.json and index.html; return the result.

    out: folder of the two files; None: `spectrum` in the run's folder.
    Raises RequestError if there is no checkpoint, and GeneratorError if the generator is not class-conditional.
    """
    trained = load_trained(path, config, averaged=None if is_exported(path) else False)
    groups = _groups(trained.configuration)
    found = spectrum(trained.generator, groups)
    began = trained.start()
    start = start_norms(began.generator, trained.configuration, groups)
    norms, places = found.largest()
    counts = trained.data.get("class_counts")
    order = sorted(range(len(norms)), key=lambda y: -counts[y]) if counts else list(range(len(norms)))
    ill = exploding(norms.tolist(), start)
    classes = trained.classes
    lines = [*verdict(norms.tolist(), start, ill, counts, classes), f"At the start: {began.source}"]
    if MAPPING in found.sides:
        lines.append("Norms of the mapping network's w: the threshold was tested on batch norm only.")
    result = {
        "checkpoint": str(trained.folder.resolve()),
        "step": trained.step,
        "groups": groups,
        "training_images": counts,
        "class_names": classes,
        "layers": found.layers,
        "norms": _plain(found.norms),
        "condition_numbers": _plain(found.conditions),
        "largest": _plain(norms),
        "start": _plain(torch.tensor(start, dtype=torch.float64)),
        "start_of": began.source,
        "start_is_the_runs_own": began.known,
        "threshold": THRESHOLD,
        "exploding": ill,
        "verdict": lines,
    }
    show = console()
    _print_norms(result, norms.tolist(), start, places, order)
    for line in lines:
        show.print(line)
    folder = out or (trained.run or trained.folder) / "spectrum"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "spectrum.json", json.dumps(result) + "\n")
    write_atomically(folder / "index.html", _page(trained, found, start, result, order))
    show.print(f"written to {folder / 'index.html'}")
    return result


def _print_norms(
    result: dict[str, Any],
    norms: Sequence[float],
    start: Sequence[float],
    places: Sequence[tuple[str, str]],
    order: Sequence[int],
) -> None:
    """Print a line per class; of more than 30 classes, only the first 15 and the last 15 in `order`.

    norms, start: per class, the largest norm, now and at the start.  places: the (layer, side) of the norm now.
    """
    counts, exploding_labels = result["training_images"], result["exploding"]
    show, names = console(), [shortened(name, _WIDTH) for name in result["class_names"]]
    shown = order if len(order) <= _LISTED else [*order[: _LISTED // 2], *order[-_LISTED // 2 :]]
    titles = [class_title(label, names) for label in shown]
    width = max(len(title) for title in ("class", *titles))
    show.print(f"{'class':<{width}}{'images':>9}{'norm':>9}{'at start':>10}  where")
    for label, title in zip(shown, titles, strict=True):
        layer, side = places[label]
        numbers = f"{'' if counts is None else counts[label]:>9}{norms[label]:>9.3f}{start[label]:>10.3f}"
        show.print(f"{title:<{width}}{numbers}  {layer} {side}{'  explodes' if label in exploding_labels else ''}")


def start_norms(generator: nn.Module, configuration: Configured, groups: int | str) -> list[float]:
    """Return the largest norm per class of a generator from the start of a run.

    In training mode with spectral norm, forward passes first let the estimates of spectral norm converge, which
    changes the generator's buffers.
    """
    model = configuration.MODEL
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(_PASSES if model.apply_g_sn and generator.training else 0):
            z, labels = sample_latents(model.z_prior, 2, model.z_dim, configuration.DATA.num_classes, stream)
            generator(z, labels)
    norms: list[float] = spectrum(generator, groups).largest()[0].tolist()
    return norms


def verdict(
    norms: Sequence[float],
    start: Sequence[float],
    ill: Sequence[int],
    counts: Sequence[int] | None,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """Return sentences that say which classes explode.

    norms, start: the largest norm per class, now and at the start.  ill: labels of exploding classes.
    """
    middle = float(torch.tensor(norms).median())
    rule = f"{THRESHOLD} times both the largest at the start ({max(start):.3f}) and the median now ({middle:.3f})"
    if not ill:
        return [f"No class explodes: no norm is above {rule}."]
    named = ", ".join(
        class_title(y, classes, *([f"{counts[y]} images"] if counts else []), f"norm {norms[y]:.3f}")
        for y in sorted(ill, key=lambda y: -norms[y])[:10]
    )
    lines = [f"{len(ill)} of {len(norms)} classes explode: {named}{', ...' if len(ill) > 10 else ''}: above {rule}."]
    if counts and len(set(counts)) > 1:
        rare = sum(counts[y] < sorted(counts)[len(counts) // 2] for y in ill)
        lines.append(f"{rare} of them are in the rarer half of the classes.")
    return lines


def _groups(configuration: Configured) -> int | str:
    groups = next((s.options.get("groups") for s in configuration.regularizers if s.name == "gsr"), "square")
    return groups if isinstance(groups, int) else "square"


def _page(
    trained: Trained, found: Spectrum, start: Sequence[float], result: dict[str, Any], order: Sequence[int]
) -> str:
    counts, groups, classes = result["training_images"], result["groups"], result["class_names"]
    short = [shortened(name, _WIDTH) for name in classes]
    norms, places = found.largest()
    sections = [("", Markup().join(map(paragraph, result["verdict"])))]
    drawn = norms_by_class_chart(norms.tolist(), start, order, counts, result["exploding"], classes)
    caption = "Each class's largest exact spectral norm over layers, gain and bias; grey: at the start."
    sections.append(("Norms by class", chart(drawn, caption)))
    lines = [line for line in trained.log if "class_norms" in line]
    if len(lines) > 1 and counts:
        panel = ("", [line["step"] for line in lines], [line["class_norms"] for line in lines])
        drawn = norms_chart([panel], counts, "svg", classes)
        sections.append(("Over training", chart(drawn, "The same norms at every print interval of the run.")))
    ends = [order[0], order[-1]]
    worst = max(ends, key=lambda y: float(norms[y]))
    layer, side = places[worst]
    panels = []
    for label in ends:
        matrix = group_correlation(trained.generator, layer, side, label, groups)
        title = class_title(label, short, *([f"{counts[label]} images"] if counts else []))
        panels.append((f"class {title}\nmean {_off_diagonal(matrix):.2f}", matrix.abs().numpy()))
    caption = (
        f"Absolute correlation between the groups of a class, in the {side} of {layer}, which has the larger norm of "
        "the two classes. The mean leaves out the diagonal. Similar groups make the norm large."
    )
    sections.append(("Correlation of groups", chart(correlation_chart(panels), caption)))
    header = ["layer", "side", "largest norm", "class", "median norm", "median condition number"]
    rows = []
    for i, name in enumerate(found.layers):
        for j, which in enumerate(found.sides):
            values, conditions = found.norms[i, j], found.conditions[i, j]
            numbers = [f"{values.median():.3f}", f"{conditions.median():.3g}"]
            largest = class_title(int(values.argmax()), short)
            rows.append([name, which, f"{values.max():.3f}", largest, *numbers])
    sections.append(("Layers", wide(table(header, rows))))
    note = (
        f"{result['checkpoint']}, step {result['step']}; exact, by SVD in float64; {groups} groups. A class explodes "
        f"if its norm is above {THRESHOLD} times both the largest norm at the start and the median norm now."
    )
    sections.append(("Protocol", paragraph(note, note=True)))
    return page(f"Spectrum of {(trained.run or trained.folder).resolve().name}", sections)


def _off_diagonal(matrix: Tensor) -> float:
    n = len(matrix)
    return float((matrix.abs().sum() - matrix.abs().trace()) / max(1, n * (n - 1)))


def _plain(values: Tensor) -> Any:
    """Return nested lists, with None for values that are not finite, because JSON has no such numbers."""
    listed = values.tolist()

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return value if abs(value) != float("inf") and value == value else None

    return plain(listed)
