"""The tables of a run on a GPU, made from the parts' records alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.gpu_run.plan import (
    BFLOAT16,
    CLASSES,
    COPY,
    DIFFERS,
    EAGER,
    EVALUATION,
    FLOAT32,
    GENERATORS,
    GRAPHS,
    MODELS,
    MODES,
    OPERATIONS,
    PRECISIONS,
    RUNS,
    STUDIOGAN,
    STUDIOGAN_MIXED,
    TF32,
    TRAINING,
    PlannedPart,
)
from benchmarks.gpu_run.record import DONE, Record
from benchmarks.speed.part import Part

_COMPARED = (EAGER, TF32)  # what the chart compares with where StudioGAN was not timed
_ROWS = 12  # of norms over time
Results = Mapping[str, Any]


def table(planned: PlannedPart, record: Record, small: bool, facts: Results) -> Part:
    """Return a part's table; notes name what failed, was skipped or left out.

    small: whether the networks were tiny.  facts: results of the part `facts`.
    """
    results = {name: outcome.result for name, outcome in record.outcomes.items() if outcome.result is not None}
    device = facts.get("machine", {}).get("device", "device unknown")
    part = Part(f"{planned.title}, {device}{' (small: a test of the command)' if small else ''}")
    _TABLES[planned.name](part, results, facts)
    if small and planned.name == "steps":
        part.data = {}  # `run.py --dry-run` estimates from it
    part.notes += problems(record)
    return part


def problems(record: Record) -> list[str]:
    """Return a line for each reason for which tasks of a part have no new result."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, outcome in record.outcomes.items():
        if outcome.state != DONE:
            by_reason.setdefault((outcome.state, outcome.why), []).append(name)
    return [f"{state}: {' | '.join(names)}{f': {why}' if why else ''}" for (state, why), names in by_reason.items()]


def _facts(part: Part, results: Results, facts: Results) -> None:
    part.header = ["what", "value"]
    part.rows = [[name, str(value)] for name, value in results.get("machine", {}).items()]
    for name in PRECISIONS:
        if name in results:
            size = results[name]["size"]
            what = f"matrix product of {size:,} x {size:,}, {name}{', not TF32' * (name == FLOAT32)}"
            part.rows.append([what, f"{results[name]['teraflops']:.4g} TFLOP/s"])
    if COPY in results:
        part.rows.append([f"{COPY}, read and written", f"{results[COPY]['gigabytes_per_second']:,.0f} GB/s"])


def _tests(part: Part, results: Results, facts: Results) -> None:
    part.header = ["outcome", "tests"]
    for found in results.values():
        part.rows = [[name, str(number)] for name, number in found["counts"].items()]
        part.notes += [f"failed: `{case['name']}`: {(case['lines'] or [''])[-1]}" for case in found["failures"]]
        part.data = {"failures": found["failures"]}


