"""What a host reports about a completely trained run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.tables.plan import PlannedRun


@dataclass(frozen=True)
class Training:
    """What a host reports about a run.

    host: its record of the run.  acted: optimizer steps in which the regularizer was active.
    penalties: (step, penalty) of log lines.  hours: time of training.
    """

    host: dict[str, Any]
    steps: int
    device: str
    plugin: str | None  # the regularizer's package, version and entry point
    regularizer: str | None  # its summary
    acted: int
    penalties: list[tuple[int, float]]
    hours: float


def without_paths(starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the starts of a run without the paths of the checkpoints that they resumed."""
    return [{**start, "checkpoint": None} if "checkpoint" in start else start for start in starts]


def penalties_of(run: PlannedRun, log: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return (step, penalty) of each log line that holds a penalty."""
    settings = run.sections.get("REGULARIZER")
    name = settings["name"] if isinstance(settings, dict) else settings
    return [(line["step"], line[f"{name}/penalty"]) for line in log if f"{name}/penalty" in line]
