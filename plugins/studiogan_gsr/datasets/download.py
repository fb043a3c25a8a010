"""Data sets that torchvision downloads where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from studiogan_gsr.errors import DataError, reason
from studiogan_gsr.files import impatient_network, locked

T = TypeVar("T")


def downloaded(name: str, root: str, open_set: Callable[[bool], T], put: str) -> T:
    """What open_set(download) gives: from the folder as it is, else with a download, one rank at a time.

    put: what a user is told to put there, and from where.
    Raises DataError, which says so, where the download fails.
    """
    try:
        try:
            return open_set(False)
        except RuntimeError:  # not there, or damaged; the download checks its digest
            Path(root).mkdir(parents=True, exist_ok=True)
            lock = Path(root) / f".{name}.lock"
            with locked(lock, f"another process that downloads {name}"), impatient_network():
                return open_set(True)
    except Exception as error:
        raise DataError(
            f"{name} is neither in {Path(root).resolve()} nor could it be downloaded ({reason(error)}); put {put}"
        ) from error
