"""Begin runs for a few steps and throw them away: `run.py TABLE --data DIR --first-steps`.

Before long jobs start, it shows for each run whether its data are found, its networks fit into memory, its
regularizers are active, and a checkpoint can be measured.  Each run has a process of its own, so that a crash or a
hang is a result like any other.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch

from benchmarks.processes import end, how_it_ended
from benchmarks.tables.complete import TRAIN
from benchmarks.tables.cost import parameters_of
from benchmarks.tables.executors import command, places, specify
from benchmarks.tables.plan import PlannedRun, but_for_the_seed, read_run
from benchmarks.tables.rows import Row
from studiogan_gsr.errors import GSRError, RequestError, in_one_line, reason
from studiogan_gsr.evaluation.backbones import find_backbone, make_backbone
from studiogan_gsr.evaluation.reference import OFFLINE
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.machine import choose_device

IMAGES = 64  # the most that are generated, and that are read of the reference, to measure a checkpoint
_FEWEST = {"native": 1, "studiogan": 2}  # steps that the hosts train
_GRACE = 5  # seconds for a process to end
_LINES = 15  # of the output of a run whose failure needs more than one line
_TITLES = ("run", "begun", "images", "classes", "parameters", "regularizers", "s a step", "GB", "GPU GB", "lacks")


@dataclass(frozen=True)
class Beginning:
    """What became of a run's first steps.

    failure: one line; "" if the run began.  explained: whether it says all there is to say.
    images: per class.  parameters: of generator and discriminator.  regularizers: those that were active.
    seconds: of a step.  memory: the largest process's, in GB.  gpu_memory: the most that PyTorch reserved,
    in GB; None on a CPU, and for StudioGAN, which is in another process.
    measured: how the last step was.
    """

    failure: str = ""
    explained: bool = True
    images: list[int] = field(default_factory=list)
    parameters: tuple[int, int] = (0, 0)
    regularizers: list[str] = field(default_factory=list)
    device: str = ""
    seconds: float = 0.0
    memory: float = 0.0
    gpu_memory: float | None = None
    measured: str = ""

    def __str__(self) -> str:
        if self.failure:
            return self.failure
        gpu = "" if self.gpu_memory is None else f", {self.gpu_memory:.1f} GB of the GPU's"
        return (
            f"{sum(self.images):,} images in {len(self.images):,} classes ({max(self.images):,} to "
            f"{min(self.images):,}); {_millions(self.parameters)}; "
            f"{', '.join(self.regularizers) or 'no regularizer'}; {self.seconds:.1f} s a step on {self.device}; "
            f"{self.measured}; {self.memory:.1f} GB of memory{gpu}"
        )


def begin_all(runs: Sequence[PlannedRun], rows: Sequence[Row], steps: int, minutes: float, out: Path) -> int:
    """Begin the first seed of each run, one after the other; print a line for each, and a table.

    rows: the rows of these runs; those that share a run are begun once.
    steps: of each run; StudioGAN trains two at least.  minutes: the most that a run may take.
    out: the folder for temporary folders, as for the runs themselves.
    Return the exit status: 0 if all began and lack nothing, else 1.
    """
    steps = max(steps, *(_FEWEST[run.host] for run in runs))
    named = _named(runs, rows)
    lacking = _missing_weights({run.protocol.backbone for run, _ in named})
    found: list[tuple[list[str], Beginning, str]] = []
    with _temporary_folder(out) as folder:
        for run, names in named:
            backbone = run.protocol.backbone
            short = _shortened(run, steps, folder, OFFLINE if backbone in lacking else backbone)
            beginning, output = _begun(short, minutes)
            found.append((names, beginning, f"weights of {backbone}" if backbone in lacking else ""))
            print(f"{'failed' if beginning.failure else 'begun'}: {'; '.join(names)}: {beginning}", flush=True)
            for line in output:
                print(f"    {line}", flush=True)
    began = sum(not beginning.failure for _, beginning, _ in found)
    print("", *_table(found), "", sep="\n")
    print(f"{began} of {len(found)} runs began, each for {steps} step{'s' if steps > 1 else ''}, one seed each")
    return 0 if began == len(found) and not lacking else 1


def _named(runs: Sequence[PlannedRun], rows: Sequence[Row]) -> list[tuple[PlannedRun, list[str]]]:
    """Return the first seed of each configuration with the names of its rows."""
    first = {but_for_the_seed(run): run for run in reversed(runs)}
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(but_for_the_seed(row), []).append(f"{row.table}: {row.name}")
    return [(first[what], names[what]) for what in dict.fromkeys(map(but_for_the_seed, runs))]


def _missing_weights(backbones: set[str]) -> set[str]:
    """Download weights; return the backbones that cannot be made, after a line for each that says why.

    Raises GSRError if the one that would measure in their place cannot be made, either.
    """
    missing = set()
    for name in sorted(backbones):
        try:
            make_backbone(find_backbone(name), torch.device("cpu"))
        except GSRError as error:
            missing.add(name)
            print(f"weights: missing for {name}: {error}; {OFFLINE} measures in its place here", flush=True)
    if missing:
        make_backbone(find_backbone(OFFLINE), torch.device("cpu"))
    return missing


def _shortened(run: PlannedRun, steps: int, folder: Path, backbone: str) -> PlannedRun:
    """Return a run that ends after a few steps, measures a few images, and has its files in `folder`."""
    optimization = {**run.sections["OPTIMIZATION"], "total_steps": steps}
    few = min(IMAGES, run.protocol.images_while_training)
    return replace(
        run,
        sections={**run.sections, "OPTIMIZATION": optimization},
        protocol=replace(run.protocol, every=steps, images_while_training=few, backbone=backbone),
        out=str(folder / run.key),
        records=str(folder),
        reference_images=IMAGES,
    )


def _begun(run: PlannedRun, minutes: float) -> tuple[Beginning, list[str]]:
    """Begin a run in a process of its own and remove its files; return lines of its output if they are needed."""
    folder = Path(run.out).parent
    log, result = folder / "log.txt", _result(run)
    specify(run)
    place = places(run.device, None if choose_device(run.device) == "cuda" else 1)[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(run, "--begin"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **place},
            start_new_session=True,
        )
        try:
            status = process.wait(60 * minutes)
            why = f"its process ended {how_it_ended(status)}"
            why += "; was it out of memory?" if status == -signal.SIGKILL else ""
        except subprocess.TimeoutExpired:
            why = f"it did not end in {minutes:g} minutes (--limit)"
        finally:
            end(process, _GRACE)
    text = result.read_text() if result.is_file() else json.dumps({"failure": why, "explained": False})
    beginning = Beginning(**json.loads(text))
    lines = [] if beginning.explained else [line for line in log.read_text(errors="replace").splitlines() if line]
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return beginning, lines[-_LINES:]


def begin_described(specification: Path) -> int:
    """Begin the run that a file describes, in this process; write what became of it; return the exit status."""
    run = read_run(specification)
    try:
        beginning = _begin(run)
    except Exception as error:
        message = in_one_line(error)
        if not message.ours:
            traceback.print_exc()
        beginning = Beginning(failure=message.text, explained=message.ours)
    _result(run).write_text(json.dumps(asdict(beginning)))
    return 1 if beginning.failure else 0


def _begin(run: PlannedRun) -> Beginning:
    out, training = Path(run.out), TRAIN[run.host](run)
    memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    on_gpu = run.host == "native" and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    rule = evaluations(out)[-1]["rule"]
    return Beginning(
        images=json.loads((out / "run.json").read_text())["data"]["class_counts"],
        parameters=parameters_of(run),
        regularizers=[regularizer["name"] for regularizer in training.regularizers],
        device=training.device,
        seconds=3600 * training.hours / training.steps,
        memory=memory / 1e6,
        gpu_memory=torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
        measured=f"{rule['images']} images measured against {rule['reference']['images']} by {rule['backbone']}",
    )


def _result(run: PlannedRun) -> Path:
    return Path(f"{run.out}-result.json")


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """Make a folder in `out`, and remove it, and `out` if it was not there, even on SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    before = signal.signal(signal.SIGTERM, leave)
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix="first-steps-", dir=out)
        except OSError as error:
            raise RequestError(f"--out {out}: cannot be written to: {reason(error)}") from error
        with folder as path:
            yield Path(path).resolve()
    finally:
        with suppress(OSError):  # another process uses it by now
            for empty in made:
                empty.rmdir()
        signal.signal(signal.SIGTERM, before)


def _table(found: Sequence[tuple[list[str], Beginning, str]]) -> list[str]:
    """Return the lines of a Markdown table of what became of each run; columns without values are left out."""
    rows = []
    for names, it, lacks in found:
        cells = ["; ".join(names), "no" if it.failure else "yes"]
        if it.failure:
            cells += [""] * 7
        else:
            cells += [f"{sum(it.images):,}", f"{len(it.images):,}", _millions(it.parameters)]
            cells += [", ".join(it.regularizers) or "none", f"{it.seconds:.1f}", f"{it.memory:.1f}"]
            cells += ["" if it.gpu_memory is None else f"{it.gpu_memory:.1f}"]
        rows.append([*cells, "; ".join(filter(None, (it.failure, lacks)))])
    kept = [place for place in range(len(_TITLES)) if any(row[place] for row in rows)]
    lines = [_TITLES, ["---"] * len(_TITLES), *rows]
    return [f"| {' | '.join(line[place] for place in kept)} |" for line in lines]


def _millions(parameters: tuple[int, int]) -> str:
    generator, discriminator = (f"{number / 1e6:.3g} M" for number in parameters)
    return f"G {generator}, D {discriminator}"
