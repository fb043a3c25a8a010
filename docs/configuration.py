"""The generated parts of docs/configuration.md: data sets, regularizers and StudioGAN's keys, from the code."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from docs.markdown import plain, table
from studiogan_gsr.contract import roles_of_factory
from studiogan_gsr.errors import OptionError
from studiogan_gsr.hosts.keys import KEYS, NEEDS, UNSET, Key
from studiogan_gsr.hosts.native.configuration import SECTIONS
from studiogan_gsr.registry import DATASETS, REGULARIZERS, LoadedPlugin, find_plugins, load_plugin

_METHODS = Path(__file__).with_name("methods")
# The parts of a data set's name, in the order of the grammar, with the option of its factory that each sets.
PARTS = {
    "ratio": "_rho<ratio>",
    "profile": "_step",
    "reversed": "_reversed",
    "released": "_released",
    "seed": "_seed<k>",
}


def configuration_parts() -> dict[str, list[str]]:
    """Return the lines of the generated parts, by name."""
    return {"datasets": _datasets(), "regularizers": _regularizers(), "keys": _keys(), "needs": _needs()}


def _own(group: str) -> list[LoadedPlugin]:
    """Return this package's plug-ins of a group."""
    return [load_plugin(group, plugin.name) for plugin in find_plugins(group) if plugin.package == "studiogan-gsr"]


def _datasets() -> list[str]:
    """Return a table of the data sets: names, and what the docstring of the factory says about images and folder."""
    rows = []
    for loaded in _own(DATASETS):
        parameters = inspect.signature(loaded.factory).parameters
        parts = [
            text if parameters[option].default is inspect.Parameter.empty else f"[{text}]"
            for option, text in PARTS.items()
            if option in parameters
        ]
        text = " ".join((inspect.getdoc(loaded.factory) or "").split()).split(" Raises ")[0].removeprefix("Return ")
        images, _, folder = text.partition(" root: ")
        rows.append((f"`{loaded.plugin.name}{''.join(parts)}`", plain(_capitalized(images)), plain(folder)))
    return table(("DATA.name", "images", "data folder"), rows)


def _regularizers() -> list[str]:
    """Return a section with a table of options for each regularizer."""
    lines = []
    for loaded in _own(REGULARIZERS):
        name = loaded.plugin.name
        page = (_METHODS / f"{name}.md").read_text(encoding="utf-8")
        title = page.splitlines()[0].removeprefix("# ").removeprefix(f"{name}: ")
        roles = ", ".join(f"`{role}`" for role in roles_of_factory(loaded.factory) or ())
        rows = [
            (option, default, plain(_allowed(loaded, option.strip("`"))), meaning)
            for option, default, meaning in _options_on(page)
        ]
        lines += [
            f"### {name}",
            "",
            f"{_capitalized(title)}; acts through {roles}. [Suggested settings](methods/{name}.md).",
            "",
            *table(("option", "default", "allowed", "meaning"), rows),
            "",
        ]
    return lines


def _options_on(page: str) -> list[list[str]]:
    """Return option, default and meaning from a method's page; a test compares them with the factory's signature."""
    part = page.split("## Options\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]


def _allowed(loaded: LoadedPlugin, option: str) -> str:
    """Return an option's allowed values, as the error for an impossible value names them."""
    try:
        loaded.factory.check_options({option: object()})  # type: ignore[attr-defined]
    except OptionError as error:
        return error.allowed
    raise AssertionError(f"{loaded.plugin}: {option} takes any value")


def _keys() -> list[str]:
    """Return a section for each of StudioGAN's sections: the keys of the native host, and those that it refuses."""
    lines = []
    for section, keys in KEYS.items():
        kind = SECTIONS.get(section)
        supported: dict[str, Key] = {f.name: f.metadata["key"] for f in dataclasses.fields(kind)} if kind else {}
        others = [f"`{key}`" for key in keys if key not in supported]
        about = (inspect.getdoc(kind) or "").removeprefix(f"{section}: ") if kind else "the StyleGANs."
        lines += [f"### {section}", "", _capitalized(about), ""]
        rows = []
        for key, here in supported.items():
            rows.append(
                (
                    f"`{key}`",
                    f"`{_yaml(here.default)}`",
                    _values(here),
                    "" if keys[key].allowed == here.allowed else _values(keys[key]),
                )
            )
        if rows:
            lines += [*table(("key", "default", "allowed", "in StudioGAN, if it differs"), rows), ""]
        if others:
            lines += [f"Only in StudioGAN: {', '.join(others)}.", ""]
    return lines


def _needs() -> list[str]:
    """Return a table of the keys that other keys need."""
    rows: dict[str, list[str]] = {}
    for when, keys in NEEDS:
        condition = " with ".join(f"`{path}: {' | '.join(map(_yaml, values))}`" for path, values in when.items())
        rows.setdefault(condition, []).extend(f"`{key}`" for key in keys.split())
    return table(("with", "these keys are needed"), [(when, ", ".join(keys)) for when, keys in rows.items()])


def _yaml(value: Any) -> str:
    """Return a key's value as a YAML file has it."""
    if value is None:
        return UNSET
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", "")


def _values(key: Key) -> str:
    """Return the allowed values of a key; those of a choice become code."""
    choice = re.fullmatch(r"one of (.*?)(, or N/A)?", key.allowed)
    if choice is None:
        return plain(key.allowed)
    return ", ".join(f"`{value}`" for value in choice[1].split(", ")) + (choice[2] or "")


def _capitalized(text: str) -> str:
    """Return a text with a capital at its start, unless its first word is a name such as iNaturalist."""
    return text[0].upper() + text[1:] if text.split()[0].islower() else text
