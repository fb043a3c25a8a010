"""A folder that appears whole or not at all, and that an interrupted command can go on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studiogan_gsr.errors import RequestError
from studiogan_gsr.files import LOCK, claim, publish, write_atomically
from studiogan_gsr.progress import console

_REQUEST = "request.json"


@contextmanager
def staged(out: Path, request: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder beside `out`; it is renamed to `out` when the block ends without an error.

    It holds what an interrupted command with the same request has written; files of another request are removed.
    Raises RequestError if another process uses it, or if it is not of this program.
    """
    folder = out.absolute().with_name(f".{out.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    lock = claim(folder)
    if lock is None:
        raise RequestError(f"--out {out}: another process is writing it ({folder})")
    try:
        written, text = folder / _REQUEST, json.dumps(request)
        others = [path for path in folder.iterdir() if path.name not in (LOCK, _REQUEST)]
        if others and not written.is_file():
            raise RequestError(f"--out {out}: {folder} is in the way; move it away")
        if written.is_file() and written.read_text() != text:
            console().print(f"removing what another command, which did not end, has written to {folder}")
            for path in others:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomically(written, text)
        yield folder
        written.unlink()
        (folder / LOCK).unlink()
        if hasattr(os, "sync"):  # all files at once
            os.sync()
        publish(folder, out.absolute())
    finally:
        lock.release()
