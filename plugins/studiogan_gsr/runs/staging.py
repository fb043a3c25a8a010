"""A folder that appears whole or not at all, and that an interrupted command can resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from studiogan_gsr.errors import RequestError
from studiogan_gsr.files import LOCK, claim, publish, write_atomically
from studiogan_gsr.progress import console

_REQUEST = "request.json"


def remove_notes(out: Path) -> None:
    """Remove from a finished folder what it had while it was written; a command that was killed may leave it."""
    for name in (_REQUEST, LOCK):
        (out / name).unlink(missing_ok=True)


@contextmanager
def staged(out: Path, request: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder beside `out`; it is renamed to `out` when the block ends without an error.

    It holds what an interrupted command with the same request has written; files of another request are removed.
    Raises RequestError if another process uses it, or if it is not of this program.
    """
    out = out.resolve()  # a link stays, and its folder is written
    folder = out.with_name(f".{out.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    meanwhile = RequestError(f"--out {out}: another process has written it meanwhile")
    try:
        lock = claim(folder)
    except FileNotFoundError as error:  # the folder got its new name
        raise meanwhile from error
    if lock is None:
        raise RequestError(f"--out {out}: another process is writing it ({folder})")
    try:
        if out.is_dir() and any(out.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # it was made above, or it is somebody's
                folder.rmdir()
            raise meanwhile
        written, text = folder / _REQUEST, json.dumps(request)
        for partial in folder.glob(f".{_REQUEST}.*.partial"):  # killed while the request was written
            partial.unlink()
        others = [path for path in folder.iterdir() if path.name not in (LOCK, _REQUEST)]
        if others and not written.is_file():
            raise RequestError(f"--out {out}: {folder} is in the way; move it away")
        if written.is_file() and written.read_text() != text:
            console().print(f"removing what another command, which did not end, has written to {folder}")
            for path in others:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomically(written, text)
        for partial in folder.glob(".*.partial"):  # killed while another file was written
            partial.unlink()
        yield folder
        if hasattr(os, "sync"):  # all files at once
            os.sync()
        publish(folder, out)
        remove_notes(out)  # not before: without them, a killed command could not resume
    except KeyboardInterrupt:
        if folder.is_dir():
            console().print(f"what is finished stays in {folder}; the same command resumes")
        raise
    finally:
        lock.release()
