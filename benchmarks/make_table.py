"""Tables from records: published values beside ours, and everything that made ours.

    python benchmarks/make_table.py [TABLE ...]      writes TABLE.md, .csv, .tex and, of measured rows, .svg
    python benchmarks/make_table.py --check          says which of them are stale; exit status 1 if any is

The only writer of the files in benchmarks/results/tables, and of the tables in README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import records
from figures import drawn_of, figure, tail_norm, tail_of
from paper_tables import FILE, Protocol, Row, Table, Tables, must_be, read_tables
from records import Record, RecordError
from runs import HOSTS
from scipy import stats

from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.files import write_atomically
from studiogan_gsr.report import comma_separated, latex

FOLDER = Path(__file__).with_name("results") / "tables"
README = Path(__file__).parents[1] / "README.md"
CONFIDENCE = 0.95
UNKNOWN, NOTHING = "unknown", "-"
PUBLISHED = {"fid": "FID", "is": "IS", "fid_few": "FID of few-shot classes"}
# Title, checkpoint, set of classes, metric.  In titles: what the Frechet distance is called, and its network if that
# is not FID's.
COLUMNS = (
    ("{}, best", "best", "all", "frechet"),
    ("{}, last", "last", "all", "frechet"),
    ("{} of the tail, best", "best", "tail", "frechet"),
    ("{kernel} of the tail x 1000, best", "best", "tail", "kernel"),
    ("IS{network}, best", "best", "all", "inception_score"),
    ("recall of the tail, best", "best", "tail", "recall"),
    ("diversity in tail classes, best", "best", "each of the tail", "diversity"),
)


# Endings of the titles of columns that README shows, beside the row's name, which has no title.
IN_README = ("Lite0, best", "FID, best", "tail, best", "classes, best", "tail, last")


@dataclass(frozen=True)
class Measured:
    """Records of a row, by seed."""

    row: Row
    by_seed: dict[int, Record]

    def values(self, which: str, group: str, metric: str) -> dict[int, float]:
        """A metric of every seed that has it: the mean over sampling seeds; kernel distances times 1000.

        group: one of the result's, "all", or "each of the tail": the mean over the classes there.
        """
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

    def tail_norms(self, when: str) -> list[float]:
        """Of every seed, before training ("start") or of its last checkpoint; see `tail_norm`."""
        found = [tail_norm(record, record.norms[when]) for record in self.by_seed.values() if record.norms]
        return [norm for norm in found if norm is not None]


def measured(table: Table, folder: Path) -> dict[str, Measured]:
    """The records of every row, and of every one that StudioGAN has trained; RecordError for one that is refused."""
    found = {}
    for row in table.rows.values():
        for host in HOSTS:
            paths = {seed: records.path_of(key, folder) for seed, key in _keys(row, host).items()}
            by_seed = {seed: records.read(path, path.stem) for seed, path in paths.items() if path.is_file()}
            shown = row if host == "native" else _in_studiogan(row)
            if by_seed or host == "native":
                found[shown.name] = Measured(shown, by_seed)
    return found


def _in_studiogan(row: Row) -> Row:
    baseline = None if row.baseline is None else f"{row.baseline}, in StudioGAN"
    return dataclasses.replace(row, name=f"{row.name}, in StudioGAN", baseline=baseline)


def _keys(row: Row, host: str) -> dict[int, str]:
    """The keys of a row's records, by seed."""
    if row.sections is None or row.protocol is None:
        return {}
    return {seed: records.key_of(host, row.sections, seed, vars(row.protocol)) for seed in row.seeds}


def difference(ours: dict[int, float], baseline: dict[int, float]) -> tuple[float, float | None] | None:
    """Mean difference over the seeds that both have, and half the width of its paired 95 % interval (Student's t).

    None where they share no seed; the interval is None of one seed.
    """
    shared = sorted(set(ours) & set(baseline))
    if not shared:
        return None
    gaps = [ours[seed] - baseline[seed] for seed in shared]
    if len(gaps) < 2:
        return gaps[0], None
    width = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
    return mean(gaps), width


