"""`studiogan-gsr init`: a pair of configurations, without gSR and with it, for a folder of images."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from studiogan_gsr.commandline import add_options, count, describe, option, positive, read_options, switch
from studiogan_gsr.commands.next_steps import command, print_next


@dataclass(frozen=True)
class InitOptions:
    """Options of `studiogan-gsr init`."""

    data: Path = option(
        None,
        "the folder: train/<class>/ and valid/<class>/, or any other folder of classes with --split",
        kind=Path,
        metavar="DIR",
        required=True,
    )
    out: Path | None = option(
        None, "folder for the two files; default: configs-<name of the data folder>", kind=Path, metavar="DIR"
    )
    size: int | None = option(
        None,
        "pixels: 16, 32, 64 or 128; default: the largest from 32 on that upscales at most half of the images",
        kind=positive,
    )
    small: bool = switch(
        False, "narrow networks at 16 pixels, which a CPU trains in minutes: a first look; default: the authors'"
    )
    split: Path | None = option(
        None,
        "first write a new data folder DIR with train/ and a balanced valid/, by hard links, or by copies on another "
        "disk; --data stays as it is (default: none)",
        kind=Path,
        metavar="DIR",
    )
    hold_out: int | None = option(
        None,
        "images of each class that --split takes out of train/ for valid/, if there is no reference; default: a "
        "fifth of the rarest class, at most 50",
        kind=count,
        metavar="N",
    )
    overwrite: bool = switch(False, "replace files that differ; default: keep them, and stop")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Looks at a folder of images, one folder per class, and writes two configurations for it, plain.yaml and "
        "gsr.yaml, which differ in REGULARIZER alone, for both hosts (at 16 pixels, as with --small, for the native "
        "host alone). Every key has a comment: what it means, or why it has its value. The folder of images stays as "
        "it is. With photos/<class>/ alone, add --split.",
        example="studiogan-gsr init --data photos",
    )
    add_options(parser, InitOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Write the two files, and print the commands that come next."""
    from studiogan_gsr.runs.init import init

    options = read_options(InitOptions, parsed)
    init(**asdict(options))
    data = options.data if options.split is None else options.split
    print_next(command("data", "show", "Folder_LT", "--data", data), "the commands above")
