"""`studiogan-gsr plugins`: list the installed plug-ins, the regularizers' roles, and what does not load."""

from __future__ import annotations

import argparse
import sys

from studiogan_gsr.commandline import describe
from studiogan_gsr.commands.next_steps import command, print_next, train_example
from studiogan_gsr.contract import roles_of_factory
from studiogan_gsr.errors import DONE, FAILED, GSRError
from studiogan_gsr.registry import REGULARIZERS, Plugin, load_plugin, try_all_plugins


def add(parser: argparse.ArgumentParser) -> None:
    """Register the command, which has no arguments."""
    describe(
        parser,
        "Lists all installed plug-ins: the package of each, what each regularizer can do, and what does not load. "
        "Exit status 1 if one does not load.",
        example="studiogan-gsr plugins",
    )
    parser.set_defaults(command=run)


def run(parsed: argparse.Namespace) -> int:
    """Print a table of all plug-ins; return exit status 1 if one does not load."""
    from rich.console import Console
    from rich.table import Table

    table = Table("group", "name", "package", "object", "roles", "state")
    tried = try_all_plugins()
    for plugin, error in tried:
        package = f"{plugin.package} {plugin.version}"
        table.add_row(plugin.group, plugin.name, package, plugin.value, _roles(plugin, error), str(error or "loads"))
    # Without a terminal, do not wrap lines.
    width = None if sys.stdout.isatty() else 10_000
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)
    if any(error for _, error in tried):
        print_next(f"{command('doctor')}, which says what to do about those that do not load")
        return FAILED
    print_next(command("demo"), train_example())
    return DONE


def _roles(plugin: Plugin, error: GSRError | None) -> str:
    """Return what a regularizer can do; empty for other plug-ins, and for those that do not load."""
    if plugin.group != REGULARIZERS or error is not None:
        return ""
    roles = roles_of_factory(load_plugin(plugin.group, plugin.name).factory)
    return ", ".join(roles) if roles else "known when it is made"
