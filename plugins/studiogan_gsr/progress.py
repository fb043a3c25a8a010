"""Printing, and progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
LINE_EVERY = 20  # seconds, where a slow run would otherwise be silent
_MINUTE = 60  # seconds


def console(width: int | None = None) -> Console:
    """Return a console that prints text unchanged to the current standard output."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress up to `total`; yield a function to call with the number of newly completed items.

    On a terminal it shows a bar, which disappears at the end; elsewhere it prints a line per minute.
    """
    shown = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task, done, since = bar.add_task(what, total=total), 0, time.monotonic()

        def advance(number: int) -> None:
            nonlocal done, since
            done += number
            bar.advance(task, number)
            if not shown.is_terminal and time.monotonic() - since > _MINUTE:
                shown.print(f"{what}: {done} of {total}")
                since = time.monotonic()

        yield advance


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items, with progress as `counting` shows it."""
    with counting(what, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def waiting(what: str, say: Callable[[str], object]) -> Iterator[None]:
    """Say every 20 s what is being waited for, and for how long, until the block ends."""
    began, ended = time.monotonic(), threading.Event()

    def watch() -> None:
        while not ended.wait(LINE_EVERY):
            say(f"{what}: {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
