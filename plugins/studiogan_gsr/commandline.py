"""Command-line options as the fields of a dataclass.

A field made by `option`, `repeatable`, `switch` or `argument` carries its argparse keywords.  So each option is
defined in one place, with its default and its help, and the parsed options are a typed object.  The help of an
option ends in its default.  If the default is None, the help itself says what happens then: "default: ...".

    @dataclass(frozen=True)
    class Options:
        path: Path = argument("RUN", Path, "the run's folder")
        steps: int | None = option(None, "where to stop; default: never", kind=positive)

    describe(parser, "Trains a network.", example="program train runs/a --steps 100")
    add_options(parser, Options)
    options = read_options(Options, parser.parse_args())
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

_KEY = "argparse"
T = TypeVar("T")


class Help(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal, but keeps indented lines, such as examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        blocks = groupby(text.splitlines(), key=lambda line: not line or line.startswith(" "))
        return "\n".join("\n".join(lines) if kept else fill(" ".join(lines), width, indent) for kept, lines in blocks)


def describe(parser: argparse.ArgumentParser, description: str, example: str) -> None:
    """Set what a command's help says before and after its options; example: a whole command line."""
    parser.formatter_class = Help
    parser.description = description
    parser.epilog = f"example:\n  {example}"


def argument(metavar: str, kind: Callable[[str], Any], help: str, *, nargs: str | None = None) -> Any:
    """Return a field for a positional argument; nargs: as in argparse."""
    keywords = {"metavar": metavar, "type": kind, "help": help, "nargs": nargs}
    return dataclasses.field(metadata={_KEY: {k: v for k, v in keywords.items() if v is not None}})


def option(
    default: Any,
    help: str,
    *,
    kind: Callable[[str], Any] = str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    required: bool = False,
    flag: str | None = None,
    group: str | None = None,
    value_if_bare: Any = None,
) -> Any:
    """Return a field for an option with a value, `--name VALUE`.

    flag: the option's name, such as "--from"; None: the field's name.  group: its heading in the help.
    value_if_bare: the value if the option is given without one; None: a value is required.
    """
    keywords = {"help": help, "type": kind, "metavar": metavar, "choices": choices, "required": required or None}
    if value_if_bare is not None:
        keywords |= {"nargs": "?", "const": value_if_bare}
    return _field(default, flag, group, keywords)


def repeatable(help: str, *, metavar: str, flag: str) -> Any:
    """Return a field for an option that may be given several times: a list of strings."""
    keywords = {"action": "append", "default": [], "metavar": metavar, "help": help}
    return dataclasses.field(default_factory=list, metadata={_KEY: keywords, "flag": flag})


def several(help: str, *, metavar: str, kind: Callable[[str], Any] = str) -> Any:
    """Return a field for an option with one value or more, `--name A B`; None if it is not given."""
    return _field(None, None, None, {"nargs": "+", "type": kind, "metavar": metavar, "help": help})


def switch(default: bool | None, help: str, *, flag: str | None = None, group: str | None = None) -> Any:
    """Return a field for the flag `--name`, and also `--no-name` unless the default is False."""
    action: Any = "store_true" if default is False else argparse.BooleanOptionalAction
    return _field(default, flag, group, {"action": action, "help": help})


def _field(default: Any, flag: str | None, group: str | None, keywords: dict[str, Any]) -> Any:
    if default is not None and default is not False and "default" not in keywords["help"]:
        keywords["help"] += f" (default: {default})"
    given = {"default": default, **{name: value for name, value in keywords.items() if value is not None}}
    return dataclasses.field(default=default, metadata={_KEY: given, "flag": flag, "group": group})


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Add to a parser the fields of a dataclass that this module's functions made."""
    groups: dict[str | None, Any] = {None: parser}
    for field in dataclasses.fields(options):
        keywords = field.metadata.get(_KEY)
        if keywords is None:
            continue
        if "flag" not in field.metadata:
            parser.add_argument(field.name, **keywords)
            continue
        title = field.metadata.get("group")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        flag = field.metadata["flag"] or f"--{field.name.replace('_', '-')}"
        groups[title].add_argument(flag, dest=field.name, **keywords)


def read_options(options: type[T], parsed: argparse.Namespace) -> T:
    """Return an instance of the dataclass with the parsed values."""
    names = [field.name for field in dataclasses.fields(options) if _KEY in field.metadata]  # type: ignore[arg-type]
    return options(**{name: getattr(parsed, name) for name in names})


def positive(text: str) -> int:
    """Return a text as a positive integer; for argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a positive integer")
    return int(text)


def count(text: str) -> int:
    """Return a text as an integer of 0 or more; for argparse's `type`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}; allowed: an integer, 0 or more")
    return int(text)
