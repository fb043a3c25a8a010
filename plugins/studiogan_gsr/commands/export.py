"""`studiogan-gsr export`: a trained generator with a model card, as a model hub takes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from studiogan_gsr.commandline import add_options, describe, read_options
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.runs.options import ExportOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Writes the generator of a run or checkpoint, of either host, as generator.safetensors, with its "
        "configuration, classes and digests, a grid of samples, and a model card: what it was trained on, its "
        "regularizers, and the metrics in the run's evaluations/ with their protocol. `load_generator`, `generate`, "
        "`evaluate` and `spectrum` read the folder. Nothing is uploaded.",
        example="studiogan-gsr export runs/sngan-gsr --out sngan-gsr-generator",
    )
    parser.add_argument(
        "path",
        metavar="RUN|CHECKPOINT",
        type=Path,
        help="a run of either host, or the folder of one of its checkpoints",
    )
    add_options(parser, ExportOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Export the generator."""
    from studiogan_gsr.runs.export import export

    out = export(parsed.path, read_options(ExportOptions, parsed))
    print_next(
        command("generate", out, "--out", f"{out}-images"),
        f"`studiogan_gsr.load_generator({str(out)!r})` in Python",
        "upload the folder to a model hub",
    )
