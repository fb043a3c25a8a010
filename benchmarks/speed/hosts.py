"""Measure steps of StudioGAN and of the native host."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paths import BENCHMARKS
from benchmarks.speed.part import Part
from benchmarks.speed.penalty import wait_for
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.studiogan import launcher
from studiogan_gsr.machine import device_name
from studiogan_gsr.regularizers.attachment import Attachment
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

SCRIPT = BENCHMARKS / "speed.py"


def _timed(function: Callable[..., Any], spent: list[float], opens: bool = True) -> Callable[..., Any]:
    """Return the function with a timer that records its seconds in `spent`.

    opens: append a new entry, as the first part of a step; otherwise add to the last entry.
    """

    def run(*args: object, **kwargs: object) -> object:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        wait_for(device)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        wait_for(device)
        taken = time.perf_counter() - start
        if opens:
            spent.append(taken)
        else:
            spent[-1] += taken
        return result

    return run


def timed_studiogan(configuration: str, arguments: Sequence[str], device: str | None = None) -> list[float]:
    """Run the real StudioGAN; return the seconds of each step (discriminator and generator)."""
    spent: list[float] = []
    prepare = launcher.Setup.prepare

    def prepare_timed(self: launcher.Setup) -> Callable[..., Any]:
        load_worker = prepare(self)
        worker = import_module("worker").WORKER
        worker.train_discriminator = _timed(worker.train_discriminator, spent)
        worker.train_generator = _timed(worker.train_generator, spent, opens=False)
        return load_worker

    launcher.Setup.prepare = prepare_timed  # type: ignore[method-assign]
    launcher.run(None, ["-t", "-metrics", "none", "-cfg", configuration, *arguments], device)
    return spent


def step_share(configuration: str, arguments: Sequence[str], device: str) -> Part:
    """Measure the regularizer hook's share of a step in a run of the real StudioGAN, without the first step."""
    hooks: list[float] = []
    Attachment._add_gradient = _timed(Attachment._add_gradient, hooks)  # type: ignore[method-assign]
    steps = timed_studiogan(configuration, arguments, device)
    hook, step = statistics.median(hooks[1:]), statistics.median(steps[1:])
    part = Part("The hook's share of a step of StudioGAN")
    part.columns("configuration", "hook, ms", "step, s", "share")
    part.row(Path(configuration).name, f"{1e3 * hook:.2f}", f"{step:.2f}", f"{hook / step:.3%}")
    return part


# Ways to train a configuration: the native host's speed switches, or the real StudioGAN's arguments.
CONTESTANTS: dict[str, Speed | list[str]] = {
    "StudioGAN": [],
    "native, all switches off": Speed(channels_last=False, folded=False, fused=False),
    "native": Speed(),
    "native, compiled": Speed(compiled=True),
    "native, bfloat16": Speed(precision="bfloat16"),
    "native, bfloat16, compiled": Speed(precision="bfloat16", compiled=True),
}
_CUDA_ONLY: dict[str, list[str]] = {"StudioGAN -mpc": ["-mpc"]}


def hosts(configurations: Sequence[str], data: str, device: str, steps: int, turns: int) -> Part:
    """Time steps of both hosts alternately, with the same configurations and data."""
    names = [*CONTESTANTS, *(_CUDA_ONLY if device == "cuda" else {})]
    part = Part(f"Steps of both hosts, {device_name(device)}")
    part.columns("configuration", *(f"{name}, s" if name == "StudioGAN" else name for name in names))
    for configuration in configurations:
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                command = ("contestant", name, configuration, data, str(steps))
                times[name] += in_a_process(*command, device=device)
        base = statistics.median(times["StudioGAN"])
        ratios = {name: base / statistics.median(times[name]) for name in names if name != "StudioGAN"}
        title = Path(configuration).stem
        part.row(title, f"{base:.4g}", *(f"{ratio:.2f}x" for ratio in ratios.values()))
        part.ratios |= {f"{title}: StudioGAN to {name}": ratio for name, ratio in ratios.items()}
    part.note(f"Median of {turns} x {steps} steps, the first of each turn left out.")
    return part


