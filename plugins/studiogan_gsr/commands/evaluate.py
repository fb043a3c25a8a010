"""`studiogan-gsr evaluate`: measure a generator against real images."""

from __future__ import annotations

import argparse
from pathlib import Path

from studiogan_gsr.commandline import add_options, describe, read_options
from studiogan_gsr.commands.next_steps import print_next, with_generator
from studiogan_gsr.runs.options import PATH_HELP, EvaluateOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Measures a generator of either host: the newest checkpoint of a run, or the checkpoint in a folder. The "
        "defaults are the paper's final protocol, which takes hours on a CPU; for a first look, use `--images 2000 "
        "--repeats 1`. The result file also holds everything that determines the numbers.",
        example="studiogan-gsr evaluate runs/sngan-gsr --images 2000 --repeats 1",
    )
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help=PATH_HELP)
    add_options(parser, EvaluateOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Measure, print a table and write the result."""
    from studiogan_gsr.runs.evaluate import evaluate

    evaluate(parsed.path, read_options(EvaluateOptions, parsed))
    print_next(with_generator("report", parsed.path, parsed.config))
