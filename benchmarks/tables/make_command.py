"""Write tables from records: published values beside ours, and how ours were obtained.

    python benchmarks/make_table.py [TABLE ...]      writes TABLE.md, .csv, .tex and, if rows were measured, .svg;
                                                     of a table with `summary`, also TABLE-summary.md
    python benchmarks/make_table.py --check          lists which of them are stale; exit status 1 if any is

The only writer of the files in benchmarks/results/tables, and of the tables in README.md and docs/evidence.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paths import EVIDENCE, README, TABLES, add_path_options
from benchmarks.tables import records
from benchmarks.tables.content import ACCURACY, NOTHING, UNKNOWN, Content, content_of
from benchmarks.tables.figures import drawn_of, figure
from benchmarks.tables.measured import Measured, keys_of, measured
from benchmarks.tables.notes import part_note
from benchmarks.tables.plan import HOSTS
from benchmarks.tables.published import Part
from benchmarks.tables.rows import SUMMARY, Table, Tables, must_be, read_tables
from benchmarks.tables.summary import summary_of
from studiogan_gsr.commandline import describe
from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.evaluation.filled import OF_DATA_ALONE
from studiogan_gsr.files import write_atomically
from studiogan_gsr.pages import comma_separated, latex

# Pages show the row names (whose column has no title) and the columns whose titles end in one of these.
ON_PAGES = ("Lite0, best", "FID, best", "tail, best", "classes, best", "tail, last")

OF_DATA = tuple(f", {way}" for way in OF_DATA_ALONE)  # accuracies that no generator changes
PAGES = (README, EVIDENCE)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(header), "|" + "---|" * len(header), *map(_line, rows)]


def markdown(table: Table, content: Content) -> str:
    lines = [f"# {table.title}", ""]
    parts = {name: row.part for name, row in table.rows.items()}
    for part in dict.fromkeys(parts.values()):
        rows = [row for row in content.rows if parts.get(row[0]) == part]
        lines += _part_lines(content.header, rows, part) if part is not None else _lines(content.header, rows)
    if content.gaps:
        of_generators = [i for i, title in enumerate(content.gap_header) if not title.endswith(OF_DATA)]
        gaps = _columns(content.gap_header, content.gaps, of_generators)
        lines += ["## Over the baseline", "", *_lines(*gaps, names=2)]
    lines += [f"* {note}" for note in content.notes]
    command = f"python benchmarks/make_table.py {table.name}"
    return "\n".join([*lines, "", f"Written by `{command}` from benchmarks/results/records; not by hand.", ""])


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Return a grid, and one of the accuracies, which would make it too wide; names: columns that both begin with."""
    accuracies = [i for i, title in enumerate(header) if title.startswith(ACCURACY)]
    if not accuracies:
        return [*_grid(header, rows), ""]
    others = [i for i in range(len(header)) if i not in accuracies]
    first = [*range(names), *accuracies]
    titles = [title.removeprefix(ACCURACY) for title in header]
    caption = "Accuracy of a classifier, in %:"
    return [*_grid(*_columns(header, rows, others)), "", caption, "", *_grid(*_columns(titles, rows, first)), ""]


def _part_lines(header: Sequence[str], rows: Sequence[Sequence[str]], part: Part) -> list[str]:
    """Return a part of a table, with the columns that it has values in."""
    context = {NOTHING, UNKNOWN, part.data, part.preset, part.source}
    filled = [i for i in range(len(header)) if not {row[i] for row in rows} <= context]
    titles = [title.removeprefix("published ") for title in header]  # all of a part is
    named = [[row[0].removesuffix(f", {part.name}"), *row[1:]] for row in rows]
    return [f"## {part.name}", "", part_note(part), "", *_grid(*_columns(titles, named, filled)), ""]


def _columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    return [header[i] for i in places], [[row[i] for i in places] for row in rows]


def _joined(content: Content) -> tuple[list[str], list[list[str]]]:
    """Return header and rows for the CSV file: each row followed by its differences from the baseline."""
    gaps = {name: cells for name, _, *cells in content.gaps}
    titles = [f"{title}, over the baseline" for title in content.gap_header[2:]] if gaps else []
    rows = [[*row, *(gaps.get(row[0], [NOTHING] * len(titles)))] for row in content.rows]
    return [*content.header, *titles], rows


