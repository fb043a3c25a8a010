"""The options of one start of a run, in addition to its configuration; which of them a resumed run keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.threads import fixed_threads
from studiogan_gsr.hosts.native.training import Speed
from studiogan_gsr.machine import most_threads

# A resumed run cannot change these: they decide its noise, the order of its images and their pixels.
_FIXED = ("seed", "resizer")
# These follow the machine, so they may differ at every start.  Numbers may then round differently, and noise starts
# over if the kind of device or the number of ranks changes.
_MACHINE = ("device_type", "ranks", "threads")


@dataclass(frozen=True)
class Start:
    """The options of one start of a run; run.json holds those of every start.

    device_type: "cpu" or "cuda".  ranks: processes.  threads: PyTorch's threads in each process.
    steps: the step to train to; None means OPTIMIZATION.total_steps.
    workers: processes that read images.
    in_memory: whether all images are read before training; None: if they fit in memory.
    print_freq, save_freq: steps between log lines and between checkpoints.
    log: what shows the run's scalars, one of VIEWERS.
    evaluate: images to generate and measure whenever a checkpoint is saved; 0 means no evaluations.
    select_on: real images to select the best checkpoint on, one of SELECT_ON.
    backbone: the network that measures; None means inception, or effnetlite0 if inception is not available.
    """

    device_type: str
    ranks: int
    threads: int
    seed: int = 0
    steps: int | None = None
    resizer: str = "wo_resize"
    workers: int = 4
    in_memory: bool | None = None
    print_freq: int = 100
    save_freq: int = 2000
    log: str = "tensorboard"
    speed: Speed = field(default_factory=Speed)
    evaluate: int = 0
    select_on: str = "validation"
    backbone: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the options as plain data, for run.json."""
        return dataclasses.asdict(self)


def choose_start(options: TrainOptions, before: Mapping[str, Any], ranks: int) -> Start:
    """Return the options of a start: those that are given, else those of the run's last start, else the defaults.

    before: the record of the last start; for a new run empty, or only the seed of its checkpoint.
    Raises RequestError for an option that a run cannot change.
    """
    for name in _FIXED:
        given = getattr(options, name)
        if given is not None and name in before and given != before[name]:
            raise RequestError(
                f"--resume: found --{name} {given}; the run in {options.out} has {before[name]}: leave --{name} out, "
                "or start a new run in another --out"
            )
    chosen: dict[str, Any] = {}
    for option in dataclasses.fields(Start):
        if option.name in (*_MACHINE, "speed"):
            continue
        given = getattr(options, option.name)
        chosen[option.name] = before.get(option.name, option.default) if given is None else given
    switches = {**dataclasses.asdict(Speed()), **before.get("speed", {}), **options.speed}
    device = options.device or _available(before.get("device_type"))
    threads = fixed_threads(options.threads, before, device, ranks) or most_threads()
    return Start(device_type=device, ranks=ranks, threads=threads, speed=Speed(**switches), **chosen)


def _available(before: str | None) -> str:
    """Return the device type: "cpu" if the run trained on it before or CUDA is not available, else "cuda"."""
    return "cpu" if before == "cpu" or not torch.cuda.is_available() else "cuda"


def kept_options(start: Start, options: TrainOptions) -> str:
    """Return the options, as text, that a resumed run keeps from its last start; "" if all are defaults."""
    default = Start(start.device_type, start.ranks, start.threads).record()
    found = _flat(start.record())
    given = {name for name in found if getattr(options, name, None) is not None}
    names = [name for name in found if name not in (*_MACHINE, *given, *options.speed)]
    return ", ".join(f"{name} {found[name]}" for name in names if found[name] != _flat(default)[name])


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the differences between the records of two starts, as text; "" if there are none."""
    old, new = _flat(before), _flat(now)
    return ", ".join(
        f"{name} {new[name]} (before {old[name]})" for name in old if name in new and new[name] != old[name]
    )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a start's record as a flat dict, together with the entries of `speed` and `versions`."""
    inner = {name: value for key in ("speed", "versions") for name, value in record.get(key, {}).items()}
    names = [f.name for f in dataclasses.fields(Start) if f.name != "speed"]
    return {name: record[name] for name in names if name in record} | inner
