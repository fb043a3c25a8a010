"""A run as a report shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.errors import DataError, reason
from studiogan_gsr.runs.run_names import short_names
from studiogan_gsr.runs.same_data import recorded_counts
from studiogan_gsr.runs.trained import Trained, load_trained

# What tables and texts need of a result, and of its protocol.
_KEYS = {
    "evaluations": ("column", "class_names", "training_images", "reference_images", "all", "groups", "classes"),
    "downstream": ("class_names", "training_images", "reference_images", "notes", "ways"),
}
_OF_PROTOCOL = ("step", "time", "checkpoint_rule", "averaged_generator", "batch_norm", "seeds")


@dataclass(frozen=True)
class ReportedRun:
    """A loaded run, with its log and its results.

    name: short, and different from the names of the other runs.  folder: the name of the run's folder.
    log: the lines of log.jsonl, up to the loaded step.
    evaluations, downstream: results of `evaluate` and of `downstream`, oldest first.
    """

    name: str
    folder: str
    trained: Trained
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    downstream: list[dict[str, Any]]

    @property
    def counts(self) -> list[int]:
        """Training images per class; zeros if they are not recorded."""
        return recorded_counts(self.trained)


def open_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Load each run's newest checkpoint, its log and its results."""
    runs = [load_trained(path) for path in paths]
    names = short_names([(path, run.configuration.DATA.name) for path, run in zip(paths, runs, strict=True)])
    return [
        ReportedRun(
            name=name,
            folder=path.resolve().name,
            trained=trained,
            log=trained.log,
            evaluations=results_of(trained, "evaluations"),
            downstream=results_of(trained, "downstream"),
        )
        for name, path, trained in zip(names, paths, runs, strict=True)
    ]


def results_of(trained: Trained, name: str) -> list[dict[str, Any]]:
    """Return the results in a run's folder `name`, "evaluations" or "downstream", oldest first.

    Raises DataError if one is damaged, or of a version with other keys.
    """
    folder = (trained.run or trained.folder) / name
    found = [_read_result(file, name) for file in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda result: str(result["protocol"]["time"]))


def _read_result(path: Path, name: str) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        missing = [key for key in _KEYS[name] if key not in result]
        missing += [f"protocol.{key}" for key in _OF_PROTOCOL if key not in result["protocol"]]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged, or of another version of studiogan-gsr: {reason(error)}; move it away"
        ) from error
    return dict(result)
