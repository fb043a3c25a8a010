"""Compiled networks train as eager ones do, except for rounding.  Only training uses them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler

from studiogan_gsr.cli import main
from studiogan_gsr.errors import FAILED
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from support.runs import COUNTS, FAMILIES, PLAIN, Sections, arguments, changed, one_thread, random_batches, write

# A step whose rounding Adam does not enlarge: plain gradient descent.
SGD = {"type_": "SGD", "momentum": 0.0, "nesterov": False, "d_updates_per_step": 1}
SETTINGS: dict[str, Sections] = {
    "SNGAN": {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}},
    "without spectral norm": {"MODEL": {"apply_d_sn": False, "d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 1.0}},
    **FAMILIES,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def stepped(sections: Sections, speed: Speed, steps: int = 3) -> Trainer:
    configuration = read_configuration(
        {**changed(PLAIN, OPTIMIZATION=SGD, **sections), "REGULARIZER": ["gsr", "lecam"]}
    )
    trainer = Trainer(configuration, COUNTS, random_batches(seed=1), torch.device("cpu"), 0, speed)
    for _ in range(steps):
        trainer.step()
    return trainer


def states(trainer: Trainer) -> dict[str, Tensor]:
    networks = {"G": trainer.generator, "D": trainer.discriminator}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


# PyTorch's own tracing warns.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("family", "backend"),
    [*((family, "aot_eager") for family in SETTINGS), pytest.param("SNGAN", "inductor", marks=pytest.mark.slow)],
)
def test_compiled_steps_are_eager_ones_but_for_rounding(
    family: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    compiled: list[Any] = []
    compile_ = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", lambda network, **how: compiled.append(network) or compile_(network, **how))
    one, other = (stepped(SETTINGS[family], Speed(compiled=c)) for c in (False, True))
    assert compiled == [other.discriminator, other.generator] or compiled == [other.generator, other.discriminator]
    torch.testing.assert_close(states(other), states(one), rtol=1e-4, atol=1e-5)
    moved = stepped(SETTINGS[family], Speed(), steps=0)
    assert any(not torch.allclose(states(moved)[key], value, atol=1e-3) for key, value in states(one).items())


def test_the_networks_themselves_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, samples and evaluations use them, with other batch sizes."""
    monkeypatch.setattr(torch, "compile", lambda network, **how: network.forward)
    one, other = (stepped({}, Speed(compiled=c), steps=0) for c in (False, True))
    assert list(states(other)) == list(states(one))
    assert type(other.generator) is type(one.generator)


def test_a_network_that_cannot_be_compiled_ends_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile_(network: Any, **how: Any) -> Any:
        def fail(*inputs: Any) -> None:
            raise BackendCompilerFailed(network, InvalidCxxCompiler(), None)

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    configuration = write(tmp_path / "c.yaml", PLAIN)
    assert main(arguments(configuration, tmp_path / "run", "--compile")) == FAILED
    printed = capsys.readouterr().err
    assert "--compile: the generator cannot be compiled: BackendCompilerFailed: " in printed
    assert printed.rstrip().endswith("--resume --no-compile goes on without")
    assert len(printed) < 600
