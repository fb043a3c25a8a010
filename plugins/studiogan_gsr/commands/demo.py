"""`studiogan-gsr demo`: gSR on handwritten digits."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, count, option, positive, read_options


@dataclass(frozen=True)
class DemoOptions:
    """Options of `studiogan-gsr demo`."""

    out: Path = option(Path("gsr-demo"), "default: gsr-demo", kind=Path, metavar="DIR")
    steps: int | None = option(None, "of each of the two runs; default: 1200, at most three minutes", kind=positive)
    seed: int = option(0, kind=count)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_options(parser, DemoOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Train a run without gSR and one with it, and write a page that compares them."""
    from studiogan_gsr.runs.demo import demo

    options = read_options(DemoOptions, parsed)
    demo(options.out, options.steps, options.seed)
