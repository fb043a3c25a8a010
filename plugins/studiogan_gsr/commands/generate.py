"""`studiogan-gsr generate`: images of chosen classes from a trained generator."""

from __future__ import annotations

import argparse
from pathlib import Path

from studiogan_gsr.commandline import add_options, describe, read_options
from studiogan_gsr.commands.next_steps import print_next, with_generator
from studiogan_gsr.runs.options import PATH_HELP, GenerateOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Writes images of every class, or of some, from a run's newest checkpoint or the checkpoint in a folder, of "
        "either host. `--fill --with-real` gives a data set whose rare classes are filled up. An image is the same "
        "for the same seed, class and number, whatever else is generated. An interrupted command resumes when it is "
        "started again. manifest.json says where each image comes from.",
        example="studiogan-gsr generate runs/sngan-gsr --out images --fill --with-real",
    )
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help=PATH_HELP)
    add_options(parser, GenerateOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Generate the images."""
    from studiogan_gsr.runs.exported import is_exported
    from studiogan_gsr.runs.generate import generate

    options = read_options(GenerateOptions, parsed)
    generate(parsed.path, options)
    data = [] if options.data is None else ["--data", options.data]
    if is_exported(parsed.path) and not data:  # an export does not know the folder of its images
        data = ["--data", "DIR"]
    print_next(with_generator("downstream", parsed.path, options.config, *data))
