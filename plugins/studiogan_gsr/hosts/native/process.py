"""The processes of a run: their ranks, and the signals that end them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.native.configuration import Optimization
from studiogan_gsr.machine import choose_device
from studiogan_gsr.progress import console

T = TypeVar("T")
_LONGEST_EVALUATION = timedelta(days=7)


class Ranks:
    """This process among the ranks of a run.

    rank: of this process; rank 0 logs, saves and evaluates.  number: of ranks (world size).
    """

    def __init__(self, rank: int, number: int, device: torch.device) -> None:
        self.rank, self.number, self.device = rank, number, device
        self._patient_group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait_for_evaluations(self) -> None:
        """Give `any` a timeout longer than any evaluation by rank 0."""
        if self.number > 1:
            group = dist.new_group(backend="gloo", timeout=_LONGEST_EVALUATION)
            assert isinstance(group, dist.ProcessGroup)  # every rank is in it
            self._patient_group = group

    def any(self, mine: bool) -> bool:
        """Return whether `mine` is true on any rank; all ranks have to call this."""
        if self.number == 1:
            return mine
        answer = torch.tensor(float(mine), device="cpu" if self._patient_group else self.device)
        dist.all_reduce(answer, group=self._patient_group)
        return bool(answer.item())

    def gather(self, mine: T) -> list[T]:
        """Return what each rank gives, in the order of ranks; all ranks have to call this.

        mine: any object that can be pickled.
        """
        if self.number == 1:
            return [mine]
        found: list[Any] = [None] * self.number
        dist.all_gather_object(found, mine)
        return found

    def say(self, line: str) -> None:
        """Print a line, on rank 0 only."""
        if self.first:
            console().print(line)


def number_of_ranks() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_rank() -> int:
    """Return the rank that torchrun gave this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined_ranks(kind: str, optimization: Optimization) -> Iterator[Ranks]:
    """Join the other ranks, if torchrun started more than one.

    kind: "cpu" or "cuda".  Raises RequestError for a batch size that is not a multiple of the number of ranks.
    """
    if choose_device(kind) == "cuda":
        torch.backends.cudnn.benchmark = True
    number, size = number_of_ranks(), optimization.batch_size
    if number == 1:
        yield Ranks(rank=0, number=1, device=torch.device(kind))
        return
    local = int(os.environ["LOCAL_RANK"])
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        if size % number:
            raise RequestError(f"OPTIMIZATION.batch_size: found {size}; allowed: a multiple of {number} (ranks)")
        yield Ranks(dist.get_rank(), number, torch.device(f"cuda:{local}" if kind == "cuda" else kind))
    finally:
        dist.destroy_process_group()


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGINT and the first SIGTERM set the event; a second of the same has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # type: ignore[index]

    for number in before:
        signal.signal(number, set_stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
