"""`studiogan-gsr train`: train a configuration in the native host."""

from __future__ import annotations

import argparse
import os

from studiogan_gsr.commandline import add_options, read_options
from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.native.options import TrainOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "CONFIG is a file or a shipped configuration's name, such as CIFAR10_LT/SNGAN-gSR. "
        "Several GPUs: torchrun --nproc-per-node N -m studiogan_gsr train ..."
    )
    parser.add_argument("configuration", metavar="CONFIG")
    add_options(parser, TrainOptions)
    parser.add_argument(
        "--no-evaluate", dest="evaluate", action="store_const", const=0, help="do not measure while training"
    )
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Train, and print the commands that inspect the run."""
    from studiogan_gsr.hosts.native.run import train

    options = read_options(TrainOptions, parsed)
    if not options.evaluate and not options.resume and (options.select_on or options.backbone):
        raise RequestError(f"{'--select-on' if options.select_on else '--backbone'} needs --evaluate")
    train(parsed.configuration, options)
    if os.environ.get("RANK", "0") == "0":
        out = options.out
        print(f"the run is in {out}; to inspect it: `studiogan-gsr evaluate {out}` or `studiogan-gsr spectrum {out}`")
