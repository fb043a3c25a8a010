"""Download missing data sets with torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from studiogan_gsr.errors import DataError, reason
from studiogan_gsr.files import impatient_network, locked

T = TypeVar("T")


def downloaded(name: str, root: str, open_set: Callable[[bool], T], put: str) -> T:
    """Return open_set(False), or, if the data are missing, open_set(True), which downloads; one process at a time.

    put: the files to get by hand, and from where, for the error message.
    Raises DataError if the download fails.
    """
    try:
        try:
            return open_set(False)
        except RuntimeError:  # missing or damaged; the download checks the digest
            Path(root).mkdir(parents=True, exist_ok=True)
            lock = Path(root) / f".{name}.lock"
            with locked(lock, f"another process that downloads {name}"), impatient_network():
                return open_set(True)
    except Exception as error:
        raise DataError(
            f"{name} is neither in {Path(root).resolve()} nor could it be downloaded ({reason(error)}); put {put}"
        ) from error
