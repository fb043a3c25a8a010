"""What a run is started with beside its configuration, and what of that a resumed run keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.training import Speed

# Of a resumed run these cannot change: its noise, the order of its images and its pixels follow from them.
_FIXED = ("seed", "resizer")
# What the machine decides at every start.  Another value is no error, but may round differently.
_MACHINE = ("device_type", "ranks", "threads")


@dataclass(frozen=True)
class Start:
    """What a run is made with from one of its starts on; run.json holds it for each of them.

    device_type: "cpu" or "cuda".  ranks: processes.  threads: of PyTorch, in each.
    steps: the step to train to; None: OPTIMIZATION.total_steps.
    workers: processes that read images.  in_memory: None: where the images fit.
    print_freq, save_freq: steps between log lines and between checkpoints.
    evaluate: images that are generated and measured wherever a checkpoint is saved; 0: none.  They are measured on
    `select_on`, with `backbone` (None: inception, or effnetlite0 where that is not available).
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
    speed: Speed = field(default_factory=Speed)
    evaluate: int = 0
    select_on: str = "validation"
    backbone: str | None = None

    def record(self) -> dict[str, Any]:
        """Plain data, for run.json."""
        return dataclasses.asdict(self)


def settle(options: TrainOptions, before: Mapping[str, Any], ranks: int) -> Start:
    """What a run starts with: the given options, else what it had before, else the defaults.

    before: the record of its last start; empty for a new run.
    Raises RequestError for an option that contradicts what a run cannot change.
    """
    for name in _FIXED:
        given = getattr(options, name)
        if given is not None and name in before and given != before[name]:
            raise RequestError(
                f"--resume: found --{name} {given}; the run in {options.out} has {before[name]}: leave --{name} out, "
                "or begin another run in another --out"
            )
    chosen: dict[str, Any] = {}
    for option in dataclasses.fields(Start):
        if option.name in (*_MACHINE, "speed"):
            continue
        given = getattr(options, option.name)
        chosen[option.name] = before.get(option.name, option.default) if given is None else given
    switches = {**dataclasses.asdict(Speed()), **before.get("speed", {}), **options.speed}
    device = options.device or _available(before.get("device_type"))
    return Start(device, ranks, torch.get_num_threads(), speed=Speed(**switches), **chosen)


def _available(before: str | None) -> str:
    """The device of before where this machine has it; else CUDA where there is one."""
    return "cpu" if before == "cpu" or not torch.cuda.is_available() else "cuda"


def kept(start: Start, options: TrainOptions) -> str:
    """What a resumed run keeps though the command line does not say it, in words; empty where all is default."""
    default = Start(start.device_type, start.ranks, start.threads).record()
    found = _flat(start.record())
    given = {name for name in found if getattr(options, name, None) is not None}
    names = [name for name in found if name not in (*_MACHINE, *given, *options.speed)]
    return ", ".join(f"{name} {found[name]}" for name in names if found[name] != _flat(default)[name])


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two starts' records, in words; empty where nothing does."""
    old, new = _flat(before), _flat(now)
    return ", ".join(
        f"{name} {new[name]} (before {old[name]})" for name in old if name in new and new[name] != old[name]
    )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A start's record with the switches of `speed` and the versions of packages beside the rest."""
    inner = {name: value for key in ("speed", "versions") for name, value in record.get(key, {}).items()}
    names = [f.name for f in dataclasses.fields(Start) if f.name != "speed"]
    return {name: record[name] for name in names if name in record} | inner
