"""Measure speed, and compare it with the alternatives.

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
from studiogan_gsr.commandline import describe
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.shipped import shipped_configurations

HOSTS = ("CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR", "CIFAR10_LT/BigGAN-DiffAug-LeCam-gSR")


def main() -> int:
    options = make_parser().parse_args()
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


_ABOUT = {
    "all": "everything but `step`, in one run",
    "penalty": "time of the penalty: ours, a loop over layers, exact SVD",
    "steps": "steps of the native host",
    "hosts": "steps of StudioGAN and of the native host",
    "operations": "number of operations that a step of the native host dispatches",
    "packing": "packing the image folder DIR/train into an HDF5 file",
    "loading": "reading DIR/train into memory, and reading batches from it",
    "evaluation": "time of each part of an evaluation; PRDC against the package prdc",
    "generation": "images a second of `generate`, and of its generator alone",
    "step": "the hook's share of a whole step of the real StudioGAN",
}
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python benchmarks/speed.py")
    describe(parser, str(__doc__), example="python benchmarks/speed.py penalty")
    commands = parser.add_subparsers(dest="command", required=True, metavar="PART")
    data, common, several, penalty, steps, repeated, packed, evaluated, generated = (
        argparse.ArgumentParser(add_help=False) for _ in range(9)
    )
    data.add_argument("--data", metavar="DIR", required=True, help="an image folder with train/<class>/")
    common.add_argument("--keep", action="store_true", help="also write to benchmarks/results")
    common.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device to measure; default: cuda if it is available",
    )
    several.add_argument(
        "configurations",
        nargs="*",
        metavar="CONFIG",
        help="files or shipped configurations; default: `steps` takes all with gSR, the others an SNGAN and a BigGAN",
    )
    for options, flag, default, meaning in (
        (penalty, "--rounds", 50, "times that each alternative is timed"),
        (steps, "--native-steps", 2, "steps of each configuration"),
        (repeated, "--steps", 4, "steps of each host and turn"),
        (repeated, "--turns", 2, "times that the alternatives take turns"),
        (packed, "--size", 32, "width and height of the images"),
        (evaluated, "--images", 50_000, "generated images; times are extrapolated to them"),
        (evaluated, "--measured", 512, "images that pass through the networks"),
        (evaluated, "--real", 10_000, "real images"),
        (evaluated, "--classes", 10, "number of classes"),
        (generated, "--images-of-a-class", 200, "images to generate of each class"),
    ):
        options.add_argument(flag, metavar="N", type=int, default=default, help=f"{meaning} (default: {default})")
    packed.add_argument(
        "--resizer", choices=RESIZERS, default="wo_resize", help="filter that resizes images (default: wo_resize)"
    )
    packed.add_argument(
        "--workers", metavar="N", type=int, default=os.cpu_count(), help="processes; default: one per core"
    )
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
        "step": [],
    }
    for name, parents in parts.items():
        command = commands.add_parser(name, help=_ABOUT[name], parents=[*parents, common])
        folder = " --data data/cifar10" if data in parents else ""
        arguments = " CIFAR10_LT/SNGAN-gSR -data data" if name == "step" else ""
        example = f"python benchmarks/speed.py {name}{folder}{arguments}"
        describe(command, f"{_ABOUT[name][0].upper()}{_ABOUT[name][1:]}.", example)
        if name == "step":
            command.add_argument("configuration", metavar="CONFIG", help="a file or a shipped configuration")
            command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="arguments of main.py")
    internal = {
        "prdc": {"name": str, "number": int},
        "packer": {"name": str, "folder": str, "size": int, "resizer": str, "workers": int},
        "contestant": {"name": str, "configuration": str, "data": str, "steps": int},
    }
    for name, kinds in internal.items():
        command = commands.add_parser(name)  # without a help text, it is not listed
        for argument, kind in kinds.items():
            command.add_argument(argument, type=kind)
    return parser
