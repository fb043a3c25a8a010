"""Perform the tasks of a part in child processes, so that no crash, hang or CUDA error ends the whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_run.child import LINES
from benchmarks.gpu_run.plan import PlannedPart
from benchmarks.gpu_run.record import FAILED, FINAL, LEFT_OUT, RUNNING, WAITING, Outcome, Record
from benchmarks.gpu_run.settings import Settings
from benchmarks.processes import end, how_it_ended

START, _END = 120, 30  # seconds until a child has to begin its first task, and the next one or end
_LOOK = 0.1  # seconds between two looks at a child
_LOG = 4_000_000  # bytes of output that are kept


class Supervisor:
    """Performs parts.

    log: the file that takes the children's output.  environment: of the children.
    stop: when it is set, the running task is ended and the rest is left out.
    say: prints a line.
    """

    def __init__(
        self, log: Path, environment: Mapping[str, str], stop: threading.Event, say: Callable[[str], None]
    ) -> None:
        self.log, self.environment, self.stop, self.say = log, environment, stop, say

    def perform(self, part: PlannedPart, settings: Settings, record: Record, again: bool = False) -> None:
        """Perform the tasks of a part that have no final state, until `settings.until`; again: all tasks.

        Afterwards each task is done, failed, skipped, or left out with a reason; earlier results are kept.
        """
        before = record.outcomes
        record.outcomes = {task.name: before.get(task.name, Outcome()) for task in part.tasks}
        for outcome in record.outcomes.values():
            if again or part.repeated or outcome.state not in FINAL:
                outcome.state, outcome.since = WAITING, 0.0
        record.write()
        while record.names(WAITING) and not self.stop.is_set() and time.time() < settings.until:
            self._one_child(part, settings, record)
            record.outcomes = Record(record.path).outcomes
        for name in record.names(WAITING):
            record.outcomes[name].end(LEFT_OUT, "stopped" if self.stop.is_set() else "no time was left")
        record.write()
        self._shorten_log()

    def _one_child(self, part: PlannedPart, settings: Settings, record: Record) -> None:
        """Start a child with the waiting tasks; record why it ended before their end."""
        waiting = record.names(WAITING)
        begun = self.log.stat().st_size if self.log.exists() else 0
        process = self._start(part, settings, record)
        state, why = self._watch(part, process, record.path, settings.until, waiting)
        now = Record(record.path)
        if running := now.names(RUNNING):
            now.outcomes[running[0]].end(state, why, _last_lines(self.log, begun) if state == FAILED else [])
            self._tell(part, running[0], now.outcomes[running[0]])
        elif state == FAILED and now.names(WAITING) == waiting:  # no other child would begin a task, either
            for name in waiting:
                now.outcomes[name].end(state, f"before the task began: {why}", _last_lines(self.log, begun))
            self._tell(part, f"{len(waiting)} tasks", now.outcomes[waiting[0]])
        now.write()

    def _start(self, part: PlannedPart, settings: Settings, record: Record) -> subprocess.Popen[bytes]:
        tasks = [(task.name, task.least) for task in part.tasks if task.name in record.names(WAITING)]
        given = {"record": str(record.path), "settings": asdict(settings), "function": part.function, "tasks": tasks}
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C reaches only the supervisor
            )

    def _watch(
        self, part: PlannedPart, process: subprocess.Popen[bytes], path: Path, until: float, waiting: list[str]
    ) -> tuple[str, str]:
        """Wait for a child, and end it if it has to; return the state of the task that it did not end, and why."""
        limits = {task.name: task.limit for task in part.tasks}
        task, since = None, time.time()
        ended: set[str] = set()  # tasks whose end has been printed
        try:
            while True:
                status = process.poll()
                outcomes = Record(path).outcomes
                for name in waiting:
                    if outcomes[name].state not in (WAITING, RUNNING) and name not in ended:
                        ended.add(name)
                        self._tell(part, name, outcomes[name])
                if status is not None:
                    return FAILED, f"its process ended {how_it_ended(status)}"
                running = next((name for name in waiting if outcomes[name].state == RUNNING), None)
                if running != task:
                    task, since = running, time.time()
                between = (
                    _END if ended else START
                )  # no task runs: a child starts, or is between two tasks or at its end
                limit = limits[task] if task else between
                if self.stop.is_set():
                    return LEFT_OUT, "stopped"
                if time.time() > until:
                    return LEFT_OUT, "the time of its part was over"
                if time.time() > since + limit:
                    return FAILED, f"it did not end in {limit:g} s"
                self.stop.wait(_LOOK)
        finally:
            end(process, part.grace)

    def _tell(self, part: PlannedPart, name: str, outcome: Outcome) -> None:
        why = f": {outcome.why}" if outcome.why else ""
        self.say(f"{part.name}: {name}: {outcome.state} ({outcome.seconds:.1f} s){why}")

    def _shorten_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG:
            with self.log.open("rb") as file:
                file.seek(-_LOG // 2, os.SEEK_END)
                rest = file.read()
            self.log.write_bytes(rest)


def _last_lines(log: Path, begun: int) -> list[str]:
    """Return the last lines of the log after its first `begun` bytes."""
    with log.open("rb") as file:
        file.seek(begun)
        text = file.read()[-20_000:].decode(errors="replace")
    return [line[:400] for line in text.splitlines() if line.strip()][-LINES:]
