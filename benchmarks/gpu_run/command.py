"""Measure everything that needs a GPU, once, in ten minutes, on a machine with PyTorch and this repository.

Five parts: facts (the machine), tests (those marked cuda), steps (of three models), costs (of penalty and
evaluation), training (SNGAN with and without gSR at the same time).  Each part runs in processes of its own, and each
result is written to OUT/parts/PART.json at once; OUT/table.md, table.json, table.svg and norms.svg show all of them.
Tasks that crash, hang or find no time are named, and the next ones are measured.  The same command again measures
what was left out, keeps the rest, except for --again, and resumes the training.

--data is an image folder with train/<class>/ and valid/<class>/.  Without --data, StudioGAN's steps and the training
are left out.  --out takes less than 16 MB, not counting OUT/runs/*/checkpoints: of each run the newest checkpoint,
which the next call resumes; it may be removed after the last call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.gpu_run.metadata import write_metadata
from benchmarks.gpu_run.page import problems, table
from benchmarks.gpu_run.plan import PlannedPart, planned_parts
from benchmarks.gpu_run.record import FAILED, Record, write_whole
from benchmarks.gpu_run.settings import Settings
from benchmarks.gpu_run.supervisor import Supervisor
from benchmarks.paths import REPOSITORY, RESULTS
from benchmarks.speed.part import Part, as_markdown

LIMIT = 16_000_000  # bytes of results, without checkpoints
_CLOSING = 12  # seconds at the end for the last table and its charts
_DRAWING = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if nothing failed, 1 if something did, 128 + n after signal n."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(arguments)
    small = options.small or options.device == "cpu"
    planned = planned_parts(options.device, small)
    parts = [part for part in planned if part.name in options.only] or planned
    options.out.mkdir(parents=True, exist_ok=True)
    call = Call(options.out, planned, small, f"python benchmarks/gpu.py {shlex.join(arguments)}")
    end = time.time() + 60 * options.minutes
    end -= min(_CLOSING, 0.1 * 60 * options.minutes)
    ended_by, stop = list[int](), threading.Event()

    def set_stop(number: int, frame: FrameType | None) -> None:
        ended_by.append(number)
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the command at once

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, set_stop)
    with tempfile.TemporaryDirectory() as folder:
        write_metadata(REPOSITORY / "setup.py", Path(folder))
        environment = _environment(Path(folder), options.device)
        supervisor = Supervisor(options.out / "log.txt", environment, stop, lambda line: print(line, flush=True))
        for place, part in enumerate(parts):
            if stop.is_set():
                break
            left = end - part.grace - time.time()
            until = time.time() + max(0.0, left) * part.share / sum(later.share for later in parts[place:])
            settings = Settings(options.device, small, options.data or "", str(options.out.resolve()), until)
            supervisor.perform(part, settings, call.record(part), again=part.name in options.again)
            call.write(environment)
    print((options.out / "table.md").read_text())
    failures = [line for part in planned for line in problems(call.record(part)) if line.startswith(FAILED)]
    print("\n".join(failures or ["nothing failed"]))
    size = size_of(options.out)
    too_much = f", more than {LIMIT / 1e6:.0f} MB" if size > LIMIT else ""
    print(f"{size / 1e6:.1f} MB in {options.out}, without checkpoints{too_much}")
    if options.keep and not small:
        print(f"written: {', '.join(map(str, call.keep(RESULTS)))}")
    return 128 + ended_by[0] if ended_by else int(bool(failures))


class Call:
    """The results in a folder, of this call and those before it."""

    def __init__(self, out: Path, parts: Sequence[PlannedPart], small: bool, command: str) -> None:
        self.out, self.parts, self.small, self.command = out, parts, small, command

    def record(self, part: PlannedPart) -> Record:
        return Record(self.out / "parts" / f"{part.name}.json")

    def write(self, environment: Mapping[str, str]) -> None:
        """Write table.json and table.md, and draw the charts."""
        kept = self._kept()
        write_whole(self.out / "table.json", json.dumps(kept, indent=1) + "\n")
        write_whole(self.out / "table.md", as_markdown(kept, "gpu"))
        command = [sys.executable, "-m", f"{__package__}.picture", str(self.out.resolve() / "table.json")]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_DRAWING, check=False)
            why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            why = [f"it did not end in {_DRAWING} s"]
        if why:
            print(f"no chart: {why[0]}", flush=True)

    def keep(self, folder: Path) -> list[Path]:
        """Copy the results to `folder` under the card's and torch's names; return the paths."""
        made = self._made()
        card = re.sub("[^a-z0-9]+", "-", made["device"].lower()).strip("-")
        path = folder / f"speed-{card}-{made['torch'].partition('+')[0]}"
        names = {"table.json": ".json", "table.md": ".md", "table.svg": ".svg", "norms.svg": "-norms.svg"}
        paths = {name: path.with_name(path.name + suffix) for name, suffix in names.items()}
        found = {name: target for name, target in paths.items() if (self.out / name).is_file()}
        for name, target in found.items():
            shutil.copyfile(self.out / name, target)
        return list(found.values())

    def _kept(self) -> dict[str, dict[str, Any]]:
        """Return the parts that have a record, in the format of results/speed-cpu.json."""
        facts = self._facts()
        kept: dict[str, dict[str, Any]] = {}
        for part in self.parts:
            if (record := self.record(part)).outcomes:
                made: Part = table(part, record, self.small, facts)
                kept[part.name] = {**asdict(made), "made": self._made()}
        return kept

    def _facts(self) -> dict[str, Any]:
        outcomes = self.record(self.parts[0]).outcomes
        return {name: outcome.result for name, outcome in outcomes.items() if outcome.result is not None}

    def _made(self) -> dict[str, Any]:
        machine = self._facts().get("machine", {})
        found = {key: machine.get(key, "unknown") for key in ("device", "torch")}
        return {**found, "date": date.today().isoformat(), "command": self.command, "git": machine.get("commit")}


def size_of(out: Path) -> int:
    """Return the bytes of all results but the runs' checkpoints."""
    files = [path for path in out.rglob("*") if path.is_file() and "checkpoints" not in path.relative_to(out).parts]
    return sum(path.stat().st_size for path in files)


def _environment(metadata: Path, device: str) -> dict[str, str]:
    """Return the children's environment: the repository and its metadata are importable, output is not held back."""
    paths = [str(REPOSITORY), str(REPOSITORY / "plugins"), str(metadata), os.environ.get("PYTHONPATH", "")]
    added = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **added, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; without `describe`, as studiogan_gsr need not be installed here."""
    parser = argparse.ArgumentParser(
        "python benchmarks/gpu.py",
        description=__doc__,
        epilog="example:\n  python benchmarks/gpu.py --data data/cifar10 --out gpu --minutes 9",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in planned_parts("cuda", small=False)]
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="an image folder, such as CIFAR-10 as JPEG files; default: none, and what needs one is left out",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9, help="the time of this call (default: 9)")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="what to measure; cpu: only small (default: cuda)"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to test the command itself")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", choices=names, default=[], help="measure only these; default: all"
    )
    parser.add_argument(
        "--again", nargs="+", metavar="PART", choices=names, default=[], help="measure these again; default: none"
    )
    parser.add_argument("--keep", action="store_true", help="also write to benchmarks/results")
    return parser
