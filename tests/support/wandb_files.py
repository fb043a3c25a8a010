"""Read what wandb has written offline: records in the log format of LevelDB, as protocol buffers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _IDENT = 32768, 7, b":W&B"


@dataclass
class Written:
    """What the starts of a run have written: ids and configuration, rows of the history, and the last exit code."""

    ids: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    def values(self, name: str) -> list[tuple[int, Any]]:
        """Return (step, value) of every row that has a value of this name."""
        return [(row["step"], row[name]) for row in self.rows if name in row]


def read(folder: Path) -> Written:
    """Return what is in the .wandb files below a run's folder, in the order of its starts."""
    from wandb.proto.wandb_internal_pb2 import Record

    written = Written()
    for path in sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for data in _records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                written.ids.add(record.run.run_id)
                written.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif record.HasField("history"):
                written.rows.append(_row(record.history.item))
            elif record.HasField("exit"):
                written.exit_code = record.exit.exit_code
    return written


def _row(items: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        name, *inner = [*item.nested_key] or [item.key]
        value = json.loads(item.value_json)
        if inner:  # of a picture
            row.setdefault(name, {})[inner[0]] = value
        else:
            row[name] = value
    return row


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == _IDENT
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:  # the rest of a block is too short for a record
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
