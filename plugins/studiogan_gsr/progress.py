"""Output, and progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def console(width: int | None = None) -> Console:
    """Prints text as it is, to where standard output is now."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar on a terminal that vanishes when it is full; elsewhere, a line a minute."""
    shown = console()
    if not shown.is_terminal:
        since = time.monotonic()
        for number, item in enumerate(items):
            if time.monotonic() - since > 60:
                shown.print(f"{what}: {number} of {total}")
                since = time.monotonic()
            yield item
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, transient=True) as bar:
        yield from bar.track(items, total=total, description=what)
