"""The figure of a table: distances and norms over training, a row of panels per data set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from statistics import mean

from benchmarks.tables.records import Record
from benchmarks.tables.rows import Row
from studiogan_gsr.charts import Band, bands_chart
from studiogan_gsr.evaluation.measure import groups

PANELS = ("{} while training", "{} of the tail while training", "spectral norm of the tail's class parameters")


def tail_of(record: Record) -> list[int]:
    """Return the labels of the tail: the rarest third of the classes, or the rarer one of two."""
    return groups(record.data["class_counts"]).get("tail", [])


def tail_norm(record: Record, norms: Sequence[float]) -> float | None:
    """Return the mean over the tail's classes of their largest norms; None without a tail or norms."""
    tail = tail_of(record)
    return mean(norms[label] for label in tail) if tail and norms else None


def figure(kept: Mapping[str, tuple[Row, Mapping[int, Record]]], distance: str) -> str | None:
    """Draw rows with their records by seed as SVG; None if there is nothing to draw.

    A baseline of exactly one row has that row's colour, and is dashed.  The last line of the file is a digest of the
    numbers, for `drawn_of`: matplotlib's versions draw equal numbers differently.
    """
    drawn: dict[str, dict[str, list[Band]]] = {}
    colors: dict[str, dict[str, int]] = {}
    for name, (row, by_seed) in kept.items():
        pair = row.baseline if row.baseline is not None and _is_pair(row.baseline, kept) else name
        for data in dict.fromkeys(record.data["name"] for record in by_seed.values()):
            courses = [_course(record) for record in by_seed.values() if record.data["name"] == data]
            steps = courses[0][0]
            color = colors.setdefault(data, {}).setdefault(pair, len(colors[data]))
            panels = drawn.setdefault(data, {title.format(distance): [] for title in PANELS})
            for bands, *values in zip(panels.values(), *(numbers for _, numbers in courses), strict=True):
                if all(value is not None for of_run in values for value in of_run):
                    bands.append(Band(name, steps, values, color, dashed=_is_pair(name, kept)))
    if not drawn:
        return None
    svg = bands_chart(list(drawn.items()), "generator step").decode()
    return f"{svg.rstrip()}\n<!-- of {hashlib.sha256(repr(drawn).encode()).hexdigest()} -->\n"


def _is_pair(name: str, kept: Mapping[str, tuple[Row, object]]) -> bool:
    """Return whether a row is the baseline of exactly one other row, and has no baseline itself."""
    rows = [row for row, _ in kept.values()]
    compared = sum(row.baseline == name for row in rows)
    return compared == 1 and all(row.baseline is None for row in rows if row.name == name)


def drawn_of(svg: str) -> str | None:
    """Return the digest of a figure's numbers; None if it has none."""
    found = re.search(r"<!-- of ([0-9a-f]{64}) -->\s*$", svg)
    return found[1] if found else None


def _course(record: Record) -> tuple[list[int], list[list[float | None]]]:
    """Return the steps of a run's evaluations, and the values at these steps for each of PANELS."""
    lines = record.course
    norms = [tail_norm(record, line["class_norms"]) for line in lines]
    distances = [[line[key] for line in lines] for key in ("frechet", "tail")]
    return [line["step"] for line in lines], [*distances, norms]
