"""Run the real StudioGAN in a separate process, with narrow networks on small real images."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.shipped import shipped_configuration

CPU = Path(__file__).with_name("cpu")  # its sitecustomize.py makes CUDA devices mean the CPU
FORKING = Path(__file__).with_name("forking_host.py")
NARROW = {"MODEL": {"g_conv_dim": 8, "d_conv_dim": 8}, "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2}}
DIGITS = {"name": "Folder_LT_rho4", "img_size": 32, "num_classes": 10}  # the fixture `digits`
DDP = ("-DDP", "--backend", "gloo")


@dataclass(frozen=True)
class Outcome:
    """What a run printed and left behind."""

    status: int
    output: str
    save: Path
    way: str = "launched"

    def lines(self, word: str) -> list[str]:
        return [line for line in self.output.splitlines() if word in line]

    def losses(self) -> dict[str, list[float]]:
        (path,) = self.save.glob("statistics/*/losses.npy")
        return np.load(path, allow_pickle=True).item()

    def checkpoint(self, model: str = "G") -> dict[str, Any]:
        (path,) = self.save.glob(f"checkpoints/*/model={model}-current*.pth")
        return torch.load(path, map_location="cpu", weights_only=True)

    @property
    def checkpoint_folder(self) -> Path:
        (path,) = self.save.glob("checkpoints/*")
        return path


def meeting() -> dict[str, str]:
    """Where the ranks of a run meet: a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}


def refused(outcome: Outcome, message: str) -> None:
    """Assert that the run was refused with one line before its first step."""
    (line,) = outcome.lines("studiogan-gsr: ")
    assert re.search(message, line), line
    assert outcome.status == (2 if outcome.way == "launched" else 1)  # alone: Python's own exit status for an error
    assert not outcome.lines("Progress:")
    assert "Traceback" not in outcome.output


def write_configuration(path: Path, base: Path | None = None, **changes: Any) -> Path:
    """Write a configuration: `base`, narrow networks and small batches, then `changes`; None removes a section."""
    sections = yaml.safe_load(base.read_text()) if base else {}
    for name, values in (*NARROW.items(), *changes.items()):
        if values is None:
            sections.pop(name, None)
        elif isinstance(values, dict) and isinstance(sections.get(name), dict):
            sections[name] |= values
        else:
            sections[name] = dict(values) if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(sections))
    return path


def configure(folder: Path, base: Path | None = None, steps: int = 2, **changes: object) -> Path:
    """Write folder/config.yaml: `base`, by default SNGAN with gSR, narrow, for a few steps on the digits."""
    base = base or shipped_configuration("CIFAR10_LT/SNGAN-gSR")
    optimization = {"total_steps": steps, "batch_size": 8, "d_updates_per_step": 2}
    return write_configuration(
        folder / "config.yaml", base, **{"DATA": DIGITS, "OPTIMIZATION": optimization, **changes}
    )


