"""The number of threads of a run on a CPU: given, kept from the run's last start, or the fastest of a few steps.

Small networks are often faster with one thread, because threads wait for each other after every operation.  The
number changes how sums round, so a resumed run keeps it.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor

from studiogan_gsr.hosts.native.configuration import Configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.machine import most_threads

FEWEST_STEPS = 100  # a shorter run is not worth measuring
_TURNS = 5
_LONG = 1.0  # seconds; such a step is timed once with each number of threads
_SECONDS = 4.0  # for shorter ones in all, though each number gets a turn
_CLOSE = 1.05  # a step may take this much longer with fewer threads


def fixed_threads(given: int | None, before: Mapping[str, Any], device_type: str, ranks: int) -> int | None:
    """Return the number of threads of a start; None: measure it.

    given: by --threads.  before: the record of the run's last start; empty for a new run.
    """
    most = most_threads()
    if given is not None:
        return given
    if most == 1 or ranks > 1 or device_type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return most
    return min(before["threads"], most) if before.get("device_type") == "cpu" and "threads" in before else None


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Let PyTorch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(configuration: Configuration, class_counts: list[int], speed: Speed) -> tuple[int, str]:
    """Return the number of threads with which a training step is fastest on this CPU, and a line about it.

    The steps train networks of their own on noise, without regularizers, so that the run itself is unchanged.  They
    are not compiled, which would take longer than it tells.
    """
    speed = dataclasses.replace(speed, compiled=False)
    most = most_threads()
    seconds = measure(_Steps(configuration, class_counts, speed).step, sorted({1, max(1, most // 2), most}))
    chosen = choose(seconds)
    others = "".join(f"; {n} thread{'s' * (n > 1)}: {taken:.2g} s" for n, taken in seconds.items() if n != chosen)
    return chosen, f"threads: {chosen} ({seconds[chosen]:.2g} s a step{others}); --threads fixes the number"


def measure(step: Callable[[int], float], numbers: Sequence[int]) -> dict[int, float]:
    """Return the median seconds of a step by number of threads.

    step: takes a number of threads, and returns the seconds of one step.  numbers: of threads, in rising order.
    """
    first = {number: step(number) for number in numbers}  # with each number, the first step is slower
    if first[numbers[0]] > _LONG:
        return first
    spent, found = sum(first.values()), list[list[float]]()
    while len(found) < _TURNS and (spent < _SECONDS or not found):
        found.append([step(number) for number in numbers])
        spent += sum(found[-1])
    return {number: median(taken) for number, taken in zip(numbers, zip(*found, strict=True), strict=True)}


def choose(seconds: Mapping[int, float]) -> int:
    """Return the fewest threads with which a step is about as fast as the fastest.

    seconds: of a step, by number of threads.
    """
    return min(number for number, taken in seconds.items() if taken <= _CLOSE * min(seconds.values()))


class _Steps:
    """Training steps outside of any run."""

    def __init__(self, configuration: Configuration, class_counts: list[int], speed: Speed) -> None:
        loss = dataclasses.replace(configuration.LOSS, apply_lecam=False)
        configuration = dataclasses.replace(configuration, LOSS=loss, regularizers=())
        batches = _noise(configuration.OPTIMIZATION.batch_size, configuration.DATA.img_size, len(class_counts))
        self._trainer = Trainer(configuration, class_counts, batches, torch.device("cpu"), seed=0, speed=speed)

    def step(self, threads: int) -> float:
        """Train one step with this many threads; return the seconds that it took."""
        with using_threads(threads):
            began = time.perf_counter()
            self._trainer.step()
            return time.perf_counter() - began


def _noise(number: int, size: int, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of noise in [-1, 1], (number, 3, size, size), and labels (number,)."""
    stream = torch.Generator().manual_seed(0)
    while True:
        images = torch.rand(number, 3, size, size, generator=stream) * 2 - 1
        yield images, torch.randint(classes, (number,), generator=stream)
