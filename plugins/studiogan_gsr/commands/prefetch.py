"""`studiogan-gsr prefetch`: download what a run needs, for machines without network."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from studiogan_gsr.commandline import add_options, argument, describe, option, read_options, switch
from studiogan_gsr.commands.next_steps import command, print_next
from studiogan_gsr.errors import DONE, FAILED
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import configuration_file


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
    print_next(_training(options))
    return DONE


def _training(options: PrefetchOptions) -> str:
    """Return the command that trains the configuration: in StudioGAN if that was asked for, or if it alone can."""
    from studiogan_gsr.hosts.native.configuration import only_in_studiogan

    configuration, data = options.configuration, options.data
    if options.studiogan or only_in_studiogan(load_configuration(configuration_file(configuration))):
        metrics = ["-metrics", "fid", "-ref", "valid"] if options.studiogan else ["-metrics", "none"]
        theirs = ["-t", *metrics, "-cfg", configuration, "-data", data, "-save", "runs/first"]
        return command("studiogan", "run", "--", *theirs)
    return command("train", configuration, "--data", data, "--out", "runs/first")
