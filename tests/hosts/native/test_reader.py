"""Streamed images: workers that die, hang or find no shared memory, and signals while a run waits for them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import FAILED
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native.images import InMemory, Streamed
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.reader import ImagesLost, workers_explained
from studiogan_gsr.hosts.native.stream import ImageStream
from support.runs import (
    PLAIN,
    Child,
    changed,
    command,
    command_without_patience,
    losses,
    noise_folder,
    one_thread,
    start,
    write,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return noise_folder(tmp_path / "data")


@pytest.fixture
def argv(data: Path, tmp_path: Path) -> list[str]:
    """Arguments of a long streamed run in `out`, with a checkpoint every other step."""
    sections = changed(PLAIN, DATA={"name": "Folder_LT", "num_classes": 2})
    given = ["train", str(write(tmp_path / "c.yaml", sections)), "--data", str(data), "--out", str(tmp_path / "out")]
    return [*given, "--device", "cpu", "--stream", "--steps", "100000", "--save-freq", "2", "--print-freq", "1"]


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def gone(pids: list[int], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def last_line(child: Child) -> str:
    return child.output.splitlines()[-1]


# ------------------------------------------------------------------ without shared memory, without workers


def test_without_workers_none_is_started_and_the_images_are_the_same(data: Path) -> None:
    pixels = Pixels(Prepared(folder_lt(str(data), "train"), "Folder_LT", 32))
    expected = ImageStream(InMemory(pixels, CPU, 0), len(pixels), 8, True, seed=3)
    stream = ImageStream(Streamed(pixels, CPU, 0), len(pixels), 8, True, seed=3)
    for _ in range(7):
        images, labels = next(stream)
        assert not active_children()
        for found, wanted in zip((images, labels), next(expected), strict=True):
            assert torch.equal(found, wanted)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.daemon and "_read" in thread.name]


def test_a_run_without_workers_starts_none(argv: list[str], tmp_path: Path) -> None:
    child = start(tmp_path, command, [*argv, "--workers", "0"])
    child.wait_for_step(tmp_path / "out", 3)
    assert not children(child.pid)
    os.kill(child.pid, signal.SIGINT)
    assert child.end() == FAILED
    assert "--resume" in last_line(child)


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="mounting needs rights",
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_shared_memory_as_small_as_in_a_container_is_enough(workers: str, argv: list[str], tmp_path: Path) -> None:
    """Batches of 1.5 MB through a /dev/shm of 256 kB."""
    argv[argv.index("--steps") + 1] = "3"
    wide = changed(PLAIN, DATA={"name": "Folder_LT", "num_classes": 2}, OPTIMIZATION={"batch_size": 512})
    argv[1] = str(write(tmp_path / "wide.yaml", wide))
    script = 'mount -t tmpfs -o size=256k tmpfs /dev/shm && exec "$@"'
    inside = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "studiogan_gsr"]
    done = subprocess.run([*inside, *argv, "--workers", workers], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in losses(tmp_path / "out")] == [1, 2, 3]


def test_no_shared_memory_at_all_has_a_remedy() -> None:
    remedy = r"/dev/shm\) is full; --workers 0 needs none, and docker run --shm-size"
    with pytest.raises(ImagesLost, match=remedy), workers_explained():
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="denied"), workers_explained():
        raise OSError(13, "denied")


# ------------------------------------------------------------------ workers that die or hang


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_ends_the_run_with_a_remedy(
    number: signal.Signals, argv: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    child = start(tmp_path, command, [*argv, "--workers", "2"])
    child.wait_for_step(out, 3)
    workers = children(child.pid)
    assert len(workers) == 2
    os.kill(workers[0], number)
    assert child.end() == FAILED, child.output
    line = last_line(child)
    assert "Traceback" not in child.output
    assert line.startswith(
        f"studiogan-gsr: a worker that reads images was killed by {number.name}; fewer --workers "
    ), line
    assert re.search(r"the last good checkpoint is \S+/step=\d+; --resume resumes the run", line), line
    assert "--workers" in line
    assert gone(workers)
    resumed = start(
        tmp_path, command, [*argv, "--resume", "--steps", str(checkpoints(out / "checkpoints")[-1][0] + 2)]
    )
    assert resumed.end() == 0, resumed.output


def test_a_worker_that_hangs_is_noticed_said_and_ended(argv: list[str], tmp_path: Path) -> None:
    child = start(tmp_path, command_without_patience, [*argv, "--workers", "1"], 4.0)
    child.wait_for_step(tmp_path / "out", 3)
    workers = children(child.pid)
    os.kill(workers[0], signal.SIGSTOP)
    assert child.end() == FAILED, child.output
    assert "no images of Folder_LT for 2 s; after 4.0 s the run ends" in child.output
    line = last_line(child)
    assert re.search(r"no images of Folder_LT for \d+ s: check that their files can be read", line), line
    assert "the last good checkpoint is " in line
    assert gone(workers)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_run_that_waits_for_an_image(
    number: int, workers: str, argv: list[str], data: Path, tmp_path: Path
) -> None:
    """A pipe in the place of an image: whoever opens it waits, as on a file system that does not answer."""
    child = start(tmp_path, command, [*argv, "--workers", workers])
    child.wait_for_step(tmp_path / "out", 3)
    broken = data / "train" / "b" / "07.png"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").replace(broken)
    time.sleep(4)
    started = children(child.pid)
    since = time.monotonic()
    os.kill(child.pid, number)
    assert child.end(40) == FAILED, child.output
    assert time.monotonic() - since < 30
    assert re.search(r"stopped after waiting \d+ s for images of Folder_LT; ", last_line(child)), child.output
    assert gone(started)


def test_an_error_of_a_worker_is_not_taken_for_its_death(data: Path) -> None:
    class Broken(Pixels):
        def __getitem__(self, index: int) -> Any:
            raise KeyError("mine")

    pixels = Broken(Prepared(folder_lt(str(data), "train"), "Folder_LT", 32))
    for workers in (0, 1):
        stream = ImageStream(Streamed(pixels, CPU, workers), len(pixels), 8, False, seed=3)
        with pytest.raises(KeyError, match="mine"):
            next(stream)
        assert not active_children()
