"""What a host reports about a completely trained run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """What a host reports about a run.

    host: its record of the run.  regularizers: as in `Record.ranks`.
    penalties: (step, penalty) of log lines, by regularizer.  hours: time of training.
    """

    host: dict[str, Any]
    steps: int
    device: str
    regularizers: list[dict[str, Any]]
    penalties: dict[str, list[tuple[int, float]]]
    hours: float


def without_paths(starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the starts of a run without the paths of the checkpoints that they resumed."""
    return [{**start, "checkpoint": None} if "checkpoint" in start else start for start in starts]


def penalties_of(regularizers: list[dict[str, Any]], log: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, penalty) by name, of the regularizers whose penalties are in a log."""
    found = {}
    for name in [regularizer["name"] for regularizer in regularizers]:
        if series := [(line["step"], line[f"{name}/penalty"]) for line in log if f"{name}/penalty" in line]:
            found[name] = series
    return found
