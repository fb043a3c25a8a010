"""The content of a table: published values next to ours, and notes on how ours were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks.tables import records
from benchmarks.tables.measured import Measured, difference
from benchmarks.tables.notes import beside, notes_of
from benchmarks.tables.published import METRICS, Published
from benchmarks.tables.records import Record, RecordError
from benchmarks.tables.rows import Table, Tables
from studiogan_gsr.errors import ConfigurationError, RequestError
from studiogan_gsr.evaluation.backbones import find_backbone
from studiogan_gsr.evaluation.filled import WAYS

UNKNOWN, NOTHING = "unknown", "-"
# Title, checkpoint, group of classes, metric.  In titles, {} is the name of the Frechet distance, {kernel} that of
# the kernel distance, and {network} a suffix for features other than FID's.
COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    ("{}, best", "best", "all", "frechet"),
    ("{}, last", "last", "all", "frechet"),
    ("{} of the tail, best", "best", "tail", "frechet"),
    ("{} of the tail, last", "last", "tail", "frechet"),
    ("{kernel} of the tail x 1000, best", "best", "tail", "kernel"),
    ("IS{network}, best", "best", "all", "inception_score"),
    ("recall of the tail, best", "best", "tail", "recall"),
    ("diversity in tail classes, best", "best", "each of the tail", "diversity"),
)

# Accuracies in % of `studiogan-gsr downstream`, by the way that classifiers are trained; in tables whose records have
# them.
ACCURACY = "accuracy "  # how their titles begin
DOWNSTREAM_COLUMNS = tuple(
    (f"{ACCURACY}{of}, {way}", "downstream", group, way)
    for of, group in (("of all", "all"), ("of the tail", "tail"))
    for way in WAYS
)

# What a part of a table says of its rows, by attributes of `Part`.
OF_PART = ("data", "preset", "source")


@dataclass(frozen=True)
class Content:
    """The content of a table's files.

    header, rows: the table.  gap_header, gaps: the table of differences from the baselines.
    distance: the name of the Frechet distance, such as "FID".
    """

    header: list[str]
    rows: list[list[str]]
    gap_header: list[str]
    gaps: list[list[str]]
    notes: list[str]
    distance: str


def distance_of(table: Table, found: Mapping[str, Measured]) -> str:
    """Return the name of a table's Frechet distance: that in its records, or else that of its protocols' backbones.

    Raises RequestError if there are several.
    """
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    called = {record.results[which]["column"] for record in kept for which in records.WHICH}
    protocols = [row.protocol for row in table.rows.values() if row.protocol is not None]
    called = called or {_column(protocol.backbone) for protocol in protocols} or {"FID"}
    if len(called) > 1:
        what = "records" if kept else "protocols"
        raise RequestError(f"{table.name}: its {what} have different distances: {', '.join(sorted(called))}")
    return str(called.pop())


def _column(backbone: str) -> str:
    """Return what a backbone calls its Frechet distance, without its weights; if it does not say, FD and its name."""
    try:
        return str(getattr(find_backbone(backbone).factory, "column", f"FD-{backbone}"))
    except ConfigurationError:  # of a package that is not installed here
        return f"FD-{backbone}"


def content_of(table: Table, tables: Tables, found: dict[str, Measured]) -> Content:
    """Return a table's content; raise RequestError or RecordError if its records cannot be compared."""
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    distance = distance_of(table, found)
    rows_of_file = table.rows.values()
    published = [name for name in METRICS if any(name in row.published for row in rows_of_file)]
    others = [other for row in rows_of_file if (other := beside(row, tables)) is not None]
    theirs = [name for name in METRICS if any(name in other.published for other in others)]
    context = list(OF_PART) if any(row.part is not None for row in rows_of_file) else []
    groups = dict.fromkeys(name for record in kept for name in _groups(record))
    given = tuple((f"{{}} of {name}, best", "best", name, "frechet") for name in groups)
    ours = (*COLUMNS, *given) if any(row.sections is not None for row in rows_of_file) else ()
    ours += DOWNSTREAM_COLUMNS if any(record.downstream is not None for record in kept) else ()
    header = ["", *context, *(f"published {METRICS[name]}" for name in published)]
    header += [f"published {METRICS[name]}, beside" for name in theirs]
    network = distance.removeprefix("FD") if distance != "FID" else ""
    kernel = "KID" if distance == "FID" else distance.replace("FD", "KD", 1)
    titles = [title.format(distance, network=network, kernel=kernel) for title, *_ in ours]
    norms = ["norm of the tail, at the start", "norm of the tail, last"]
    header += [*titles, *norms, "seeds"] if ours else []
    rows, gaps = [], []
    for name, of_row in found.items():
        row = of_row.row
        cells = [name]
        if context:
            cells += [NOTHING] * len(context) if row.part is None else [getattr(row.part, key) for key in context]
        cells += [published_text(row.published.get(metric)) for metric in published]
        other = beside(row, tables)
        cells += [published_text(None if other is None else other.published.get(metric)) for metric in theirs]
        cells += [over_seeds(of_row.values(*what)) for _, *what in ours]
        if ours:
            cells += [over_seeds(of_row.tail_norms(when)) for when in ("start", "last")]
            cells += [str(len(of_row.by_seed)) if row.sections is not None else NOTHING]
        rows.append(cells)
        base = baseline_of(of_row, found)
        if base is not None:
            pairs = [(of_row.values(*what), base.values(*what)) for _, *what in ours]
            pairs += [(of_row.tail_norms("last"), base.tail_norms("last"))]
            gaps.append([name, base.row.name, *(gap_text(difference(*pair)) for pair in pairs)])
    notes = notes_of(table, tables, found)
    return Content(header, rows, ["", "over", *titles, norms[-1]], gaps, notes, distance)


