"""The workflow of continuous integration: it runs what every machine runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))


def commands(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_it_runs_the_script_of_the_repository() -> None:
    assert commands("tests") == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_it_runs_the_oldest_supported_python_and_the_newest() -> None:
    (oldest,) = re.findall(r'python_requires=">=(3\.\d+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]["python"] == [oldest, "3.x"]


def test_it_builds_the_site_strictly() -> None:
    assert commands("site")[-1] == "mkdocs build --strict"  # --quiet would count no warnings
