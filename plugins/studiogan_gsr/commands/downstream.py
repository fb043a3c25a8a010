"""`studiogan-gsr downstream`: classifiers trained with and without a run's generated images."""

from __future__ import annotations

import argparse
from pathlib import Path

from studiogan_gsr.commandline import add_options, describe, read_options
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.runs.options import PATHS_HELP, DownstreamOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Does filling the rare classes with generated images help a classifier? Trains ResNet-18 classifiers on the "
        "real training images, on the same with classes drawn equally often, on the real images with rare classes "
        "filled up by the run, and on generated images alone, and tests them on the reference images. The defaults "
        "take days on a CPU; for a first look, use `--width 8 --updates 300 --seeds 2`.",
        example="studiogan-gsr downstream runs/sngan runs/sngan-gsr",
    )
    parser.add_argument("paths", metavar="RUN|CHECKPOINT", type=Path, nargs="+", help=PATHS_HELP)
    add_options(parser, DownstreamOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Train the classifiers, print a table and write the results."""
    from studiogan_gsr.runs.downstream import downstream

    downstream(parsed.paths, read_options(DownstreamOptions, parsed))
    print_next(command("report", *parsed.paths))
