"""A job of a cluster: nothing but the standard library and submitit, as it travels there by value."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

_SAVES = 80  # seconds; Slurm ends a job 90 after it has asked


class Job:
    """Runs a command; where the job's time is over, lets it save and end, and is queued again to go on."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: Any = None

    def __call__(self) -> None:
        """RuntimeError, with what it said last, where the command fails."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, errors="replace")
        last = "no output"
        for line in self.process.stderr:
            print(line, end="", flush=True)
            last = line.strip() or last
        if self.process.wait():
            raise RuntimeError(f"status {self.process.returncode}: {last}")

    def checkpoint(self) -> Any:
        """What submitit calls when the time is almost over."""
        import submitit

        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=_SAVES)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return submitit.helpers.DelayedSubmission(Job(self.command))
