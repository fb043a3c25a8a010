"""Atomic writes, logs of JSON lines, and locks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studiogan_gsr.progress import console

LOCK = ".lock"
_BLOCK = 2**24  # bytes
_PATIENCE, _SILENCE, _DAY = 10, 60, 24 * 3600  # seconds


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an error.

    Until then an old file at `path` stays unchanged, even if the process is killed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file completely, or leave the old one unchanged.

    Text is UTF-8; bytes in a name that are no text become escapes, those of JSON.
    """
    with written_atomically(path) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def publish(partial: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`; after a power failure, the old or the complete new one is there.

    The files in a folder must already be flushed; a folder cannot replace one that has files.
    """
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Write a file's content, or a folder's entries, to the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems cannot flush folders
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


@contextmanager
def locked(path: Path, who: str) -> Iterator[None]:
    """Hold a lock file inside the block; wait while another process holds it.

    who: describes the other process, in a message that is printed after 10 seconds of waiting.
    Raises TimeoutError, an OSError, after a day.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        console().print(f"waiting for {who} (it holds {path}); Ctrl-C ends the wait")
        try:
            lock.acquire(timeout=_DAY)
        except Timeout as error:
            raise TimeoutError(f"{who} has held {path} for a day; end that process") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def impatient_network() -> Iterator[None]:
    """Make downloads in the block fail after a minute without data; urllib itself would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def claim(folder: Path) -> FileLock | None:
    """Lock a folder and return the lock, or None if another process holds it.

    The lock is held until it is released or this process ends.
    Waits up to 10 seconds, because the workers of a killed run hold its lock until they notice that it has ended.
    """
    lock = FileLock(folder / LOCK, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def lines_by_step(path: Path) -> list[dict[str, Any]]:
    """Return a file's JSON lines sorted by "step", only the last one of each step; invalid lines are skipped.

    Empty if there is no file.
    """
    lines: dict[int, dict[str, Any]] = {}
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            lines[int(line["step"])] = line
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return [lines[step] for step in sorted(lines)]


def forget_after(path: Path, step: int) -> None:
    """Remove a file's lines of later steps; a run resumed from `step` writes them again."""
    if path.is_file():
        kept = [line for line in lines_by_step(path) if line["step"] <= step]
        write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in kept))
