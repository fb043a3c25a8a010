"""`studiogan-gsr export`: a trained generator with a model card, as a model hub takes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from studiogan_gsr.commandline import add_options, read_options
from studiogan_gsr.runs.options import ExportOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Writes the generator of a run or checkpoint, of either host, as generator.safetensors, with its "
        "configuration, classes and digests, a grid of samples, and a model card: what it was trained on, its "
        "regularizers, and the metrics in the run's evaluations/ with their protocol. `load_generator`, `generate`, "
        "`evaluate` and `spectrum` read the folder. Nothing is uploaded."
    )
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path)
    add_options(parser, ExportOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Export the generator."""
    from studiogan_gsr.runs.export import export

    export(parsed.path, read_options(ExportOptions, parsed))
