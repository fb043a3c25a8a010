"""Tables of what `downstream` has measured: accuracies, and differences to the real images as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studiogan_gsr.evaluation.filled import OF_DATA_ALONE, WAYS
from studiogan_gsr.pages import shortened
from studiogan_gsr.runs.evaluation_table import FEW, WIDTH, aligned, standard_groups, values_of
from studiogan_gsr.runs.table_rows import table_rows

Results = Sequence[tuple[str, dict[str, Any]]]  # (name of the run, result of `downstream`), of one protocol
ACCURACY, OVER_REAL = "accuracy in %", "difference to real, in points"


def cells(results: Results, what: str, width: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Return a header and rows: all images, the groups, the classes by falling number of training images.

    what: ACCURACY or OVER_REAL.  width: characters of a class name on a terminal, which shows at most FEW classes;
        None: any number of both.
    """
    first, columns = results[0][1], _columns(results, what)
    counts, names = first["training_images"], None
    if width is None or len(counts) <= FEW:
        names = [name if width is None else shortened(name, width) for name in first["class_names"]]
    header = ["classes", "images", *(title for title, _ in columns)]
    return header, [
        [
            title,
            str(counts[key]) if isinstance(key, int) else "",
            *(_text(values_of(values, key), what == OVER_REAL) for _, values in columns),
        ]
        for key, title in table_rows(columns[0][1]["groups"], counts, names)
    ]


def _columns(results: Results, what: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (title, values) of each column; ways that need no generator are shown once."""
    columns = []
    for way in WAYS:
        for name, result in results[:1] if way in OF_DATA_ALONE else results:
            title = way if len(results) == 1 or way in OF_DATA_ALONE else f"{way}, {name}"
            values = result["ways"][way]
            columns.append((title, values["over_real"] if what == OVER_REAL else values))
    return columns[1:] if what == OVER_REAL else columns


def _text(statistic: dict[str, float | None], signed: bool) -> str:
    """Return "mean ± half width", times 100; "-" if there is none."""
    middle, width = statistic["mean"], statistic["half_width"]
    if middle is None:
        return "-"
    text = f"{100 * middle:{'+' if signed else ''}.1f}"
    return text if width is None else f"{text} ± {100 * width:.1f}"


def table_lines(results: Results) -> list[str]:
    """Return the lines of both tables, and of what they mean."""
    lines = []
    for what in (ACCURACY, OVER_REAL):
        header, rows = cells(results, what, WIDTH)
        lines += [f"{what[0].upper()}{what[1:]}:", *aligned([header, *rows])]
    return [*lines, *legend(results)]


def legend(results: Results) -> list[str]:
    """Return what the columns, the groups and the intervals mean, and what a reader must know."""
    result = results[0][1]
    protocol, seeds = result["protocol"], len(result["protocol"]["seeds"])
    lines = [f"{way.capitalize()}: {values['description']}." for way, values in result["ways"].items()]
    spread = (
        "one seed of the classifier, so without an interval"
        if seeds == 1
        else f"mean ± half of the 95 % interval (Student's t) over {seeds} seeds of the classifier; differences are "
        "paired by seed"
    )
    recipe = protocol["recipe"]
    flips = "with" if recipe["flip"] else "without"
    lines += [
        f"All ways: ResNet-18 of width {recipe['width']}, {recipe['updates']:,} updates of {recipe['batch_size']} "
        f"images, {flips} flips; {spread}. Another training of the generator is not in the interval.",
        standard_groups(len(result["training_images"])),
    ]
    return lines + [f"{note[0].upper()}{note[1:]}." for note in result["notes"]]
