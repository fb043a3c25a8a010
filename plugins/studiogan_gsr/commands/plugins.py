"""`studiogan-gsr plugins`: list the installed plug-ins, the package of each, and those that fail to load."""

from __future__ import annotations

import argparse
import sys

from studiogan_gsr.errors import DONE, FAILED


def add(parser: argparse.ArgumentParser) -> None:
    """Register the command, which has no arguments."""
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Print a table of all plug-ins; return exit status 1 if one does not load."""
    from rich.console import Console
    from rich.table import Table

    from studiogan_gsr.registry import try_all_plugins

    table = Table("group", "name", "package", "object", "state")
    tried = try_all_plugins()
    for plugin, error in tried:
        package = f"{plugin.package} {plugin.version}"
        table.add_row(plugin.group, plugin.name, package, plugin.value, str(error or "loads"))
    # Without a terminal, do not wrap lines.
    width = None if sys.stdout.isatty() else 10_000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
    return FAILED if any(error for _, error in tried) else DONE
