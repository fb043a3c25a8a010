"""The clock of a run: seconds trained, and steps per second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures the seconds of training over all starts of a run, without logging and evaluation."""

    def __init__(self, seconds: float, step: int) -> None:
        """Start at a step.  seconds: time trained in earlier starts of the run."""
        self._before, self._start = seconds, time.perf_counter()
        self._lap_start, self._lap_step = self._start, step

    @property
    def seconds(self) -> float:
        """Seconds trained so far."""
        return self._before + time.perf_counter() - self._start

    def lap(self, step: int) -> float:
        """Return the steps per second since the last lap, and start the next."""
        now = time.perf_counter()
        rate = (step - self._lap_step) / (now - self._lap_start)
        self._lap_start, self._lap_step = now, step
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            pause = time.perf_counter() - began
            self._start += pause
            self._lap_start += pause
