"""Write the generated parts of docs/reproduce-the-tables.md: `python -m benchmarks.tables.reproduce_page`.

They are between `<!-- generated: NAME -->` and `<!-- /generated -->`, and come from tables.yaml, from the operations
that speed.py has counted, and from results/first-steps-HOST.txt: lines that `run.py --first-steps` has printed.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.paths import REPRODUCE, RESULTS
from benchmarks.tables.cost import exaflop_of
from benchmarks.tables.plan import HOSTS, PlannedRun, but_for_the_seed, plan_runs
from benchmarks.tables.rows import Table, Tables, read_tables
from docs.markdown import with_parts
from studiogan_gsr.files import write_atomically

_STUDIES = "cpu-study"  # the start of the names of tables with small networks


def papers_tables(tables: Tables) -> list[Table]:
    """Return the tables that train at full size."""
    found = [table for table in tables.tables.values() if not table.name.startswith(_STUDIES)]
    return [table for table in found if any(row.sections for row in table.rows.values())]


def with_generated_parts(text: str, tables: Tables) -> str:
    """Return the page with its generated parts replaced; KeyError for a part of an unknown name."""
    return with_parts(text, {"tables": _costs(tables), "departures": _departures(tables), "tried": _tried(tables)})


def _costs(tables: Tables) -> list[str]:
    """Return the lines of a table with a line per table: runs, steps, operations, published values."""
    lines = ["| table | what | runs | steps of each | EFLOP | published |", "|---|---|---|---|---|---|"]
    every: list[PlannedRun] = []
    for table in papers_tables(tables):
        runs = _runs(table)
        steps = " or ".join(f"{number:,}" for number in sorted({run.steps for run in runs}))
        known = sum(bool(row.published) for row in table.rows.values())
        published = f"{known} of {len(table.rows)} rows" if known else "unknown"
        link = f"[`{table.name}`](../benchmarks/results/tables/{table.name}.md)"
        lines.append(f"| {link} | {table.title} | {len(runs)} | {steps} | {_rounded(runs)} | {published} |")
        every += runs
    once = list({run.key: run for run in every}.values())
    return [
        *lines,
        f"| `all` of these | runs that tables share, once | {len(once)} | | {_rounded(once)} | |",
    ]


def _runs(table: Table) -> list[PlannedRun]:
    return plan_runs(list(table.rows.values()), None, "native", data="", out=Path(), folder=Path())


def _rounded(runs: list[PlannedRun]) -> str:
    counted = exaflop_of(runs)
    return f"{sum(counted):.3g}" if all(counted) else "not counted"


def _departures(tables: Tables) -> list[str]:
    """Return a list of what our runs do differently, with the tables that it concerns."""
    found = papers_tables(tables)
    lines = []
    for name, what in tables.departures.items():
        where = [f"`{table.name}`" for table in found if name in table.departures]
        if where:
            lines.append(f"* {what} ({'all' if len(where) == len(found) else ', '.join(where)})")
    return lines


def _tried(tables: Tables) -> list[str]:
    """Return the lines of a table with the rows of each table that were begun, by host."""
    found = papers_tables(tables)
    keys = {f"{table.name}: {row.name}": but_for_the_seed(row) for table in found for row in table.rows.values()}
    lines = ["| table | native host | StudioGAN |", "|---|---|---|"]
    begun = [{keys[name] for name in _begun(host)} for host in HOSTS]
    for table in found:
        rows = [row for row in table.rows.values() if row.sections]
        cells = []
        for of_host in begun:
            names = [row.name for row in rows if but_for_the_seed(row) in of_host]
            some = f"{len(names)} of {len(rows)}: {'; '.join(names)}" if names else f"none of {len(rows)}"
            cells.append(f"all {len(rows)} rows" if len(names) == len(rows) else some)
        lines.append(f"| `{table.name}` | {' | '.join(cells)} |")
    return lines


def _begun(host: str) -> list[str]:
    """Return the rows, "table: row", in the kept lines of `run.py --first-steps --host HOST`."""
    lines = (RESULTS / f"first-steps-{host}.txt").read_text(encoding="utf-8").splitlines()
    matches = [re.match(r"begun: (.+?): [\d,]+ images in ", line) for line in lines]
    return [name for match in matches if match for name in match[1].split("; ")]


if __name__ == "__main__":
    write_atomically(REPRODUCE, with_generated_parts(REPRODUCE.read_text(encoding="utf-8"), read_tables()))
