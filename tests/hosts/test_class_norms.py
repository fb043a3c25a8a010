"""The norms of the classes that both hosts log, with a regularizer and without."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.errors import PluginError
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.class_norms import STATE_KEY, ClassNorms
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.readings import read
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers.norms import largest_class_norms
from support.generators import OneHot
from support.host import Host, configure
from support.plugins import MakePackage
from support.runs import PLAIN, SNGAN, changed, difference, files, log_lines, losses, one_thread

NAMES = ["a", "b", "c", "zebra"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def generator() -> OneHot:
    torch.manual_seed(0)
    return OneHot(4, [16, 16])


def options(out: Path, **more: Any) -> TrainOptions:
    return TrainOptions("unused", out, **{"device": "cpu", "print_freq": 1, "save_freq": 2, **more})


def checked(norms: ClassNorms) -> tuple[list[float] | None, str]:
    return norms.check(read(norms.pending()))


def explode(generator: nn.Module, label: int) -> None:
    next(generator.parameters()).data[..., label] *= 5


def test_a_class_that_begins_to_explode_is_named_once(generator: OneHot) -> None:
    norms = ClassNorms(generator, NAMES)
    found, message = checked(norms)
    assert (found, message) == (largest_class_norms(generator).tolist(), "")
    explode(generator, 3)
    assert checked(norms)[1].startswith("spectral norms explode: class zebra (label 3, ")
    assert checked(norms)[1] == ""


def test_norms_that_cannot_be_read_are_an_error_of_the_check(generator: OneHot) -> None:
    """So that a host can first name a loss that is not finite, which may be the cause."""

    def read_norms() -> Tensor:
        raise PluginError("stranger", "class_norms() failed")

    norms = ClassNorms(generator, NAMES, read_norms)
    values = read({"norms": norms.pending()})
    with pytest.raises(PluginError, match=r"class_norms\(\) failed"):
        norms.check(values["norms"])


def test_later_norms_are_compared_with_those_at_the_start_over_restarts(generator: OneHot) -> None:
    before = ClassNorms(generator, NAMES)
    checked(before)
    buffer = io.BytesIO()
    torch.save({STATE_KEY: before.state()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    explode(generator, 3)
    after = ClassNorms(generator, NAMES)
    after.restore(saved)
    assert "zebra" in checked(after)[1]
    again, fresh, old = (ClassNorms(generator, NAMES) for _ in range(3))
    again.restore({STATE_KEY: after.state()})
    assert checked(again)[1] == ""  # has been reported already
    fresh.restore({"regularizer": [{"name": "lecam", "state": {}}]})  # a checkpoint without norms
    assert checked(fresh)[1] == ""  # begins here
    old.restore({"regularizer": {"watched": before.state()}})  # where older versions kept it
    assert "zebra" in checked(old)[1]
    other = ClassNorms(generator, NAMES)
    other.restore({STATE_KEY: {"start": [1.0], "exploding": [0]}})  # of another number of classes
    assert checked(other)[1] == ""


def test_a_generator_without_conditional_layers_has_nothing_to_watch() -> None:
    norms = ClassNorms(nn.Linear(3, 3), NAMES)
    assert checked(norms) == (None, "")
    assert norms.state() == {"start": None, "exploding": []}


def test_a_native_run_logs_them_with_and_without_a_regularizer(
    tmp_path: Path, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a stranger's that knows no norms; reading changes no number of a run."""
    module = """
class Small:
    def __init__(self, generator, class_counts):
        self.weight = next(generator.parameters())
    def penalty(self): return 0 * self.weight.square().sum()
    def scalars(self): return {}
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
"""
    monkeypatch.syspath_prepend(
        make_package("small-package", "studiogan.regularizers", {"small": "small:Small"}, {"small": module})
    )
    sections = {"plain": PLAIN, "small": changed(PLAIN, REGULARIZER={"name": "small"})}
    for name, given in {**sections, "watched": changed(PLAIN, REGULARIZER={"name": "gsr", "weight": 0})}.items():
        trainer = train(given, options(tmp_path / name, steps=3))
        assert log_lines(tmp_path / name)[-1]["class_norms"] == [
            round(norm, 5) for norm in largest_class_norms(trainer.generator).tolist()
        ]
    summary = json.loads((tmp_path / "small" / "run.json").read_text())["regularizers"][0]["summary"]
    assert ": <small.Small object>; class counts 134 " in summary  # no address, which each rank has another of
    of = {name: [line["class_norms"] for line in losses(tmp_path / name)] for name in ("plain", "small", "watched")}
    assert of["plain"] == of["small"] == of["watched"]
    without = train(PLAIN, options(tmp_path / "unwatched", steps=3, print_freq=100))
    last = "checkpoints/step=3"
    one, other = (files(tmp_path / name / last) for name in ("plain", "unwatched"))
    for content in (one, other):
        content["model=G-current-weights-step=3.pth"].pop(STATE_KEY)
    assert not difference(one, other)
    assert without.steps == 3
    unconditional = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    train(unconditional, options(tmp_path / "unconditional", steps=1))
    assert "class_norms" not in losses(tmp_path / "unconditional")[0]


def test_a_resumed_native_run_compares_with_its_first_step(tmp_path: Path) -> None:
    sections = copy.deepcopy(SNGAN)
    del sections["REGULARIZER"]
    train(sections, options(tmp_path / "out", steps=2))
    train(sections, options(tmp_path / "out", steps=4, resume=True))
    saved = files(checkpoints(tmp_path / "out" / "checkpoints")[-1][1])["model=G-current-weights-step=4.pth"]
    first = losses(tmp_path / "out")[0]["class_norms"]
    assert [round(norm, 5) for norm in saved[STATE_KEY]["start"]] == first


@pytest.mark.host
def test_studiogan_logs_them_without_a_regularizer_and_its_losses_are_its_own(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    argv = ("--print_freq", "1", "--save_freq", "2")
    plain = Host(checkout).run(configure(tmp_path, steps=3, REGULARIZER=None), digits, tmp_path / "plain", *argv)
    watched = configure(tmp_path, steps=3, REGULARIZER={"name": "gsr", "weight": 0})
    other = Host(checkout).run(watched, digits, tmp_path / "watched", *argv)
    logs = []
    for outcome in (plain, other):
        assert outcome.status == 0, outcome.output
        (path,) = outcome.save.glob("statistics/*/log.jsonl")
        logs.append([json.loads(line) for line in path.read_text().splitlines()])
    assert [line["class_norms"] for line in logs[0]] == [line["class_norms"] for line in logs[1]]
    assert [(line["g_loss"], line["d_loss"]) for line in logs[0]] == [(x["g_loss"], x["d_loss"]) for x in logs[1]]
    assert set(logs[0][0]) == {"step", "g_loss", "d_loss", "class_norms"}
    start = logs[0][0]["class_norms"]
    folder = shutil.copytree(plain.checkpoint_folder, tmp_path / "copy")
    longer = configure(tmp_path, steps=5, REGULARIZER=None)
    again = Host(checkout).run(longer, digits, tmp_path / "again", "-ckpt", str(folder), *argv)
    assert again.status == 0, again.output
    saved = torch.load(next(folder.glob("model=G-current-*")), weights_only=True)
    assert [round(norm, 5) for norm in saved[STATE_KEY]["start"]] == start
