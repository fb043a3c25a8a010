"""A cluster job that runs a command.

submitit pickles this module by value, so it imports only the standard library and submitit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

_SECONDS_TO_SAVE = 80  # Slurm signals 90 seconds before the time limit, and kills the job at the limit


class Job:
    """Run a command; near the time limit, let it save and end, and queue the job again."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: Any = None

    def __call__(self) -> None:
        """Run the command; raise RuntimeError with its last line on stderr if it fails."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, errors="replace")
        last = "no output"
        for line in self.process.stderr:
            print(line, end="", flush=True)
            last = line.strip() or last
        if self.process.wait():
            raise RuntimeError(f"status {self.process.returncode}: {last}")

    def checkpoint(self) -> Any:
        """Let the command save and end, and return the job to resubmit; submitit calls this near the time limit."""
        import submitit

        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=_SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return submitit.helpers.DelayedSubmission(Job(self.command))
