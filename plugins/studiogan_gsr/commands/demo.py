"""`studiogan-gsr demo`: gSR on handwritten digits."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, count, describe, option, positive, read_options
from studiogan_gsr.commands.next_steps import command, print_next, train_example


@dataclass(frozen=True)
class DemoOptions:
    """Options of `studiogan-gsr demo`."""

    out: Path = option(Path("gsr-demo"), "a new folder for both runs and the page", kind=Path, metavar="DIR")
    steps: int | None = option(
        None, "training steps of each of the two runs; default: 1200, at most three minutes", kind=positive
    )
    seed: int = option(0, "seed of both runs", kind=count)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Trains an SNGAN on long-tailed handwritten digits, without gSR and with it, and writes a page that compares "
        "the two. Takes minutes on a CPU, and downloads nothing.",
        example="studiogan-gsr demo --out gsr-demo",
    )
    add_options(parser, DemoOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Train a run without gSR and one with it, and write a page that compares them."""
    from studiogan_gsr.runs.demo import demo

    options = read_options(DemoOptions, parsed)
    demo(options.out, options.steps, options.seed)
    plain, gsr = options.out / "plain", options.out / "gsr"
    print_next(
        command("report", plain, gsr),
        command("generate", gsr, "--out", options.out / "images"),
        train_example(),
    )
