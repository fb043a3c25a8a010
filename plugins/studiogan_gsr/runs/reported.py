"""A run as a report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.runs.same_data import recorded_counts
from studiogan_gsr.runs.trained import Trained, load_trained


@dataclass(frozen=True)
class ReportedRun:
    """A loaded run, with its log and its results.

    log: the lines of log.jsonl, up to the loaded step.
    evaluations, downstream: results of `evaluate` and of `downstream`, oldest first.
    """

    name: str
    trained: Trained
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    downstream: list[dict[str, Any]]

    @property
    def counts(self) -> list[int]:
        """Training images per class; zeros if they are not recorded."""
        return recorded_counts(self.trained)


def open_run(path: Path) -> ReportedRun:
    """Load a run's newest checkpoint, its log and its results."""
    trained = load_trained(path)
    found = {name: results_of(trained, name) for name in ("evaluations", "downstream")}
    return ReportedRun(path.resolve().name, trained, trained.log, **found)


def results_of(trained: Trained, name: str) -> list[dict[str, Any]]:
    """Return the results in a run's folder `name`, "evaluations" or "downstream", oldest first."""
    folder = (trained.run or trained.folder) / name
    found: list[dict[str, Any]] = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return sorted(found, key=lambda result: str(result["protocol"]["time"]))
