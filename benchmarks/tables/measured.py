"""The records of a table's rows, and the numbers in them by training seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.tables import records
from benchmarks.tables.figures import tail_norm, tail_of
from benchmarks.tables.plan import HOSTS
from benchmarks.tables.records import Record
from benchmarks.tables.rows import Row, Table
from studiogan_gsr.evaluation.filled import interval


@dataclass(frozen=True)
class Measured:
    """The records of a row, by seed."""

    row: Row
    by_seed: dict[int, Record]

    def values(self, which: str, group: str, metric: str) -> dict[int, float]:
        """Return a metric by training seed, averaged over sampling seeds; kernel distances are multiplied by 1000.

        group: a group of classes in the result, "all", or "each of the tail": the mean over single tail classes.
        With "downstream" in place of a checkpoint, return accuracies in %, averaged over the classifier's seeds.
        """
        if which == "downstream":
            return self._accuracies(group, metric)
        found = {}
        for seed, record in self.by_seed.items():
            result = record.results[which]
            if group == "each of the tail":
                parts = [result["classes"][label] for label in tail_of(record)]
            else:
                parts = [result["all"] if group == "all" else result["groups"].get(group, {})]
            values = [numbers.get(metric, {}).get("mean") for numbers in parts]
            if values and all(value is not None for value in values):
                found[seed] = mean(values) * (1000 if metric == "kernel" else 1)
        return found

    def _accuracies(self, group: str, way: str) -> dict[int, float]:
        found = {}
        for seed, record in self.by_seed.items():
            values = {} if record.downstream is None else record.downstream["ways"][way]
            value = (values if group == "all" else values.get("groups", {})).get(group, {}).get("mean")
            if value is not None:
                found[seed] = 100 * value
        return found

    def tail_norms(self, when: str) -> dict[int, float]:
        """Return `tail_norm` by seed, before training ("start"), or of the "best" or the "last" checkpoint."""
        found = {s: tail_norm(record, record.norms[when]) for s, record in self.by_seed.items() if record.norms}
        return {seed: norm for seed, norm in found.items() if norm is not None}


def measured(table: Table, folder: Path) -> dict[str, Measured]:
    """Return the records of every row, by row name; StudioGAN's are rows of their own, if there are any.

    Raises RecordError for a record that is damaged or belongs to another run.
    """
    found = {}
    for row in table.rows.values():
        for host in HOSTS:
            paths = {seed: records.path_of(key, folder) for seed, key in keys_of(row, host).items()}
            by_seed = {seed: records.read(path, path.stem) for seed, path in paths.items() if path.is_file()}
            shown = row if host == "native" else _in_studiogan(row)
            if by_seed or host == "native":
                found[shown.name] = Measured(shown, by_seed)
    return found


def _in_studiogan(row: Row) -> Row:
    baseline = None if row.baseline is None else f"{row.baseline}, in StudioGAN"
    return dataclasses.replace(row, name=f"{row.name}, in StudioGAN", baseline=baseline)


def keys_of(row: Row, host: str) -> dict[int, str]:
    """Return the keys of a row's records, by seed."""
    if row.sections is None or row.protocol is None:
        return {}
    return {seed: records.key_of(host, row.sections, seed, vars(row.protocol)) for seed in row.seeds}


def difference(ours: dict[int, float], baseline: dict[int, float]) -> tuple[float, float | None] | None:
    """Return the mean difference over shared seeds, and half the width of its paired 95 % interval (Student's t).

    None if no seed is shared; for a single shared seed, the half width is None.
    """
    shared = sorted(set(ours) & set(baseline))
    if not shared:
        return None
    gap = interval([ours[seed] - baseline[seed] for seed in shared])
    assert gap["mean"] is not None
    return gap["mean"], gap["half_width"]
