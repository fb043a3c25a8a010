"""The content of a table: published values next to ours, and notes on how ours were measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy import stats

from benchmarks.tables import records
from benchmarks.tables.figures import tail_norm, tail_of
from benchmarks.tables.plan import HOSTS
from benchmarks.tables.records import Record, RecordError
from benchmarks.tables.rows import Protocol, Row, Table, Tables
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.filled import WAYS
from studiogan_gsr.runs.downstream_table import legend
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration

CONFIDENCE = 0.95
UNKNOWN, NOTHING = "unknown", "-"
PUBLISHED = {"fid": "FID", "is": "IS", "fid_few": "FID of few-shot classes"}
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
DOWNSTREAM_COLUMNS = tuple(
    (f"accuracy {of}, {way}", "downstream", group, way)
    for of, group in (("of all", "all"), ("of the tail", "tail"))
    for way in WAYS
)


@dataclass(frozen=True)
class Measured:
    """The records of a row, by seed."""

    row: Row
    by_seed: dict[int, Record]

    def values(self, which: str, group: str, metric: str) -> dict[int, float]:
        """Return a metric by training seed, averaged over sampling seeds; kernel distances are multiplied by 1000.

        group: a group of classes in the result, "all", or "each of the tail": the mean over single tail classes.
        With "downstream" in place of a checkpoint, return accuracies in %, averaged over the classifier's seeds.
        """
        if which == "downstream":
            return self._accuracies(group, metric)
        found = {}
        for seed, record in self.by_seed.items():
            result = record.results[which]
            if group == "each of the tail":
                parts = [result["classes"][label] for label in tail_of(record)]
            else:
                parts = [result["all"] if group == "all" else result["groups"].get(group, {})]
            values = [numbers.get(metric, {}).get("mean") for numbers in parts]
            if values and all(value is not None for value in values):
                found[seed] = mean(values) * (1000 if metric == "kernel" else 1)
        return found

    def _accuracies(self, group: str, way: str) -> dict[int, float]:
        found = {}
        for seed, record in self.by_seed.items():
            values = {} if record.downstream is None else record.downstream["ways"][way]
            value = (values if group == "all" else values.get("groups", {})).get(group, {}).get("mean")
            if value is not None:
                found[seed] = 100 * value
        return found

    def tail_norms(self, when: str) -> dict[int, float]:
        """Return `tail_norm` by seed, before training ("start") or of the last checkpoint ("last")."""
        found = {s: tail_norm(record, record.norms[when]) for s, record in self.by_seed.items() if record.norms}
        return {seed: norm for seed, norm in found.items() if norm is not None}


def measured(table: Table, folder: Path) -> dict[str, Measured]:
    """Return the records of every row, by row name; StudioGAN's are rows of their own, if there are any.

    Raises RecordError for a record that is damaged or belongs to another run.
    """
    found = {}
    for row in table.rows.values():
        for host in HOSTS:
            paths = {seed: records.path_of(key, folder) for seed, key in keys_of(row, host).items()}
            by_seed = {seed: records.read(path, path.stem) for seed, path in paths.items() if path.is_file()}
            shown = row if host == "native" else _in_studiogan(row)
            if by_seed or host == "native":
                found[shown.name] = Measured(shown, by_seed)
    return found


def _in_studiogan(row: Row) -> Row:
    baseline = None if row.baseline is None else f"{row.baseline}, in StudioGAN"
    return dataclasses.replace(row, name=f"{row.name}, in StudioGAN", baseline=baseline)


def keys_of(row: Row, host: str) -> dict[int, str]:
    """Return the keys of a row's records, by seed."""
    if row.sections is None or row.protocol is None:
        return {}
    return {seed: records.key_of(host, row.sections, seed, vars(row.protocol)) for seed in row.seeds}


def difference(ours: dict[int, float], baseline: dict[int, float]) -> tuple[float, float | None] | None:
    """Return the mean difference over shared seeds, and half the width of its paired 95 % interval (Student's t).

    None if no seed is shared; for a single shared seed, the half width is None.
    """
    shared = sorted(set(ours) & set(baseline))
    if not shared:
        return None
    gaps = [ours[seed] - baseline[seed] for seed in shared]
    if len(gaps) < 2:
        return gaps[0], None
    width = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
    return mean(gaps), width


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


