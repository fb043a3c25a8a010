"""Charts of runs and data sets, drawn by matplotlib: SVG for pages, PNG for the README."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from studiogan_gsr.pages import shortened

# One colour per run, chosen to be distinct for colour-blind readers.
_COLORS = ("#31688e", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#666666")


@dataclass(frozen=True)
class Band:
    """Runs of one kind in a chart, drawn as their mean and the range from the lowest to the highest.

    values: (runs, steps).  color: index of the colour.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[Sequence[float]]
    color: int
    dashed: bool


def norms_chart(
    panels: Sequence[tuple[str, Sequence[int], Sequence[Sequence[float]]]],
    class_counts: Sequence[int],
    kind: str,
    classes: Sequence[str] | None = None,
) -> bytes:
    """Draw spectral norms over training: a panel per run, a line per class, coloured by frequency.

    panels: (title, steps, norms (steps, classes)); they share both axes.
    kind: "svg" or "png".  classes: names in label order, for the legend.
    """
    import matplotlib
    from matplotlib.figure import Figure

    order = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    named = _named(classes)
    legend = 2.6 if named else 1.27  # inches
    width = (6.73 if len(panels) == 1 else 4.6 * len(panels) - 1.27) + legend
    figure = Figure(figsize=(width, 3.6))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, steps, norms) in zip(axes, panels, strict=True):
        for place, label in enumerate(order):
            color = matplotlib.colormaps["viridis_r"](0.08 + 0.92 * place / max(1, len(order) - 1))
            text = str(class_counts[label]) + (f"  {_short(classes[label])}" if named and classes else "")
            axis.plot(steps, [row[label] for row in norms], color=color, lw=1.6, label=text, **_points(steps))
        axis.set(xlabel="generator step")
        axis.set_title(_wrapped(title, 40))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="largest spectral norm of the class", ylim=(0, None))
    lines = axes[-1].get_lines()
    shown = [lines[place * (len(lines) - 1) // 9] for place in range(10)] if len(lines) > 10 else list(lines)
    labels = [str(line.get_label()) for line in shown]
    figure.legend(shown, labels, title="training\nimages", loc="center right", frameon=False)
    with _any_script():
        figure.tight_layout(rect=(0, 0, 1 - legend / width, 1))
    return _drawn(figure, kind)


def counts_chart(class_counts: Sequence[int], classes: Sequence[str]) -> bytes:
    """Draw images per class as SVG, the most frequent first: named bars for few classes, one area for many."""
    from matplotlib.figure import Figure

    order = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    counts = [class_counts[label] for label in order]
    figure = Figure(figsize=(9, 3.2))
    axis = figure.subplots()
    named = len(counts) <= 40
    if named:
        axis.bar(range(len(counts)), counts, color="#31688e")
        axis.set_xticks(range(len(counts)), [_short(classes[label]) for label in order], rotation=45, ha="right")
        size = 9 if len(counts) <= 12 else 7
        for place, count in enumerate(counts):
            axis.annotate(f"{count:,}", (place, count), ha="center", va="bottom", fontsize=size)
    else:
        axis.fill_between(range(len(counts)), counts, step="mid", color="#31688e")
        axis.set_xlabel("class, by falling number of images")
    axis.set(ylabel="images", ylim=(0, 1.1 * max(counts)))
    if max(counts) >= 20 * max(1, min(counts)):
        axis.set(yscale="log", ylabel="images (logarithmic)")
        axis.set_ylim(max(0.7, 0.5 * min(counts)), 2 * max(counts))
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    with _any_script():
        figure.tight_layout()
    return _drawn(figure, "svg")


def curves_chart(panels: Sequence[tuple[str, Sequence[int], Mapping[str, Sequence[float]]]], what: str) -> bytes:
    """Draw numbers over training as SVG, a panel per run, a line per name, at most six.

    panels: (title, steps, {name: values}).  what: label of the vertical axis.
    """
    from matplotlib.figure import Figure

    width = 8.0 if len(panels) == 1 else 4.6 * len(panels)
    figure = Figure(figsize=(width, 3.2))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, steps, curves) in zip(axes, panels, strict=True):
        for color, (name, values) in zip(_COLORS, curves.items(), strict=False):
            axis.plot(steps, values, lw=1.2, color=color, label=name.replace("_", " "), **_points(steps))
        axis.set(xlabel="generator step")
        axis.set_title(_wrapped(title, 40))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    # The axis covers the middle 96% of the values: a run's first ones are often far from the rest.
    drawn = [v for _, _, curves in panels for values in curves.values() for v in values if math.isfinite(v)]
    low, high = np.quantile(drawn, [0.02, 0.98]) if drawn else (0, 1)
    room = 0.15 * (high - low) or 1
    axes[0].set(ylabel=what, ylim=(low - room if any(drawn) else 0, high + room))
    axes[-1].legend(frameon=False)
    with _any_script():
        figure.tight_layout()
    return _drawn(figure, "svg")


def metric_chart(
    series: Mapping[str, Mapping[str, Sequence[float | None]]],
    class_counts: Sequence[int],
    classes: Sequence[str] | None = None,
) -> bytes:
    """Draw metrics per class as SVG, a panel per metric, a colour per run; None leaves a gap.

    class_counts, classes: training images and names of the classes, in the order of the points.
    """
    from matplotlib.figure import Figure

    rows = (len(series) + 1) // 2
    few, named = len(class_counts) <= 20, _named(classes)
    figure = Figure(figsize=(9.2, (3.7 if few and named else 2.9) * rows))
    axes = figure.subplots(rows, 2, squeeze=False)
    for axis, (title, runs) in zip(axes.flat, series.items(), strict=False):
        for number, (name, values) in enumerate(runs.items()):
            numbers = [math.nan if value is None else value for value in values]
            style = {"marker": "o", "ms": 4, "lw": 1.2} if few else {"marker": ".", "ms": 3, "lw": 0}
            style |= {"color": _COLORS[number % len(_COLORS)], "label": _wrapped(name, 60), "clip_on": False}
            axis.plot(range(len(numbers)), numbers, **style)
        drawn = [value for values in runs.values() for value in values if value is not None]
        if not any(drawn):
            axis.set_ylim(0, 1)  # matplotlib's own axis would have negative numbers
        if few:
            ticks = [f"{count:,}" for count in class_counts]
            if named and classes:
                ticks = [f"{_short(name)}  {count}" for name, count in zip(classes, ticks, strict=True)]
            axis.set_xticks(range(len(ticks)), ticks, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
        what = "class and its training images" if named else "training images"
        axis.set(title=title, xlabel=what if few else "class, by falling number of images")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(series) :]:
        axis.set_visible(False)
    lines, names = axes[0, 0].get_legend_handles_labels()
    columns = max(1, min(len(names), 100 // (6 + max(map(len, names)))))
    figure.legend(lines, names, loc="upper center", ncols=columns, frameon=False)
    height = 0.2 * -(-len(names) // columns) * (1 + max(name.count("\n") for name in names)) + 0.1
    with _any_script():
        figure.tight_layout(rect=(0, 0, 1, 1 - height / figure.get_figheight()))
    return _drawn(figure, "svg")


def bands_chart(rows: Sequence[tuple[str, Mapping[str, Sequence[Band]]]], horizontal: str) -> bytes:
    """Draw bands over training as SVG.

    rows: (title, {title of a panel: its bands}).  horizontal: label of the horizontal axis.
    """
    from matplotlib.figure import Figure

    columns = len(rows[0][1])
    figure = Figure(figsize=(4.0 * columns + 3.0, 3.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, sharey="col", sharex=True)
    for line, (title, panels) in zip(axes, rows, strict=True):
        for axis, (what, bands) in zip(line, panels.items(), strict=True):
            for band in bands:
                style = {"color": _COLORS[band.color % len(_COLORS)], "ls": "--" if band.dashed else "-"}
                values = np.asarray(band.values)
                axis.plot(band.steps, values.mean(0), lw=1.4, label=band.name, **style)
                axis.fill_between(band.steps, values.min(0), values.max(0), alpha=0.13, lw=0, color=style["color"])
            axis.set_title(f"{what}\n{title}" if title else what, fontsize=10)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        line[-1].legend(
            *line[0].get_legend_handles_labels(),
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=9,
        )
    for axis in axes[-1]:
        axis.set_xlabel(horizontal)
    return _drawn(figure, "svg")


def ratios_chart(panels: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """Draw other programs' run times divided by ours as bars, as SVG; a line at 1 marks our time.

    panels: (title, {program: ratio}).
    """
    from matplotlib.figure import Figure

    sizes = [len(ratios) for _, ratios in panels]
    figure = Figure(figsize=(9, 0.26 * sum(sizes) + 0.8 * len(panels) + 0.2))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[size + 1.5 for size in sizes])[:, 0]
    for axis, (title, ratios) in zip(axes, panels, strict=True):
        places = range(len(ratios))
        colors = [_COLORS[0] if ratio >= 1 else _COLORS[1] for ratio in ratios.values()]
        bars = axis.barh(places, list(ratios.values()), color=colors, height=0.7)
        axis.bar_label(bars, [f"{ratio:.3g}x" for ratio in ratios.values()], padding=3, fontsize=8)
        axis.set_yticks(places, list(ratios), fontsize=8)
        axis.axvline(1, color="#444444", lw=0.8)
        axis.set_title(title, fontsize=10, loc="left")
        if max(ratios.values()) > 20:
            axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    with _any_script():
        figure.tight_layout()
    return _drawn(figure, "svg")


def norms_by_class_chart(
    norms: Sequence[float],
    start: Sequence[float],
    order: Sequence[int],
    class_counts: Sequence[int] | None,
    marked: Sequence[int],
    classes: Sequence[str] | None = None,
) -> bytes:
    """Draw the norms of all classes now and at the start as SVG.

    norms, start: per label.  order: labels in the order of the points.  marked: labels of exploding classes, in red.
    classes: names in label order.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4))
    axis = figure.subplots()
    places = range(len(order))
    size = 22 if len(order) <= 60 else 8
    axis.scatter(places, [start[y] for y in order], s=size, color="#b8bdc2", label="at the start")
    axis.scatter(places, [norms[y] for y in order], s=size, color="#31688e", label="now")
    ill = [place for place, y in enumerate(order) if y in set(marked)]
    if ill:
        axis.scatter(ill, [norms[order[place]] for place in ill], s=size, color="#c0392b", label="explodes")
    if len(order) <= 20:
        named = _named(classes)
        names = [_short(classes[y]) if named and classes else str(y) for y in order]
        if class_counts:
            names = [f"{name}\n{class_counts[y]:,}" for y, name in zip(order, names, strict=True)]
        axis.set_xticks(list(places), names)
        if named:
            axis.tick_params("x", rotation=45)
            for text in axis.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor", fontsize=9)
        axis.set_xlabel("class and its training images" if class_counts else "class")
    else:
        axis.set_xlabel("class, by falling number of images" if class_counts else "class")
    axis.set(ylabel="largest spectral norm", ylim=(0, 1.1 * max(x for x in (*norms, *start) if math.isfinite(x))))
    axis.legend(frameon=False, loc="lower left", ncols=3)
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    with _any_script():
        figure.tight_layout()
    return _drawn(figure, "svg")


def correlation_chart(panels: Sequence[tuple[str, Any]]) -> bytes:
    """Draw square matrices of numbers from 0 to 1 side by side as SVG; panels: (title, matrix)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels) + 0.8, 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, panels, strict=True):
        drawn = axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        axis.set(xlabel="group", ylabel="group")
        axis.set_title("\n".join(_wrapped(line, 40) for line in title.splitlines()), fontsize=11)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8)
    return _drawn(figure, "svg")


def _points(steps: Sequence[int]) -> dict[str, Any]:
    """Return the style of a line over training: with its points if there are few, as a line of one is invisible."""
    return {"marker": "o", "ms": 3} if len(steps) <= 20 else {}


@contextmanager
def _any_script() -> Iterator[None]:
    """Silence matplotlib's warnings about letters that its font does not have: a browser uses its own font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        yield


def _drawn(figure: Any, kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gsr"}), _any_script():
        figure.savefig(buffer, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _short(name: str) -> str:
    return _literal(shortened(name, 18))


def _wrapped(text: str, letters: int) -> str:
    """Shorten the text to twice `letters`, and wrap it at `letters`: two lines, or three if words break badly."""
    return _literal("\n".join(textwrap.wrap(shortened(text, 2 * letters), letters)))


def _literal(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")  # no TeX, no lone surrogates


def _named(classes: Sequence[str] | None) -> bool:
    """Return whether classes have names other than their numbers."""
    return classes is not None and any(not name.isdecimal() for name in classes)
