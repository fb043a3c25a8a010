"""Train and measure what a table needs, run by run; what has a valid record is not run again.

    python benchmarks/run.py TABLE --data DIR                all rows and seeds, one run a GPU at a time
    python benchmarks/run.py TABLE --data DIR --dry-run      only say what would run, and what it would cost
    python benchmarks/run.py TABLE --data DIR --only ROW --seeds 0 1
    python benchmarks/run.py TABLE --data DIR --host studiogan
    python benchmarks/run.py TABLE --data DIR --executor slurm --slurm slurm_partition=gpu timeout_min=1440

A run that was interrupted goes on where it was; one that fails is listed at the end and does not stop the others.
Records are in benchmarks/results/records (--records), runs in runs/tables of the repository (--out).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import records
from execution import gpus, run_here, run_on_cluster
from paper_tables import FILE, SEEDS, Row, must_be, read_tables, valid_seed
from records import RecordError
from runs import HOSTS, Run, not_in, planned
from speed_findings import FOLDER

from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

OUT = Path(__file__).resolve().parents[1] / "runs" / "tables"


Speeds = dict[tuple[str, str], dict[str, list[float]]]  # by host and shape, then device: hours a step
EXAFLOP_HOUR = 1e18 / 1e13 / 3600  # hours that 10^18 operations take at 10 TFLOP/s


def cost(runs: Sequence[Run], folder: Path) -> list[str]:
    """What runs would take: hours, of configurations that a record or speed.py has timed, and disk."""
    speeds, operations = _speeds(folder), _operations()
    lines, totals = [], dict[str, list[float]]()
    for run in runs:
        timed = {
            device: median(hours) * run.steps
            for device, hours in speeds.get((run.host, _shape(run.sections)), {}).items()
        }
        told = ", ".join(f"{hours:.1f} h on {device}" for device, hours in sorted(timed.items()))
        lines.append(f"{run.title}: {run.steps:,} steps, {told or 'not timed'}")
        for device, hours in timed.items():
            totals.setdefault(device, []).append(hours)
    for device, of_runs in sorted(totals.items()):
        part = f"{len(of_runs)} of these {len(runs)} runs, the others not timed there"
        lines.append(
            f"{'in all' if len(of_runs) == len(runs) else part}: {sum(of_runs):.1f} h on {device}, one run at a time"
        )
    if runs and not totals:
        lines.append("neither a record nor speed.py has timed these configurations")
    counted = [operations.get(_shape(run.sections), 0.0) * run.steps / 1e6 for run in runs]
    if exaflop := sum(counted):
        of = f" ({counted.count(0)} runs not counted)" if 0 in counted else ""
        lines.append(f"operations of training: {exaflop:.3g} EFLOP{of}, {exaflop * EXAFLOP_HOUR:.1f} h at 10 TFLOP/s")
    shapes = {_shape(run.sections): run for run in runs}
    sizes = {shape: _parameters_of(run) for shape, run in shapes.items()}
    disk = sum(_gigabytes(run, *sizes[_shape(run.sections)]) for run in runs)
    return [*lines, f"disk: {disk:.1f} GB for checkpoints, at most"]


def _speeds(folder: Path) -> Speeds:
    """From records, all that they took; from what speed.py has kept, training alone."""
    speeds: Speeds = {}
    for path in folder.glob("*.json"):
        try:
            record = records.read(path, path.stem)
        except RecordError:
            continue
        by_device = speeds.setdefault((record.host["name"], _shape(record.sections)), {})
        by_device.setdefault(str(record.ranks[0]["device"]), []).append(sum(record.hours.values()) / record.steps)
    for steps in _kept_steps():
        for name, step in steps["data"].items():
            device = f"{steps['made']['device']} without evaluation"
            speeds.setdefault(("native", _shape_of(name)), {}).setdefault(device, [step["seconds"] / 3600])
    return speeds


def _operations() -> dict[str, float]:
    """TFLOP a step by shape, as speed.py has counted them; they are the same on every device."""
    return {_shape_of(name): step["teraflop"] for steps in _kept_steps() for name, step in steps["data"].items()}


def _kept_steps() -> list[dict[str, Any]]:
    kept = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("speed-*.json"))]
    return [parts["steps"] for parts in kept if "steps" in parts]


def _shape_of(name: str) -> str:
    return _shape(load_configuration(shipped_configuration(name)))


def _shape(sections: dict[str, Any]) -> str:
    """What a step's time depends on."""
    data = {key: value for key, value in sections["DATA"].items() if key != "name"}
    steps = {key: value for key, value in sections["OPTIMIZATION"].items() if key != "total_steps"}
    losses = {key: value for key, value in sections.get("LOSS", {}).items() if key != "lecam_released"}
    apart = ("DATA", "OPTIMIZATION", "LOSS", "REGULARIZER")
    rest = {key: value for key, value in sections.items() if key not in apart}
    return json.dumps([data, steps, losses, rest], sort_keys=True)


