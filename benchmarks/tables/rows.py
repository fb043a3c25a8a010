"""Read and check tables.yaml: rows with their configurations, protocols, seeds and published values."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paths import TABLES_FILE
from benchmarks.tables.checks import choice, choices, known, mapping
from benchmarks.tables.published import Part, Published, read_part, read_published
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.errors import ConfigurationError, OptionError, RequestError, near_miss
from studiogan_gsr.evaluation.choices import BATCH_NORM, SELECT_ON
from studiogan_gsr.evaluation.protocols import OPTIONS, PRESETS
from studiogan_gsr.hosts.keys import COUNT, FLAG, POSITIVE, Kind, one_of
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.settings import SECTION, load_configuration
from studiogan_gsr.shipped import shipped_configuration

SUMMARY = "-summary"  # the end of the name of a table's short form


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
class Beside:
    """A row of another table, whose published values are shown beside ours."""

    table: str
    row: str


@dataclass(frozen=True)
class Row:
    """A row of a table; one without sections has published values only, and is not run.

    part: the part of the table that it is in; None if the table has no parts.
    """

    table: str
    name: str
    sections: Mapping[str, Any] | None
    configuration: str | None
    seeds: tuple[int, ...]
    protocol: Protocol | None
    baseline: str | None
    published: Mapping[str, Published]
    note: str
    beside: Beside | None = None
    part: Part | None = None


@dataclass(frozen=True)
class Table:
    """Rows that belong together.

    departures, notes: names of what is written under it.  summary: whether a short form of it is written, too.
    """

    name: str
    title: str
    rows: Mapping[str, Row]
    departures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    summary: bool = False


@dataclass(frozen=True)
class Tables:
    """The whole file.

    version: is increased when the meaning of a row changes.  sources: where published values were read.
    departures: how tables differ from the paper's program, besides the protocol.  notes: what else readers must know.
    """

    version: int
    sources: Mapping[str, str]
    departures: Mapping[str, str]
    notes: Mapping[str, str]
    protocols: Mapping[str, Protocol]
    tables: Mapping[str, Table]


def read_tables(path: Path = TABLES_FILE) -> Tables:
    """Read the tables; ConfigurationError names the table, the row and the key."""
    content = load_configuration(path)
    known(content, ("version", "sources", "departures", "notes", "protocols", "tables"), "")
    version: Any = content.get("version")
    sources = mapping(content.get("sources"), "sources")
    departures, notes = (mapping(content.get(key, {}), key) for key in ("departures", "notes"))
    if not POSITIVE.accepts(version):
        raise ConfigurationError("version", repr(version), f"allowed: {POSITIVE.allowed}")
    given_protocols = mapping(content.get("protocols"), "protocols")
    protocols = {name: _protocol(name, value) for name, value in given_protocols.items()}
    tables = {}
    for name, given in mapping(content.get("tables"), "tables").items():
        path_of = f"tables.{name}"
        known(given, ("title", "protocol", "seeds", "departures", "notes", "summary", "rows", "parts"), path_of)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or name.endswith(SUMMARY):  # it names the table's files
            allowed = f"allowed: lowercase letters, digits and -, not ending in {SUMMARY}"
            raise ConfigurationError(path_of, "a name", allowed)
        if not FLAG.accepts(summary := given.get("summary", False)):
            raise ConfigurationError(f"{path_of}.summary", repr(summary), f"allowed: {FLAG.allowed}")
        tables[name] = Table(
            name=name,
            title=str(given.get("title", "")),
            rows=_rows(name, given, protocols, sources),
            departures=choices(given.get("departures", []), departures, f"{path_of}.departures"),
            notes=choices(given.get("notes", []), notes, f"{path_of}.notes"),
            summary=summary,
        )
    for table in tables.values():
        for row in table.rows.values():
            _check_references(row, tables)
        if table.summary and any(row.protocol is None for row in table.rows.values()):
            path_of = f"tables.{table.name}.summary"
            raise ConfigurationError(path_of, "true", "allowed: only if every row has a configuration")
    return Tables(version, sources, departures, notes, protocols, tables)


def _rows(
    table: str, given: Mapping[str, Any], protocols: Mapping[str, Protocol], sources: Mapping[str, Any]
) -> dict[str, Row]:
    """Return a table's rows, those under `rows` and those of its parts, by name."""
    rows = {}
    if "rows" in given or "parts" not in given:
        for title, values in mapping(given.get("rows"), f"tables.{table}.rows").items():
            rows[title] = _row(table, title, values, given, protocols, sources)
    for name, values in mapping(given.get("parts", {}), f"tables.{table}.parts").items():
        part, by_method = read_part(name, values, sources, f"tables.{table}.parts.{name}")
        for method, published in by_method.items():
            title = f"{method}, {name}"
            if title in rows:
                raise ConfigurationError(f"tables.{table}.parts.{name}.rows.{method}", "a row", f"{title} exists")
            rows[title] = Row(table, title, None, None, (), None, None, published, "", part=part)
    return rows


