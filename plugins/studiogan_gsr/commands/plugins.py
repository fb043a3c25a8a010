"""`studiogan-gsr plugins`: what is installed, by whom, and what failed to load."""

from __future__ import annotations

import argparse
import sys

from studiogan_gsr.errors import DONE, FAILED


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: none."""
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Print a table of all plug-ins; exit status 1 where one does not load."""
    from rich.console import Console
    from rich.table import Table

    from studiogan_gsr.registry import try_all_plugins

    table = Table("group", "name", "package", "object", "state")
    tried = try_all_plugins()
    for plugin, error in tried:
        package = f"{plugin.package} {plugin.version}"
        table.add_row(plugin.group, plugin.name, package, plugin.value, str(error or "loads"))
    # Off a terminal the table is as wide as it needs to be.
    width = None if sys.stdout.isatty() else 10_000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
    return FAILED if any(error for _, error in tried) else DONE
