"""Plan runs.  A run is one seed of one row in one host."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import records
from benchmarks.tables.records import Record, RecordError
from benchmarks.tables.rows import Protocol, Row
from studiogan_gsr.hosts.native.configuration import GENERATOR_BLOCKS

HOSTS = ("native", "studiogan")
RESIZERS_OF_STUDIOGAN = ("wo_resize", "nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class PlannedRun:
    """A run to execute, as plain data that can be sent to another process.

    key: the name of its record.  title: its name in messages.  host: one of HOSTS.
    data: the folder of data sets.  out: the run's folder.  records: the folder of records.
    root: StudioGAN's checkout, for the host "studiogan"; None: the default place.
    reference_images: the most reference images to measure against while training; None: all.
    """

    key: str
    title: str
    host: str
    sections: dict[str, Any]
    seed: int
    protocol: Protocol
    data: str
    out: str
    records: str
    device: str | None = None
    root: str | None = None
    reference_images: int | None = None

    @property
    def steps(self) -> int:
        return int(self.sections["OPTIMIZATION"]["total_steps"])

    @property
    def print_freq(self) -> int:
        """Steps between log lines: at most PENALTIES_EVERY, and a divisor of `every`, which StudioGAN needs."""
        return math.gcd(records.PENALTIES_EVERY, self.protocol.every)

    def done(self) -> tuple[Record | None, str]:
        """Return (record, ""), or (None, why the record is invalid); (None, "") if there is no record."""
        path = records.path_of(self.key, Path(self.records))
        try:
            return (records.read(path, self.key), "") if path.is_file() else (None, "")
        except RecordError as error:
            return None, str(error)


def read_run(specification: Path) -> PlannedRun:
    """Return the run that a file of `executors.specify` describes."""
    content = json.loads(specification.read_text())
    return PlannedRun(**{**content, "protocol": Protocol(**content["protocol"])})


def plan_runs(
    rows: Sequence[Row],
    seeds: Sequence[int] | None,
    host: str,
    data: str,
    out: Path,
    folder: Path,
    device: str | None = None,
    root: str | None = None,
) -> list[PlannedRun]:
    """Return the runs of these rows in a host, without duplicates and without rows that the host cannot run.

    seeds: None: those of each row.  out: the folder of runs.  folder: the folder of records.
    """
    runs: dict[str, PlannedRun] = {}
    for row in rows:
        if row.sections is None or row.protocol is None or reason_against(host, row):
            continue
        for seed in row.seeds if seeds is None else seeds:
            key = records.key_of(host, row.sections, seed, dataclasses.asdict(row.protocol))
            title = f"{row.table}: {row.name}, seed {seed}" + (" in StudioGAN" if host == "studiogan" else "")
            run = PlannedRun(
                key=key,
                title=title,
                host=host,
                sections=dict(row.sections),
                seed=seed,
                protocol=row.protocol,
                data=data,
                out=str((out / key).resolve()),
                records=str(folder.resolve()),
                device=device,
                root=root,
            )
            runs.setdefault(key, run)
    return list(runs.values())


def but_for_the_seed(run: PlannedRun | Row) -> str:
    """Return a text that identifies a run's configuration and protocol, or a row's."""
    return json.dumps([run.sections, run.protocol and dataclasses.asdict(run.protocol)], sort_keys=True)


def reason_against(host: str, row: Row) -> str:
    """Return why a host cannot run a row; "" if it can, or if the row has published values only."""
    if host == "native" or row.sections is None or row.protocol is None:
        return ""
    if row.sections["DATA"]["img_size"] == min(GENERATOR_BLOCKS):
        return "StudioGAN has no networks of 16 pixels"
    if row.protocol.resizer not in RESIZERS_OF_STUDIOGAN:
        return f"StudioGAN has no resizer {row.protocol.resizer}"
    if row.sections["OPTIMIZATION"]["total_steps"] % row.protocol.every:
        return f"total_steps is not a multiple of {row.protocol.every}, and StudioGAN would not save the last steps"
    return ""
