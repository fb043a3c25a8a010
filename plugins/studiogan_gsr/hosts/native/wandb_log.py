"""Pass a run's numbers and sample grids on to Weights & Biases, through a process of its own.

wandb may ask for a login, wait for its server, or fail.  In a process without a terminal it cannot ask, and there it
can neither delay nor end the run: numbers wait in a queue, and at the end the process has a minute.
"""

from __future__ import annotations

import json
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.native.wandb_process import SAID
from studiogan_gsr.progress import console

ID = "wandb-id"  # the file with the id that all starts of a run share
_PROGRAM = "studiogan_gsr.hosts.native.wandb_process"
# Seconds that wandb has to finish at the end of a run, and that its process then has to end itself.
_LIMIT, _GRACE = 60, 5
_MOST = 10_000  # messages that wait for wandb


class WandbLog:
    """A run at Weights & Biases; offline without a login.  See wandb_process.py for the messages.

    folder: the run's folder, where wandb keeps its files, too.  configuration: plain data about the run.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self._folder = folder
        self._messages: queue.Queue[str | None] = queue.Queue(_MOST)
        self._lost, self._closing = 0, False
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C lets the run save first
        )
        self._send(
            {
                "id": _run_id(folder),
                "name": folder.resolve().name,
                "dir": str(folder.resolve()),
                "config": dict(configuration),
                "limit": _LIMIT,
            }
        )
        self._printer = threading.Thread(target=self._print, daemon=True)
        self._printer.start()
        threading.Thread(target=self._write, daemon=True).start()

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add numbers of a step."""
        self._send({"step": step, "numbers": dict(numbers)})

    def picture(self, step: int, path: Path) -> None:
        """Add the picture in a PNG file as "samples"."""
        self._send({"step": step, "picture": str(path.resolve())})

    def close(self, failed: bool) -> None:
        """Let wandb finish; give up after a minute.  failed: whether the run ended with an error."""
        self._send({"exit_code": int(failed)})
        self._closing = True
        with suppress(queue.Full):
            self._messages.put_nowait(None)
        try:
            self._process.wait(_LIMIT + _GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            _say(f"does not answer, and was ended; `wandb sync` uploads what is in {self._folder / 'wandb'}")
        self._printer.join(1)
        if self._lost:
            _say(f"{self._lost:,} messages did not reach it; log.jsonl has all numbers")

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._messages.put_nowait(json.dumps(message))
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        """Write the messages to the process; in a thread, because this waits as long as the process does not read."""
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as stdin:  # OSError: the process has ended
            for message in iter(self._messages.get, None):
                stdin.write(message + "\n")
                stdin.flush()

    def _print(self) -> None:
        """Print what the process says; in a thread."""
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                _say(line.rstrip())
        if not self._closing and (status := self._process.wait()) != SAID:
            _say(f"its process ended with status {status}; the run goes on, log.jsonl has all numbers")


def _run_id(folder: Path) -> str:
    """Return the id in the run's folder; make one for a new run."""
    path = folder / ID
    if not path.is_file():
        write_atomically(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _say(text: str) -> None:
    console().print(f"wandb: {text}")
