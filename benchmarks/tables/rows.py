"""Read and check tables.yaml: rows with their configurations, protocols, seeds and published values."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.paths import TABLES_FILE
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.errors import ConfigurationError, OptionError, RequestError, near_miss
from studiogan_gsr.evaluation.choices import BATCH_NORM, SELECT_ON
from studiogan_gsr.evaluation.protocols import OPTIONS, PRESETS
from studiogan_gsr.hosts.keys import COUNT, POSITIVE, Kind, one_of
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.settings import SECTION, load_configuration
from studiogan_gsr.shipped import shipped_configuration

METRICS = ("fid", "is", "fid_few")


@dataclass(frozen=True)
class Published:
    """A published value, with its standard deviation, or its margin of error if it was read off a plot.

    Numbers are strings: YAML would drop trailing zeros.
    """

    value: str
    source: str
    deviation: str | None = None
    margin: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How a row is measured: every `every` steps while training, and the best and the last checkpoint at the end.

    resizer: for real images, in training and in the reference.
    preset: one of `protocols.PRESETS`, whose split and groups are used, and whose options where none are given.
    downstream: `updates`, `seeds`, `width` and, if given, `fill` of `studiogan-gsr downstream`, which uses the best
    checkpoint; None: not measured.
    """

    name: str
    every: int
    images_while_training: int
    select_on: str
    images: int
    repeats: int
    batch_norm: str
    neighbours: int
    backbone: str
    resizer: str
    preset: str | None = None
    downstream: Mapping[str, int] | None = None


def split_of(protocol: Mapping[str, Any]) -> str:
    """Return the real images that a protocol's checkpoints are measured against in the end.

    They are the preset's; if it has none, the half of the reference that the best was not selected on, or, with
    select_on "reference", the whole.
    """
    preset = protocol.get("preset")
    theirs = None if preset is None else PRESETS[preset].split
    return theirs or ("reference" if protocol["select_on"] == "reference" else "test")


@dataclass(frozen=True)
class Row:
    """A row of a table; one without sections has published values only, and is not run."""

    table: str
    name: str
    sections: Mapping[str, Any] | None
    configuration: str | None
    seeds: tuple[int, ...]
    protocol: Protocol | None
    baseline: str | None
    published: Mapping[str, Published]
    note: str


@dataclass(frozen=True)
class Table:
    """Rows that belong together."""

    name: str
    title: str
    rows: Mapping[str, Row]
    departures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tables:
    """The whole file.

    version: is increased when the meaning of a row changes.  sources: where published values were read.
    departures: how tables differ from the paper's program, besides the protocol.
    """

    version: int
    sources: Mapping[str, str]
    departures: Mapping[str, str]
    protocols: Mapping[str, Protocol]
    tables: Mapping[str, Table]


