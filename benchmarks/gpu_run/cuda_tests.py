"""Run the tests that need CUDA, and keep the names and last lines of those that fail."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu_run.record import FAILED, LEFT_OUT
from benchmarks.gpu_run.settings import Partial, Settings, Skipped
from benchmarks.paths import REPOSITORY

LINES, MOST = 15, 30  # lines of a failure, and failures, that are kept
_LARGEST = 4_000_000  # bytes of a report that is kept
_FAILURES, _NO_TEST = 1, 5  # pytest's exit statuses
_LONGEST, _CLOSING = 230, 8  # seconds for the tests, and for pytest to write its report
_LINE = re.compile(r"^(\S+::.*?)(?: (PASSED|FAILED|ERROR|SKIPPED)\b.*)?$", re.MULTILINE)


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Run `pytest -m cuda`; return the numbers of tests by outcome, and failures' names and last lines.

    Raises Skipped without pytest or such tests, and Partial if a test fails or pytest does not end by itself.
    """
    if find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    out = Path(settings.out)
    path, printed = out / "tests.xml", out / "tests.txt"
    path.unlink(missing_ok=True)
    status, ended = _run(path, printed, min(settings.until - _CLOSING, time.time() + _LONGEST))
    if status == _NO_TEST:
        raise Skipped("no test is marked with cuda")
    tests = _LINE.findall(printed.read_text(errors="replace"))
    counts = Counter(outcome.lower() for _, outcome in tests if outcome)
    found = {"counts": dict(counts), "failures": failures(path) if path.is_file() else []}
    for report in (path, printed):
        if report.is_file() and report.stat().st_size > _LARGEST:
            report.unlink()
    last = tests[-1][0].split()[0] if tests and not tests[-1][1] else "no test"
    if not ended:
        raise Partial(LEFT_OUT, f"pytest did not end in its time, {last} was running", found)
    if status == _FAILURES:
        raise Partial(FAILED, f"{counts['failed'] + counts['error']} of {counts.total()} tests failed", found)
    if status:
        raise Partial(FAILED, f"pytest ended with status {status}, {last} was running; see tests.txt", found)
    return found


def _run(path: Path, printed: Path, until: float) -> tuple[int, bool]:
    """Run pytest; return its status, and whether it ended before `until`.

    path: its report.  printed: its output, with a line per test.
    """
    # Without the repository's own options: they need pytest-xdist.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-m", "cuda", "-v"]
    command += ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", f"--junitxml={path.resolve()}", "tests"]
    with printed.open("wb") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT)
    try:
        return process.wait(max(1, until - time.time())), True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest still writes its report
    try:
        return process.wait(_CLOSING - 2), False
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(), False


def failures(path: Path) -> list[dict[str, Any]]:
    """Return the names and last lines of the failed tests in a junit file."""
    found = []
    for case in ElementTree.parse(path).iter("testcase"):
        for problem in (child for child in case if child.tag in ("failure", "error")):
            lines = [line[:400] for line in (problem.text or problem.get("message") or "").splitlines()]
            found.append({"name": f"{case.get('classname')}.{case.get('name')}", "lines": lines[-LINES:]})
    return found[:MOST]
