"""`run.py --first-steps`: runs that are begun, fail, hang or are killed become lines of a table, and leave nothing.

That a row of each data set begins is tested by tests/test_reproduce_page.py, with the page's own command.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tables import first_steps, run_command
from benchmarks.tables.plan import PlannedRun, plan_runs
from benchmarks.tables.rows import read_tables
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.plugins import MakePackage

TINY = {
    "DATA": {"name": "Digits_LT_rho50"},
    "MODEL": {"z_dim": 8, "g_conv_dim": 8, "d_conv_dim": 4},
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 1, "total_steps": 40},
}
LOST = {**TINY, "DATA": {"name": "Folder_LT_rho3"}}
PROTOCOL = {
    "every": 20, "images_while_training": 20, "select_on": "validation", "images": 48, "repeats": 2,
    "batch_norm": "batch", "neighbours": 3, "backbone": "absent", "resizer": "bilinear",
}  # fmt: skip
ABSENT = """
from studiogan_gsr.errors import WeightsError
def absent(device):
    raise WeightsError("absent.pth: cannot be downloaded; put the file there")
"""


def write_tables(path: Path) -> Path:
    """Two tables that share a run of two seeds, a row whose data are missing, and one that is not run."""
    rows: dict[str, Any] = {
        "gsr": {"configuration": "CIFAR10_LT/SNGAN-gSR", "overrides": TINY},
        "lost": {"configuration": "CIFAR10_LT/SNGAN", "overrides": LOST},
        "theirs": {"note": "not run"},
    }
    one = {"title": "one", "protocol": "tiny", "seeds": [5, 6], "rows": rows}
    two = {**one, "title": "two", "seeds": [6], "rows": {"the same": rows["gsr"]}}
    content = {"version": 1, "sources": {}, "protocols": {"tiny": PROTOCOL}, "tables": {"one": one, "two": two}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def planned(folder: Path, host: str = "native") -> PlannedRun:
    rows = read_tables(write_tables(folder / "tables.yaml")).tables["one"].rows
    return plan_runs([rows["gsr"]], [5], host, str(folder), folder / "out", folder / "records", "cpu")[0]


@pytest.fixture
def arguments(tmp_path: Path, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments after the table, where the protocol's weights are missing; runs and records go to `tmp_path`."""
    site = make_package("absent", "studiogan.backbones", {"absent": "absent:absent"}, {"absent": ABSENT})
    for name, value in (("HOME", str(tmp_path / "home")), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    tables = write_tables(tmp_path / "tables.yaml")
    folders = ["--data", str(tmp_path), "--out", str(tmp_path / "a" / "out"), "--records", str(tmp_path / "records")]
    return [*folders, "--tables", str(tables), "--device", "cpu", "--first-steps"]


def test_each_configuration_begins_once_and_what_it_lacks_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command.main(["all", *arguments]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [
        "left out: one: theirs: it has published values only",
        "weights: missing for absent: absent.pth: cannot be downloaded; put the file there; effnetlite0 measures in "
        "its place here",
    ]
    begun, failed = printed[2:4]
    assert begun.startswith("begun: one: gsr; two: the same: 371 images in 10 classes (134 to 2); G ")
    assert "; gsr; " in begun
    assert "; 20 images measured against 10 by effnetlite0; " in begun
    assert failed.startswith(f"failed: one: lost: {tmp_path} needs train/ and valid/")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed if line.startswith("|")]
    assert [row[:2] for row in table[2:]] == [["one: gsr; two: the same", "yes"], ["one: lost", "no"]]
    assert table[2][-1] == "weights of absent"
    assert table[3][-1].endswith("; weights of absent")
    assert "GPU GB" not in table[0]
    assert printed[-1] == "1 of 2 runs began, each for 1 step, one seed each"
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "records").exists()


def test_a_run_is_shortened_but_for_its_configuration(tmp_path: Path) -> None:
    run = planned(tmp_path)
    short = first_steps._shortened(run, 3, tmp_path / "there", "other")
    assert short.protocol == replace(run.protocol, every=3, backbone="other")
    many = replace(run, protocol=replace(run.protocol, images_while_training=10_000))
    assert first_steps._shortened(many, 3, tmp_path, "other").protocol.images_while_training == 64
    assert Path(short.out).parent == Path(short.records) == tmp_path / "there"
    optimization = {**run.sections["OPTIMIZATION"], "total_steps": 3}
    assert short.sections == {**run.sections, "OPTIMIZATION": optimization}


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("import time; print('sleeps', flush=True); time.sleep(60)", "it did not end in 0.03 minutes (--limit)"),
        (
            "import os; print('eats', flush=True); os.kill(os.getpid(), 9)",
            "its process ended by SIGKILL; was it out of memory?",
        ),
        ("print('counts'); raise SystemExit(3)", "its process ended with status 3"),
    ],
)
def test_what_never_ends_or_is_killed_becomes_a_line(
    script: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_steps, "command", lambda run, flag: [sys.executable, "-S", "-c", script])
    short = first_steps._shortened(planned(tmp_path), 1, tmp_path / "there", "other")
    beginning, output = first_steps._begun(short, minutes=0.03)
    assert beginning.failure == failure
    assert len(output) == 1  # what the process printed last
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("explained", [True, False])
def test_a_bug_keeps_its_traceback(
    explained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(run: PlannedRun) -> None:
        raise run_command.RequestError("wrong") if explained else ValueError("wrong")

    monkeypatch.setitem(first_steps.TRAIN, "native", train)  # type: ignore[arg-type]
    run = planned(tmp_path)
    first_steps.specify(run)
    assert first_steps.begin_described(Path(run.out).with_suffix(".json")) == 1
    found = json.loads(first_steps._result(run).read_text())
    assert "wrong" in found["failure"]
    assert found["explained"] == explained
    assert ("Traceback" in capsys.readouterr().err) != explained


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    def terminated(out: Path) -> None:
        with first_steps._temporary_folder(out) as folder:
            assert folder.parent == out
            (folder / "file").touch()
            os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there", tmp_path / "new" / "out"):
        with pytest.raises(SystemExit, match="143"):
            terminated(out)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--executor", "slurm"], "--first-steps begins one run at a time on this machine"),
        (["--jobs", "2"], "--first-steps begins one run at a time on this machine"),
    ],
)
def test_what_does_not_fit_first_steps_is_refused(
    more: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command.main(["one", *arguments, *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.host
def test_a_run_begins_in_studiogan(
    checkout: Checkout, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--only", "gsr", "--host", "studiogan", "--root", str(checkout.root)]
    run_command.main(["one", *arguments, *more])
    printed = capsys.readouterr().out
    assert "1 of 1 runs began, each for 2 steps, one seed each" in printed
    assert "begun: one: gsr: 371 images in 10 classes (134 to 2); G " in printed
    assert "; gsr; " in printed
    assert "; 20 images measured against 10 by effnetlite0; " in printed
    assert not (tmp_path / "a").exists()