def _parameters_of(run: Run) -> tuple[int, int]:
    """Of its generator and its discriminator."""
    from studiogan_gsr.hosts.native.configuration import read_configuration
    from studiogan_gsr.hosts.native.networks import make_networks

    generator, discriminator = make_networks(read_configuration(run.sections), 0)
    return sum(p.numel() for p in generator.parameters()), sum(p.numel() for p in discriminator.parameters())


def _gigabytes(run: Run, generator: int, discriminator: int) -> float:
    """Of checkpoints: weights, two moments of Adam, and an averaged generator; the last two, the best and a new one.

    In StudioGAN the last and a new one, and the generators of all saved steps, until the best is chosen among them.
    """
    averaged = bool(run.sections["MODEL"].get("apply_g_ema"))
    whole = 3 * (generator + discriminator) + generator * averaged
    floats = 4 * whole
    if run.host == "studiogan":
        floats = 2 * whole + run.steps // run.protocol.every * generator * (1 + averaged)
    return 4 * floats / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="of tables.yaml; all: every table's runs, each once")
    parser.add_argument("--host", choices=HOSTS, default="native", help="what trains; both are measured alike")
    parser.add_argument("--data", metavar="DIR", help="where the data sets are, or are downloaded to")
    parser.add_argument("--only", metavar="ROW", action="append", help="this row; may be given again")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the table's")
    parser.add_argument("--out", metavar="DIR", type=Path, default=OUT)
    parser.add_argument("--records", metavar="DIR", type=Path, default=records.FOLDER)
    parser.add_argument("--tables", metavar="FILE", type=Path, default=FILE)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument(
        "--root", metavar="DIR", help="of the checkout, for --host studiogan; default: the usual place"
    )
    parser.add_argument("--executor", choices=["local", "slurm"], default="local", help="slurm: a job a run")
    parser.add_argument("--slurm", metavar="KEY=VALUE", nargs="+", default=[], help="submitit's parameters of a job")
    parser.add_argument("--dry-run", action="store_true", help="only say what would run, and what it would cost")
    parser.add_argument("--one", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one is not None:
        from perform import one  # slow to import

        return one(options.one)
    try:
        return _run(options)
    except GSRError as error:
        print(f"run.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status


def _run(options: argparse.Namespace) -> int:
    wanted = _rows(options)
    if options.data is None and not options.dry_run:
        raise RequestError("--data is needed: where the data sets are, or are downloaded to")
    for seed in options.seeds or []:
        if not valid_seed(seed):
            raise RequestError(f"--seeds: found {seed}; {SEEDS}")
        if any(row.seeds and seed not in row.seeds for row in wanted):
            print(f"seed {seed} is not one of the table's: its record is kept, and no table shows it")
    where = (str(options.data), options.out, options.records, options.device, options.root)
    runs = planned(wanted, options.seeds, options.host, *where)
    for row in wanted:
        if why := not_in(options.host, row):
            print(f"left out: {row.table}: {row.name}: {why}")
    if not runs:
        raise RequestError(f"{options.table}: none of these rows is run by this host, or by anyone here")
    todo = []
    for run in runs:
        record, why = run.done()
        if record is not None:
            print(f"has a record: {run.title} ({run.key})")
            continue
        if why:
            print(f"its record is refused: {why}")
        todo.append(run)
    if options.dry_run:
        print("\n".join([f"{len(todo)} of {len(runs)} runs are to be made:", *cost(todo, options.records)]))
        return 0
    if options.executor == "slurm" and todo:
        failed = run_on_cluster(todo, _parameters(options.slurm))
    else:
        failed = run_here(todo, gpus(options.device))
    made = sum(run.done()[0] is not None for run in runs)
    print(f"{made} of {len(runs)} runs have records")
    for line in failed:
        print(f"failed: {line}")
    return 0 if made == len(runs) else 1


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
    """KEY=VALUE pairs, with numbers as numbers."""
    pairs = [pair.partition("=") for pair in given]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise RequestError(f"--slurm: found {key}{equals}{value}; wanted is KEY=VALUE, as in slurm_partition=gpu")
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


if __name__ == "__main__":
    sys.exit(main())
