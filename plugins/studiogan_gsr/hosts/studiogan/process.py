"""Making one process of StudioGAN ready: shims, then hooks, once.

The launcher does it before it runs an unchanged `main.py`; a patched `main.py` does it by itself,
through the entry point `studiogan.startup`, in every process that it starts.  Whoever comes second
finds it done.
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
    """Apply the shims and install the hooks; StudioGAN's source is on the import path.

    Raises HostError where StudioGAN cannot be imported or is not what the hooks were written for.
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
    """What a patched `main.py` calls before its own imports."""
    if _ready:
        return
    before = sys.excepthook

    def in_a_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = in_one_line(error)
        if told.ours:
            print(f"studiogan-gsr: {told.text}", file=sys.stderr)
        else:  # StudioGAN's own
            before(kind, error, trace)

    sys.excepthook = in_a_line
    prepare()
