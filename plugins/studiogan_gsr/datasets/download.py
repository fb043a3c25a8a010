"""Download missing data sets with torchvision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from studiogan_gsr.errors import DataError, reason
from studiogan_gsr.files import impatient_network, locked

T = TypeVar("T")


def downloaded(name: str, root: str, entries: Sequence[str], open_set: Callable[[bool], T], put: str) -> T:
    """Open a data set, and download it first if it is missing or damaged; return what `open_set` returns.

    entries: the files and folders in `root` that a download writes; of one that fails, none stays that was not there.
    open_set: opens the data set; its argument says whether to download.  One process downloads at a time.
    put: the files to download by hand, and their source, for the error message.
    Raises DataError if the data set cannot be opened or downloaded.
    """
    try:
        try:
            return open_set(False)
        except RuntimeError:  # missing or damaged; the download checks the digest
            Path(root).mkdir(parents=True, exist_ok=True)
            lock = Path(root) / f".{name}.lock"
            written = [Path(root) / entry for entry in entries]
            with locked(lock, f"another process that downloads {name}"), impatient_network(), _whole(written):
                return open_set(True)
    except Exception as error:
        raise DataError(
            f"{name} is not in {Path(root).resolve()} and cannot be downloaded ({reason(error)}); put {put}"
        ) from error


@contextmanager
def _whole(entries: Sequence[Path]) -> Iterator[None]:
    """Remove the entries that the block creates if it fails: torchvision leaves half a file."""
    new = [entry for entry in entries if not entry.exists()]
    try:
        yield
    except BaseException:
        for entry in new:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        raise
