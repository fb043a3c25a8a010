"""`studiogan-gsr evaluate` on tiny runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studiogan_gsr.cli import main
from support.runs import one_thread


def evaluated(run: Path, *options: str) -> dict[str, Any]:
    """Measure a run with the backbone `pixels` and 96 images; return the result."""
    out = run.parent / "result.json"
    argv = ["evaluate", str(run), "--backbone", "pixels", "--images", "96", "--device", "cpu", "--out", str(out)]
    with one_thread():
        assert main([*argv, *options]) == 0
    return json.loads(out.read_text())


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the line that `evaluate` ends with."""
    capsys.readouterr()
    with one_thread():
        assert main(["evaluate", *argv, "--device", "cpu"]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line
