"""`studiogan-gsr spectrum`: spectral norms of a generator's class parameters."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, argument, option, read_options


@dataclass(frozen=True)
class SpectrumOptions:
    """Options of `studiogan-gsr spectrum`."""

    path: Path = argument("RUN|CHECKPOINT", Path)
    config: str | None = option(None, "the configuration, for a checkpoint outside of a run", metavar="CONFIG")
    out: Path | None = option(None, "default: spectrum/ in the run's folder", kind=Path, metavar="DIR")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Reads a checkpoint of either host: the newest of a run, or the one in a folder."
    add_options(parser, SpectrumOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Print the norms, and write a page about them."""
    from studiogan_gsr.runs.spectrum import inspect

    options = read_options(SpectrumOptions, parsed)
    inspect(options.path, options.config, options.out)
