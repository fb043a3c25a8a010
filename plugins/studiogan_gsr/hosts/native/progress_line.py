"""The progress line of a training run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from studiogan_gsr.progress import LINE_EVERY, console, waiting


def live_bar(shown: Console) -> Progress:
    """Return a display with a row for each run; it shows nothing where the output is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    return Progress(*columns, console=shown, disable=not shown.is_terminal)


class TrainingProgress:
    """The progress of a run as a live line: bar, steps, speed, elapsed and remaining time, and the last numbers.

    When the output is no terminal, it prints lines instead: one per print interval and, in a slow run, one every 20 s
    without numbers of the losses, which would wait for the device; or at most `lines` lines in all.
    label: the start of every line.  total: the last step.  done: steps trained in earlier starts.
    lines: None: no limit; 0: show nothing, not even in a terminal.
    bar: a display of several runs, in which this one is a row; None: its own.
    """

    def __init__(self, label: str, total: int, done: int, lines: int | None, bar: Progress | None = None) -> None:
        self.console = console()
        self._live = lines != 0 and self.console.is_terminal
        self._label, self._total, self._lines = label, total, lines
        self._printed = done * (lines or 0) // total  # the lines that were due by step `done`
        self._step = self._shown_step = done
        self._shown_at, self._numbers = time.monotonic(), ""
        self._bar = live_bar(self.console) if bar is None else bar
        self._task = self._bar.add_task(label, total=total, completed=done, speed="", numbers="")

    def __enter__(self) -> TrainingProgress:
        self._shown_at = time.monotonic()
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the live line inside the block, so that another progress display can use the terminal."""
        began = time.monotonic()
        if self._live:
            self._bar.stop()
        try:
            yield
        finally:
            self._shown_at += time.monotonic() - began
            if self._live:
                self._bar.start()

    def first_step(self) -> AbstractContextManager[None]:
        """Print a line every 20 s inside the block, where no bar shows that the run is alive."""
        silent = self._live or self._lines is not None
        return nullcontext() if silent else waiting(f"{self._label}: first step", self.console.print)

    def advance(self, steps: int = 1) -> None:
        """Count steps that were trained; show the speed if nothing was shown for 20 s."""
        self._step += steps
        if self._live:
            self._bar.advance(self._task, steps)
        seconds = time.monotonic() - self._shown_at
        if self._lines is None and seconds >= LINE_EVERY:
            rate = (self._step - self._shown_step) / seconds
            self._show(self._step, rate, self._numbers if self._live else "", (self._total - self._step) / rate)

    def show(self, step: int, steps_per_second: float, numbers: dict[str, float], left: float) -> None:
        """Show the numbers of a print interval.  left: estimated seconds until the end."""
        if self._live or self._lines is None or step * self._lines >= (self._printed + 1) * self._total:
            self._printed += 1
            self._numbers = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self._show(step, steps_per_second, self._numbers, left)

    def _show(self, step: int, steps_per_second: float, numbers: str, left: float) -> None:
        speed = f"{steps_per_second:.3g} steps/s" if steps_per_second >= 1 else f"{1 / steps_per_second:.3g} s/step"
        self._shown_step, self._shown_at = step, time.monotonic()
        if self._live:
            self._bar.update(self._task, speed=speed, numbers=numbers)
        else:
            line = f"{self._label}: step {step}  {speed}  {_duration(left)} left  {numbers}"
            self.console.print(line.rstrip())


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
