"""The number of threads on a CPU: measured, given or kept, and how evaluations use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr import machine
from studiogan_gsr.cli import main
from studiogan_gsr.evaluation.selection import Selection
from studiogan_gsr.hosts.native import run as native_run
from studiogan_gsr.hosts.native import threads
from studiogan_gsr.hosts.native.folder import read_starts
from studiogan_gsr.hosts.native.threads import choose, fixed_threads, measure
from support.runs import SNGAN, arguments, difference, files, losses, write


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two cores and two threads, and runs of four steps are measured."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(native_run, "FEWEST_STEPS", 4)
    monkeypatch.setattr(threads, "_TURNS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def train(tmp_path: Path, out: str, *more: str) -> Path:
    assert main(arguments(write(tmp_path / "c.yaml", SNGAN), tmp_path / out, *more)) == 0
    return tmp_path / out


def test_a_measured_run_equals_one_with_the_number_given(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "choose", lambda seconds: 1)  # whatever the clock says
    measured = train(tmp_path, "measured")
    line = r"threads: 1 \(\S+ s a step; 2 threads: \S+ s\); --threads fixes the number\n"
    assert re.search(line, capsys.readouterr().out)
    given = train(tmp_path, "given", "--threads", "1")
    assert "threads:" not in capsys.readouterr().out
    assert read_starts(measured)[0]["threads"] == read_starts(given)[0]["threads"] == 1
    assert losses(measured) == losses(given)
    step = "checkpoints/step=4"
    assert difference(files(measured / step), files(given / step)) == ""
    assert torch.get_num_threads() == 2  # again, for what the process does next


def test_a_resumed_run_keeps_its_threads_unless_others_are_given(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "choose", lambda seconds: 1)
    out = train(tmp_path, "out")
    capsys.readouterr()
    monkeypatch.setattr(threads, "choose", lambda seconds: 2)
    train(tmp_path, "out", "--resume", "--steps", "8")
    assert "threads" not in capsys.readouterr().out
    train(tmp_path, "out", "--resume", "--steps", "9", "--threads", "2")
    assert "from step 8 on: threads 2 (before 1)" in capsys.readouterr().out
    monkeypatch.setattr(machine, "cores", lambda: 1)  # another machine
    train(tmp_path, "out", "--resume", "--steps", "10")
    assert "from step 9 on: threads 1 (before 2)" in capsys.readouterr().out
    assert [start["threads"] for start in read_starts(out)] == [1, 1, 2, 1]
    train(tmp_path, "out", "--resume", "--steps", "11", "--threads", "2")
    assert "--threads 2: this process may use 1 core" in capsys.readouterr().out


def test_a_run_of_few_steps_is_not_measured(
    two_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(tmp_path, "out", "--steps", "3", "--threads", "1")
    other = train(tmp_path, "other", "--resume", str(out), "--steps", "4")  # one more
    assert read_starts(other)[0]["threads"] == 2
    assert "threads:" not in capsys.readouterr().out


def test_evaluations_use_all_threads_and_training_those_of_the_run(
    two_cores: None, tmp_path: Path, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def measured(*given: Any) -> dict[str, Any]:
        used.append(torch.get_num_threads())
        return measure_(*given)

    measure_ = Selection.measure
    monkeypatch.setattr(Selection, "measure", measured)
    monkeypatch.setattr(threads, "choose", lambda seconds: 1)
    train(tmp_path, "out", "--evaluate", "40", "--backbone", pixels)
    assert used == [2, 2]
    used.clear()
    train(tmp_path, "other", "--evaluate", "40", "--backbone", pixels, "--threads", "1")
    assert used == [1, 1]


CPU = {"device_type": "cpu", "threads": 2}


@pytest.mark.parametrize(
    ("given", "before", "device", "ranks", "expected"),
    [
        (None, {}, "cpu", 1, None),
        (None, {"seed": 3}, "cpu", 1, None),
        (6, CPU, "cpu", 2, 6),
        (None, CPU, "cpu", 1, 2),
        (None, {**CPU, "threads": 8}, "cpu", 1, 4),
        (None, {**CPU, "device_type": "cuda"}, "cpu", 1, None),
        (None, {}, "cpu", 2, 4),  # torchrun gives each rank its threads
        (None, CPU, "cuda", 1, 4),
    ],
)
def test_threads_are_measured_only_where_nothing_fixes_them(
    given: int | None, before: dict[str, Any], device: str, ranks: int, expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # as in a container that may use 4 of 64 cores
    assert fixed_threads(given, before, device, ranks) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert fixed_threads(given, before, device, ranks) == given or 64


def test_the_fewest_of_the_fastest_threads_are_chosen() -> None:
    assert choose({1: 0.30, 4: 0.10, 8: 0.08}) == 8
    assert choose({1: 0.30, 4: 0.083, 8: 0.08}) == 4
    assert choose({1: 0.05, 4: 0.06, 8: 0.90}) == 1


@pytest.mark.parametrize(
    ("seconds", "steps", "expected"),
    [
        # A first step that sets things up, then one that another process disturbs.
        ({1: [0.9, 0.1, 0.4, 0.1, 0.1, 0.1], 2: [0.9, 0.2, 0.2, 0.2, 0.2, 0.2]}, 12, {1: 0.1, 2: 0.2}),
        ({1: [7.0], 2: [4.0]}, 2, {1: 7.0, 2: 4.0}),  # a large network
        ({1: [0.3, 0.3], 2: [4.4, 4.4]}, 4, {1: 0.3, 2: 4.4}),  # two threads on a busy machine
    ],
)
def test_each_number_gets_its_turn_and_slow_steps_are_few(
    seconds: dict[int, list[float]], steps: int, expected: dict[int, float]
) -> None:
    calls: list[int] = []

    def step(number: int) -> float:
        calls.append(number)
        return seconds[number].pop(0)

    assert measure(step, [1, 2]) == expected
    assert calls == [1, 2] * (steps // 2)
