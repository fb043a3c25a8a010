"""Measure speed, and compare it with the alternatives.

    python benchmarks/speed.py all --data DIR     everything below but `step`, in one run
    python benchmarks/speed.py penalty            time of the penalty: ours, a loop over layers, exact SVD
    python benchmarks/speed.py steps [CONFIG ...] steps of the native host; default: all shipped CONFIGs with gSR
    python benchmarks/speed.py hosts --data DIR [CONFIG ...]
                                                  steps of StudioGAN and of the native host
    python benchmarks/speed.py operations [CONFIG ...]
                                                  number of operations that a step of the native host dispatches
    python benchmarks/speed.py packing --data DIR packing the image folder DIR/train into an HDF5 file
    python benchmarks/speed.py loading --data DIR reading DIR/train into memory, and reading batches from it
    python benchmarks/speed.py evaluation         time of each part of an evaluation; PRDC against the package prdc
    python benchmarks/speed.py generation         images a second of `generate`, and of its generator alone
    python benchmarks/speed.py step CONFIG ARGS   the hook's share of a whole step of the real StudioGAN

Alternatives are timed alternately in one run, and compared by the ratio of their medians.  --keep writes the results
and a chart to benchmarks/results/speed-cpu.* or speed-gpu.*; `run.py --dry-run` estimates from `steps`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from argparse import Namespace

import torch

from benchmarks.paths import RESULTS
from benchmarks.speed.evaluation import evaluation, prdc_of
from benchmarks.speed.findings import keep
from benchmarks.speed.generation import generation
from benchmarks.speed.hosts import contestant, hosts, native_steps, step_share
from benchmarks.speed.operations import operations
from benchmarks.speed.packing import loading, packer, packing
from benchmarks.speed.part import Part
from benchmarks.speed.penalty import penalty_costs
from studiogan_gsr.shipped import shipped_configurations

HOSTS = ("CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR", "CIFAR10_LT/BigGAN-DiffAug-LeCam-gSR")


def main() -> int:
    options = _parser().parse_args()
    if options.command in _INTERNAL:
        print(json.dumps(_INTERNAL[options.command](options)))
        return 0
    names = [name for name in _PARTS if name != "step"] if options.command == "all" else [options.command]
    made: dict[str, Part] = {}
    for name in names:
        made[name] = _PARTS[name](options)
        if options.keep:  # after each part: a later failure loses nothing
            paths = keep(made, options.device, f"python benchmarks/speed.py {shlex.join(sys.argv[1:])}", RESULTS)
    if options.keep:
        print(f"\nwritten: {', '.join(map(str, paths))}")
    return 0


def _penalty(options: Namespace) -> Part:
    return penalty_costs(options.device, options.rounds)


def _steps(options: Namespace) -> Part:
    return native_steps(options.configurations or _default_configurations(), options.device, options.native_steps)


def _hosts(options: Namespace) -> Part:
    return hosts(options.configurations or HOSTS, options.data, options.device, options.steps, options.turns)


def _operations(options: Namespace) -> Part:
    return operations(options.configurations or HOSTS)


def _packing(options: Namespace) -> Part:
    return packing(options.data, options.size, options.resizer, options.workers, options.turns)


def _loading(options: Namespace) -> Part:
    return loading(options.data, options.size, options.resizer, options.workers)


def _evaluation(options: Namespace) -> Part:
    return evaluation(options.images, options.measured, options.real, options.classes, options.device)


def _generation(options: Namespace) -> Part:
    return generation(options.images_of_a_class, options.device, options.turns)


def _step(options: Namespace) -> Part:
    return step_share(options.configuration, options.arguments, options.device)


_PARTS = {
    "penalty": _penalty,
    "steps": _steps,
    "hosts": _hosts,
    "operations": _operations,
    "packing": _packing,
    "loading": _loading,
    "evaluation": _evaluation,
    "generation": _generation,
    "step": _step,
}


def _one_prdc(options: Namespace) -> object:
    return prdc_of(options.name, options.number)


def _one_packer(options: Namespace) -> object:
    return packer(options.name, options.folder, options.size, options.resizer, options.workers)


def _one_contestant(options: Namespace) -> object:
    return contestant(options.name, options.configuration, options.data, options.steps)


# Commands that hosts.in_a_process runs: each times one alternative in its own process.
_INTERNAL = {"prdc": _one_prdc, "packer": _one_packer, "contestant": _one_contestant}


def _default_configurations() -> list[str]:
    """Return the shipped configurations with gSR; the others differ from them only by the penalty."""
    return [name for name in shipped_configurations() if name.endswith("-gSR")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data, kept, device = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    data.add_argument("--data", required=True)
    kept.add_argument("--keep", action="store_true", help=f"write to {RESULTS}")
    device.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    several, penalty, steps, repeated, packed, evaluated, generated = (
        argparse.ArgumentParser(add_help=False) for _ in range(7)
    )
    several.add_argument("configurations", nargs="*", metavar="CONFIG")
    penalty.add_argument("--rounds", type=int, default=50)
    steps.add_argument("--native-steps", type=int, default=2)
    repeated.add_argument("--steps", type=int, default=4)
    repeated.add_argument("--turns", type=int, default=2)
    packed.add_argument("--size", type=int, default=32)
    packed.add_argument("--resizer", default="wo_resize")
    packed.add_argument("--workers", type=int, default=os.cpu_count())
    for flag, default in (("--images", 50_000), ("--measured", 512), ("--real", 10_000), ("--classes", 10)):
        evaluated.add_argument(flag, type=int, default=default)
    generated.add_argument("--images-of-a-class", type=int, default=200)
    parts = {
        "all": [data, several, penalty, steps, repeated, packed, evaluated, generated],
        "penalty": [penalty],
        "steps": [several, steps],
        "hosts": [data, several, repeated],
        "operations": [several],
        "packing": [data, repeated, packed],
        "loading": [data, packed],
        "evaluation": [evaluated],
        "generation": [repeated, generated],
    }
    for name, parents in parts.items():
        commands.add_parser(name, parents=[*parents, kept, device])
    step = commands.add_parser("step", parents=[kept, device])
    step.add_argument("configuration")
    step.add_argument("arguments", nargs=argparse.REMAINDER)
    internal = {
        "prdc": {"name": str, "number": int},
        "packer": {"name": str, "folder": str, "size": int, "resizer": str, "workers": int},
        "contestant": {"name": str, "configuration": str, "data": str, "steps": int},
    }
    for name, arguments in internal.items():
        command = commands.add_parser(name, help="time one alternative in this process")
        for argument, kind in arguments.items():
            command.add_argument(argument, type=kind)
    return parser