def in_a_process(*arguments: str, device: str = "cpu") -> Any:
    """Run a command of speed.py in its own process; return its last line of output, read as JSON.

    device: "cpu" hides the GPUs from the process.
    """
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"speed.py {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def native_steps(configurations: Sequence[str], device: str, steps: int) -> Part:
    """Time steps of the native host after the first, on random images: no data set is needed."""
    part = Part(f"Steps of the native host, {device_name(device)}")
    memory = ["GPU memory, GB"] if device == "cuda" else []
    part.columns("configuration", "steps", "TFLOP a step", "s a step", "TFLOP/s", "hours for all steps", *memory)
    for name in configurations:
        sections = load_configuration(shipped_configuration(name))
        (seconds, gigabytes), operations = _native_step(sections, device, steps), teraflop(sections, device)
        total = int(sections["OPTIMIZATION"]["total_steps"])
        cells = [
            f"{operations:.3g}",
            f"{seconds:.4g}",
            f"{operations / seconds:.2g}",
            f"{seconds * total / 3600:,.1f}",
        ]
        part.row(name, f"{total:,}", *cells, *(f"{gigabytes:.1f}" for _ in memory))
        part.data[name] = {"seconds": seconds, "teraflop": operations}
    part.note(f"Median of {steps} steps after the first, on random images in memory; without evaluation.")
    part.note(
        "TFLOP: 10^12 multiplications and additions of convolutions and matrix products, counted by PyTorch, of the "
        "networks as StudioGAN writes them; the native host needs about a third fewer."
    )
    return part


def new_trainer(sections: dict[str, Any], device: str, speed: Speed) -> Trainer:
    """Return a trainer of the native host on one batch of random images in memory."""
    configuration = read_configuration(sections)
    data, batch = configuration.DATA, configuration.OPTIMIZATION.batch_size
    images = torch.rand((batch, 3, data.img_size, data.img_size), device=device) * 2 - 1
    labels = torch.arange(batch, device=device) % data.num_classes
    counts = [5] * data.num_classes
    return Trainer(configuration, counts, repeat((images, labels)), torch.device(device), 0, speed)


def teraflop(sections: dict[str, Any], device: str) -> float:
    """Return the TFLOP of a step: counted for two small batches, and extrapolated linearly to the batch size."""
    small, larger = 2, 4
    counted: list[float] = []
    for batch in (small, larger):
        optimization = {**sections["OPTIMIZATION"], "batch_size": batch}
        trainer = new_trainer({**sections, "OPTIMIZATION": optimization}, device, Speed(folded=False))
        with FlopCounterMode(display=False) as counter:
            trainer.step()
        counted.append(counter.get_total_flops())
    an_image = (counted[1] - counted[0]) / (larger - small)
    return (counted[0] + an_image * (int(sections["OPTIMIZATION"]["batch_size"]) - small)) / 1e12


def _native_step(sections: dict[str, Any], device: str, steps: int) -> tuple[float, float]:
    """Return the median seconds of the steps after the first, and the peak GPU memory in GB (0 on a CPU)."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.cuda.reset_peak_memory_stats()
    trainer = new_trainer(sections, device, Speed())
    trainer.step()
    times = []
    for _ in range(steps):
        wait_for(device)
        start = time.perf_counter()
        trainer.step()
        wait_for(device)
        times.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return statistics.median(times), memory


def contestant(name: str, configuration: str, data: str, steps: int) -> list[float]:
    """Train one of CONTESTANTS or _CUDA_ONLY; return the seconds of each step but the first."""
    path = configuration if Path(configuration).is_file() else str(shipped_configuration(configuration))
    sections = load_configuration(path)
    if (Path(data) / "train").is_dir():  # DIR holds CIFAR as an image folder, not as the archive
        sections["DATA"]["name"] = sections["DATA"]["name"].replace("CIFAR10_LT", "Folder_LT")
    sections["OPTIMIZATION"]["total_steps"] = steps
    with tempfile.TemporaryDirectory() as folder:
        speed = {**CONTESTANTS, **_CUDA_ONLY}[name]
        if isinstance(speed, Speed):
            spent: list[float] = []
            Trainer.step = _timed(Trainer.step, spent)  # type: ignore[method-assign]
            train(sections, TrainOptions(data, Path(folder) / "run", save_freq=10 * steps, **asdict(speed)))
            return spent[1:]
        file = Path(folder) / "configuration.yaml"
        # StudioGAN trains one step more than total_steps.
        sections["OPTIMIZATION"]["total_steps"] = steps - 1
        file.write_text(yaml.safe_dump(sections))
        os.environ["WANDB_MODE"] = "disabled"
        return timed_studiogan(str(file), ["-data", data, "-save", folder, "--num_workers", "2", *speed])[1:]
