"""A run as a report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.runs.trained import Trained, load_trained


@dataclass(frozen=True)
class ReportedRun:
    """A run on the page.

    log: the lines of its log.  evaluations: results of `evaluate`, oldest first.
    """

    name: str
    trained: Trained
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @property
    def counts(self) -> list[int]:
        """Training images per class."""
        counts = self.trained.data.get("class_counts")
        return list(counts) if counts else [0] * self.trained.configuration.DATA.num_classes


def open_run(path: Path) -> ReportedRun:
    """Open a run with the evaluations that were made of it."""
    trained = load_trained(path)
    run = trained.run or trained.folder
    found = [json.loads(file.read_text()) for file in run.glob("evaluations/*.json")]
    found.sort(key=lambda result: str(result["protocol"]["time"]))
    return ReportedRun(path.resolve().name, trained, trained.log, found)
