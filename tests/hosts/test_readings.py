"""What both hosts read at a print interval: exact, and with one wait for the device."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studiogan_gsr.hosts import class_norms
from studiogan_gsr.hosts.native.loop import Loop
from studiogan_gsr.hosts.native.numbers import check_weights
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.readings import read
from studiogan_gsr.hosts.studiogan.hooked.training import LogLine, TrainingHooks
from support.runs import BIGGAN, PLAIN, SNGAN, log_lines, one_thread

# Methods of a tensor that wait for its device.
WAITS = ("item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__")
CASES = {
    "plain": PLAIN,
    "stack": {**SNGAN, "REGULARIZER": ["gsr", "mode_seeking"]},
    "ada": BIGGAN,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@contextmanager
def waits(into: list[str]) -> Iterator[None]:
    """Note the names of the methods that would wait for a device.  `exploding` works on numbers that were read."""

    def noting(name: str) -> Callable[..., Any]:
        original = getattr(torch.Tensor, name)
        return lambda *args, **kwargs: (into.append(name), original(*args, **kwargs))[1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(class_norms, "exploding", lambda *given: [])
        for name in WAITS:
            patched.setattr(torch.Tensor, name, noting(name))
        yield


def test_numbers_are_read_exactly_and_together() -> None:
    half, tiny = torch.tensor(0.5), torch.tensor(1e-300, dtype=torch.float64)
    pending = {
        "losses": {"g_loss": torch.tensor(0.1), "d_loss": torch.tensor(0.1, dtype=torch.float64).requires_grad_()},
        "flags": [torch.tensor(True), torch.tensor(False), torch.tensor(2**40 + 1)],
        "norms": torch.stack([tiny, half.double()]),
        "none": torch.zeros(0),
        "others": [3, "text", error := ValueError("later"), None],
    }
    with waits(noted := []):
        found = read(pending)
    assert noted == ["tolist"]
    assert found == {
        "losses": {"g_loss": torch.tensor(0.1).item(), "d_loss": 0.1},
        "flags": [True, False, 2**40 + 1],
        "norms": [1e-300, 0.5],
        "none": [],
        "others": [3, "text", error, None],
    }
    assert read({}) == {}


@pytest.mark.parametrize("case", CASES)
def test_a_native_print_interval_waits_once(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it logs: norms of all classes, losses, ADA's p, and the numbers of several regularizers."""
    log, noted = Loop._log, list[list[str]]()

    def counted(loop: Loop) -> None:
        noted.append([])
        with waits(noted[-1]):
            log(loop)

    monkeypatch.setattr(Loop, "_log", counted)
    options = TrainOptions("unused", tmp_path, device="cpu", print_freq=1, save_freq=2, steps=2)
    trainer: Trainer = train(CASES[case], options)
    assert noted == [["tolist"]] * 2
    with waits(at_save := []):
        check_weights(trainer)
    assert at_save == ["tolist"]
    line = log_lines(tmp_path)[-1]
    assert len(line["class_norms"]) == 10
    expected = {"plain": set(), "stack": {"gsr/penalty", "lecam/penalty", "mode_seeking/loss"}, "ada": {"ada_p"}}
    assert expected[case] < set(line)


def test_the_hook_on_studiogans_log_waits_once_and_logs_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StudioGAN reads its own losses besides."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(log=lambda *args, **kwargs: None))
    options = TrainOptions("unused", tmp_path / "native", device="cpu", print_freq=1, save_freq=2, steps=2)
    trainer = train(CASES["stack"], options)
    hooks = SimpleNamespace(
        run=SimpleNamespace(regularization=trainer.regularization, norms=trainer.norms, first_numbers={}),
        log_line=LogLine(""),
    )
    worker = SimpleNamespace(RUN=SimpleNamespace(save_dir=str(tmp_path)), run_name="theirs")
    losses = [trainer.losses[name] for name in ("g_loss", "d_loss")]
    with waits(noted := []):
        TrainingHooks.log(hooks, lambda *given: None, worker, 1, "N/A", *losses)  # type: ignore[arg-type]
    assert noted == ["tolist"]
    line = json.loads((tmp_path / "statistics" / "theirs" / "log.jsonl").read_text())
    native = log_lines(tmp_path / "native")[-1]
    assert line == {key: native[key] for key in line}
    assert set(native) - set(line) == {"seconds", "steps_per_second"}
