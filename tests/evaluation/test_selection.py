"""Measuring while training: what is measured, which checkpoint stays, and what is said of it later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr.cli import main
from studiogan_gsr.evaluation import selection
from studiogan_gsr.evaluation.features import Sample
from studiogan_gsr.evaluation.frechet import Gaussian, frechet_distance
from studiogan_gsr.evaluation.selection import best, evaluations
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from support.plugins import PIXELS, MakePackage
from support.runs import (
    BIGGAN,
    PLAIN,
    SNGAN,
    arguments,
    changed,
    command_with,
    difference,
    end_ranks,
    files,
    losses,
    one_thread,
    start,
    start_ranks,
    write,
)

MEASURED = ("--evaluate", "40", "--backbone", "pixels")
# Takes its time for generated images, and says so.
SLOW = PIXELS.replace(
    "        self.calls += 1\n",
    "        if len(images) == 8:\n            import time; print('evaluating', flush=True); time.sleep(0.1)\n",
)


def trained(folder: Path, *more: str, sections: dict[str, Any] = SNGAN, status: int = 0) -> Path:
    with one_thread():
        assert main(arguments(write(folder / "c.yaml", sections), folder / "run", *more)) == status
    return folder / "run"


def error_of(capsys: pytest.CaptureFixture[str], folder: Path, *more: str, sections: dict[str, Any] = SNGAN) -> str:
    capsys.readouterr()
    trained(folder, *more, sections=sections, status=2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def measured(run: Path, *options: str) -> dict[str, Any]:
    out = run.parent / "result.json"
    argv = ["evaluate", str(run), "--backbone", "pixels", "--images", "96", "--device", "cpu", "--out", str(out)]
    with one_thread():
        assert main([*argv, *options]) == 0
    return json.loads(out.read_text())


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Fréchet distances that evaluations are to find, in turn."""
    wanted: list[float] = []

    def metrics(reference: Any, fake: Any, labels: Any, names: Any) -> dict[str, float | None]:
        if labels is not None:
            return {"diversity": None}
        return {"frechet": wanted.pop(0), "inception_score": 1.0}

    monkeypatch.setattr(selection, "metrics", metrics)
    monkeypatch.setattr(selection, "groups", lambda counts: {})
    return wanted


# ------------------------------------------------------------------ what is measured


