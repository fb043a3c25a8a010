"""A job of a cluster.

It travels there by value, so it needs nothing but the standard library and submitit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

_SAVES = 80  # seconds; Slurm ends a job 90 after it has asked


class Job:
    """Runs a command; when the job's time is over, lets it save and end, and queues it again."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: Any = None

    def __call__(self) -> None:
        """Run the command; RuntimeError with its last line if it fails."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, errors="replace")
        last = "no output"
        for line in self.process.stderr:
            print(line, end="", flush=True)
            last = line.strip() or last
        if self.process.wait():
            raise RuntimeError(f"status {self.process.returncode}: {last}")

    def checkpoint(self) -> Any:
        """Let the command save and end; submitit calls this when the time is almost over."""
        import submitit

        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=_SAVES)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return submitit.helpers.DelayedSubmission(Job(self.command))