def read_tables(path: Path = TABLES_FILE) -> Tables:
    """Read the tables; ConfigurationError names the table, the row and the key."""
    content = load_configuration(path)
    _known(content, ("version", "sources", "departures", "protocols", "tables"), "")
    version: Any = content.get("version")
    sources = _mapping(content.get("sources"), "sources")
    departures = _mapping(content.get("departures", {}), "departures")
    if not POSITIVE.accepts(version):
        raise ConfigurationError("version", repr(version), f"allowed: {POSITIVE.allowed}")
    given_protocols = _mapping(content.get("protocols"), "protocols")
    protocols = {name: _protocol(name, value) for name, value in given_protocols.items()}
    tables = {}
    for name, given in _mapping(content.get("tables"), "tables").items():
        _known(given, ("title", "protocol", "seeds", "departures", "rows"), f"tables.{name}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):  # it names the table's files
            raise ConfigurationError(f"tables.{name}", "a name", "allowed: lowercase letters, digits and -")
        rows = {}
        for title, values in _mapping(given.get("rows"), f"tables.{name}.rows").items():
            rows[title] = _row(name, title, values, given, protocols, sources)
        for row in rows.values():
            others = [other for other in rows if other != row.name]
            if row.baseline is not None and row.baseline not in others:
                path_of = f"tables.{name}.rows.{row.name}.baseline"
                hint = near_miss(str(row.baseline), others)
                raise ConfigurationError(path_of, repr(row.baseline), f"allowed: another row of this table{hint}")
        named = given.get("departures", [])
        if not isinstance(named, list) or not all(other in list(departures) for other in named):
            allowed = f"allowed: a list of {', '.join(departures) or 'nothing'}"
            raise ConfigurationError(f"tables.{name}.departures", repr(named), allowed)
        tables[name] = Table(name, str(given.get("title", "")), rows, tuple(named))
    return Tables(version, sources, departures, protocols, tables)


def must_be(what: str, name: str | None, allowed: Iterable[str]) -> None:
    """Raise RequestError if a name from the command line is not allowed."""
    if name not in (names := list(allowed)):
        raise RequestError(f"{what}: found {name}; allowed: {'; '.join(names)}{near_miss(str(name), names)}")


SEEDS = f"allowed: integers from 0 to {2**31 - 1}"


def valid_seed(seed: Any) -> bool:
    """Return whether a seed can be used for training; StudioGAN reads -1 as "choose one"."""
    return COUNT.accepts(seed) and seed < 2**31


def overlaid(sections: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration's sections with the overrides applied; a list replaces a whole section."""
    made = copy.deepcopy(dict(sections))
    for name, values in overrides.items():
        if isinstance(values, list):
            made[name] = copy.deepcopy(values)
            continue
        before = made.get(name, {})
        made[name] = {**(before if isinstance(before, dict) else {"name": before}), **values}
    return made


_PROTOCOL: dict[str, Kind] = {
    "every": POSITIVE,
    "images_while_training": Kind("an integer, 2 or more", lambda value: POSITIVE.accepts(value) and value > 1),
    "select_on": one_of(*SELECT_ON),
    "images": POSITIVE,
    "repeats": POSITIVE,
    "batch_norm": one_of(*BATCH_NORM),
    "neighbours": POSITIVE,
    "backbone": Kind("a backbone's name", lambda value: isinstance(value, str) and bool(value)),
    "resizer": one_of(*RESIZERS),
}
_DOWNSTREAM = ("updates", "seeds", "width")


def _protocol(name: str, given: Any) -> Protocol:
    path = f"protocols.{name}"
    _known(given, (*_PROTOCOL, "preset", "downstream"), path)
    if (preset := given.get("preset")) is not None:
        if preset not in PRESETS:
            hint = near_miss(str(preset), PRESETS)
            raise ConfigurationError(f"{path}.preset", repr(preset), f"allowed: {', '.join(PRESETS)}{hint}")
        theirs = {option: getattr(PRESETS[preset], option) for option in OPTIONS if option in _PROTOCOL}
        given = {**{option: value for option, value in theirs.items() if value is not None}, **given}
    for key, kind in _PROTOCOL.items():
        if key not in given or not kind.accepts(given[key]):
            raise ConfigurationError(f"{path}.{key}", repr(given.get(key, "nothing")), f"allowed: {kind.allowed}")
    if "downstream" in given:
        sizes = _mapping(given["downstream"], f"{path}.downstream")
        _known(sizes, (*_DOWNSTREAM, "fill"), f"{path}.downstream")
        for key in (*_DOWNSTREAM, *sizes):
            if not POSITIVE.accepts(sizes.get(key)):
                found = repr(sizes.get(key, "nothing"))
                raise ConfigurationError(f"{path}.downstream.{key}", found, f"allowed: {POSITIVE.allowed}")
    return Protocol(name, **given)


def _row(
    table: str,
    name: str,
    given: Any,
    of_table: Mapping[str, Any],
    protocols: Mapping[str, Protocol],
    sources: Mapping[str, Any],
) -> Row:
    path = f"tables.{table}.rows.{name}"
    _known(given, ("configuration", "overrides", "seeds", "protocol", "baseline", "published", "note"), path)
    published = {}
    for metric, value in _mapping(given.get("published", {}), f"{path}.published").items():
        where = f"{path}.published.{metric}"
        if metric not in METRICS:
            raise ConfigurationError(where, "an unknown metric", f"allowed: {', '.join(METRICS)}")
        _known(value, [field.name for field in fields(Published)], where)
        if value.get("source") not in list(sources):
            raise ConfigurationError(f"{where}.source", repr(value.get("source")), f"allowed: {', '.join(sources)}")
        for key in ("value", *({"deviation", "margin"} & set(value))):
            if not isinstance(value.get(key), str) or not re.fullmatch(r"\d+(\.\d+)?", value[key]):
                raise ConfigurationError(
                    f"{where}.{key}", repr(value.get(key)), "allowed: a number in quotes, such as '37.20'"
                )
        published[metric] = Published(**value)
    configuration = given.get("configuration")
    if configuration is None:
        for key in ("overrides", "seeds", "protocol"):
            if key in given:
                raise ConfigurationError(f"{path}.{key}", "a training key", "only a row with configuration has it")
        return Row(table, name, None, None, (), None, given.get("baseline"), published, str(given.get("note", "")))
    seeds, protocol = (given.get(key, of_table.get(key)) for key in ("seeds", "protocol"))
    valid = isinstance(seeds, list) and seeds and all(map(valid_seed, seeds))
    if not valid or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"{path}.seeds", repr(seeds), f"{SEEDS}, each once, in a list")
    if protocol not in list(protocols):
        raise ConfigurationError(f"{path}.protocol", repr(protocol), f"allowed: {', '.join(protocols)}")
    sections = _at(path, lambda: _sections(str(configuration), given.get("overrides", {})))
    return Row(
        table=table,
        name=name,
        sections=sections,
        configuration=configuration,
        seeds=tuple(seeds),
        protocol=protocols[protocol],
        baseline=given.get("baseline"),
        published=published,
        note=str(given.get("note", "")),
    )


def _sections(configuration: str, overrides: Any) -> dict[str, Any]:
    """Return a row's complete configuration, after the native host and the regularizers have checked it."""
    overrides = _mapping(overrides, "overrides")
    for name, values in overrides.items():
        if name != SECTION or not isinstance(values, list):
            _mapping(values, f"overrides.{name}")
    sections = overlaid(load_configuration(shipped_configuration(configuration)), overrides)
    for settings in read_configuration(sections).regularizers:
        find_regularizer(settings)
    return sections


def _at(path: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return read(); its errors are raised again with the row's path in front."""
    try:
        return read()
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.path}", error.found, error.allowed) from error
    except OptionError as error:
        raise ConfigurationError(f"{path}: {error.option}", repr(error.found), f"allowed: {error.allowed}") from error


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(path, repr(value)[:60], "expected: a mapping with text keys")
    return value


def _known(given: Any, keys: Any, path: str) -> None:
    for key in _mapping(given, path or "the file"):
        if key not in keys:
            where = f"{path}.{key}" if path else key
            raise ConfigurationError(where, "an unknown key", f"allowed: {', '.join(keys)}{near_miss(key, keys)}")