def body(
    table: Table, tables: Tables, found: dict[str, Measured]
) -> tuple[list[str], list[list[str]], list[str], str]:
    """Header, rows, notes, and what the distance is called."""
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    called = {record.results[which]["column"] for record in kept for which in records.WHICH}
    if len(called) > 1:
        raise RequestError(f"{table.name}: its records have different distances: {', '.join(sorted(called))}")
    distance = called.pop() if called else "FID"
    published = [name for name in PUBLISHED if any(name in row.published for row in table.rows.values())]
    ours = COLUMNS if any(row.sections is not None for row in table.rows.values()) else ()
    header = ["", *(f"published {PUBLISHED[name]}" for name in published)]
    network = distance.removeprefix("FD") if distance != "FID" else ""
    kernel = "KID" if distance == "FID" else distance.replace("FD", "KD", 1)
    header += [title.format(distance, network=network, kernel=kernel) for title, *_ in ours]
    over = [f"{distance}{group}, best, over the baseline" for group in ("", " of the tail")]
    header += [*over, "norm of the tail, at the start", "norm of the tail, last", "seeds"] if ours else []
    lines = []
    for name, of_row in found.items():
        row = of_row.row
        cells = [name, *(_published(row, metric) for metric in published)]
        cells += [_over_seeds(list(of_row.values(*what).values())) for _, *what in ours]
        if ours:
            base = found.get(row.baseline or "")
            _check_images(of_row, base)
            for group in ("all", "tail"):
                pair = [m.values("best", group, "frechet") for m in (of_row, base) if m is not None]
                cells += [_gap(difference(*pair) if len(pair) == 2 else None)]
            cells += [_over_seeds(of_row.tail_norms(when)) for when in ("start", "last")]
            cells += [str(len(of_row.by_seed)) if row.sections is not None else NOTHING]
        lines.append(cells)
    return header, lines, _notes(table, tables, found), distance


def _check_images(ours: Measured, baseline: Measured | None) -> None:
    """RecordError where a row and its baseline were trained on, or measured against, other images."""
    for seed in set(ours.by_seed) & set(baseline.by_seed if baseline is not None else ()):
        assert baseline is not None
        pair = [of.by_seed[seed] for of in (ours, baseline)]
        if len({record.data.get("images_sha256") for record in pair}) > 1:
            raise RecordError(f"{ours.row.name}, seed {seed}: its baseline was trained on other images")
        references = [record.results["best"]["protocol"]["reference"] for record in pair]
        if references[0]["content_sha256"] != references[1]["content_sha256"]:
            raise RecordError(f"{ours.row.name}, seed {seed}: its baseline was measured against other images")


def _published(row: Row, metric: str) -> str:
    value = row.published.get(metric)
    if value is None:
        return UNKNOWN
    if value.deviation is not None:
        return f"{value.value:.2f} ± {value.deviation:.2f}"
    return f"{value.value:g}" + (f" (read ± {value.margin:g})" if value.margin is not None else "")


def _over_seeds(values: Sequence[float]) -> str:
    """Mean and deviation, to two digits of the latter."""
    if not values:
        return NOTHING
    if len(values) == 1 or not (deviation := stdev(values)):
        return f"{mean(values):.4g}"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean(values):.{decimals}f} ± {deviation:.{decimals}f}"


def _gap(gap: tuple[float, float | None] | None) -> str:
    if gap is None:
        return NOTHING
    middle, width = gap
    return f"{middle:+.3g}" + (f" [{middle - width:+.3g}, {middle + width:+.3g}]" if width is not None else "")


def _notes(table: Table, tables: Tables, found: dict[str, Measured]) -> list[str]:
    """Where values were read, how ours were made, and in which points that is not the paper's way."""
    sources = dict.fromkeys(value.source for row in table.rows.values() for value in row.published.values())
    notes = [f"Published, {name}: {tables.sources[name]}." for name in sources]
    if "poster" in sources:
        notes.append("Published deviations are over repeated sampling of one checkpoint, not over training seeds.")
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    if kept:
        notes.append(
            "Ours: mean ± deviation over training seeds; of each, the mean over sampling seeds. Over the baseline: "
            f"mean difference of the same seeds [{CONFIDENCE:.0%} interval, Student's t]; below 0 is better."
        )
        notes.append(
            "Tail: the rarest third of the classes; diversity in each of them is 1 for real images; its norm: the "
            "mean over its classes of each one's largest exact spectral norm over layers, gain and bias."
        )
    notes += dict.fromkeys(_how(record, tables.protocols.get("paper")) for record in kept)
    if any(row.sections is not None and not found[name].by_seed for name, row in table.rows.items()):
        notes.append("A row without seeds has not been run here.")
    return notes + [f"{name}: {row.note}." for name, row in table.rows.items() if row.note]