def content_of(table: Table, tables: Tables, found: dict[str, Measured]) -> Content:
    """Return a table's content; raise RequestError or RecordError if its records cannot be compared."""
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    called = {record.results[which]["column"] for record in kept for which in records.WHICH}
    if len(called) > 1:
        raise RequestError(f"{table.name}: its records have different distances: {', '.join(sorted(called))}")
    distance = called.pop() if called else "FID"
    published = [name for name in PUBLISHED if any(name in row.published for row in table.rows.values())]
    groups = dict.fromkeys(name for record in kept for name in _groups(record))
    given = tuple((f"{{}} of {name}, best", "best", name, "frechet") for name in groups)
    ours = (*COLUMNS, *given) if any(row.sections is not None for row in table.rows.values()) else ()
    ours += DOWNSTREAM_COLUMNS if any(record.downstream is not None for record in kept) else ()
    header = ["", *(f"published {PUBLISHED[name]}" for name in published)]
    network = distance.removeprefix("FD") if distance != "FID" else ""
    kernel = "KID" if distance == "FID" else distance.replace("FD", "KD", 1)
    titles = [title.format(distance, network=network, kernel=kernel) for title, *_ in ours]
    norms = ["norm of the tail, at the start", "norm of the tail, last"]
    header += [*titles, *norms, "seeds"] if ours else []
    rows, gaps = [], []
    for name, of_row in found.items():
        row = of_row.row
        cells = [name, *(_published(row, metric) for metric in published)]
        cells += [_over_seeds(of_row.values(*what)) for _, *what in ours]
        if ours:
            cells += [_over_seeds(of_row.tail_norms(when)) for when in ("start", "last")]
            cells += [str(len(of_row.by_seed)) if row.sections is not None else NOTHING]
        rows.append(cells)
        base = found.get(row.baseline or "")
        if base is not None and set(of_row.by_seed) & set(base.by_seed):
            _check_images(of_row, base)
            pairs = [(of_row.values(*what), base.values(*what)) for _, *what in ours]
            pairs += [(of_row.tail_norms("last"), base.tail_norms("last"))]
            gaps.append([name, base.row.name, *(_gap(difference(*pair)) for pair in pairs)])
    return Content(header, rows, ["", "over", *titles, norms[-1]], gaps, _notes(table, tables, found), distance)


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


def _published(row: Row, metric: str) -> str:
    value = row.published.get(metric)
    if value is None:
        return UNKNOWN
    if value.deviation is not None:
        return f"{value.value} ± {value.deviation}"
    return value.value + (f" (read ± {value.margin})" if value.margin is not None else "")


def _over_seeds(by_seed: Mapping[int, float]) -> str:
    """Return mean and standard deviation, rounded to two significant digits of the deviation."""
    if not (values := list(by_seed.values())):
        return NOTHING
    if len(values) == 1 or not (deviation := stdev(values)):
        return f"{mean(values):.4g}"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean(values):.{decimals}f} ± {deviation:.{decimals}f}"


def _gap(gap: tuple[float, float | None] | None) -> str:
    """Return a difference and its interval, rounded to three significant digits of the half width."""
    if gap is None:
        return NOTHING
    middle, width = gap
    if not width:
        return f"{middle:+.4g}"
    decimals = max(0, 2 - math.floor(math.log10(width)))
    low, between, high = (
        f"{round(value, decimals) + 0.0:+.{decimals}f}" for value in (middle - width, middle, middle + width)
    )
    return f"{between} [{low}, {high}]"


