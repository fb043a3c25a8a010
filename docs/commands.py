"""The generated parts of docs/commands.md: what each command and each of its options does, from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmarks.gpu_run.command import make_parser as gpu
from benchmarks.speed.command import make_parser as speed
from benchmarks.tables.make_command import make_parser as make_table
from benchmarks.tables.run_command import make_parser as run
from docs.markdown import plain, table
from studiogan_gsr.cli import parser as program

_DEFAULT = re.compile(r"(.*?)(?: \(default: (.*)\)|; default: (.*))", re.DOTALL)
_EXAMPLE = re.compile(r"^\s*(?:example: *)?((?:studiogan-gsr|python) .*)$", re.MULTILINE)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, by the command's whole name; subcommands follow their command."""
    return {command.prog: command for parser in (program(), *benchmarks()) for command in _walk(parser)}


def benchmarks() -> list[argparse.ArgumentParser]:
    """Return the parsers of the commands in benchmarks/."""
    return [run(), make_table(), gpu(), speed()]


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for subcommands in _subcommands(parser):
        for listed in subcommands._choices_actions:  # those with a help text
            yield from _walk(subcommands.choices[listed.dest])


def _subcommands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def options(parser: argparse.ArgumentParser) -> dict[str, list[argparse.Action]]:
    """Return a command's arguments and options by the heading in its help; "" for those without an own heading.

    --help, subcommands and hidden options are left out.
    """
    common = ("", [*parser._positionals._group_actions, *parser._optionals._group_actions])
    groups = [group for group in parser._action_groups if group not in (parser._positionals, parser._optionals)]
    titled = [common, *((str(group.title), group._group_actions) for group in groups)]
    found = {title: [action for action in actions if _is_shown(action)] for title, actions in titled}
    return {title: actions for title, actions in found.items() if actions}


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not hidden and action.help != argparse.SUPPRESS


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """Return the command lines at the end of a command's help."""
    return _EXAMPLE.findall(parser.epilog or "")


def command_parts() -> dict[str, list[str]]:
    """Return the lines of the generated parts, by name."""
    return {
        "commands": _sections([program()]),
        "benchmarks": _sections(benchmarks()),
    }


def _sections(of: Sequence[argparse.ArgumentParser]) -> list[str]:
    return [line for parser in of for command in _walk(parser) for line in _section(command)]


def _section(parser: argparse.ArgumentParser) -> list[str]:
    """Return the section of one command: description, example, subcommands, options."""
    lines = [f"### {parser.prog}", "", *_description(parser.description or ""), "```sh", *examples(parser), "```", ""]
    for subcommands in _subcommands(parser):
        listed = [
            (f"[`{choice.dest}`](#{_anchor(f'{parser.prog} {choice.dest}')})", plain(choice.help or ""))
            for choice in subcommands._choices_actions
        ]
        lines += [*table((str(subcommands.metavar).lower(), "what it does"), listed), ""]
    for title, actions in options(parser).items():
        caption = [f"{title[0].upper()}{title[1:]}:", ""] if title else []
        lines += [*caption, *table(("option", "default", "meaning"), [_row(action) for action in actions]), ""]
    return lines


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def _description(text: str) -> list[str]:
    """Return the lines of a description, whose indented lines become a block of code."""
    lines: list[str] = []
    for is_code, block in groupby(text.strip().splitlines(), key=lambda line: line.startswith(" ")):
        if is_code:
            lines += ["```", *(line[4:] for line in block), "```"]
        else:
            lines += map(plain, block)
    return [*lines, ""]


def _row(action: argparse.Action) -> tuple[str, str, str]:
    """Return the cells of an option: how it is written, its default, and what it means."""
    text = (action.help or "") % {**vars(action), "prog": "studiogan-gsr"}
    found = _DEFAULT.fullmatch(text)
    meaning, default = (found[1], found[2] or found[3]) if found else (text, "")
    if action.required if action.option_strings else action.nargs in (None, "+"):
        default = "required"
    return ", ".join(f"`{way}`" for way in _ways(action)), plain(default), plain(meaning)


def _ways(action: argparse.Action) -> list[str]:
    """Return how an argument or option is written, such as --device cpu|cuda."""
    value = "|".join(map(str, action.choices or ())) or str(action.metavar or action.dest.upper())
    if action.nargs == 0:  # a flag
        return list(action.option_strings)
    if action.nargs == "?":
        value = f"[{value}]"
    elif action.nargs in ("+", "*"):
        value = f"{value} ..." if action.nargs == "+" else f"[{value} ...]"
    return [f"{flag} {value}" for flag in action.option_strings] or [value]
