"""`studiogan-gsr doctor`: check the installation, and say how to fix each problem."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass

from studiogan_gsr.commandline import add_options, describe, option, read_options
from studiogan_gsr.commands.next_steps import command, print_next, train_example
from studiogan_gsr.commands.studiogan import ROOT_HELP, launch
from studiogan_gsr.errors import DONE, FAILED


@dataclass(frozen=True)
class DoctorOptions:
    """Options of `studiogan-gsr doctor`."""

    root: str | None = option(None, ROOT_HELP, metavar="DIR")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Checks versions, devices, the weights that evaluation needs, StudioGAN's checkout and all plug-ins, and "
        "says how to fix each problem. Exit status 1 if there is one.",
        example="studiogan-gsr doctor",
    )
    add_options(parser, DoctorOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Print the diagnosis; return exit status 1 if something must be fixed."""
    from studiogan_gsr.hosts.studiogan.doctor import diagnose, report

    root = read_options(DoctorOptions, parsed).root
    findings = diagnose(root)
    problems = [finding for finding in findings if finding.problem]
    # Without a terminal, the width is unknown.
    print(report(findings, shutil.get_terminal_size().columns if sys.stdout.isatty() else 80))
    if problems:
        print(f"{len(problems)} to fix, listed first: {', '.join(finding.what for finding in problems)}")
        print_next(f"fix these, then {command('doctor')}")
    else:
        print_next(command("demo"), train_example(), launch(root))
    return FAILED if problems else DONE
