"""The short form of a table: few columns, few digits, and the paper's values beside."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from benchmarks.tables.content import (
    NOTHING,
    Content,
    baseline_of,
    distance_of,
    gap_text,
    over_seeds,
    published_text,
)
from benchmarks.tables.measured import Measured, difference
from benchmarks.tables.notes import beside, regularizers_of
from benchmarks.tables.published import METRICS, Published
from benchmarks.tables.rows import Protocol, Row, Table, Tables
from studiogan_gsr.evaluation.filled import CONFIDENCE

# Title, and what `Measured.values` is asked for; {} is the name of the Frechet distance.
_COLUMNS = (
    ("{}", "best", "all", "frechet"),
    ("{} of the tail", "best", "tail", "frechet"),
    ("recall of the tail", "best", "tail", "recall"),
    ("diversity of the tail", "best", "each of the tail", "diversity"),
    ("norm of the tail", "norms", "best", ""),
    ("accuracy of the tail, %", "downstream", "tail", "filled"),
)
# Ways to train the classifier without any generator, and their rows' titles.
_OF_DATA = (("real", "real images alone"), ("balanced", "real images, classes drawn equally often"))
# Significant digits of a deviation and of the half width of an interval, and the most decimals.
_DIGITS, _GAP_DIGITS, _PLACES = 1, 2, 2


def summary_of(table: Table, tables: Tables, found: dict[str, Measured]) -> Content:
    """Return the short form of a table; raise RequestError or RecordError if its records cannot be compared."""
    distance = distance_of(table, found)
    titles = [title.format(distance.partition("-")[0]) for title, *_ in _COLUMNS]
    others = [other for row in table.rows.values() if (other := beside(row, tables)) is not None]
    theirs = [metric for metric in METRICS if any(metric in row.published for row in others)][:1]
    header = ["", *titles, "seeds", *(f"{METRICS[metric]} in the paper" for metric in theirs)]
    rows, gaps = [], []
    for of_row in found.values():
        row, other = of_row.row, beside(of_row.row, tables)
        cells = [
            _of_seeds(over_seeds(values, _DIGITS, _PLACES), values, of_row.by_seed) for values in _values(of_row)
        ]
        cells.append(f"{len(of_row.by_seed)} of {len(row.seeds)}")
        rows.append([row.name, *cells, *(published_text(_of(other, metric)) for metric in theirs)])
        if row.baseline is None:
            continue
        base = baseline_of(of_row, found)
        pairs = [({}, {})] * len(_COLUMNS) if base is None else list(zip(_values(of_row), _values(base), strict=True))
        shared = 0 if base is None else len(set(of_row.by_seed) & set(base.by_seed))
        cells = [_marked(difference(*pair)) for pair in pairs]
        first = beside(table.rows[row.baseline], tables) if row.baseline in table.rows else None
        cells += [f"{shared} of {len(row.seeds)}", *(_published_gap(other, first, metric) for metric in theirs)]
        gaps.append([f"{row.name}, minus {row.baseline}", *cells])
    for way, title in _OF_DATA:
        values = [v for of_row in found.values() for v in of_row.values("downstream", "tail", way).values()]
        if values:  # the same for all generators
            cell = over_seeds(dict(enumerate(values)), _DIGITS, _PLACES)
            rows.append([title, *[""] * (len(_COLUMNS) - 1), cell, *[""] * (1 + len(theirs))])
    return Content(header, rows, header, gaps, _sentences(table, found, distance, bool(theirs)), distance)


def _values(of_row: Measured) -> list[dict[int, float]]:
    """Return the values of each column by seed."""
    return [
        of_row.tail_norms(group) if which == "norms" else of_row.values(which, group, metric)
        for _, which, group, metric in _COLUMNS
    ]


def _of_seeds(text: str, values: Mapping[int, float], by_seed: Mapping[int, object]) -> str:
    """Return a cell's text, followed by its number of seeds if the row has more."""
    return f"{text} ({len(values)})" if values and len(values) < len(by_seed) else text


def _marked(gap: tuple[float, float | None] | None) -> str:
    """Return a difference and its interval, in bold if the interval does not contain zero."""
    text = gap_text(gap, _GAP_DIGITS, _PLACES)
    return f"**{text}**" if gap is not None and gap[1] and abs(gap[0]) > gap[1] else text


def _of(row: Row | None, metric: str) -> Published | None:
    return None if row is None else row.published.get(metric)


def _published_gap(other: Row | None, first: Row | None, metric: str) -> str:
    """Return the difference of two rows' published values, with the decimals that they have."""
    ours, theirs = _of(other, metric), _of(first, metric)
    if ours is None or theirs is None:
        return NOTHING
    return f"{Decimal(ours.value) - Decimal(theirs.value):+}"


def _sentences(table: Table, found: Mapping[str, Measured], distance: str, published: bool) -> list[str]:
    """Return what a reader must know of the numbers: seeds, protocol, columns, and the paper's."""
    rows = [of_row for of_row in found.values() if of_row.row.protocol is not None]
    protocol = rows[0].row.protocol
    assert protocol is not None  # `read_tables` allows a summary only of rows that are run
    made, planned = (
        sum(len(of) for of in each) for each in zip(*((r.by_seed, r.row.seeds) for r in rows), strict=True)
    )
    changed = dict.fromkeys(text for r in rows if (text := regularizers_of(r.row)))
    lines = [f"{'; '.join([table.title, *changed])}."]
    if made < planned:
        lines.append(f"Preliminary: so far {made} of {planned} runs have a record.")
    lines.append(
        "Mean ± standard deviation over training seeds (in brackets: how many, if fewer than the row's). "
        f"Differences: mean over pairs of one seed [{CONFIDENCE:.0%} confidence interval, Student's t], bold if it "
        "excludes 0, which happens by chance in one of twenty."
    )
    lines += _of_protocol(protocol, distance)
    if published:
        tables = dict.fromkeys(r.row.beside.table for r in rows if r.row.beside is not None)
        lines.append(
            f"In the paper ({', '.join(tables)}): networks at full width, other images and another feature network, "
            "so only the signs of differences can be compared. The paper's ± is over samples of one checkpoint."
        )
    return lines


def _of_protocol(protocol: Protocol, distance: str) -> list[str]:
    """Return how the columns are measured."""
    halves = protocol.select_on == "validation"
    on, against = ("one half of the reference", "the other") if halves else ("the reference", "the same images")
    what = "FID" if distance == "FID" else f"FD: {distance}, not FID"
    lines = [
        f"{what}; {protocol.images:,} images of the checkpoint that is best on {on}, against {against}.",
        "Lower distances and higher recall, diversity and accuracy are better. Tail: the rarest third of the "
        "classes. Recall: the part of the real images that is close to generated ones. Diversity: 1 for real images. "
        "Norm: the largest spectral norm of a class's gains and biases, averaged over the tail, at the best "
        "checkpoint.",
    ]
    if protocol.downstream is not None:
        lines.append("Accuracy: of a classifier trained on the real images and, of rare classes, generated ones.")
    return lines
