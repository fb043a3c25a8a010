"""Runs side by side: both end whole, and no failure, kill or signal leaves one behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from studiogan_gsr.errors import DataError, GSRError, TrainingError
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native import side_by_side
from studiogan_gsr.hosts.native.folder import read_starts
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.side_by_side import train_side_by_side
from support.plugins import MakePackage
from support.runs import PLAIN, changed, difference, files, last_step, log_lines, losses

DIES = "import os\ndef die(generator, class_counts):\n    os._exit(3)\n"


def options(out: Path, **more: Any) -> TrainOptions:
    given = {"steps": 4, "print_freq": 1, "save_freq": 2, "label": out.name, **more}
    return TrainOptions(data="unused", out=out, device="cpu", **given)


def test_one_after_the_other_on_one_core_each_equals_a_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 1)
    sections = changed(PLAIN, REGULARIZER={"name": "gsr"})
    train_side_by_side([(PLAIN, options(tmp_path / "a")), (sections, options(tmp_path / "b", threads=1))])
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:2] in ("a:", "b:")]
    assert lines == sorted(lines, key=lambda line: line[0])
    assert any(line.startswith("b: gsr: active in step 1") for line in lines)
    assert any(line.startswith("b: step 4  ") for line in lines)
    train(sections, options(tmp_path / "alone", threads=1))
    assert losses(tmp_path / "b") == losses(tmp_path / "alone")
    step = "checkpoints/step=4"
    assert difference(files(tmp_path / "b" / step), files(tmp_path / "alone" / step)) == ""


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        (changed(PLAIN, DATA={"name": "Folder_LT_rho3"}), DataError, "needs train/ and valid/"),
        (changed(PLAIN, REGULARIZER={"name": "die"}), TrainingError, "b: its process ended with status 3"),
    ],
)
def test_a_run_that_fails_ends_the_other(
    sections: dict[str, Any], error: type[GSRError], message: str, tmp_path: Path, make_package: MakePackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_package("deadly", "studiogan.regularizers", {"die": "deadly:die"}, {"deadly": DIES})
    monkeypatch.setattr(side_by_side, "cores", lambda: 2)
    with pytest.raises(error, match=message):
        train_side_by_side([(PLAIN, options(tmp_path / "a", steps=2000)), (sections, options(tmp_path / "b"))])
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_both_runs_save_and_end_with_the_process_that_started_them(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C in a terminal signals all processes; a kill only the first."""
    argv = [sys.executable, "-m", "studiogan_gsr", "demo", "--steps", "100000", "--out", str(tmp_path / "demo")]
    demo = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    runs = [tmp_path / "demo" / name for name in ("plain", "gsr")]
    try:
        until = time.monotonic() + 120
        while not all(last_step(run) for run in runs):
            assert demo.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        if number == signal.SIGINT:
            os.killpg(demo.pid, number)
        else:
            demo.kill()
        output = demo.communicate(timeout=60)[0]  # returns when the runs have ended, too, as the pipe is theirs
    except BaseException:
        os.killpg(demo.pid, signal.SIGKILL)
        raise
    for run in runs:
        ((step, _),) = checkpoints(run / "checkpoints")
        assert step >= log_lines(run)[-1]["step"]
        assert read_starts(run)[0]["threads"] == 1
    if number == signal.SIGINT:
        assert demo.returncode == 1
        assert output.splitlines()[-1] == "studiogan-gsr: interrupted"
        assert "Traceback" not in output