def baseline_of(of_row: Measured, found: Mapping[str, Measured]) -> Measured | None:
    """Return a row's baseline if both have a seed in common; raise RecordError if they have other images."""
    base = found.get(of_row.row.baseline or "")
    if base is None or not set(of_row.by_seed) & set(base.by_seed):
        return None
    _check_images(of_row, base)
    return base


def _check_images(ours: Measured, baseline: Measured) -> None:
    """Raise RecordError if a row and its baseline were trained on, or measured against, different images."""
    for seed in set(ours.by_seed) & set(baseline.by_seed):
        pair = [of.by_seed[seed] for of in (ours, baseline)]
        if len({record.data["images_sha256"] for record in pair}) > 1:
            raise RecordError(f"{ours.row.name}, seed {seed}: its baseline was trained on other images")
        references = [record.results["best"]["protocol"]["reference"] for record in pair]
        if references[0]["content_sha256"] != references[1]["content_sha256"]:
            raise RecordError(f"{ours.row.name}, seed {seed}: its baseline was measured against other images")
        if _groups(pair[0]) != _groups(pair[1]):
            raise RecordError(f"{ours.row.name}, seed {seed}: its baseline was measured with other groups of classes")


def _groups(record: Record) -> Mapping[str, list[int]]:
    """Return the groups of classes that the protocol names, besides the standard ones."""
    return record.results["best"]["protocol"].get("groups") or {}


def published_text(value: Published | None) -> str:
    """Return a published value with its deviation or its margin of error."""
    if value is None:
        return UNKNOWN
    if value.deviation is not None:
        return f"{value.value} ± {value.deviation}"
    return value.value + (f" (read ± {value.margin})" if value.margin is not None else "")


def over_seeds(by_seed: Mapping[int, float], digits: int = 2, places: int = 9) -> str:
    """Return mean and standard deviation, rounded to so many significant digits of the deviation.

    Without a deviation, the mean has two more significant digits than that.  places: the most decimals.
    """
    if not (values := list(by_seed.values())):
        return NOTHING
    if len(values) == 1 or not (deviation := stdev(values)):
        return f"{mean(values):.{digits + 2}g}"
    decimals = _decimals(deviation, digits, places)
    return f"{mean(values):.{decimals}f} ± {deviation:.{decimals}f}"


def gap_text(gap: tuple[float, float | None] | None, digits: int = 3, places: int = 9) -> str:
    """Return a difference and its interval, rounded to so many significant digits of the half width.

    places: the most decimals.
    """
    if gap is None:
        return NOTHING
    middle, width = gap
    if not width:
        return f"{middle:+.{digits + 1}g}"
    decimals = _decimals(width, digits, places)
    low, between, high = (
        f"{round(value, decimals) + 0.0:+.{decimals}f}" for value in (middle - width, middle, middle + width)
    )
    return f"{between} [{low}, {high}]"


def _decimals(value: float, digits: int, places: int) -> int:
    """Return the decimals that show so many significant digits of a value, at most `places`."""
    return min(places, max(0, digits - 1 - math.floor(math.log10(value))))