def test_evaluations_say_by_which_rule_and_change_nothing_of_the_training(
    pair: tuple[Path, Path], tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, *MEASURED)
    lines = evaluations(run)
    assert [line["step"] for line in lines] == [2, 4]
    rule = lines[0]["rule"]
    assert rule == lines[1]["rule"]
    assert (rule["best"], rule["select_on"], rule["images"]) == ("lowest FD-Pixels of all images", "validation", 40)
    assert (rule["reference"]["split"], rule["reference"]["images"]) == ("validation", 200)
    assert (rule["batch_norm"], rule["batch_size"], rule["averaged_generator"]) == ("batch", 8, False)
    for line in lines:
        assert line["all"]["frechet"] > 0
        assert set(line["groups"]) == {"many", "medium", "few", "head", "middle", "tail"}
        assert line["groups"]["tail"]["frechet"] > 0
        assert len(line["class_diversity"]) == len(line["class_norms"]) == 10
    printed = capsys.readouterr().out
    assert f"step 2: FD-Pixels {lines[0]['all']['frechet']:.4g}" in printed
    assert "in the tail) on validation: the best so far" in printed
    assert losses(run) == losses(pair[1])
    assert not difference(files(run / "checkpoints" / "step=4"), files(pair[1] / "checkpoints" / "step=4"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    shown = [(event.step, pytest.approx(event.value)) for event in events.Scalars("evaluation/frechet")]
    assert shown == [(line["step"], line["all"]["frechet"]) for line in lines]


def test_diversity_of_each_class_is_relative_to_its_real_images(
    tmp_path: Path, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Sample] = {}

    class Seen(selection.Reference):
        def __init__(self, sample: Sample) -> None:
            super().__init__(sample)
            seen["real"] = sample

    def extract(*given: Any) -> Sample:
        seen["fake"] = features_of(*given)
        return seen["fake"]

    features_of = selection.extract
    monkeypatch.setattr(selection, "Reference", Seen)
    monkeypatch.setattr(selection, "extract", extract)
    found = evaluations(trained(tmp_path, "--evaluate", "20", "--backbone", "pixels"))[-1]["class_diversity"]

    def spread(sample: Sample, label: int) -> float:
        features = sample.of([label]).features.double()
        return float(torch.pdist(features).mean()) if len(features) > 1 else float("nan")

    wanted = [spread(seen["fake"], label) / spread(seen["real"], label) for label in range(10)]
    assert any(value is None for value in found)  # classes with fewer than two of 20 images
    assert any(value is not None for value in found)
    for value, expected in zip(found, wanted, strict=True):
        assert (value is None) == (expected != expected)
        assert value is None or value == pytest.approx(expected, abs=1e-4)


def test_what_is_measured_is_what_evaluate_measures(tmp_path: Path, pixels: str) -> None:
    """The averaged generator, of the same images; and the best is measured on the other half of the reference."""
    run = trained(tmp_path, *MEASURED, sections=BIGGAN)
    (line,) = (line for line in evaluations(run) if line["step"] == 4)
    assert line["rule"]["averaged_generator"]
    seed = ("--seed", str(line["rule"]["seed"]), "--images", "40", "--repeats", "1")
    found = measured(run, *seed, "--split", "validation")
    assert found["all"]["frechet"]["mean"] == pytest.approx(line["all"]["frechet"], rel=1e-5)
    assert found["groups"]["tail"]["frechet"]["mean"] == pytest.approx(line["groups"]["tail"]["frechet"], rel=1e-5)
    assert measured(run, *seed)["all"] != found["all"] != measured(run, *seed, "--split", "test")["all"]


def test_images_without_classes_have_no_groups(tmp_path: Path, pixels: str) -> None:
    sections = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    assert evaluations(trained(tmp_path, *MEASURED, sections=sections))[0]["groups"] == {}


def test_the_halves_of_a_reference_are_of_all_classes_and_share_no_image() -> None:
    labels = torch.arange(50) % 7
    labels[-1] = 7  # a class of one image
    sample = Sample(torch.arange(50.0)[:, None], torch.zeros(50, 1), labels)
    one, other = sample.halves()
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(50))
    for label in range(8):
        count = int((labels == label).sum())
        assert [int((labels[half] == label).sum()) for half in (one, other)] == [count // 2, count - count // 2]
    assert torch.equal(sample.halves()[0], one)
    of_first_class = (labels == 0).nonzero().flatten()
    assert not torch.equal(one[labels[one] == 0], of_first_class[: len(of_first_class) // 2])  # not those in front


def test_halves_of_one_distribution_are_near_one_another() -> None:
    stream = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 5, generator=stream)
    one, other = Sample(features, features, torch.arange(4000) % 10).halves()
    assert frechet_distance(Gaussian.of(features[one]), Gaussian.of(features[other])) < 0.01


# ------------------------------------------------------------------ which checkpoint stays


def test_the_best_stays_beside_the_last_and_is_measured_on_what_did_not_choose_it(
    tmp_path: Path, pixels: str, distances: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    distances += [5.0, 3.0, 4.0, 3.0, 9.0]
    run = trained(tmp_path, *MEASURED, "--steps", "10")
    assert [step for step, _ in checkpoints(run / "checkpoints")] == [4, 8, 10]  # of equals, the first
    assert "step 10: FD-Pixels 9 on validation: the best is step 4" in capsys.readouterr().out
    found, last = measured(run, "--best"), measured(run)
    protocol = found["protocol"]
    assert (protocol["step"], last["protocol"]["step"]) == (4, 10)
    assert (protocol["reference"]["split"], protocol["reference"]["images"]) == ("test", 200)
    assert last["protocol"]["reference"]["split"] == "reference"
    assert found["reference_images"] == [20] * 10
    message = (
        "best: lowest FD-Pixels of all images among evaluations while training, 40 generated images against 200 of"
    )
    assert protocol["checkpoint_rule"] == f"{message} validation"
    assert protocol["selection"] == evaluations(run)[0]["rule"]
    assert last["protocol"]["checkpoint_rule"] == "last"
    by_name = measured(run / "checkpoints" / "step=4")  # the same, found by its folder
    assert (by_name["protocol"]["checkpoint_rule"], by_name["all"]) == (protocol["checkpoint_rule"], found["all"])
    by_name = measured(run / "checkpoints" / "step=8")["protocol"]
    assert (by_name["checkpoint_rule"], by_name["selection"]) == ("step 8, by name; not the last of its run", None)
    assert measured(run / "checkpoints" / "step=10")["protocol"]["checkpoint_rule"] == "last"
    assert main(["evaluate", str(run / "checkpoints" / "step=4"), "--best", "--backbone", pixels]) == 2
    assert f"name its run's, {run}" in capsys.readouterr().err
    for split, warning in (
        ("reference", "chosen on half of the images that it is measured on here"),
        ("validation", "chosen on the images that it is measured on here"),
        ("train", "validation"),
    ):
        rule = measured(run, "--best", "--split", split)["protocol"]["checkpoint_rule"]
        assert rule.endswith(warning)


def test_the_papers_rule_chooses_on_what_it_reports_and_says_so(tmp_path: Path, pixels: str) -> None:
    run = trained(tmp_path, *MEASURED, "--select-on", "reference")
    assert evaluations(run)[0]["rule"]["reference"]["images"] == 400
    protocol = measured(run, "--best")["protocol"]
    assert protocol["reference"]["split"] == "reference"
    assert protocol["checkpoint_rule"].endswith("of reference; chosen on the images that it is measured on here")
    rule = measured(run, "--best", "--split", "test")["protocol"]["checkpoint_rule"]
    assert rule.endswith("chosen on these images and others")


def test_a_run_that_goes_on_without_evaluations_keeps_the_best_of_before(
    tmp_path: Path, pixels: str, distances: list[float]
) -> None:
    distances += [1.0, 2.0]
    run = trained(tmp_path, *MEASURED)
    trained(tmp_path, "--resume", "--steps", "12", "--no-evaluate")
    assert [step for step, _ in checkpoints(run / "checkpoints")] == [2, 10, 12]
    assert measured(run, "--best")["protocol"]["step"] == 2


def test_a_best_that_is_gone_and_runs_without_evaluations_are_told(
    tmp_path: Path, pixels: str, distances: list[float], pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    distances += [1.0, 2.0]
    run = trained(tmp_path, *MEASURED)
    shutil.rmtree(run / "checkpoints" / "step=2")
    capsys.readouterr()
    for path, message in (
        (run, "the best checkpoint, of step 2, is not there any more"),
        (pair[1], "`train --evaluate`"),
    ):
        assert main(["evaluate", str(path), "--best", "--backbone", pixels]) == 2
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------ ends and restarts


def test_a_run_that_went_back_forgets_what_came_after(
    tmp_path: Path, pixels: str, distances: list[float], pair: tuple[Path, Path]
) -> None:
    distances += [5.0, 1.0, 4.0, 3.0]
    run = trained(tmp_path, *MEASURED, "--steps", "4")
    shutil.rmtree(run / "checkpoints" / "step=4")
    with (run / "selection.jsonl").open("a") as file:
        file.write('{"step": 6, "al')
    assert best(run, 2)["step"] == measured(run, "--best")["protocol"]["step"] == 2  # type: ignore[index]
    trained(tmp_path, *MEASURED, "--resume", "--steps", "6")
    assert [(line["step"], line["all"]["frechet"]) for line in evaluations(run)] == [(2, 5.0), (4, 4.0), (6, 3.0)]
    assert (run / "selection.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("sections", [changed(PLAIN, MODEL={"apply_g_sn": True}), BIGGAN], ids=["plain", "EMA"])
def test_a_generator_with_spectral_norm_is_measured_and_trains_on_alike(
    sections: dict[str, Any], tmp_path: Path, pixels: str
) -> None:
    (tmp_path / "without").mkdir()
    run, other = trained(tmp_path, *MEASURED, sections=sections), trained(tmp_path / "without", sections=sections)
    assert len(evaluations(run)) == 2
    assert losses(run) == losses(other)
    assert not difference(files(run / "checkpoints" / "step=4"), files(other / "checkpoints" / "step=4"))


def test_an_evaluation_that_fails_loses_no_step(
    tmp_path: Path, pixels: str, distances: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    distances += [3.0]  # and none for step 4
    run = trained(tmp_path, *MEASURED, "--steps", "8", status=1)
    printed = capsys.readouterr().err
    assert "evaluating step 4 failed: " in printed
    assert "step=4; --resume tries again, --resume with --no-evaluate trains without" in printed
    assert [step for step, _ in checkpoints(run / "checkpoints")] == [2, 4]
    distances += [2.0, 1.0, 4.0]
    trained(tmp_path, *MEASURED, "--steps", "8", "--resume")
    assert [(line["step"], line["all"]["frechet"]) for line in evaluations(run)] == [(2, 3), (4, 2), (6, 1), (8, 4)]
    assert [step for step, _ in checkpoints(run / "checkpoints")] == [6, 8]


def test_lines_that_are_no_evaluations_are_passed_over(tmp_path: Path, pixels: str, distances: list[float]) -> None:
    odd = ['{"step": 3}', '{"step": Infinity}', '{"step": 3, "all": {"frechet": null}, "rule": {}}', "\udcff", "[]"]
    distances += [1.0, 2.0, 3.0]
    run = trained(tmp_path, *MEASURED)
    with (run / "selection.jsonl").open("ab") as file:
        file.writelines(line.encode(errors="surrogateescape") + b"\n" for line in odd)
    assert measured(run, "--best")["protocol"]["step"] == 2
    trained(tmp_path, *MEASURED, "--resume", "--steps", "6")
    with one_thread():
        assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0


@pytest.mark.parametrize("steps", [4, 8])
def test_a_signal_does_not_wait_for_an_evaluation_which_is_made_up_for(
    steps: int, tmp_path: Path, make_package: MakePackage, pixels: str
) -> None:
    """In the last step, too."""
    site = make_package("slow", "studiogan.backbones", {"slow": "slow:Pixels"}, {"slow": SLOW})
    out = tmp_path / "run"
    argv = arguments(write(tmp_path / "c.yaml", SNGAN), out, "--steps", str(steps), "--evaluate", "80")
    argv[argv.index("--save-freq") + 1] = "4"
    argv += ["--backbone", "slow"]

    def ended_while_evaluating(*more: str) -> None:
        child = start(tmp_path, command_with, site, [*argv, *more])
        while child.process.is_alive() and "evaluating" not in child.output:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGTERM)
        assert child.end() == 1, child.output
        assert (
            f"stopped after step 4 of {steps}, saved in {out}/checkpoints/step=4; --resume resumes the run"
            in child.output
        )
        assert not evaluations(out)

    ended_while_evaluating()
    ended_while_evaluating("--resume")
    with one_thread():
        assert main([*argv, "--resume"]) == 0
        assert main([*argv, "--resume"]) == 0  # nothing to do
    assert [line["step"] for line in evaluations(out)] == list(range(4, steps + 1, 4))


@pytest.mark.slow
def test_killed_at_its_writes_a_run_has_the_evaluations_and_the_best_of_the_uninterrupted_one(
    tmp_path: Path, make_package: MakePackage, pixels: str
) -> None:
    site = make_package("other", "studiogan.backbones", {"other": "other:Pixels"}, {"other": PIXELS})
    configuration = write(tmp_path / "c.yaml", SNGAN)

    def argv(out: Path, *more: str) -> list[str]:
        return arguments(configuration, out, "--steps", "8", "--evaluate", "40", "--backbone", "other", *more)

    def left(out: Path) -> tuple[list[dict[str, Any]], list[int]]:
        lines = [{k: v for k, v in line.items() if k != "seconds"} for line in evaluations(out)]
        return lines, [step for step, _ in checkpoints(out / "checkpoints")]

    with one_thread():
        assert main(argv(tmp_path / "whole")) == 0
    wanted = left(tmp_path / "whole")
    assert len(wanted[0]) == 4
    deaths = 0
    for at in range(3, 24, 5):
        out = tmp_path / str(at)
        child = start(tmp_path, command_with, site, argv(out), at)
        if child.end() == -signal.SIGKILL:
            deaths += 1
            with one_thread():
                assert main(argv(out, "--resume")) == 0
        assert left(out) == wanted, at
    assert deaths >= 3


def test_with_two_ranks_the_first_measures_and_both_train_on_alike(
    tmp_path: Path, make_package: MakePackage, pixels: str
) -> None:
    """A signal while it measures ends both, and what it was to measure is made up for."""
    site = make_package("slow", "studiogan.backbones", {"slow": "slow:Pixels"}, {"slow": SLOW})
    configuration, out = write(tmp_path / "c.yaml", SNGAN), tmp_path / "run"

    def both(*more: str, signalled: bool = False) -> list[int]:
        argv = arguments(configuration, out, "--print-freq", "3", "--steps", "4", *more)
        ranks = start_ranks(tmp_path, 2, command_with, [(site, argv)] * 2)
        while signalled and "evaluating" not in ranks[0].output and ranks[0].process.is_alive():
            time.sleep(0.01)
        if signalled:
            os.kill(ranks[0].pid, signal.SIGTERM)
        return end_ranks(ranks)

    evaluating = ("--evaluate", "80", "--backbone", "slow")
    assert both(*evaluating, signalled=True) == [1, 1]
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [2]
    assert not evaluations(out)
    assert both(*evaluating, "--resume") == [0, 0]
    assert [line["step"] for line in evaluations(out)] == [2, 4]
    assert both(*evaluating, "--resume") == [0, 0]  # nothing to do
    out = tmp_path / "without"
    assert both() == [0, 0]
    last = "checkpoints/step=4"
    assert not difference(files(tmp_path / "run" / last), files(out / last))


# ------------------------------------------------------------------ what is refused


def test_one_run_has_one_rule(tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, *MEASURED)
    more = ("--resume", "--steps", "6", "--backbone", "pixels", "--evaluate")
    message = error_of(capsys, tmp_path, *more, "41")
    assert message.endswith(
        "was measured with images 40, now it is 41; one run's checkpoints are chosen by one rule: evaluate as "
        "before, or start a run in another folder"
    )
    message = error_of(capsys, tmp_path, *more, "40", "--select-on", "reference")
    assert "was measured with select_on validation, now it is reference" in message
    trained(tmp_path, *more, "40")


def test_what_cannot_be_measured_is_refused_before_the_first_step(
    tmp_path: Path, pixels: str, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, tmp_path, "--select-on", "reference").endswith("--select-on needs --evaluate")
    assert error_of(capsys, tmp_path, "--backbone", "pixels").endswith("--backbone needs --evaluate")
    assert "allowed: an integer, 2 or more" in error_of(capsys, tmp_path, "--evaluate", "1")
    assert "did you mean pixels?" in error_of(capsys, tmp_path, "--evaluate", "9", "--backbone", "pixel")
    data = shutil.copytree(digits, tmp_path / "data")
    for folder in (data / "valid").iterdir():
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    sections = changed(SNGAN, DATA={"name": "My_Digits"})
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run", *MEASURED)
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 2
        assert (
            "My_Digits: 0 of 10 images are in validation, too few; a class needs two images to be in both halves"
            in capsys.readouterr().err
        )
        assert not (tmp_path / "run").exists()
        assert main([*argv, "--select-on", "reference"]) == 0