def _notes(table: Table, tables: Tables, found: dict[str, Measured]) -> list[str]:
    """Return notes: sources of published values, our protocol, and how it differs from the paper's."""
    sources = dict.fromkeys(value.source for row in table.rows.values() for value in row.published.values())
    notes = [f"Published, {name}: {tables.sources[name]}." for name in sources]
    if "poster" in sources:
        notes.append("Published deviations are over repeated sampling of one checkpoint, not over training seeds.")
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    if kept:
        notes.append(
            "Ours: mean ± standard deviation over training seeds, each averaged over sampling seeds. Over the "
            f"baseline: mean paired difference [{CONFIDENCE:.0%} confidence interval, Student's t]; about one in "
            "twenty such intervals misses the true value. Lower distances (FID, FD, KID, KD) and higher IS, recall "
            "and diversity are better; for the few images of a tail, the kernel distance is the more reliable one."
        )
        notes.append(
            "Tail: the rarest third of the classes. Diversity in tail classes: 1 for real images. Norm of the tail: "
            "the largest exact spectral norm of a class over layers, gain and bias, averaged over the tail's classes."
        )
    notes += dict.fromkeys(_how(record, tables.protocols.get("paper")) for record in kept)
    with_accuracy = [record.downstream for record in kept if record.downstream is not None]
    notes += dict.fromkeys(line for result in with_accuracy for line in legend([("", result)]))
    changed: dict[str, list[str]] = {}
    for row in table.rows.values():
        if overrides := _overrides(row):
            changed.setdefault(overrides, []).append(row.name)
    notes += [f"Not as shipped: {overrides} ({'; '.join(names)})." for overrides, names in changed.items()]
    if table.departures:
        notes.append(
            f"Not as the paper's program: {'; '.join(tables.departures[name] for name in table.departures)}."
        )
    if any(row.sections is not None and not found[name].by_seed for name, row in table.rows.items()):
        notes.append("A row with 0 seeds has not been trained here.")
    return notes + [f"{name}: {row.note}." for name, row in table.rows.items() if row.note]


def _overrides(row: Row) -> str:
    """Return keys that differ from the shipped configuration, except REGULARIZER's: the row's name shows them."""
    if row.sections is None or row.configuration is None:
        return ""
    shipped = load_configuration(shipped_configuration(row.configuration))
    lecam = next((settings for settings in regularizer_settings(row.sections) if settings.name == "lecam"), None)

    def described(path: str, value: object, before: object) -> str:
        if path == "LOSS.apply_lecam" and lecam is not None:
            return "LeCam as released" if lecam.options.get("released") else "LeCam under REGULARIZER"
        return f"{path} {value}, not {before}"

    return ", ".join(
        described(f"{section}.{key}", value, shipped.get(section, {}).get(key, "the default"))
        for section, values in row.sections.items()
        for key, value in (values.items() if section != "REGULARIZER" else ())
        if shipped.get(section, {}).get(key) != value
    )


def _how(record: Record, paper: Protocol | None) -> str:
    """Return how a record's numbers were made, and how that differs from the paper's program."""
    protocol, measured, rank = record.protocol, record.results["best"]["protocol"], record.ranks[0]
    reference = measured["reference"]
    points = []
    for key, value in vars(paper).items() if paper is not None else ():
        if key != "name" and protocol.get(key) != value:
            points.append(f"{key} {protocol.get(key)}, not {value}")
    versions = ", ".join(f"{name} {number}" for name, number in rank["packages"].items())
    return (
        f"Ours: {record.data['name']}, {sum(record.data['class_counts']):,} images of {reference['size']} pixels; "
        f"{_host(record)}, {record.steps:,} steps; {rank['device']}; "
        f"{measured['repeats']} x {measured['images']:,} images, "
        f"against {reference['images']:,} of {reference['split']}, by {measured['backbone']}; best: of every "
        f"{protocol['every']:,} steps, on {protocol['images_while_training']:,} images against "
        f"{protocol['select_on']}; {versions}."
        + (f" Not the paper's protocol: {'; '.join(points)}." if points else "")
    )


def _host(record: Record) -> str:
    host = record.host
    if host["name"] == "native":
        return "native host"
    changed = f", changed in {', '.join(host['changed_files'])}" if host["changed_files"] else ""
    return f"StudioGAN {str(host['commit'])[:7]}{changed}"
