"""Train several runs side by side on a CPU, each in a process of its own with its share of the cores."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from rich.progress import Progress

from studiogan_gsr.errors import GSRError, TrainingError
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.progress_line import TrainingProgress, live_bar
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.machine import cores, share_of_cores
from studiogan_gsr.progress import console

_TO_SAVE = 60  # seconds that a run has to save and end


def train_side_by_side(runs: Sequence[tuple[dict[str, Any], TrainOptions]]) -> None:
    """Train new runs, as many at a time as there are cores, and show the progress of each.

    runs: the sections of each configuration, and its options, of which `steps` and `label` are needed; `threads` is
        the run's share of the cores unless it is given.
    If a run fails, the others save and end, and its error is raised.  Ctrl-C lets all of them save and end.
    """
    at_once = min(len(runs), cores())
    active: dict[Connection, _Run] = {}
    with live_bar(console()) as bar, _ended(active):
        waiting = [_Run(sections, options, share_of_cores(at_once), bar) for sections, options in runs]
        while waiting or active:
            while waiting and len(active) < at_once:
                run = waiting.pop(0)
                active[run.start()] = run
            for connection in wait(list(active)):
                assert isinstance(connection, Connection)
                if not active[connection].receive():
                    del active[connection]


@contextmanager
def _ended(active: dict[Connection, _Run]) -> Iterator[None]:
    """Let all active runs save and end when the block is left, and kill those that do not."""
    try:
        yield
    finally:
        for run in active.values():
            run.process.terminate()
        until = time.monotonic() + _TO_SAVE
        for run in active.values():
            run.process.join(max(0, until - time.monotonic()))
            run.process.kill()


class _Run:
    """A run in its process, seen from the process that started it."""

    def __init__(self, sections: dict[str, Any], options: TrainOptions, threads: int, bar: Progress) -> None:
        assert options.steps is not None
        self._label, self._steps = options.label, options.steps
        self._progress = TrainingProgress(options.label, total=options.steps, done=0, lines=options.lines, bar=bar)
        self._step, self._since = 0, 0.0
        self._connection, theirs = get_context("spawn").Pipe(duplex=False)
        options = dataclasses.replace(options, threads=options.threads or threads, lines=0)
        # Not a fork: a fork after PyTorch's threads have started can hang.
        self.process = get_context("spawn").Process(target=_work, args=(theirs, sections, options))
        self._theirs = theirs

    def start(self) -> Connection:
        """Start the process; return the connection on which it reports."""
        with _interrupts_ignored():  # the new process inherits this until it trains, and starts without a traceback
            self.process.start()
        self._theirs.close()  # so that the end of the process closes the connection
        return self._connection

    def receive(self) -> bool:
        """Show what the process reports next; return whether more may follow.

        Raises the error that ended the run.
        """
        try:
            content = self._connection.recv()
        except EOFError:
            self.process.join()
            if self.process.exitcode:
                status = self.process.exitcode
                raise TrainingError(f"{self._label}: its process ended with status {status}") from None
            return False
        if isinstance(content, BaseException):
            raise content
        if isinstance(content, str):
            console().print(f"{self._label}: {content}")
        else:
            self._show(*content)
        return True

    def _show(self, step: int, seconds: float) -> None:
        """Show a step and the time, in seconds, at which it ended."""
        if self._step:  # the first step is slower
            rate = (step - self._step) / (seconds - self._since)
            self._progress.show(step, rate, {}, left=(self._steps - step) / rate)
        self._progress.advance(step - self._step)
        self._step, self._since = step, seconds


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# In the process of a run.


def _work(connection: Connection, sections: dict[str, Any], options: TrainOptions) -> None:
    """Train, and report over the connection: printed lines, (step, seconds) per print interval, the error if any."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(content: Any) -> None:
        with suppress(OSError):  # the parent has ended
            connection.send(content)

    def report(trainer: Trainer) -> dict[str, Any]:
        send((trainer.steps, time.monotonic()))
        return {}

    sys.stdout = _Lines(send)
    try:
        train(sections, options, report)
    except GSRError as error:
        send(error)
    except BaseException:
        send(RuntimeError(traceback.format_exc()))  # not every error of other packages can be pickled


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # lets the run save


class _Lines(io.TextIOBase):
    """A standard output that passes on whole lines."""

    def __init__(self, send: Any) -> None:
        self._send, self._rest = send, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._send(line)
        return len(text)
