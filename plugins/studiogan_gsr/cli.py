"""The command `studiogan-gsr`: one parser for all its subcommands."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from studiogan_gsr.commandline import describe
from studiogan_gsr.commands import (
    configs,
    data,
    demo,
    doctor,
    downstream,
    evaluate,
    export,
    generate,
    init,
    plugins,
    prefetch,
    report,
    spectrum,
    studiogan,
    train,
)
from studiogan_gsr.errors import DONE, FAILED, in_one_line

# In the order of the help.
_COMMANDS = (
    ("train", train, "train with the native host: from the same YAML as StudioGAN, without a checkout, and faster"),
    ("init", init, "configurations for a folder of images of your own, without gSR and with it"),
    ("configs", configs, "the shipped configurations: list them, or print one"),
    ("prefetch", prefetch, "download what a run needs, for machines without network"),
    ("data", data, "data sets by name: pack them into one file, show them"),
    (
        "evaluate",
        evaluate,
        "Frechet and kernel distance, precision, recall, diversity: overall, per class and group",
    ),
    ("generate", generate, "images by class, or a data set with its rare classes filled up"),
    ("downstream", downstream, "does filling the rare classes with generated images help a classifier?"),
    ("export", export, "a generator as safetensors with a model card, as a model hub takes it"),
    ("spectrum", spectrum, "spectral norms per layer and class, and which classes explode"),
    ("report", report, "one page about a run, or about runs side by side"),
    ("demo", demo, "gSR on handwritten digits: minutes on a CPU, no download"),
    ("studiogan", studiogan, "train with StudioGAN itself, from an unchanged checkout"),
    ("plugins", plugins, "installed plug-ins, the package of each, and those that failed to load"),
    ("doctor", doctor, "check versions, checkout and device, with a remedy for each problem"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 if the run failed, 2 if the request was wrong."""
    whole = parser()
    parsed, unknown = whole.parse_known_args(arguments)
    if "--traceback" in unknown:  # it may also follow a subcommand
        unknown.remove("--traceback")
        parsed.traceback = True
    if unknown:
        hint = parsed.explain_unknown(unknown[0]) if hasattr(parsed, "explain_unknown") else ""
        whole.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if hasattr(sys.stdout, "reconfigure"):  # file names may contain bytes that are not valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int | None = parsed.command(parsed)
        return DONE if status is None else status
    except KeyboardInterrupt:
        print("studiogan-gsr: interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        if parsed.traceback:
            traceback.print_exception(error)
        message = in_one_line(error)
        print(f"studiogan-gsr: {message.text}", file=sys.stderr)
        return message.exit_status


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command and all its subcommands."""
    whole = argparse.ArgumentParser("studiogan-gsr")
    describe(
        whole,
        "gSR and long-tailed data sets as plug-ins for PyTorch-StudioGAN.",
        example="studiogan-gsr demo",
    )
    whole.add_argument(
        "--traceback", action="store_true", help="show an error's whole traceback; may also follow a command"
    )
    whole.add_argument("--version", action="version", version=f"studiogan-gsr {version('studiogan-gsr')}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, command, summary in _COMMANDS:
        command.add(commands.add_parser(name, help=summary))
    return whole
