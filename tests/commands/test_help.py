"""The help of every command: a description, an example that parses, and a text and the default of every option."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from docs.commands import examples, options, parsers
from studiogan_gsr.hosts.native.starts import Start
from studiogan_gsr.runs.protocol import _DEFAULTS
from studiogan_gsr.shipped import EXAMPLE, shipped_configurations

PARSERS = parsers()
DEFAULT = re.compile(r" \(default: (.*)\)$|; default: .*$", re.DOTALL)


def options_of(name: str) -> list[argparse.Action]:
    return [action for actions in options(PARSERS[name]).values() for action in actions]


def literal_default(action: argparse.Action) -> str | None:
    """X if the help ends in "(default: X)"."""
    found = DEFAULT.search(str(action.help))
    return found[1] if found else None


def test_the_walk_finds_commands_at_every_depth() -> None:
    assert {"studiogan-gsr", "studiogan-gsr train", "studiogan-gsr studiogan run"} <= set(PARSERS)
    assert {"python benchmarks/run.py", "python benchmarks/speed.py steps"} <= set(PARSERS)
    assert "python benchmarks/speed.py prdc" not in PARSERS  # of a child process


@pytest.mark.parametrize("name", PARSERS)
def test_a_command_has_a_description_and_an_example_that_parses(name: str) -> None:
    parser = PARSERS[name]
    assert parser.description
    found = examples(parser)
    assert found
    for example in found:
        program = next(program for program in PARSERS if example.startswith(f"{program} "))
        assert example.startswith(name)
        PARSERS[program].parse_args(shlex.split(example.removeprefix(program)))
        assert f"\n  {example}\n" in parser.format_help()  # in one line, for copying


def test_examples_name_a_configuration_that_is_shipped() -> None:
    assert EXAMPLE in shipped_configurations()


@pytest.mark.parametrize("name", PARSERS)
def test_the_usage_line_shows_every_option(name: str) -> None:
    usage = PARSERS[name].format_usage()
    for action in options_of(name):
        assert any(re.search(rf"{flag}\b", usage) for flag in action.option_strings or [""]), action.option_strings


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_says_what_it_means_and_what_its_default_is(name: str) -> None:
    for action in options_of(name):
        where = (action.option_strings or [action.dest])[0]
        assert action.help, where
        assert not action.help.startswith("default"), where
        assert "default" not in DEFAULT.sub("", action.help), where  # in one form, at the end
        is_flag = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if action.option_strings and not action.required and not is_flag:
            assert DEFAULT.search(action.help), where
        shown, default = literal_default(action), action.default
        if shown is not None and default is not None:  # a path may be shown relative to the repository
            assert str(default) == shown or (isinstance(default, Path) and default.match(shown)), where


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("train", {field.name: field.default for field in fields(Start)}),
        ("evaluate", _DEFAULTS),
    ],
)
def test_defaults_that_a_command_fills_in_later_are_those_of_its_help(
    command: str, defaults: dict[str, object]
) -> None:
    actions = options_of(f"studiogan-gsr {command}")
    late = {action.dest: literal_default(action) for action in actions if action.default is None}
    compared = {name: text.replace(",", "") for name, text in late.items() if text is not None and name in defaults}
    assert len(compared) >= 4
    assert {name: text.split()[0] for name, text in compared.items()} == {
        name: str(defaults[name]) for name in compared
    }


def test_paragraphs_are_wrapped_and_indented_lines_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = PARSERS["python benchmarks/run.py"].format_help()
    description = text[text.index("\n\n") : text.index("positional arguments")].splitlines()
    assert all(len(line) < 60 for line in description if not line.startswith(" "))
    assert "    python benchmarks/run.py TABLE --data DIR --only ROW --seeds 0 1" in description
