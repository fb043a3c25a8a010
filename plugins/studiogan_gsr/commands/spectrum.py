"""`studiogan-gsr spectrum`: spectral norms of a generator's class parameters."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, argument, describe, option, read_options
from studiogan_gsr.commands.next_steps import print_next, with_generator
from studiogan_gsr.runs.options import PATH_HELP


@dataclass(frozen=True)
class SpectrumOptions:
    """Options of `studiogan-gsr spectrum`."""

    path: Path = argument("RUN|CHECKPOINT", Path, PATH_HELP)
    config: str | None = option(
        None, "configuration of a checkpoint without a run's records; default: the run's", metavar="CONFIG"
    )
    out: Path | None = option(
        None, "folder for the page; default: spectrum/ in the run's folder", kind=Path, metavar="DIR"
    )


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Prints the spectral norms of a generator's class parameters, by class, and which classes explode, and "
        "writes a page about them. Reads a checkpoint of either host: the newest of a run, or the one in a folder.",
        example="studiogan-gsr spectrum runs/sngan-gsr",
    )
    add_options(parser, SpectrumOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Print the norms, and write a page about them."""
    from studiogan_gsr.runs.spectrum import inspect

    options = read_options(SpectrumOptions, parsed)
    inspect(options.path, options.config, options.out)
    print_next(with_generator("report", options.path, options.config))