def _how(record: Record, paper: Protocol | None) -> str:
    """How a record's numbers were made, and in which points not as in the paper's program."""
    protocol, told, rank = record.protocol, record.results["best"]["protocol"], record.ranks[0]
    reference = told["reference"]
    points = []
    for key, value in vars(paper).items() if paper is not None else ():
        if key != "name" and protocol[key] != value:
            points.append(f"{key} {protocol[key]}, not {value}")
    versions = ", ".join(f"{name} {number}" for name, number in rank["packages"].items())
    return (
        f"Ours: {record.data['name']}, {sum(record.data['class_counts']):,} images of {reference['size']} pixels; "
        f"{_host(record)}, {record.steps:,} steps; {rank['device']}; {told['repeats']} x {told['images']:,} images, "
        f"against {reference['images']:,} of {reference['split']}, by {told['backbone']}; best: of every "
        f"{protocol['every']:,} steps, on {protocol['images_while_training']:,} images against "
        f"{protocol['select_on']}; {versions}."
        + (f" Not as the paper's program: {'; '.join(points) or 'nothing in the protocol'}." if paper else "")
    )


def _host(record: Record) -> str:
    host = record.host
    if host["name"] == "native":
        return "native host"
    changed = f", changed in {', '.join(host['changed_files'])}" if host["changed_files"] else ""
    return f"StudioGAN {str(host['commit'])[:7]}{changed}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown(table: Table, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = [f"# {table.title}", "", _line(header), "|" + "---|" * len(header), *map(_line, rows), ""]
    lines += [f"* {note}" for note in notes]
    command = f"python benchmarks/make_table.py {table.name}"
    return "\n".join([*lines, "", f"Written by `{command}` from benchmarks/results/records; not by hand.", ""])


def files(table: Table, tables: Tables, folder: Path) -> dict[str, str | None]:
    """Names and contents of a table's files; None for one that there is not."""
    found = measured(table, folder)
    header, rows, notes, distance = body(table, tables, found)
    drawn = figure({name: (of_row.row, of_row.by_seed) for name, of_row in found.items()}, distance)
    return {
        f"{table.name}.md": markdown(table, header, rows, notes),
        f"{table.name}.csv": comma_separated(header, rows),
        f"{table.name}.tex": latex(header, rows),
        f"{table.name}.svg": drawn,
    }


def in_readme(text: str, tables: Tables, folder: Path) -> str:
    """README's text with what is between `<!-- table: NAME -->` and `<!-- /table -->` made anew: some columns."""

    def made(found: re.Match[str]) -> str:
        table = tables.tables[found[2]]
        header, rows, _, _ = body(table, tables, measured(table, folder))
        places = [i for i, title in enumerate(header) if not title or title.endswith(IN_README)]
        lines = [_line([cells[i] for i in places]) for cells in (header, *rows)]
        return "\n".join([found[1], lines[0], "|" + "---|" * len(places), *lines[1:], found[3]])

    return re.sub(r"(<!-- table: ([a-z0-9-]+) -->)\n.*?(<!-- /table -->)", made, text, flags=re.DOTALL)


def _same(path: Path, content: str | None) -> bool:
    """Whether a file holds this; of figures, whether they are of the same numbers."""
    if content is None or not path.is_file():
        return content is None and not path.is_file()
    there = path.read_text()
    return drawn_of(there) == drawn_of(content) if path.suffix == ".svg" else there == content


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="*", metavar="TABLE", help="default: all")
    parser.add_argument("--records", metavar="DIR", type=Path, default=records.FOLDER)
    parser.add_argument("--tables", metavar="FILE", type=Path, default=FILE)
    parser.add_argument("--out", metavar="DIR", type=Path, default=FOLDER)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a file is stale")
    options = parser.parse_args(argv)
    try:
        return _main(options)
    except GSRError as error:
        print(f"make_table.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status


def _main(options: argparse.Namespace) -> int:
    tables = read_tables(options.tables)
    for name in options.table:
        must_be("TABLE", name, tables.tables)
    stale, known = [], {path.stem for path in options.records.glob("*.json")}
    for table in tables.tables.values():
        for row in table.rows.values():
            known -= {key for host in HOSTS for key in _keys(row, host).values()}
    for key in sorted(known):
        print(f"no row has this record, or not any more: {records.path_of(key, options.records)}")
    for name in options.table or tables.tables:
        for file, content in files(tables.tables[name], tables, options.records).items():
            path = options.out / file
            if _same(path, content):
                continue
            stale.append(str(path))
            if options.check:
                continue
            options.out.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                write_atomically(path, content)
    if options.out == FOLDER and (text := README.read_text()) != (made := in_readme(text, tables, options.records)):
        stale.append(str(README))
        if not options.check:
            write_atomically(README, made)
    for line in stale:
        print(f"stale: {line}" if options.check else f"written: {line}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
