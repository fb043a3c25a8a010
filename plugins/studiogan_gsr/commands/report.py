"""`studiogan-gsr report`: one page about one run or several."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, argument, describe, option, read_options
from studiogan_gsr.commands.next_steps import print_next


@dataclass(frozen=True)
class ReportOptions:
    """Options of `studiogan-gsr report`."""

    paths: list[Path] = argument("RUN", Path, "folder of a run; several are shown side by side", nargs="+")
    out: Path = option(Path("gsr-report"), "folder for the page", kind=Path, metavar="DIR")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Writes a page with configurations, losses, norms and metrics per class, samples of head and tail, and their "
        "nearest training images. Metrics and downstream accuracy are shown if `evaluate` and `downstream` have "
        "measured them.",
        example="studiogan-gsr report runs/sngan runs/sngan-gsr",
    )
    add_options(parser, ReportOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Write the page."""
    from studiogan_gsr.runs.report import report

    options = read_options(ReportOptions, parsed)
    page = report(options.paths, options.out)
    print_next(f"open {page} in a browser")
