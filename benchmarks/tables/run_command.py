"""Train and measure the runs of a table; runs with a valid record are skipped.

    python benchmarks/run.py TABLE --data DIR                all rows and seeds, one run per GPU or core at a time
    python benchmarks/run.py TABLE --data DIR --dry-run      only print what would run, and what it would cost
    python benchmarks/run.py TABLE --data DIR --first-steps  begin each run for a step, and throw it away
    python benchmarks/run.py TABLE --data DIR --only ROW --seeds 0 1
    python benchmarks/run.py TABLE --data DIR --host studiogan
    python benchmarks/run.py TABLE --data DIR --executor slurm --slurm slurm_partition=gpu timeout_min=1440

An interrupted run is resumed; a run that fails is listed at the end and does not stop the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paths import RUNS, add_path_options
from benchmarks.tables.cost import estimate
from benchmarks.tables.executors import places, run_here, run_on_cluster
from benchmarks.tables.plan import HOSTS, PlannedRun, plan_runs, reason_against
from benchmarks.tables.rows import SEEDS, Row, must_be, read_tables, valid_seed
from studiogan_gsr.commandline import describe, positive
from studiogan_gsr.errors import GSRError, RequestError, in_one_line


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python benchmarks/run.py")
    describe(parser, str(__doc__), example="python benchmarks/run.py lecam-diffaug --data data --seeds 0 --dry-run")
    parser.add_argument(
        "table", metavar="TABLE", nargs="?", help="a table of tables.yaml; all: the runs of all tables, each once"
    )
    parser.add_argument(
        "--host",
        choices=HOSTS,
        default="native",
        help="the trainer; both hosts are measured in the same way (default: native)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of the data sets; only CIFAR is downloaded; default: none, as --dry-run needs no images",
    )
    parser.add_argument("--only", metavar="ROW", action="append", help="only this row, may be repeated; default: all")
    parser.add_argument("--seeds", metavar="SEED", type=int, nargs="+", help="seeds to run; default: the table's")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=RUNS, help="folder of the runs (default: runs/tables)"
    )
    add_path_options(parser)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="device to train on; default: cuda if it is available"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=positive,
        help="runs at a time on a CPU, each with its share of the cores; default: one per core, with one thread each",
    )
    parser.add_argument(
        "--root", metavar="DIR", help="StudioGAN's checkout; default: $STUDIOGAN_ROOT, else the cache folder"
    )
    parser.add_argument(
        "--executor",
        choices=["local", "slurm"],
        default="local",
        help="where runs are trained; slurm: one job per run (default: local)",
    )
    parser.add_argument(
        "--slurm", metavar="KEY=VALUE", nargs="+", default=[], help="job parameters for submitit; default: Slurm's"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="only print what would run, and what it would cost")
    instead.add_argument(
        "--first-steps",
        metavar="N",
        type=positive,
        nargs="?",
        const=1,
        help="begin one seed of each run for N steps, one run at a time, measure a few images, and throw it away; "
        "default: N is 1",
    )
    parser.add_argument(
        "--limit",
        metavar="MINUTES",
        type=positive,
        default=10,
        help="the most that --first-steps of a run take (default: 10)",
    )
    parser.add_argument("--one", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begin", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    if options.one is not None:
        from benchmarks.tables.complete import complete_described  # slow to import

        return complete_described(options.one)
    if options.begin is not None:
        from benchmarks.tables.first_steps import begin_described

        return begin_described(options.begin)
    try:
        return _run(options)
    except GSRError as error:
        print(f"run.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status


def _run(options: argparse.Namespace) -> int:
    rows = _rows(options)
    if options.data is None and not options.dry_run:
        raise RequestError("--data is needed: the folder of data sets; only CIFAR is downloaded")
    for seed in options.seeds or []:
        if not valid_seed(seed):
            raise RequestError(f"--seeds: found {seed}; {SEEDS}")
        if any(row.seeds and seed not in row.seeds for row in rows):
            print(f"seed {seed} is not in the table: its runs are recorded, but no table shows them")
    runs = plan_runs(
        rows,
        options.seeds,
        options.host,
        data=str(options.data),
        out=options.out,
        folder=options.records,
        device=options.device,
        root=options.root,
    )
    for row in rows:
        if why := reason_against(options.host, row):
            print(f"left out: {row.table}: {row.name}: {why}")
    if not runs:
        raise RequestError(
            f"{options.table}: no row runs with --host {options.host}: all are left out or only have published values"
        )
    todo = []
    for run in runs:
        record, why = run.done()
        if record is not None:
            print(f"has a record: {run.title} ({run.key})")
            continue
        if why:
            print(f"runs again, as its record is refused: {run.title}: {why}")
        todo.append(run)
    if options.dry_run:
        print("\n".join([f"{len(todo)} of {len(runs)} runs are to be made:", *estimate(todo, options.records)]))
        return 0
    if options.first_steps:
        return _first_steps(options, rows, todo)
    if options.executor == "slurm" and options.jobs:
        raise RequestError("--jobs is for --executor local; Slurm decides how many jobs run at a time")
    if options.executor == "slurm" and todo:
        failed = run_on_cluster(todo, _parameters(options.slurm))
    else:
        failed = run_here(todo, places(options.device, options.jobs))
    made = sum(run.done()[0] is not None for run in runs)
    print(f"{made} of {len(runs)} runs have records")
    for line in failed:
        print(f"failed: {line}")
    return 0 if made == len(runs) else 1


def _first_steps(options: argparse.Namespace, rows: Sequence[Row], todo: Sequence[PlannedRun]) -> int:
    if options.executor != "local" or options.jobs:
        raise RequestError("--first-steps begins one run at a time on this machine: without --executor and --jobs")
    for row in rows:
        if row.sections is None:
            print(f"left out: {row.table}: {row.name}: it has published values only")
    if not todo:
        print("every run has a record: none is begun")
        return 0
    from benchmarks.tables.first_steps import begin_all  # slow to import

    return begin_all(todo, rows, options.first_steps, options.limit, options.out)


def _rows(options: argparse.Namespace) -> list[Row]:
    tables = read_tables(options.tables).tables
    must_be("TABLE", options.table, [*tables, "all"])
    chosen = list(tables.values()) if options.table == "all" else [tables[options.table]]
    rows = [row for table in chosen for row in table.rows.values()]
    names = list(dict.fromkeys(row.name for row in rows))
    for name in options.only or []:
        must_be("--only", name, names)
    return [row for row in rows if not options.only or row.name in options.only]


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE pairs as a dictionary, with integers converted."""
    pairs = [pair.partition("=") for pair in given]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise RequestError(f"--slurm: found {key}{equals}{value}; allowed: KEY=VALUE, as in slurm_partition=gpu")
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}
