"""`studiogan-gsr prefetch`: download what a run needs, for machines without network."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from studiogan_gsr.commandline import add_options, argument, describe, option, read_options, switch
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.errors import DONE, FAILED


@dataclass(frozen=True)
class PrefetchOptions:
    """Options of `studiogan-gsr prefetch`."""

    configuration: str = argument("CONFIG", str, "a file, or the name of a shipped configuration")
    data: str = option(None, "folder of the data set; downloads go there", metavar="DIR", required=True)
    backbone: str | None = option(
        None, "the network that `evaluate` will measure with; default: inception", metavar="NAME"
    )
    studiogan: bool = switch(
        False,
        "also the network of StudioGAN's own FID, for `studiogan run` with -metrics; default: only name its file",
    )


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Downloads the data set of a configuration and the network that `evaluate` measures with, and says what is "
        "there, what was downloaded, and what has to be fetched by hand. Run again, it downloads nothing twice. It "
        "ends with what to copy to a machine without a network.",
        example="studiogan-gsr prefetch CIFAR10_LT/SNGAN-gSR --data data",
    )
    add_options(parser, PrefetchOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Download, and print what is there; return exit status 1 if something is missing."""
    from studiogan_gsr.runs.prefetch import MISSING, prefetch

    options = read_options(PrefetchOptions, parsed)
    configuration, data = options.configuration, options.data
    items = prefetch(configuration, data, options.backbone, options.studiogan)
    if any(item.state == MISSING for item in items):
        given = [] if options.backbone is None else ["--backbone", options.backbone]
        given += ["--studiogan"] if options.studiogan else []
        print_next("add what is missing", command("prefetch", configuration, "--data", data, *given))
        return FAILED
    if options.studiogan:
        arguments = ["-t", "-metrics", "fid", "-ref", "valid", "-cfg", configuration, "-data", data]
        print_next(command("studiogan", "run", "--", *arguments, "-save", "runs/first"))
        return DONE
    print_next(command("train", configuration, "--data", data, "--out", "runs/first"))
    return DONE
