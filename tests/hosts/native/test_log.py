"""What shows a run in addition to log.jsonl: TensorBoard, the real wandb offline, or nothing."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from studiogan_gsr.cli import main
from studiogan_gsr.errors import WRONG_REQUEST, TrainingError
from studiogan_gsr.hosts.native import log, wandb_log
from studiogan_gsr.hosts.native.log import TensorBoard
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.native.wandb_log import ID
from support.runs import PLAIN, SNGAN, arguments, log_lines, losses, one_thread, write
from support.wandb_files import read


@pytest.fixture(autouse=True)
def _no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide this user's login: tests must not send anything anywhere."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    (tmp_path / "home").mkdir()
    with one_thread():
        yield


def options(out: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data="unused", out=out, **{"device": "cpu", "print_freq": 1, "save_freq": 2, **more})


def test_wandb_gets_the_numbers_and_pictures_of_all_starts_offline_without_a_login(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pixels: str
) -> None:
    out = tmp_path / "run"
    train(SNGAN, options(out, steps=2, log="wandb", seed=5, evaluate=40, backbone=pixels))
    printed = capsys.readouterr().out
    assert "wandb: offline (UsageError: No API key configured" in printed
    assert f"; `wandb sync {out}/wandb/offline-run-" in printed
    train(SNGAN, options(out, steps=4, resume=True))
    assert ", log wandb" in next(line for line in capsys.readouterr().out.splitlines() if "kept from the run" in line)
    written = read(out)
    assert written.ids == {(out / ID).read_text().strip()}
    assert written.exit_code == 0
    for name in ("d_loss", "gsr/penalty", "steps_per_second"):
        assert written.values(name) == [(line["step"], line[name]) for line in log_lines(out)]
    assert [step for step, _ in written.values("evaluation/frechet")] == [2, 4]
    assert [step for step, _ in written.values("samples")] == [2, 4]
    for step, picture in written.values("samples"):
        (file,) = out.glob(f"wandb/offline-run-*/files/{picture['path']}")
        assert file.read_bytes() == (out / "samples" / f"step={step:06}.png").read_bytes()
    assert written.config["seed"] == 5
    assert written.config["MODEL"]["z_dim"] == 8
    assert written.config["OPTIMIZATION"]["total_steps"] == 4  # of the last start
    assert written.config["versions"]["torch"]
    assert not (out / "tensorboard").exists()


def test_tensorboard_is_the_default_and_gets_the_sample_grids(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(PLAIN, options(out, steps=2))
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["samples"]
    (event,) = events.Images("samples")
    (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
    shown, saved = (np.asarray(Image.open(p)) for p in (tmp_path / "shown.png", out / "samples" / "step=000002.png"))
    assert event.step == 2
    assert np.array_equal(shown, saved)


def test_without_a_viewer_the_log_and_the_run_are_the_same(tmp_path: Path) -> None:
    for name in ("none", "tensorboard"):
        train(PLAIN, options(tmp_path / name, steps=2, log=name))
    assert losses(tmp_path / "none") == losses(tmp_path / "tensorboard")
    there, here = ({path.name for path in (tmp_path / name).iterdir()} for name in ("tensorboard", "none"))
    assert there - here == {"tensorboard"}
    assert here <= there


def test_a_missing_wandb_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    argv = arguments(write(tmp_path / "plain.yaml", PLAIN), tmp_path / "run", "--log", "wandb")
    assert main(argv) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('pip install "studiogan-gsr[wandb]", or use --log tensorboard')
    assert not (tmp_path / "run").exists()


# A wandb that fails.

FAKE = """
import os, time
from types import SimpleNamespace

class Settings:
    def __init__(self, **given): pass

def Image(path): pass

def teardown(): pass

class Run:
    id, url, offline, dir = "1", None, True, "folder/offline-run/files"
    def define_metric(self, *given, **more): pass
    def log(self, numbers): {log}
    def finish(self, exit_code): {finish}

def init(mode, **given):
    {init}
    return Run()
"""
BROKEN = {
    "init": ({"init": "raise RuntimeError('no disk')"}, "failed: RuntimeError: no disk; log.jsonl has all numbers"),
    "log": ({"log": "raise RuntimeError('no disk')"}, "failed: RuntimeError: no disk; log.jsonl has all numbers"),
    "online": ({"init": "if mode is None: raise OSError('refused')"}, "offline (OSError: refused); `wandb sync"),
    "killed": ({"log": "os._exit(9)"}, "its process ended with status 9; the run goes on"),
    "slow start": ({"init": "time.sleep(60)"}, "does not answer, and was ended; `wandb sync`"),
    "slow": ({"log": "time.sleep(60)"}, "does not answer, and was ended; `wandb sync`"),
    "slow end": ({"finish": "time.sleep(60)"}, "has not finished in 1 s; `wandb sync folder/offline-run` uploads"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_wandb_does_the_run_is_trained_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, message = BROKEN[name]
    (tmp_path / "site").mkdir()
    parts = {"init": "pass", "log": "pass", "finish": "pass", **broken}
    (tmp_path / "site" / "wandb.py").write_text(FAKE.format(**parts))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(wandb_log, "_LIMIT", 1)
    monkeypatch.setattr(wandb_log, "_GRACE", 1)
    train(PLAIN, options(tmp_path / "run", steps=4, log="wandb"))
    assert [line["step"] for line in log_lines(tmp_path / "run")] == [1, 2, 3, 4]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb: ")]
    assert any(message in line for line in said), said
    assert len(said) <= 2  # where it is, and what failed


def test_a_run_that_fails_is_a_failed_run_there(tmp_path: Path) -> None:
    def full_disk(trainer: Trainer) -> dict[str, Any]:
        if trainer.steps == 2:
            raise OSError("no space left")
        return {}

    with pytest.raises(TrainingError, match="no space left"):
        train(PLAIN, options(tmp_path / "run", log="wandb"), full_disk)
    written = read(tmp_path / "run")
    assert written.exit_code == 1
    assert [step for step, _ in written.values("d_loss")] == [1]


def test_messages_wait_without_delaying_the_run_and_lost_ones_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_log, "_PROGRAM", "this_takes_no_messages")
    monkeypatch.setattr(wandb_log, "_MOST", 5)
    viewer = wandb_log.WandbLog(tmp_path, {})
    viewer._process.wait()
    time.sleep(0.1)
    for step in range(100):
        viewer.scalars(step, {"loss": 1.0})
    viewer.close(failed=False)
    assert "messages did not reach it; log.jsonl has all numbers" in capsys.readouterr().out


def test_errors_of_the_thread_that_writes_events_are_raised_and_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    printed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    hook = threading.excepthook
    board = TensorBoard(tmp_path, 0)
    writer = board._events.file_writer.event_writer._async_writer
    monkeypatch.setattr(writer._writer, "write", full)
    with suppress(OSError):
        board.scalars(1, {"loss": 1.0})
    writer._worker.join()
    with pytest.raises(OSError, match="No space left"):
        board.scalars(2, {"loss": 1.0})
    other = threading.Thread(target=full, args=(b"",))
    other.start()
    other.join()
    with pytest.raises(OSError, match="No space left"):
        board.close(failed=True)
    assert [error.thread for error in printed] == [other]
    assert threading.excepthook == hook
