"""Authors' programs, which lie beside the checkout of StudioGAN: to import and to run parts of them."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from studiogan_gsr.hosts.studiogan.checkout import default_root


def authors_program(name: str, file: str) -> Path:
    """Return the folder of an authors' program; skip the test where it does not have this file."""
    folder = default_root().parent / name
    if not (folder / file).is_file():
        pytest.skip(f"the authors' program is not at {folder}")
    return folder


@contextmanager
def modules_of(source: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a program's modules; afterwards names such as `utils` mean again what they did before."""
    names = {path.stem for path in source.iterdir()}

    def put_away() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in names}

    before = put_away()
    sys.path.insert(0, str(source))
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield importlib.import_module
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(source))
        put_away()
        sys.modules.update(before)


def lines_of(path: Path, first: str, last: str) -> str:
    """Return the lines of a file from the one with the text `first` to the next one with `last`, dedented."""
    text = path.read_text()
    begin = text.rindex("\n", 0, text.index(first)) + 1
    end = text.index("\n", text.index(last, begin))
    return textwrap.dedent(text[begin:end])