@dataclass(frozen=True)
class Host:
    """A checkout of StudioGAN, and how to start a run in it.

    way: "launched", by `studiogan-gsr studiogan run`, or "alone", by `python main.py`.  Alone, only a patched
    checkout finds the plug-ins.
    narrow_stylegan: True gives the layers of StyleGANs at most 16 channels, in forked runs.
    """

    checkout: Checkout
    way: str = "launched"
    narrow_stylegan: bool = False

    def run(
        self,
        configuration: Path,
        data: Path,
        save: Path,
        *arguments: str,
        launch: tuple[str, ...] = (),
        ranks: int = 1,
        environment: dict[str, str] | None = None,
        device: str = "cpu",
        train: bool = True,
        forked: bool = True,
        limit: int = 300,
        on_start: Callable[[int], None] = lambda process: None,
    ) -> Outcome:
        """Run StudioGAN, and return what it printed and left in `save`.

        ranks: number of devices that the run sees.  device: "cpu", or "cuda", which needs `forked` to be False.
        forked: True forks a process that has imported StudioGAN's modules (`usual_source`); False
        starts a new process, as a user does.  limit: seconds after which the run is killed.
        on_start: is called with the process ID.
        """
        command = ["-t"] if train else []
        for flag, path in (("-cfg", configuration), ("-data", data), ("-save", save)):
            command += [flag, os.path.relpath(path, save.parent)]  # relative to the run's working folder
        command += ["--num_workers", "1"]
        for flag, default in (("-metrics", ["none"]), ("--seed", ["3"]), ("--print_freq", ["1", "--save_freq", "2"])):
            if flag not in arguments:
                command += [flag, *default]
        command += arguments
        environment = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **(environment or {})}
        if self.way == "launched":
            options = ("--root", str(self.checkout.root), "--device", device, "--ranks", str(ranks), *launch)
            command = ["studiogan", "run", *options, "--", *command]
        else:
            command = [str(self.checkout.main), *command]
        output = save.with_name(f"{save.name}.txt")
        if forked:
            request = {"way": self.way, "arguments": command, "environment": environment, "ranks": ranks}
            request |= {"folder": str(save.parent), "output": str(output), "narrow_stylegan": self.narrow_stylegan}
            status = _forking_host(self.usual_source).run(request, on_start, limit)
        else:
            paths = [environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
            if self.way == "launched":
                command = [sys.executable, "-m", "studiogan_gsr", *command]
            else:
                command = [sys.executable, "-B", *command]
                environment |= {"CPU_RANKS": str(ranks), "PYTHONDONTWRITEBYTECODE": "1"}
                if device == "cpu":
                    paths.insert(0, str(CPU))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            with output.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=save.parent, env={**os.environ, **environment}, stdout=file, stderr=file
                )
            with _limited(process.pid, limit):
                on_start(process.pid)
                status = process.wait()
        return Outcome(status, output.read_text(errors="replace"), save, self.way)

    def command(self, *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None) -> Outcome:
        """Run another `studiogan-gsr` command in a fork that has imported StudioGAN's modules, for 300 s at most."""
        given = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **(environment or {})}
        output = folder / "command.txt"
        request = {"way": "launched", "arguments": [*map(str, arguments)], "environment": given}
        request |= {"folder": str(folder), "output": str(output), "narrow_stylegan": self.narrow_stylegan}
        status = _forking_host(self.usual_source).run(request, lambda process: None, 300)
        return Outcome(status, output.read_text(errors="replace"), folder)

    @property
    def usual_source(self) -> Path:
        """Return the source folder of the default checkout, whose modules the forked processes have imported.

        They fit a patched checkout, too: the patch changes only main.py, which each run reads from `self.checkout`.
        """
        from studiogan_gsr.hosts.studiogan.checkout import find_checkout

        return find_checkout().source


class ForkingHost:
    """The process that forks the runs of one test process, one at a time."""

    def __init__(self, source: Path) -> None:
        self.lock = threading.Lock()
        self.errors, name = tempfile.mkstemp()
        os.unlink(name)
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(FORKING), str(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert self._answer() == "ready"
        atexit.register(self.process.kill)

    def run(self, request: dict[str, Any], on_start: Callable[[int], None], limit: int) -> int:
        assert self.process.stdin is not None
        with self.lock:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            number = int(self._answer())
            with _limited(number, limit):
                try:
                    on_start(number)
                finally:
                    status = int(self._answer())  # even if on_start fails: the next run reads its own answer
            return status

    def _answer(self) -> str:
        """Return the process's next line; raise RuntimeError with the end of its stderr if it has ended."""
        assert self.process.stdout is not None
        if answer := self.process.stdout.readline():
            return answer.strip()
        status = self.process.wait()
        errors = os.pread(self.errors, os.fstat(self.errors).st_size, 0).decode(errors="replace")
        raise RuntimeError(f"{FORKING.name} ended with status {status}:\n{errors[-2000:]}")


@functools.cache
def _forking_host(source: Path) -> ForkingHost:
    return ForkingHost(source)


@contextmanager
def _limited(process: int, limit: int) -> Iterator[None]:
    """Kill the process after `limit` seconds in this context."""
    timer = threading.Timer(limit, lambda: os.kill(process, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def narrowed(path: Path) -> dict[str, Any]:
    """Return the sections of a StudioGAN configuration with gSR, for one step on the digits.

    Networks are narrow, except for the backbones whose width cannot be set.
    """
    sections = yaml.safe_load(path.read_text())
    model, optimization = sections.setdefault("MODEL", {}), sections.setdefault("OPTIMIZATION", {})
    backbone = model.get("backbone", "resnet")
    if backbone not in ("deep_conv", "stylegan2", "stylegan3"):
        model |= {"g_conv_dim": 8, "d_conv_dim": 8}
    optimization |= {"batch_size": 8, "d_updates_per_step": 1, "total_steps": 1}
    sections |= {"DATA": DIGITS, "REGULARIZER": "gsr"}
    if backbone.startswith("stylegan"):
        sections["STYLEGAN"]["d_epilogue_mbstd_group_size"] = 4
        sections["REGULARIZER"] = {"name": "gsr", "apply_to": ["mapping"]}
    return sections
