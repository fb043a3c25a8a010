"""`studiogan-gsr configs`: list the shipped configurations, or print one."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from typing import Any

from studiogan_gsr.commandline import add_options, argument, describe, read_options
from studiogan_gsr.commands.next_steps import print_next, train_example
from studiogan_gsr.progress import console
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations

_HEADER = (
    "name",
    "data set",
    "pixels",
    "augmentation and regularizers",
    "steps",
    "rows of benchmarks/tables.yaml (table: row)",
)


@dataclass(frozen=True)
class ConfigsOptions:
    """Options of `studiogan-gsr configs`."""

    name: str | None = argument("NAME", str, "print this one, such as CIFAR10_LT/SNGAN-gSR; default: all", nargs="?")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "Lists the shipped configurations: name, data set, pixels, augmentation and regularizers, steps, and the "
        "rows of the benchmark's tables that it trains. With NAME, prints the file itself, to change and train.",
        example="studiogan-gsr configs CIFAR10_LT/SNGAN-gSR",
    )
    add_options(parser, ConfigsOptions)
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> None:
    """Print the list, or one file."""
    name = read_options(ConfigsOptions, parsed).name
    if name is not None:
        sys.stdout.write(shipped_configuration(name).read_text(encoding="utf-8"))
        return
    rows = [_HEADER, *(_row(name) for name in shipped_configurations())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        console().print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print_next(train_example())


def _row(name: str) -> tuple[str, ...]:
    """Return a configuration's name and what it is, as its file says."""
    path = shipped_configuration(name)
    sections = load_configuration(path)
    data, steps = sections["DATA"], sections["OPTIMIZATION"]["total_steps"]
    rows = _table_rows(path.read_text(encoding="utf-8"))
    return name, data["name"], str(data["img_size"]), _terms(sections), f"{steps:,}", rows


def _terms(sections: dict[str, Any]) -> str:
    """Return the augmentation and the regularizers, such as "DiffAug, LeCam, gsr 0.5"."""
    augmentation, loss = sections.get("AUG", {}), sections.get("LOSS", {})
    found = [("DiffAug", augmentation.get("apply_diffaug")), ("ADA", augmentation.get("apply_ada"))]
    terms = [name for name, on in (*found, ("LeCam", loss.get("apply_lecam"))) if on]
    for settings in regularizer_settings(sections):
        terms.append(f"{settings.name} {settings.options.get('weight', '')}".strip())
    return ", ".join(terms) or "none"


def _table_rows(text: str) -> str:
    """Return the rows of the benchmark's tables that the header names, as "table: row"; or "none"."""
    header = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
    found = re.search(r"Rows of benchmarks/tables\.yaml: (.*?)\. ", header)
    return found[1] if found else "none"
