"""`studiogan-gsr train`: train a configuration in the native host."""

from __future__ import annotations

import argparse
import os

from studiogan_gsr.commandline import add_options, describe, read_options
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.shipped import EXAMPLE


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Trains a configuration with the native host, which needs no checkout of StudioGAN. Several GPUs: "
        "`torchrun --nproc-per-node N -m studiogan_gsr train ...`",
        example=f"studiogan-gsr train {EXAMPLE} --data data --out runs/sngan-gsr",
    )
    parser.add_argument(
        "configuration", metavar="CONFIG", help=f"a file, or the name of a shipped configuration, such as {EXAMPLE}"
    )
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
    trainer = train(parsed.configuration, options)
    if os.environ.get("RANK", "0") == "0":
        out = options.out
        steps = [command("report", out), command("evaluate", out)]
        if trainer.configuration.MODEL.g_cond_mtd != "W/O":  # `generate` makes images by class
            steps.append(command("generate", out, "--out", f"{out}-images"))
        print_next(*steps)
