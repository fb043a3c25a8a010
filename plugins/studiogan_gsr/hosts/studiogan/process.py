"""Prepare one process of StudioGAN: apply the shims, then install the hooks, once.

The launcher does this before it runs an unchanged `main.py`.  A patched `main.py` does it itself, through the entry
point `studiogan.startup`, in every process that it starts.  A second call in a process does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from studiogan_gsr.errors import in_one_line
from studiogan_gsr.hosts.studiogan import hooks, shims
from studiogan_gsr.hosts.studiogan.checkout import find_function

_ready = False


def prepare(skipped_shims: Sequence[str] = ()) -> None:
    """Apply the shims and install the hooks; StudioGAN's source has to be on the import path.

    Raises HostError if StudioGAN cannot be imported, or if a function that the hooks need is missing or changed.
    """
    global _ready
    if _ready:
        return
    shims.apply_shims(skipped_shims, early=True)
    find_function("loader", "load_worker", [])
    shims.apply_shims(skipped_shims, early=False)
    hooks.install()
    _ready = True


def startup() -> None:
    """Prepare the process of a patched `main.py`, which calls this before its own imports."""
    if _ready:
        return
    before = sys.excepthook

    def print_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = in_one_line(error)
        if message.ours:
            print(f"studiogan-gsr: {message.text}", file=sys.stderr)
        else:  # an error of StudioGAN
            before(kind, error, trace)

    sys.excepthook = print_in_one_line
    prepare()
