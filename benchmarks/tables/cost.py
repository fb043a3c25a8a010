"""Estimate what runs would cost: hours, operations and disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.paths import RESULTS
from benchmarks.tables import records
from benchmarks.tables.plan import PlannedRun
from benchmarks.tables.records import RecordError
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

Speeds = dict[tuple[str, str], dict[str, list[float]]]  # {(host, shape): {device: [hours per step]}}


HOURS_PER_EXAFLOP = 1e18 / 1e13 / 3600  # hours that 10^18 operations take at 10 TFLOP/s


def estimate(runs: Sequence[PlannedRun], folder: Path) -> list[str]:
    """Return lines with the cost of runs: operations, disk, and hours if a record or speed.py has timed them."""
    speeds, counted = _speeds(folder), exaflop_of(runs)
    lines, totals = [], dict[str, list[float]]()
    for run in runs:
        timed = {
            device: median(hours) * run.steps
            for device, hours in speeds.get((run.host, _shape(run.sections)), {}).items()
        }
        hours_by_device = ", ".join(f"{hours:.1f} h on {device}" for device, hours in sorted(timed.items()))
        lines.append(f"{run.title}: {run.steps:,} steps, {hours_by_device or 'not timed'}")
        for device, hours in timed.items():
            totals.setdefault(device, []).append(hours)
    for device, of_runs in sorted(totals.items()):
        part = f"{len(of_runs)} of these {len(runs)} runs, the others not timed there"
        lines.append(
            f"{'in all' if len(of_runs) == len(runs) else part}: {sum(of_runs):.1f} h on {device}, one run at a time"
        )
    if runs and not totals:
        lines.append("neither a record nor speed.py has timed these configurations")
    if exaflop := sum(counted):
        of = f" ({counted.count(0)} runs not counted)" if 0 in counted else ""
        lines.append(
            f"operations of training: {exaflop:.3g} EFLOP{of}, {exaflop * HOURS_PER_EXAFLOP:.1f} h at 10 TFLOP/s"
        )
    shapes = {_shape(run.sections): run for run in runs}
    sizes = {shape: parameters_of(run) for shape, run in shapes.items()}
    disk = sum(_gigabytes(run, *sizes[_shape(run.sections)]) for run in runs)
    return [*lines, f"disk: {disk:.1f} GB for checkpoints, at most"]


def exaflop_of(runs: Sequence[PlannedRun]) -> list[float]:
    """Return the operations of training each run, in EFLOP (10^18); 0 where a step has not been counted."""
    operations = _operations()
    return [operations.get(_shape(run.sections), 0.0) * run.steps / 1e6 for run in runs]


def _speeds(folder: Path) -> Speeds:
    """Return hours per step; those from records include evaluation, those from speed.py do not."""
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
    """Return the TFLOP per step of each shape that speed.py has counted; they do not depend on the device."""
    return {_shape_of(name): step["teraflop"] for steps in _kept_steps() for name, step in steps["data"].items()}


def _kept_steps() -> list[dict[str, Any]]:
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("speed-*.json"))]
    return [parts["steps"] for parts in kept if "steps" in parts]


def _shape_of(name: str) -> str:
    return _shape(load_configuration(shipped_configuration(name)))


def _shape(sections: dict[str, Any]) -> str:
    """Return the settings that a step's time depends on, as JSON; regularizers, LeCam included, are left out."""
    data = {key: value for key, value in sections["DATA"].items() if key != "name"}
    steps = {key: value for key, value in sections["OPTIMIZATION"].items() if key != "total_steps"}
    losses = {key: value for key, value in sections.get("LOSS", {}).items() if "lecam" not in key}
    excluded = ("DATA", "OPTIMIZATION", "LOSS", "REGULARIZER")
    rest = {key: value for key, value in sections.items() if key not in excluded}
    return json.dumps([data, steps, losses, rest], sort_keys=True)


def parameters_of(run: PlannedRun) -> tuple[int, int]:
    """Return the number of parameters of the generator and of the discriminator."""
    from studiogan_gsr.hosts.native.configuration import read_configuration
    from studiogan_gsr.hosts.native.networks import make_networks

    generator, discriminator = make_networks(read_configuration(run.sections), 0)
    return sum(p.numel() for p in generator.parameters()), sum(p.numel() for p in discriminator.parameters())


def _gigabytes(run: PlannedRun, generator: int, discriminator: int) -> float:
    """Return the most disk space, in GB, that the checkpoints of a run take.

    generator, discriminator: their numbers of parameters.
    A checkpoint holds weights, Adam's two moments and the averaged generator.  While a new one is written, the native
    host also keeps the last two and the best; StudioGAN the last one, and the generators of all saved steps.
    """
    averaged = bool(run.sections["MODEL"].get("apply_g_ema"))
    whole = 3 * (generator + discriminator) + generator * averaged
    floats = 4 * whole
    if run.host == "studiogan":
        floats = 2 * whole + run.steps // run.protocol.every * generator * (1 + averaged)
    return 4 * floats / 1e9
