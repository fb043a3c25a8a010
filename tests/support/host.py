"""Running the real StudioGAN in a process of its own, on small real images, with narrow networks."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import subprocess
import sys
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

CPU = Path(__file__).with_name("cpu")  # makes CUDA devices the CPU
FORKING = Path(__file__).with_name("forking_host.py")
NARROW = {"MODEL": {"g_conv_dim": 8, "d_conv_dim": 8}, "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2}}
DIGITS = {"name": "Folder_LT_rho4", "img_size": 32, "num_classes": 10}  # of the fixture `digits`


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


def refused(outcome: Outcome, message: str) -> None:
    """The run ended as a wrong request, in one line, before the first step."""
    (line,) = outcome.lines("studiogan-gsr: ")
    assert re.search(message, line), line
    assert outcome.status == (2 if outcome.way == "launched" else 1)  # Python's own
    assert not outcome.lines("Progress:")
    assert "Traceback" not in outcome.output


def write_configuration(path: Path, base: Path | None = None, **changes: Any) -> Path:
    """A shipped configuration (or none) narrowed, with sections changed; None removes a section."""
    sections = yaml.safe_load(base.read_text()) if base else {}
    for name, values in {**NARROW, **changes}.items():
        if values is None:
            sections.pop(name, None)
        elif isinstance(values, dict) and isinstance(sections.get(name), dict):
            sections[name] |= values
        else:
            sections[name] = dict(values) if isinstance(values, dict) else values
        for key in (name in changes and name in NARROW) * [*NARROW.get(name, {})]:
            sections[name].setdefault(key, NARROW[name][key])
    path.write_text(yaml.safe_dump(sections))
    return path


def configure(folder: Path, base: Path | None = None, steps: int = 2, **changes: object) -> Path:
    """A shipped configuration, SNGAN with gSR if none is named, for a few steps on the digits."""
    base = base or shipped_configuration("CIFAR10_LT/SNGAN-gSR")
    optimization = {"total_steps": steps, "batch_size": 8, "d_updates_per_step": 2}
    return write_configuration(
        folder / "config.yaml", base, **{"DATA": DIGITS, "OPTIMIZATION": optimization, **changes}
    )


@dataclass(frozen=True)
class Host:
    """A checkout, and the way into it: "launched" by our command, or, "alone", main.py by Python itself.

    A checkout that is patched knows the plug-ins alone.
    """

    checkout: Checkout
    way: str = "launched"

    def run(
        self,
        configuration: Path,
        data: Path,
        save: Path,
        *arguments: str,
        launch: tuple[str, ...] = (),
        ranks: int = 1,
        environment: dict[str, str] | None = None,
        train: bool = True,
        forked: bool = True,
        limit: int = 300,
        on_start: Callable[[int], None] = lambda process: None,
    ) -> Outcome:
        """One run on the CPU.

        ranks: how many devices it sees.  forked: from a process that has imported StudioGAN's modules, those of the
        usual checkout; else a process as a user starts it.  limit: in seconds.
        on_start: is given the process's number.
        """
        command = ["-t"] if train else []
        for flag, path in (("-cfg", configuration), ("-data", data), ("-save", save)):
            command += [flag, os.path.relpath(path, save.parent)]  # as they mean it for main.py
        command += ["--num_workers", "1"]
        for flag, default in (("-metrics", ["none"]), ("--seed", ["3"]), ("--print_freq", ["1", "--save_freq", "2"])):
            if flag not in arguments:
                command += [flag, *default]
        command += arguments
        environment = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **(environment or {})}
        if self.way == "launched":
            options = ("--root", str(self.checkout.root), "--device", "cpu", "--ranks", str(ranks), *launch)
            command = ["studiogan", "run", *options, "--", *command]
        else:
            command = [str(self.checkout.main), *command]
        output = save.with_name(f"{save.name}.txt")
        if forked:
            request = {"way": self.way, "arguments": command, "environment": environment, "ranks": ranks}
            request |= {"folder": str(save.parent), "output": str(output)}
            status = _forking_host(self.usual_source).run(request, on_start, limit)
        else:
            if self.way == "launched":
                command = [sys.executable, "-m", "studiogan_gsr", *command]
            else:
                command = [sys.executable, "-B", *command]
                paths = [str(CPU), *environment.get("PYTHONPATH", "").split(os.pathsep)]
                environment |= {"PYTHONPATH": os.pathsep.join(paths), "CPU_RANKS": str(ranks)}
                environment["PYTHONDONTWRITEBYTECODE"] = "1"
            with output.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=save.parent, env={**os.environ, **environment}, stdout=file, stderr=file
                )
            with _limited(process.pid, limit):
                on_start(process.pid)
                status = process.wait()
        return Outcome(status, output.read_text(errors="replace"), save, self.way)

    def command(self, *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None) -> Outcome:
        """Another command of ours where StudioGAN's modules have been imported."""
        given = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **(environment or {})}
        output = folder / "command.txt"
        request = {"way": "launched", "arguments": [*map(str, arguments)], "environment": given}
        request |= {"folder": str(folder), "output": str(output)}
        status = _forking_host(self.usual_source).run(request, lambda process: None, 300)
        return Outcome(status, output.read_text(errors="replace"), folder)

    @property
    def usual_source(self) -> Path:
        """The source of the modules to fork from: a patch changes main.py alone, which forks run from here."""
        from studiogan_gsr.hosts.studiogan.checkout import find_checkout

        return find_checkout().source


class ForkingHost:
    """The process that forks the runs of one test process, one at a time."""

    def __init__(self, source: Path) -> None:
        self.lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-B", str(FORKING), str(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
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
                    status = int(self._answer())  # also where the test fails: the next one reads its own
            return status

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@functools.cache
def _forking_host(source: Path) -> ForkingHost:
    return ForkingHost(source)


@contextmanager
def _limited(process: int, limit: int) -> Iterator[None]:
    """Kill a process that takes too long."""
    timer = threading.Timer(limit, lambda: os.kill(process, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def narrowed(path: Path) -> dict[str, Any]:
    """A configuration of StudioGAN on small images, with small networks where their width can be chosen, and gSR."""
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