def files(table: Table, tables: Tables, folder: Path) -> dict[str, str | None]:
    """Return the contents of a table's files by name; None for a file that should not exist."""
    found = measured(table, folder)
    content = content_of(table, tables, found)
    drawn = figure({name: (of_row.row, of_row.by_seed) for name, of_row in found.items()}, content.distance)
    written = latex(content.header, content.rows)
    return {
        f"{table.name}.md": markdown(table, content),
        f"{table.name}.csv": comma_separated(*_joined(content)),
        f"{table.name}.tex": written + (latex(content.gap_header, content.gaps) if content.gaps else ""),
        f"{table.name}.svg": drawn,
        **({f"{table.name}{SUMMARY}.md": _summary_page(table, tables, found)} if table.summary else {}),
    }


def _summary_page(table: Table, tables: Tables, found: dict[str, Measured]) -> str:
    command = f"python benchmarks/make_table.py {table.name}"
    lines = summary_lines(table, tables, found, "")
    written = f"Written by `{command}` from benchmarks/results/records; not by hand."
    return "\n".join([f"# {table.title}", "", *lines, "", written, ""])


def summary_lines(table: Table, tables: Tables, found: dict[str, Measured], folder: str) -> list[str]:
    """Return the short form of a table in Markdown; folder: where the whole one is, with its last slash."""
    content = summary_of(table, tables, found)
    whole = f"[All numbers and the whole protocol]({folder}{table.name}.md)."
    lines = [*_grid(content.header, content.rows), ""]
    lines += [*_grid(content.gap_header, content.gaps), ""] if content.gaps else []
    return [*lines, f"*{' '.join([*content.notes, whole])}*"]


def in_page(page: Path, tables: Tables, folder: Path) -> str:
    """Return a page's text with its tables replaced, between marks.

    `<!-- table: NAME -->` ... `<!-- /table -->` shows the columns of ON_PAGES, `<!-- summary: NAME -->` ...
    `<!-- /summary -->` the short form, and `<!-- rows: NAME -->` ... `<!-- /rows -->` the short form's rows alone.
    """
    where, text = page.name, page.read_text()
    whole = f"{os.path.relpath(TABLES, page.parent)}/"

    def made(found: re.Match[str]) -> str:
        must_be(f"{where}, after `{found[2]}:`", found[3], tables.tables)
        table = tables.tables[found[3]]
        kept = measured(table, folder)
        if found[2] == "summary":
            lines = ["", *summary_lines(table, tables, kept, whole), ""]
        elif found[2] == "rows":
            short = summary_of(table, tables, kept)
            lines = _grid(short.header, short.rows)
        else:
            content = content_of(table, tables, kept)
            places = [i for i, title in enumerate(content.header) if not title or title.endswith(ON_PAGES)]
            lines = _grid(*_columns(content.header, content.rows, places))
        return "\n".join([found[1], *lines, found[4]])

    mark = r"(<!-- (table|summary|rows): ([a-z0-9-]+) -->)\n.*?(<!-- /\2 -->)"
    if len(re.findall(mark, text, flags=re.DOTALL)) < len(re.findall("<!-- (?:table|summary|rows):", text)):
        raise RequestError(
            f"{where}: a mark is wrong; expected: `<!-- table: NAME -->`...`<!-- /table -->`, or summary, or rows"
        )
    return re.sub(mark, made, text, flags=re.DOTALL)


def _same(path: Path, content: str | None) -> bool:
    """Return whether a file has this content; for figures, whether they show the same numbers."""
    if content is None or not path.is_file():
        return content is None and not path.is_file()
    there = path.read_text()
    return drawn_of(there) == drawn_of(content) if path.suffix == ".svg" else there == content


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python benchmarks/make_table.py")
    describe(parser, str(__doc__), example="python benchmarks/make_table.py lecam-diffaug")
    parser.add_argument("table", nargs="*", metavar="TABLE", help="a table of tables.yaml; default: all")
    add_path_options(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=TABLES,
        help="folder for the tables (default: benchmarks/results/tables)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a file is stale")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
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
            known -= {key for host in HOSTS for key in keys_of(row, host).values()}
    for key in sorted(known):
        print(f"no row uses this record (any longer): {records.path_of(key, options.records)}")
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
    stems = {*tables.tables, *(f"{table.name}{SUMMARY}" for table in tables.tables.values() if table.summary)}
    for path in sorted(options.out.glob("*")):
        if path.stem not in stems:
            print(f"this file belongs to no table (any longer): {path}")
            stale += [str(path)] if options.check else []
    for page in PAGES if options.out == TABLES else ():
        if page.read_text() != (made := in_page(page, tables, options.records)):
            stale.append(str(page))
            if not options.check:
                write_atomically(page, made)
    for line in stale:
        print(f"stale: {line}" if options.check else f"written: {line}")
    return 1 if stale and options.check else 0