def _check_references(row: Row, tables: Mapping[str, Table]) -> None:
    """Raise ConfigurationError if a row's baseline, or the row that is shown beside it, does not exist."""
    path = f"tables.{row.table}.rows.{row.name}"
    others = [other for other in tables[row.table].rows if other != row.name]
    if row.baseline is not None and row.baseline not in others:
        hint = near_miss(str(row.baseline), others)
        raise ConfigurationError(f"{path}.baseline", repr(row.baseline), f"allowed: another row of this table{hint}")
    if row.beside is not None:
        table = tables[choice(row.beside.table, tables, f"{path}.beside.table")]
        with_values = [name for name, other in table.rows.items() if other.published]
        choice(row.beside.row, with_values, f"{path}.beside.row")


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
    known(given, (*_PROTOCOL, "preset", "downstream"), path)
    if (preset := given.get("preset")) is not None:
        choice(preset, PRESETS, f"{path}.preset")
        theirs = {option: getattr(PRESETS[preset], option) for option in OPTIONS if option in _PROTOCOL}
        given = {**{option: value for option, value in theirs.items() if value is not None}, **given}
    for key, kind in _PROTOCOL.items():
        if key not in given or not kind.accepts(given[key]):
            raise ConfigurationError(f"{path}.{key}", repr(given.get(key, "nothing")), f"allowed: {kind.allowed}")
    if "downstream" in given:
        sizes = mapping(given["downstream"], f"{path}.downstream")
        known(sizes, (*_DOWNSTREAM, "fill"), f"{path}.downstream")
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
    known(given, ("configuration", "overrides", "seeds", "protocol", "baseline", "published", "beside", "note"), path)
    published = read_published(given.get("published", {}), sources, f"{path}.published")
    beside = None
    if "beside" in given:
        known(given["beside"], ("table", "row"), f"{path}.beside")
        beside = Beside(*(given["beside"].get(key) for key in ("table", "row")))
    configuration = given.get("configuration")
    if configuration is None:
        for key in ("overrides", "seeds", "protocol"):
            if key in given:
                raise ConfigurationError(f"{path}.{key}", "a training key", "only a row with configuration has it")
        note = str(given.get("note", ""))
        return Row(table, name, None, None, (), None, given.get("baseline"), published, note, beside)
    seeds, protocol = (given.get(key, of_table.get(key)) for key in ("seeds", "protocol"))
    valid = isinstance(seeds, list) and seeds and all(map(valid_seed, seeds))
    if not valid or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"{path}.seeds", repr(seeds), f"{SEEDS}, each once, in a list")
    choice(protocol, protocols, f"{path}.protocol")
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
        beside=beside,
    )


def _sections(configuration: str, overrides: Any) -> dict[str, Any]:
    """Return a row's complete configuration, after the native host and the regularizers have checked it."""
    overrides = mapping(overrides, "overrides")
    for name, values in overrides.items():
        if name != SECTION or not isinstance(values, list):
            mapping(values, f"overrides.{name}")
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
