"""Norms, condition numbers and correlations of class parameters; the verdict, on recorded runs too."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studiogan_gsr import class_conditional_affines
from studiogan_gsr.cli import main
from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers.norms import exploding, group_correlation, largest_class_norms, spectrum
from studiogan_gsr.runs.spectrum import start_norms
from studiogan_gsr.runs.trained import load_trained
from support.generators import OneHot
from support.host import Host, configure
from support.runs import BIGGAN, SNGAN, arguments, one_thread, write

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_norms_and_condition_numbers_are_those_of_every_matrix() -> None:
    torch.manual_seed(0)
    generator = OneHot(3, [12, 16])
    found = spectrum(generator)
    assert found.norms.shape == found.conditions.shape == (2, 2, 3)
    for i, affine in enumerate(class_conditional_affines(generator)):
        for j, side in enumerate((affine.gain, affine.bias)):
            for y in range(3):
                values = np.linalg.svd(side[y].detach().double().numpy().reshape(found.values[i].shape[-1], -1))[1]
                assert found.norms[i, j, y].item() == pytest.approx(values[0])
                assert found.conditions[i, j, y].item() == pytest.approx(values[0] / values[-1])
    norms, places = found.largest()
    for y, (layer, side) in enumerate(places):
        i, j = found.layers.index(layer), ("gain", "bias").index(side)
        assert found.norms[i, j, y] == norms[y] == found.norms[..., y].max()
    torch.testing.assert_close(largest_class_norms(generator), norms, rtol=1e-14, atol=0)


def test_the_norms_of_a_run_take_one_call_per_shape_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    compute = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda grams: (calls.append(grams.shape), compute(grams))[1])
    largest_class_norms(OneHot(50, [12, 16, 12, 16, 16]))
    assert calls == [(4, 50, 3, 3), (6, 50, 4, 4)]


def test_weights_that_are_not_finite_are_infinite_norms() -> None:
    generator = OneHot(3, [16])
    next(generator.parameters()).data.view(-1)[0] = math.nan
    norms, _ = spectrum(generator).largest()
    assert norms.isinf().sum() == 1
    assert exploding(norms.tolist(), [1.0, 1.0, 1.0]) == norms.isinf().nonzero().flatten().tolist()
    torch.testing.assert_close(largest_class_norms(generator), norms)


def test_correlations_are_numpys() -> None:
    torch.manual_seed(1)
    generator = OneHot(3, [64])
    (affine,) = class_conditional_affines(generator)
    matrix = affine.bias[2].detach().double().numpy().reshape(8, 8)
    found = group_correlation(generator, affine.name, "bias", 2)
    np.testing.assert_allclose(found, np.corrcoef(matrix), atol=1e-12)


@pytest.mark.parametrize(
    ("norms", "start", "labels"),
    [
        ([0.7, 0.7, 0.7], [0.7, 0.7, 0.8], []),
        ([0.7, 0.7, 1.1], [0.7, 0.7, 0.8], [2]),
        ([2.0, 2.0, 2.0], [0.7, 0.7, 0.8], []),  # all alike: training as a whole, not a class
        ([0.6, 0.1, 0.1], [0.7, 0.7, 0.7], []),  # a penalty made the others smaller
        ([0.6, math.inf, math.nan], [0.7, 0.7, 0.7], [1, 2]),
        ([0.6, math.inf, math.inf], [0.7, 0.7, 0.7], [1, 2]),
        ([math.inf] * 4, [1.0] * 4, [0, 1, 2, 3]),
    ],
)
def test_a_class_explodes_when_it_leaves_both_the_start_and_the_others(
    norms: list[float], start: list[float], labels: list[int]
) -> None:
    assert exploding(norms, start) == labels


def test_the_verdict_on_the_recorded_pair_of_runs() -> None:
    """SNGAN of StudioGAN, 9,000 steps: without gSR two classes grow, the second rarest the most; with it none."""
    alarms: dict[str, dict[int, int]] = {}
    for name in ("without", "with"):
        lines = [json.loads(line) for line in (RESULTS / f"norms-sngan-{name}.jsonl").read_text().splitlines()]
        first: dict[int, int] = {}
        for line in lines:
            for label in exploding(line["norms"], lines[0]["norms"]):
                first.setdefault(label, line["step"])
        alarms[name] = first
    assert alarms["with"] == {}
    assert [*alarms["without"]] == [8]
    assert 5000 < alarms["without"][8] < 7000


@pytest.mark.parametrize("classes", [10, 100])
def test_untrained_generators_give_no_alarm(classes: int) -> None:
    for sections in (SNGAN, BIGGAN):
        changed = {**sections, "DATA": {"name": "X", "img_size": 32, "num_classes": classes}}
        configuration = read_configuration(changed)
        start = start_norms(make_networks(configuration, 0)[0], configuration, "square")
        assert len(start) == classes
        for seed in range(1, 6):
            other = start_norms(make_networks(configuration, seed)[0], configuration, "square")
            assert other != start
            assert exploding(other, start) == []


def test_classes_are_called_by_their_names_with_their_labels(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(named, tmp_path / "run")
    result = read(run)
    names = sorted(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    assert json.loads((run / "run.json").read_text())["data"]["classes"] == result["class_names"] == names
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "(label " in line] == [
        f"{name} (label {label})" for label, name in enumerate(names)
    ]
    page = (run / "spectrum" / "index.html").read_text()
    assert re.search(r">class zero \(label 9, 30 images\)<", page)
    assert re.search(r"<td>\w+ \(label \d\)</td>", page)
    assert page.count(">zero<") == 1  # below its norm
    assert "30  zero" in page  # in the legend of the lines over training
    record = json.loads((run / "run.json").read_text())
    del record["data"]["classes"]  # of an older version
    (run / "run.json").write_text(json.dumps(record))
    assert read(run)["class_names"] == [str(label) for label in range(10)]
    assert "(label" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("classes", "details", "title"),
    [
        (None, (), "2"),
        (["0", "1", "2"], ("9 images",), "2 (9 images)"),
        (["a", "b", "cat"], (), "cat (label 2)"),
        (["a", "b", "cat"], ("9 images",), "cat (label 2, 9 images)"),
        (["1", "10", "100"], (), "100 (label 2)"),
    ],
)
def test_a_class_is_titled(classes: list[str] | None, details: tuple[str, ...], title: str) -> None:
    assert class_title(2, classes, *details) == title


@pytest.fixture(scope="module")
def run(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(pair[1], tmp_path_factory.mktemp("run") / "run")


def read(run: Path, *more: str, out: Path | None = None) -> dict[str, Any]:
    assert main(["spectrum", str(run), *(["--out", str(out)] if out else []), *more]) == 0
    return json.loads(((out or run / "spectrum") / "spectrum.json").read_text())


def test_the_command_prints_and_writes_norms_and_a_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read(run)
    assert result["exploding"] == []
    assert len(result["largest"]) == len(result["start"]) == len(result["training_images"]) == 10
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[-1]["class_norms"] == pytest.approx(result["largest"], rel=1e-4)
    printed = capsys.readouterr().out
    assert "No class explodes: no norm is above 1.25 times both" in printed
    page = (run / "spectrum" / "index.html").read_text()
    for heading in ("Norms by class", "Over training", "Correlation of groups", "Layers", "Protocol"):
        assert f"<h2>{heading}</h2>" in page
    assert not re.search(r'(src|href|url)\s*[=(]\s*"?https?:', page)  # needs no network


def test_an_exploded_class_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = shutil.copytree(run, tmp_path / "run")
    (path,) = (broken / "checkpoints" / "step=4").glob("model=G-*")
    state = torch.load(path, weights_only=True)
    name = next(name for name in state["state_dict"] if name.endswith("bn1.gain.weight"))
    state["state_dict"][name][:, 9] *= 9
    torch.save(state, path)
    result = read(broken)
    assert result["exploding"] == [9]
    printed = capsys.readouterr().out
    assert "1 of 10 classes explode: 9 (" in printed
    assert "1 of them are in the rarer half" in printed
    assert "  explodes" in printed


def untrained(sections: dict[str, Any], seed: int) -> list[float]:
    configuration = read_configuration(sections)
    return start_norms(make_networks(configuration, seed)[0], configuration, "square")


def trained(folder: Path, name: str, sections: dict[str, Any], *more: str) -> Path:
    with one_thread():
        assert main(arguments(write(folder / f"{name}.yaml", sections), folder / name, *more)) == 0
    return folder / name


@pytest.mark.parametrize("sections", [SNGAN, BIGGAN], ids=["SNGAN", "BigGAN"])
def test_the_start_is_the_runs_own_by_its_seed(
    sections: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, "run", sections, "--seed", "3", "--steps", "1")
    capsys.readouterr()
    result = read(run)
    assert result["start"] == untrained(sections, 3) != untrained(sections, 0)
    if "REGULARIZER" in sections:  # the log has the norms after the first step, which moves each weight by 2e-4
        (line,) = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert line["class_norms"] == pytest.approx(result["start"], abs=0.003)
        assert line["class_norms"] != pytest.approx(untrained(sections, 0), abs=0.003)
    assert result["start_is_the_runs_own"]
    assert "At the start: the run's generator before training, of seed 3." in capsys.readouterr().out
    (run / "run.json").unlink()  # the discriminator's file has the seed, too
    assert read(run)["start"] == result["start"]


def test_an_unknown_seed_makes_the_start_an_example(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    (other / "run.json").unlink()
    for path in other.glob("checkpoints/*/model=D-*"):
        path.unlink()
    capsys.readouterr()
    result = read(other)
    assert (result["start"], result["start_is_the_runs_own"]) == (untrained(SNGAN, 0), False)
    message = "At the start: an example, an untrained generator of seed 0, because the run's seed is not recorded."
    assert message in capsys.readouterr().out
    assert message in html.unescape((other / "spectrum" / "index.html").read_text())


def test_a_run_from_another_runs_checkpoint_starts_there(tmp_path: Path) -> None:
    first = trained(tmp_path, "first", SNGAN, "--seed", "3", "--steps", "2")
    origin = first / "checkpoints" / "step=2"
    second = trained(tmp_path, "second", SNGAN, "--seed", "3", "--resume", str(origin))
    result = read(second)
    assert result["start"] == read(first)["largest"] != untrained(SNGAN, 3)
    assert result["start_of"] == f"the checkpoint that the run was started from, {origin}, step 2."
    shutil.rmtree(origin)
    result = read(second)
    assert (result["start"], result["start_is_the_runs_own"]) == (untrained(SNGAN, 0), False)
    assert f"{origin}, step 2, is not there any more" in result["start_of"]


def test_norms_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    """JSON has no Infinity, in which readers in other languages end."""
    first = trained(tmp_path, "first", SNGAN, "--steps", "1")
    origin = first / "checkpoints" / "step=1"
    second = trained(tmp_path, "second", SNGAN, "--resume", str(origin))
    (path,) = origin.glob("model=G-*")
    state = torch.load(path, weights_only=True)
    name = next(name for name in state["state_dict"] if name.endswith("bn1.gain.weight"))
    state["state_dict"][name][:, 9] = math.nan
    torch.save(state, path)
    read(second)
    text = (second / "spectrum" / "spectrum.json").read_text()
    result = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [norm is None for norm in result["start"]] == [False] * 9 + [True]


@pytest.mark.parametrize("given", [".", "step=2", "../step=2"])
def test_a_checkpoint_given_by_a_relative_path_has_its_runs_configuration(
    given: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run / "checkpoints" / "step=2"
    monkeypatch.chdir(folder.parent if given == "step=2" else folder)
    found = load_trained(Path(given))
    assert (found.run, found.folder, found.step, found.rule) == (run, folder, 2, "named")


@pytest.mark.host
def test_the_start_of_a_run_of_studiogan_is_by_its_seed_or_its_first_checkpoint(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    configuration, host = configure(tmp_path), Host(checkout)
    outcome = host.run(configuration, digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    record = json.loads((outcome.checkpoint_folder / "run.json").read_text())
    assert record["seed"] == 3
    result = read(outcome.save, out=tmp_path / "spectrum")
    assert result["start_is_the_runs_own"]
    first = json.loads(next(outcome.save.glob("statistics/*/log.jsonl")).read_text().splitlines()[0])
    assert (first["step"], first["class_norms"]) == (1, pytest.approx(result["start"], abs=0.003))
    other = start_norms(load_trained(outcome.save).untrained(0), load_trained(outcome.save).configuration, "square")
    assert first["class_norms"] != pytest.approx(other, abs=0.003)
    folder = os.path.relpath(outcome.checkpoint_folder, tmp_path)
    tuned = host.run(configuration, digits, tmp_path / "tuned", "-ckpt", folder, "--freezeD", "1")
    assert tuned.status == 0, tuned.output
    (start,) = json.loads((tuned.checkpoint_folder / "run.json").read_text())["starts"]
    assert start["step"] == 0
    assert (start["checkpoint"], start["checkpoint_step"]) == (str(outcome.checkpoint_folder), 2)
    assert read(tuned.save, out=tmp_path / "spectrum-of-tuned")["start"] == result["largest"]


@pytest.mark.host
def test_a_checkpoint_of_studiogan_is_read(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    configuration = configure(tmp_path)
    outcome = Host(checkout).run(configuration, digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    result = read(outcome.save, out=tmp_path / "spectrum")
    assert result["training_images"] == [120, 102, 88, 75, 64, 55, 47, 40, 34, 30]
    assert read(outcome.save, "--config", str(configuration), out=tmp_path / "named")["norms"] == result["norms"]
    (norms,) = outcome.save.glob("statistics/*/log.jsonl")
    line = json.loads(norms.read_text().splitlines()[-1])
    assert line["step"] == 3
    assert (
        np.abs(np.array(line["class_norms"]) - result["largest"]).max() < 0.05
    )  # of the step before the checkpoint's
    assert len(result["layers"]) == 6