def _steps(part: Part, results: Results, facts: Results) -> None:
    part.header = ["model", "mode", "precision", "steps/s", "ms a step", "against StudioGAN", "TFLOP/s"]
    part.header += ["of the matrix product", "first step, s", "preparing, s", "peak memory, GB", "differs by"]
    for model, shipped in MODELS.items():
        operations = results.get(f"{model}; {OPERATIONS}", {}).get("teraflop")
        theirs = results.get(f"{model}; {STUDIOGAN}; {TF32}") or results.get(f"{model}; {STUDIOGAN}; {FLOAT32}")
        eager = results.get("; ".join((model, *_COMPARED)))
        rows = [(mode, precision) for mode in MODES for precision in PRECISIONS]
        rows += [(mode, p) for mode in (STUDIOGAN, STUDIOGAN_MIXED) for p in (FLOAT32, TF32, "float16")]
        for mode, precision in rows:
            found = results.get(f"{model}; {mode}; {precision}")
            if found is None:
                continue
            seconds = found["seconds"]
            product = facts.get(precision, {}).get("teraflops")
            differs = results.get(f"{model}; {mode}; {DIFFERS}") if precision == FLOAT32 else None
            part.rows.append(
                [
                    model,
                    mode,
                    precision,
                    f"{1 / seconds:.2f}",
                    f"{1e3 * seconds:.1f}",
                    f"{theirs['seconds'] / seconds:.2f}x" if theirs and mode in MODES else "",
                    f"{operations / seconds:.3g}" if operations else "",
                    f"{operations / seconds / product:.0%}" if operations and product else "",
                    f"{found['first']:.1f}",
                    f"{found['preparing']:.1f}" if "preparing" in found else "",
                    f"{found['gigabytes']:.1f}" if "gigabytes" in found else "",
                    f"{differs['differs_by']:.1e}" if differs else "",
                ]
            )
            if mode in MODES and (base := theirs or eager):
                name = STUDIOGAN if theirs else ", ".join(_COMPARED)
                part.ratios[f"{model}: {name} to {mode}, {precision}"] = base["seconds"] / seconds
        default = results.get(f"{model}; {GRAPHS}; {TF32}") or results.get("; ".join((model, *_COMPARED)))
        if default and operations:
            part.data[shipped] = {"seconds": default["seconds"], "teraflop": operations}
    part.notes += [
        f"{', '.join(f'{model}: {shipped}' for model, shipped in MODELS.items())}; LeCam from the start.",
        "Native host: random images on the device, medians of blocks of steps. StudioGAN: images of --data, read by "
        "up to 16 processes, the wait for them included.",
        f"{TF32}: in convolutions of float32, as in training by default; {BFLOAT16}: likewise where float32 remains.",
        f"Against StudioGAN: the time of its step in {TF32} over ours.",
        "TFLOP/s: of the multiplications and additions of the networks as StudioGAN writes them. The native host "
        "needs about a third fewer, so its share of the matrix product is an upper bound.",
        "Preparing: what the first step and the warm-up took beyond the time of as many steps: choice of kernels, "
        "capture, compilation.",
        f"Differs by: after some steps in {FLOAT32} from one seed, |difference from the eager weights| / |weights|, "
        f"of the network that differs more; in the row of {EAGER}: between two eager runs.",
    ]


def _costs(part: Part, results: Results, facts: Results) -> None:
    part.header = ["generator", "classes", "penalty and its gradient, ms", "loop over layers", "exact SVD"]
    for generator in GENERATORS:
        for classes in CLASSES:
            if found := results.get(f"{generator}; {classes} classes"):
                part.rows += [row[:5] for row in found["rows"]]
                part.ratios |= found["ratios"]
    if found := results.get(EVALUATION):
        times = "; ".join(f"{name} {seconds} s" for name, seconds in found["rows"])
        part.notes += [f"{found['title']}: {times}.", *found["notes"]]


def _training(part: Part, results: Results, facts: Results) -> None:
    part.header = ["run", "step", "head", "middle", "tail"]
    series = results.get(TRAINING, {})
    for run, found in series.items():
        steps, norms = found["steps"], found["norms"]
        chosen = sorted({round(place * (len(steps) - 1) / (_ROWS - 1)) for place in range(_ROWS)}) if steps else []
        for place in chosen:
            values = [f"{norms[third][place]:.3f}" if third in norms else "" for third in ("head", "middle", "tail")]
            part.rows.append([run, f"{steps[place]:,}", *values])
        rate = found["last step"] / found["seconds"] if found["seconds"] else 0
        part.notes.append(
            f"{run}: {found['last step']:,} steps in {found['seconds']:.0f} s of training, {rate:.1f} steps/s, both "
            f"runs at once; class counts {' '.join(map(str, found['class_counts']))}. {found['ended']}"
        )
    if series:
        part.notes.append("Mean over the classes of each third of the largest exact spectral norm of a class.")
    for run in RUNS:
        if found := results.get(f"{EVALUATION} {run}"):
            groups = ", ".join(f"{name} {value:.4g}" for name, value in found["groups"].items() if value is not None)
            part.notes.append(
                f"{run}, step {found['step']:,}: {found['column']} {found['all']:.4g} ({groups}), "
                f"{found['images']:,} images against valid/."
            )
    part.data = dict(series)


_TABLES: dict[str, Callable[[Part, Results, Results], None]] = {
    "facts": _facts,
    "tests": _tests,
    "steps": _steps,
    "costs": _costs,
    "training": _training,
}
