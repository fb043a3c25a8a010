"""`studiogan-gsr data`: pack a data set into one file, or show it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import (
    add_options,
    argument,
    count,
    describe,
    option,
    positive,
    read_options,
    switch,
)
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.errors import RequestError
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations


@dataclass(frozen=True)
class DataOptions:
    """Options that both actions have."""

    name: str = argument("NAME", str, "the data set, as in DATA.name, such as CIFAR10_LT_rho100")
    data: str = option(None, "folder of the data set; downloads go there, too", metavar="DIR", required=True)
    split: str = option(
        "train", "its training images, or those that a generator is measured against", choices=["train", "reference"]
    )


@dataclass(frozen=True)
class PrepareOptions(DataOptions):
    """Options of `studiogan-gsr data prepare`."""

    size: int | None = option(
        None, "width and height of the packed images; default: their own, if all have the same", kind=positive
    )
    resizer: str = option(
        "wo_resize", "filter that resizes images; wo_resize: as the data set specifies", choices=RESIZERS
    )
    workers: int | None = option(None, "processes that read images; default: one per core", kind=count)
    skip_damaged: bool = switch(
        False, "leave out unreadable images and count them; if there are any, needs twice the disk space"
    )


@dataclass(frozen=True)
class ShowOptions(DataOptions):
    """Options of `studiogan-gsr data show`."""

    out: Path | None = option(None, "folder for the page; default: <NAME>-show", kind=Path, metavar="DIR")
    write: Path | None = option(
        None,
        "also write index, label, class and file of every chosen image, and the digest to FILE.csv.json; default: "
        "no file",
        kind=Path,
        metavar="FILE.csv",
    )
    overwrite: bool = switch(False, "let --write replace a file that it has not written, or that has changed since")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions."""
    describe(
        parser,
        "Packs a data set into one file, or shows what is in it.",
        example="studiogan-gsr data show Digits_LT_rho50 --data data",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="pack a data set into one HDF5 file, which both hosts use")
    describe(
        prepare,
        "Writes DIR/<NAME>_<size>_<resizer>_<split>.hdf5, in StudioGAN's layout. An interrupted file is "
        "resumed; a file under its final name is complete. The native host finds a --split train file by itself; "
        "StudioGAN reads it with -hdf5. The data set HDF5_LT takes a --split reference file as its valid.hdf5.",
        example="studiogan-gsr data prepare iNaturalist2019 --data data/inat19 --size 64",
    )
    add_options(prepare, PrepareOptions)
    prepare.set_defaults(command=run_prepare)
    show = actions.add_parser("show", help="counts per class, images of head and tail, digest of the chosen images")
    describe(
        show,
        "Prints the images per class and a digest of the chosen images, and writes a page with a chart and with "
        "images of head and tail.",
        example="studiogan-gsr data show CIFAR10_LT_rho100 --data data",
    )
    add_options(show, ShowOptions)
    show.set_defaults(command=run_show)


def run_prepare(parsed: argparse.Namespace) -> None:
    """Pack the data set."""
    from studiogan_gsr.datasets.prepare import prepare

    options = read_options(PrepareOptions, parsed)
    prepare(
        options.name,
        options.data,
        size=options.size,
        split=options.split,
        resizer=options.resizer,
        workers=options.workers,
        skip_damaged=options.skip_damaged,
    )
    print_next(_training(options.name, options.data))


def run_show(parsed: argparse.Namespace) -> None:
    """Print the counts, and write a page about the data set."""
    from studiogan_gsr.datasets.show import show

    options = read_options(ShowOptions, parsed)
    if options.overwrite and options.write is None:
        raise RequestError("--overwrite needs --write")
    show(
        options.name,
        options.data,
        options.out or Path(f"{options.name}-show"),
        options.split,
        write=options.write,
        overwrite=options.overwrite,
    )
    print_next(_training(options.name, options.data))


def _training(name: str, data: str) -> str:
    """Return the command that trains on a data set: a shipped configuration with gSR, or the user's own."""
    names = [c for c in shipped_configurations() if c.endswith("-gSR")]
    fitting = [c for c in names if load_configuration(shipped_configuration(c))["DATA"]["name"] == name]
    train = command("train", min(fitting, key=len, default="CONFIG"), "--data", data, "--out", f"runs/{name}")
    return train if fitting else f"{train} with DATA.name: {name} in CONFIG"
