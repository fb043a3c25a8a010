"""A run as a report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.runs.trained import Trained, load_trained


@dataclass(frozen=True)
class ReportedRun:
    """A loaded run, with its log and its evaluations.

    log: the lines of log.jsonl, up to the loaded step.  evaluations: results of `evaluate`, oldest first.
    """

    name: str
    trained: Trained
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def counts(self) -> list[int]:
        """Training images per class; zeros if they are not recorded."""
        counts = self.trained.data.get("class_counts")
        return list(counts) if counts else [0] * self.trained.configuration.DATA.num_classes


def open_run(path: Path) -> ReportedRun:
    """Load a run's newest checkpoint, its log and its evaluations."""
    trained = load_trained(path)
    run = trained.run or trained.folder
    found = [json.loads(file.read_text()) for file in run.glob("evaluations/*.json")]
    found.sort(key=lambda result: str(result["protocol"]["time"]))
    return ReportedRun(path.resolve().name, trained, trained.log, found)
