"""Values that others have published, each with its source, and parts of a table that hold nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.tables.checks import choice, known, mapping
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import ConfigurationError, near_miss
from studiogan_gsr.evaluation.protocols import PRESETS

# Metrics that others have published, and the titles of their columns.
METRICS = {
    "fid": "FID",
    "fid_few": "FID of few-shot classes",
    "kid": "KID x 1000",
    "kid_few": "KID x 1000 of few-shot classes",
    "is": "IS",
    "fid_clip": "FID_CLIP",
    "ifid_clip": "iFID_CLIP",
    "precision": "precision",
    "recall": "recall",
}


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
class Part:
    """Rows of a table that one source has published on one data set.

    data: our name of the data set.  preset: the protocol, one of `protocols.PRESETS`.  note: what else a reader must
    know, without a full stop; "" for nothing.
    """

    name: str
    data: str
    preset: str
    source: str
    note: str = ""

    def groups(self) -> dict[str, list[int]]:
        """Return {name: labels} of the groups of classes that the protocol names in this data set."""
        loaded, options = self._found()
        ranks = PRESETS[self.preset].ranks.get(loaded, {})
        classes = 1 + max(
            (rank for group in ranks.values() for rank in group), default=-1
        )  # they end with the rarest
        counts = range(classes) if options.get("reversed") else range(classes, 0, -1)
        return PRESETS[self.preset].groups(loaded, counts)

    def _found(self) -> tuple[str, Mapping[str, Any]]:
        """Return the plug-in's name and the variant's options; ConfigurationError for a name that is none of ours."""
        found = find_dataset(self.data)
        if found is None:
            raise ConfigurationError("DATA.name", repr(self.data), "allowed: a long-tailed data set of this package")
        return found[0].plugin.name, found[1]


def read_published(given: Any, sources: Mapping[str, Any], path: str) -> dict[str, Published]:
    """Return published values by metric; each must have a known source."""
    published = {}
    for metric, value in mapping(given, path).items():
        where = f"{path}.{metric}"
        if metric not in METRICS:
            hint = near_miss(metric, METRICS)
            raise ConfigurationError(where, "an unknown metric", f"allowed: {', '.join(METRICS)}{hint}")
        known(value, [field.name for field in fields(Published)], where)
        choice(value.get("source"), sources, f"{where}.source")
        for key in ("value", *({"deviation", "margin"} & set(value))):
            if not isinstance(value.get(key), str) or not re.fullmatch(r"\d+(\.\d+)?", value[key]):
                raise ConfigurationError(
                    f"{where}.{key}", repr(value.get(key)), "allowed: a number in quotes, such as '37.20'"
                )
        published[metric] = Published(**value)
    return published


def read_part(
    name: str, given: Any, sources: Mapping[str, Any], path: str
) -> tuple[Part, dict[str, dict[str, Published]]]:
    """Return a part, and the published values of its rows by the name of the method."""
    known(given, [*(field.name for field in fields(Part) if field.name != "name"), "rows"], path)
    choice(given.get("preset"), PRESETS, f"{path}.preset")
    source = choice(given.get("source"), sources, f"{path}.source")
    part = Part(name, str(given.get("data")), given["preset"], source, str(given.get("note", "")))
    try:
        part.groups()
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}.data", error.found, error.allowed) from error
    rows = {}
    for method, values in mapping(given.get("rows"), f"{path}.rows").items():
        where = f"{path}.rows.{method}"
        with_source = {metric: {"value": value, "source": source} for metric, value in mapping(values, where).items()}
        rows[method] = read_published(with_source, sources, where)
    return part, rows
