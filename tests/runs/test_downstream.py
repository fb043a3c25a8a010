"""The command `downstream`: its numbers and records, what it keeps, and what it refuses, on tiny runs."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr.cli import main
from studiogan_gsr.evaluation import cache
from studiogan_gsr.evaluation.class_images import ClassImages
from studiogan_gsr.evaluation.filled import WAYS, interval
from studiogan_gsr.runs import downstream as command
from support.runs import PLAIN, arguments, changed, one_thread, write

SMALL = ["--width", "2", "--updates", "1", "--seeds", "2", "--device", "cpu", "--fill", "20"]
COUNTS = [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
FILLED = [134, 86, 56, 36, 23, 20, 20, 20, 20, 20]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the numbers of classifiers are kept."""
    monkeypatch.setattr(cache, "CLASSIFIERS", tmp_path / "classifiers")
    return tmp_path / "classifiers"


@pytest.fixture
def runs(pair: tuple[Path, Path], tmp_path: Path) -> list[Path]:
    return [shutil.copytree(run, tmp_path / run.name) for run in pair]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Filled with (images, seed) of each classifier that is trained."""
    seen: list[tuple[int, int]] = []
    train = command.train

    def counted(images: torch.Tensor, *given: Any) -> Any:
        seen.append((len(images), given[4]))
        return train(images, *given)

    monkeypatch.setattr(command, "train", counted)
    return seen


def measured(*given: object) -> None:
    with one_thread():
        assert main(["downstream", *SMALL, *map(str, given)]) == 0


def result_of(run: Path) -> dict[str, Any]:
    (file,) = run.glob("downstream/*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def error_of(capsys: pytest.CaptureFixture[str], *given: object) -> str:
    capsys.readouterr()
    with one_thread():
        assert main(["downstream", *SMALL, *map(str, given)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_runs_are_measured_four_ways_and_what_made_the_numbers_is_beside_them(
    runs: Sequence[Path], trained: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured(*runs)
    # Real and balanced are trained once for both runs.
    sizes = [371, 371, *[sum(FILLED)] * 4]
    assert sorted(trained) == sorted((size, seed) for size in sizes for seed in (0, 1))
    plain, gsr = map(result_of, runs)
    protocol = plain["protocol"]
    assert (protocol["step"], protocol["fill"], protocol["seeds"]) == (4, 20, [0, 1])
    assert (protocol["recipe"]["updates"], protocol["recipe"]["width"], protocol["recipe"]["flip"]) == (1, 2, True)
    assert protocol["checkpoint_rule"] == "last"
    assert protocol["devices"][0].startswith("CPU, 1 thread")
    assert plain["training_images"] == COUNTS
    assert list(plain["ways"]) == list(WAYS)
    assert plain["ways"]["real"]["images"] == plain["ways"]["balanced"]["images"] == COUNTS
    assert plain["ways"]["filled"]["images"] == plain["ways"]["generated"]["images"] == FILLED
    for way, values in plain["ways"].items():
        shares = [sum(right) / 400 for right in values["recognised"]]
        assert values["all"] == interval(shares)
        assert set(values["groups"]) == {"many", "medium", "few", "head", "middle", "tail"}
        same = [values["recognised"] == gsr["ways"][way]["recognised"], way in ("real", "balanced")]
        assert same[0] or not same[1]
    assert "at least 20 of each class" in plain["ways"]["filled"]["description"]
    printed = capsys.readouterr().out
    assert "plain: 8 of 8 classifiers to train; updates 1, threads 1" in printed
    assert "gsr: 4 of 8 classifiers to train" in printed
    header = next(line for line in printed.splitlines() if line.startswith("classes"))
    titles = ["real", "balanced", "filled, plain", "filled, gsr", "generated, plain", "generated, gsr"]
    assert re.split("  +", header)[2:] == titles
    every = next(line for line in printed.splitlines() if line.startswith("all "))
    assert f"{100 * plain['ways']['real']['all']['mean']:.1f} ± " in every


def test_generated_images_are_those_that_generate_numbers(
    runs: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = {}
    ways = command._recognised

    def watched(name: str, *given: Any) -> Any:
        pools[name] = given[1]
        return ways(name, *given)

    monkeypatch.setattr(command, "_recognised", watched)
    measured(runs[1], "--seed", "3")
    trained = command.load_trained(runs[1])
    images = ClassImages(trained.generator, trained.configuration, seed=3)
    pool = pools["gsr"]
    assert torch.equal(pool.pixels[371:], images(pool.labels[371:].tolist()))
    assert torch.bincount(pool.labels[371:]).tolist() == FILLED


def test_a_command_that_was_interrupted_trains_only_what_is_missing(
    runs: Sequence[Path], trained: list[tuple[int, int]], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognised, calls = command.recognised, 0

    def interrupted(*given: Any) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return recognised(*given)

    monkeypatch.setattr(command, "recognised", interrupted)
    with one_thread():
        assert main(["downstream", str(runs[0]), *SMALL]) == 1
    assert len(list(kept.glob("*.json"))) == 3
    assert not list(runs[0].glob("downstream/*"))
    next(kept.glob("*.json")).write_text("{")  # damaged: trained again
    trained.clear()
    measured(runs[0])
    assert len(trained) == 6
    first = result_of(runs[0])
    trained.clear()
    measured(runs[0])
    assert not trained
    assert result_of(runs[0])["ways"] == first["ways"]
    shutil.rmtree(kept)
    measured(runs[0])
    assert len(trained) == 8
    assert result_of(runs[0])["ways"] == first["ways"]


def test_a_run_that_still_trains_may_remove_the_checkpoint_meanwhile(
    runs: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognised = command.recognised

    def removing(*given: Any) -> list[int]:
        shutil.rmtree(runs[0] / "checkpoints", ignore_errors=True)
        return recognised(*given)

    monkeypatch.setattr(command, "recognised", removing)
    measured(runs[0])
    assert result_of(runs[0])["protocol"]["step"] == 4


def test_what_changes_the_numbers_is_measured_anew_and_in_a_file_of_its_own(
    runs: Sequence[Path], trained: list[tuple[int, int]]
) -> None:
    measured(runs[1])
    for change, again in (
        (["--no-flip"], 8),
        (["--fill", "30"], 4),
        (["--seed", "1"], 4),
        (["--checkpoint", "2"], 4),
        (["--batch-norm", "standing"], 4),
    ):
        trained.clear()
        measured(runs[1], *change)
        assert len(trained) == again, change
    assert len(list(runs[1].glob("downstream/*.json"))) == 6
    measured(runs[1], "--out", runs[1] / "named.json")
    assert (runs[1] / "named.json").is_file()


def test_digits_that_are_not_mirrored_in_training_are_not_mirrored_here(tmp_path: Path) -> None:
    sections = changed(PLAIN, PRE={"apply_rflip": False})
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", sections), tmp_path / "upright")) == 0
    measured(tmp_path / "upright")
    assert result_of(tmp_path / "upright")["protocol"]["recipe"]["flip"] is False


def test_balanced_data_have_nothing_to_fill_and_may_be_filled_to_more(
    tmp_path: Path, trained: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(PLAIN, DATA={"name": "Digits_LT_rho1"})
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", sections), tmp_path / "balanced")) == 0
    measured(tmp_path / "balanced")
    assert "nothing to fill: each class has 134 or more training images, and --fill is 20" in capsys.readouterr().out
    ways = result_of(tmp_path / "balanced")["ways"]
    assert ways["real"]["recognised"] == ways["filled"]["recognised"]
    assert len(trained) == 6  # filled is real
    measured(tmp_path / "balanced", "--fill", "140")
    assert "nothing to fill" not in capsys.readouterr().out


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    notes = command._notes(["a", "b", "c"], [5, 0, 2], [3, 3, 0], 5)
    assert notes[0].startswith("1 class has no training images (b): ")
    assert notes[1].startswith("1 class has no reference images (c): ")
    assert command._notes(list("abcdefg"), [5, *[0] * 6], [3] * 7, 5)[0].startswith(
        "6 classes have no training images (b, c, d, e, f, ...): "
    )


def test_runs_that_cannot_be_compared_are_refused(
    runs: Sequence[Path], named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "was trained on Folder_LT_rho4, plain on Digits_LT_rho50: compare like runs" in error_of(
        capsys, runs[0], named
    )
    none = {"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}
    for name, change, resizer, message in (
        ("small", {"DATA": {"img_size": 16}}, "box", "was trained on images of 16 pixels, plain on 32: compare like"),
        ("boxed", {}, "box", "was trained on images resized by box, plain by wo_resize: compare like runs"),
        ("upright", {"PRE": {"apply_rflip": False}}, "wo_resize", "found false in upright, true in plain; --flip or"),
        ("classless", {"MODEL": none}, "wo_resize", "the generator's images have no classes"),
    ):
        argv = arguments(write(tmp_path / "c.yaml", changed(PLAIN, **change)), tmp_path / name, "--resizer", resizer)
        with one_thread():
            assert main(argv) == 0
        assert message in error_of(capsys, runs[0], tmp_path / name)
    record = json.loads((runs[1] / "run.json").read_text())
    record["data"]["preprocessing"] = {"resizer": "wo_resize"}  # as in records of StudioGAN's runs
    (runs[1] / "run.json").write_text(json.dumps(record))
    command._check_same_images([(run.name, command.load_trained(run)) for run in runs])
    record["data"]["images_sha256"] = "0" * 64
    (runs[1] / "run.json").write_text(json.dumps(record))
    assert "gsr: was trained on other images than plain: compare like runs" in error_of(capsys, *runs)


def test_impossible_requests_are_refused_before_anything_is_trained(
    runs: Sequence[Path],
    trained: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "--out: found 2 runs; allowed with one run" in error_of(capsys, *runs, "--out", tmp_path / "a.json")
    assert "found a folder; name a file" in error_of(capsys, runs[0], "--out", tmp_path)
    assert "--checkpoint: found 'first'" in error_of(capsys, runs[0], "--checkpoint", "first")
    monkeypatch.setattr(command, "free_memory", lambda: 8_000_000)
    line = error_of(capsys, runs[0], "--fill", "100")
    # 371 + 1,034 images, and as many in the largest training set; 400 of the reference.
    assert "--fill 100: 3,210 images of 32 pixels need 0.00986 GB of memory, and 0.008 GB are free on cpu" in line
    assert "a smaller --fill needs less" in line
    assert not trained


def test_a_generator_of_images_that_are_not_finite_is_named(
    runs: Sequence[Path], trained: list[tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = runs[0].glob("checkpoints/step=4/model=G-*")
    content = torch.load(path, weights_only=True)
    next(iter(content["state_dict"].values())).fill_(float("nan"))
    torch.save(content, path)
    line = error_of(capsys, runs[0])
    assert str(runs[0] / "checkpoints" / "step=4") in line
    assert "the generator gives images that are not finite" in line
    assert not trained


# ------------------------------------------------------------------ the report


def page_of(folder: Path, *runs: Path) -> str:
    with one_thread():
        assert main(["report", *map(str, runs), "--out", str(folder)]) == 0
    return html.unescape((folder / "index.html").read_text())


def copied(page: str, title: str) -> list[list[str]]:
    (text,) = re.findall(f"<summary>CSV, {title}</summary><pre>(.*?)</pre>", page, re.DOTALL)
    return list(csv.reader(io.StringIO(text)))


def test_a_report_shows_accuracies_of_groups_and_classes_by_way_and_run(runs: Sequence[Path], tmp_path: Path) -> None:
    assert "Downstream accuracy" not in page_of(tmp_path / "page", *runs)
    measured(*runs)
    namesake = shutil.copytree(runs[1], tmp_path / "other" / "plain")
    header = copied(page_of(tmp_path / "page", runs[0], namesake), "accuracy in %")[0]
    assert {f"filled, {run.parent.name}/plain" for run in (runs[0], namesake)} <= set(header)
    page = page_of(tmp_path / "page", *runs)
    header, *rows = copied(page, "accuracy in %")
    assert header[2:4] == ["real", "balanced"]
    assert header[4:] == [f"{way}, {run}" for way in ("filled", "generated") for run in ("plain", "gsr")]
    names = ["all", "medium", "few", "head", "middle", "tail", "0 (many)"]
    assert [row[0] for row in rows] == [*names, *map(str, range(1, 10))]
    filled = result_of(runs[1])["ways"]["filled"]
    tail, last = filled["groups"]["tail"], filled["classes"][9]
    assert rows[5][5] == f"{100 * tail['mean']:.1f} ± {100 * tail['half_width']:.1f}"
    assert rows[-1][1] == "2"
    assert rows[-1][5] == f"{100 * last['mean']:.1f} ± {100 * last['half_width']:.1f}"
    header, *rows = copied(page, "difference to real, in points")
    assert header[2:5] == ["balanced", "filled, plain", "filled, gsr"]
    assert rows[5][4].startswith(f"{100 * filled['over_real']['groups']['tail']['mean']:+.1f} ± ")
    assert "Filled: the real and generated images, at least 20 of each class, drawn as they are." in page
    assert "gsr: step 4 (last); images of seed 0, batch norm: running statistics" in page


def test_a_report_does_not_compare_different_protocols(runs: Sequence[Path], tmp_path: Path) -> None:
    measured(runs[0])
    page = page_of(tmp_path / "page", *runs)
    assert "gsr has not been measured: studiogan-gsr downstream." in page
    measured(runs[1], "--seeds", "1")
    page = page_of(tmp_path / "page", *runs)
    assert "plain was measured by another protocol, and is left out." in page  # the newest counts
    assert copied(page, "accuracy in %")[0][2:] == list(WAYS)
    measured(runs[0], "--seeds", "1")
    page = page_of(tmp_path / "page", *runs)
    assert "left out." not in page
    assert "one seed of the classifier, so without an interval" in page
    assert "±" not in "".join(copied(page, "accuracy in %")[1])
