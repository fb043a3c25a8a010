"""A part's record: the states and results of its tasks, in one JSON file that is complete at any time."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

WAITING, RUNNING = "waiting", "running"
DONE, FAILED, SKIPPED, LEFT_OUT = "done", "failed", "skipped", "left out"
FINAL = (DONE, FAILED, SKIPPED)  # a later call keeps these


@dataclass
class Outcome:
    """What became of a task.

    since: when it began, in seconds since 1970; 0.0: it has not begun.  seconds: its duration.
    why: why it has no new result.  output: the last lines that a failed task printed.
    result: plain data; an earlier call's, if the task has failed since.
    """

    state: str = WAITING
    since: float = 0.0
    seconds: float = 0.0
    why: str = ""
    output: list[str] = field(default_factory=list)
    result: Any = None

    def begin(self) -> None:
        self.state, self.since, self.seconds, self.why, self.output = RUNNING, time.time(), 0.0, "", []

    def end(self, state: str, why: str = "", output: list[str] | None = None) -> None:
        self.seconds = round(time.time() - self.since, 2) if self.since else 0.0
        self.state, self.why, self.output = state, why, output or []


class Record:
    """The outcomes of a part's tasks, by name.

    The supervisor and its child write the same file, never both at once: the supervisor only when no child runs.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`; without one, or with one that is damaged, there are no outcomes yet."""
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        try:
            self.outcomes = {name: Outcome(**values) for name, values in json.loads(path.read_text()).items()}
        except FileNotFoundError:
            pass
        except (ValueError, TypeError, AttributeError):
            path.replace(path.with_suffix(".damaged"))

    def write(self) -> None:
        text = json.dumps({name: asdict(outcome) for name, outcome in self.outcomes.items()}, indent=1)
        write_whole(self.path, text + "\n")

    def names(self, state: str) -> list[str]:
        """Return the names of the tasks in this state."""
        return [name for name, outcome in self.outcomes.items() if outcome.state == state]


def write_whole(path: Path, text: str) -> None:
    """Write a file completely, or leave the old one unchanged.

    `studiogan_gsr.files` does the same, but needs packages that may be missing or broken where this runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)
