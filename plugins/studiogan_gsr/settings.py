"""Read a configuration's sections, and the keys that this package adds to StudioGAN's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from studiogan_gsr.errors import ConfigurationError, near_miss

SECTION = "REGULARIZER"
_DATA_NAME = re.compile(r"\w[\w.+ -]{0,99}")
_FORM = "a plug-in's name (REGULARIZER: gsr), a mapping with the key name, or a list of these"


@dataclass(frozen=True)
class RegularizerSettings:
    """A regularizer under REGULARIZER: a plug-in's name and the options for its factory.

    path: where a configuration has them, for messages: "REGULARIZER", or "REGULARIZER[1]" for the second of a list.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = field(default=SECTION, compare=False)


class Configured(Protocol):
    """The part of either host's configuration that evaluation reads; a section's attributes are StudioGAN's keys."""

    @property
    def DATA(self) -> Any: ...

    @property
    def MODEL(self) -> Any: ...

    @property
    def OPTIMIZATION(self) -> Any: ...

    @property
    def regularizers(self) -> Sequence[RegularizerSettings]: ...

    def sections(self) -> dict[str, Any]:
        """Return the sections as in a YAML file."""
        ...


def load_configuration(path: str | Path) -> dict[str, dict[str, Any] | Any]:
    """Load the sections of a YAML file safely.

    Raises ConfigurationError if the file is missing, is not valid YAML or not a mapping, requests Python objects,
    or repeats a key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), type(error).__name__, "expected: a readable YAML file") from error
    try:
        sections = yaml.load(text, Loader=_UniqueKeys)
    # Bad scalars, such as dates, raise ValueError or KeyError; deep nesting raises RecursionError.
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise ConfigurationError(str(path), "bad YAML", " ".join(str(error).split())) from error
    if not isinstance(sections, dict):
        raise ConfigurationError(str(path), type(sections).__name__, "expected: sections such as DATA: and MODEL:")
    return sections


def regularizer_settings(sections: Mapping[str, Any]) -> tuple[RegularizerSettings, ...]:
    """Return the settings of every regularizer under REGULARIZER; none if the section is missing.

    Raises ConfigurationError for anything but a name, a mapping with a name, or a list of these without repetition.
    """
    if SECTION not in sections:
        return ()
    section = sections[SECTION]
    if not isinstance(section, list):
        return (_one_regularizer(section, SECTION),)
    if not section:
        raise ConfigurationError(SECTION, "an empty list", f"allowed: {_FORM}; without one, leave the section out")
    found = tuple(_one_regularizer(entry, f"{SECTION}[{i}]") for i, entry in enumerate(section))
    check_names(found)
    return found


def check_names(regularizers: Sequence[RegularizerSettings]) -> None:
    """Raise ConfigurationError if two regularizers of a run have the same name."""
    first: dict[str, RegularizerSettings] = {}
    for settings in regularizers:
        other = first.setdefault(settings.name, settings)
        if other is not settings:
            raise ConfigurationError(
                settings.path, settings.name, f"allowed: each regularizer once; {other.path} is {settings.name}, too"
            )


def _one_regularizer(entry: object, path: str) -> RegularizerSettings:
    """Return the settings in a name or a mapping."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(path, repr(entry), f"allowed: {_FORM}; without one, leave the section out")
    if "name" not in entry:
        keys = [str(key) for key in entry]
        raise ConfigurationError(path, f"the keys {', '.join(keys) or 'none'}", f"allowed: {_FORM}")
    name = entry["name"]
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{path}.name", repr(name), "allowed: a plug-in's name")
    for key in entry:
        if not isinstance(key, str):
            raise ConfigurationError(f"{path}.{key}", type(key).__name__, "allowed: keys that are text")
    return RegularizerSettings(name, {key: value for key, value in entry.items() if key != "name"}, path)


def regularizer_section(regularizers: Sequence[RegularizerSettings]) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the content of the section REGULARIZER for these settings: a mapping, or a list if there are several."""
    section = [{"name": settings.name, **settings.options} for settings in regularizers]
    return section[0] if len(section) == 1 else section


def check_keys(sections: Mapping[str, Any], known: Mapping[str, object]) -> None:
    """Raise ConfigurationError for sections and keys that a host does not have.

    known: objects by section name; their attributes are the keys.
    """
    for section, values in sections.items():
        if section not in known:
            allowed = [*known, SECTION]
            raise ConfigurationError(
                str(section),
                "an unknown section",
                f"allowed: {', '.join(allowed)}{near_miss(str(section), allowed)}",
            )
        if not isinstance(values, dict):
            raise ConfigurationError(section, repr(values), "expected: a mapping of keys")
        keys = list(vars(known[section]))
        for key in values:
            if key not in keys:
                allowed_keys = f"{section} has no such key{near_miss(str(key), keys)}"
                raise ConfigurationError(f"{section}.{key}", "an unknown key", allowed_keys)


def check_data_name(name: object) -> None:
    """Raise ConfigurationError for a DATA.name that cannot be part of a file's name.

    With separators or leading dots, a configuration could write outside of the folders that the user chose.
    """
    if not isinstance(name, str) or not _DATA_NAME.fullmatch(name):
        allowed = (
            "allowed: a data set's name of at most 100 letters, digits, spaces and _ . + -, beginning with a letter, "
            "digit or _"
        )
        raise ConfigurationError("DATA.name", repr(name), allowed)


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys; YAML itself would keep the last one."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:  # before merging: a mapping's own keys override those that it merges
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | bool | None) or key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key} stands twice or is no name", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node))


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a finite float."""
    return is_int(value) or (isinstance(value, float) and value - value == 0)
