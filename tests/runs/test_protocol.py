"""`evaluate` against the full set, with given groups, and by the protocols of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from studiogan_gsr.cli import main
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.digits import digits_lt
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.evaluation.features import extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.measure import Reference, metrics
from studiogan_gsr.evaluation.protocols import PRESETS, Preset
from studiogan_gsr.evaluation.reference import choose_backbone, measure_real, open_reference
from studiogan_gsr.runs.evaluate import terms_of
from studiogan_gsr.runs.trained import load_trained
from support.evaluation import error_of, evaluated
from support.runs import COUNTS, PLAIN, SNGAN, arguments, changed, one_thread, write

CPU = torch.device("cpu")
ONE = ("--repeats", "1")


@pytest.fixture(scope="module")
def run(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of an SNGAN with gSR on Digits_LT_rho50."""
    return shutil.copytree(pair[1], tmp_path_factory.mktemp("run") / "run")


# ------------------------------------------------------------------ --split full


def test_the_full_set_is_measured_and_said_to_hold_the_training_images(
    run: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(run, *ONE, "--split", "full")
    reference = result["protocol"]["reference"]
    assert result["reference_images"] == list(digits_lt("unused", "train").class_counts)
    assert (reference["split"], reference["images"], reference["training_images_in_it"]) == (
        "full",
        1397,
        sum(COUNTS),
    )
    assert result["training_images"] == COUNTS
    printed = capsys.readouterr().out
    assert "whole set of 1,397 that the 371 training images were chosen from, these among them" in printed
    assert "the reference is not balanced: class 8 has 134 images, class 3 has 143" in printed
    held_out, trained_on = evaluated(run, *ONE), evaluated(run, *ONE, "--split", "train")
    assert len({str(each["all"]["frechet"]) for each in (result, held_out, trained_on)}) == 3
    for other in (held_out, trained_on):
        assert "training_images_in_it" not in other["protocol"]["reference"]


def test_the_full_set_of_a_folder_is_its_training_part_packed_or_not(
    digits: Path, tmp_path: Path, pixels: str
) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    sections = changed(SNGAN, DATA={"name": "Folder_LT_rho4"})
    results = []
    for name in ("images", "packed"):
        argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / name / "run")
        argv[argv.index("unused")] = str(data)
        with one_thread():
            if name == "packed":
                assert main(["data", "prepare", "Folder_LT_rho4", "--data", str(data), "--workers", "1"]) == 0
            assert main(argv) == 0
        results.append(evaluated(tmp_path / name / "run", *ONE, "--split", "full"))
    for result in results:
        assert result["reference_images"] == [120] * 10
        assert result["protocol"]["reference"]["training_images_in_it"] == sum(result["training_images"]) == 655
        assert result["reference_notes"] == []
    assert results[0]["protocol"]["reference_cache"] == results[1]["protocol"]["reference_cache"]


def test_without_a_full_set_it_is_refused(
    digits: Path, tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(write(tmp_path / "c.yaml", changed(PLAIN, DATA={"name": "Folder_LT"})), tmp_path / "run")
    argv[argv.index("unused")] = str(digits)
    with one_thread():
        assert main(argv) == 0
    message = error_of(capsys, str(tmp_path / "run"), "--backbone", "pixels", "--split", "full")
    assert message.startswith("studiogan-gsr: --split full: Folder_LT was not chosen from a larger balanced training")


# ------------------------------------------------------------------ --groups


def test_a_given_groups_numbers_are_those_of_its_images(
    run: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(run, *ONE, "--groups", "few=6,7,8,9;odd=1,3", "--groups", "rest=0-2")
    protocol = result["protocol"]
    assert protocol["groups"] == {"few": [6, 7, 8, 9], "odd": [1, 3], "rest": [0, 1, 2]}
    assert protocol["groups_replaced"] == ["few"]
    trained = load_trained(run)
    _, backbone = choose_backbone(pixels, CPU)
    trained_on = Prepared(open_images("Digits_LT_rho50", "unused", "train"), "Digits_LT_rho50", 32)
    real = measure_real(open_reference(trained_on, "unused", "wo_resize"), "reference", backbone, CPU)
    with one_thread():
        images = generated(trained.generator, trained.configuration, 96, 8, 0, "batch", CPU)
        fake = extract(backbone, images, 96, "images")
        for name, labels in protocol["groups"].items():
            direct = metrics(Reference(real.sample), fake, labels)
            assert {key: value["mean"] for key, value in result["groups"][name].items()} == pytest.approx(direct)
    without = evaluated(run, *ONE)
    assert {**result["groups"], "few": 0} == {
        **without["groups"], "few": 0, "odd": result["groups"]["odd"], "rest": result["groups"]["rest"]
    }  # fmt: skip
    assert result["groups"]["few"] != without["groups"]["few"]
    printed = capsys.readouterr().out
    assert "Many: over 100 training images; head, middle, tail: thirds of the classes by number of train" in printed
    assert "The group few is given: 6-9; it is not the standard group few." in printed
    assert "The group odd is given: 1, 3." in printed
    assert "Many: over 100 training images; few: under 20 training images; head, middle, tail: thirds" in printed


def test_results_of_other_groups_are_not_compared_in_silence(
    pair: tuple[Path, Path], tmp_path: Path, pixels: str
) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("evaluations")) for run in pair]
    results = []
    for run, groups in zip(runs, ("few=6-9", "few=7-9"), strict=True):
        small = ["evaluate", str(run), "--backbone", pixels, "--images", "96", "--repeats", "1", "--device", "cpu"]
        with one_thread():
            assert main([*small, "--groups", groups]) == 0
        (file,) = (run / "evaluations").glob("*.json")
        results.append(json.loads(file.read_text())["protocol"])
    one, other = map(terms_of, results)
    assert one != other
    assert terms_of({**results[0], "groups": {}}) == terms_of({**results[1], "groups": {}})
    old = {key: value for key, value in results[0].items() if key not in ("groups", "groups_replaced", "preset")}
    assert terms_of(old) == terms_of({**results[0], "groups": {}})  # as in results without given groups
    assert "groups" not in terms_of(old)
    with one_thread():
        assert main(["report", *map(str, runs), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "measured in different ways" in page
    assert "The group few is given: 6-9; it is not the standard group few." in page
    assert "The group few is given: 7-9;" in page


def test_groups_are_of_named_classes_and_wrong_ones_are_told(
    named: Path, tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(named, tmp_path / "run")
    result = evaluated(run, *ONE, "--groups", "liked=three,nine")
    names = result["class_names"]
    assert [names[label] for label in result["protocol"]["groups"]["liked"]] == ["nine", "three"]
    message = error_of(capsys, str(run), "--backbone", "pixels", "--groups", "liked=three,nien")
    assert message.startswith("studiogan-gsr: --groups liked: class: found 'nien'; allowed: a name (")
    assert message.endswith("; did you mean nine?")


def test_groups_of_a_generator_without_classes_are_refused(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run")) == 0
    message = error_of(capsys, str(tmp_path / "run"), "--backbone", "pixels", "--groups", "few=1")
    assert "--groups: the generator has no classes" in message
    assert evaluated(tmp_path / "run", *ONE, "--protocol", "utlo")["groups"] == {}


# ------------------------------------------------------------------ --protocol


def test_a_preset_fills_what_is_not_given_and_says_what_still_differs(
    run: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(run, "--protocol", "utlo", "--neighbours", "3", "--groups", "few=6-9")
    protocol, preset = result["protocol"], result["protocol"]["preset"]
    assert protocol["reference"]["split"] == "full"
    assert (protocol["images"], protocol["repeats"], protocol["neighbours"]) == (96, 3, 3)
    assert preset["options"] == ["images 96, not 50000", "backbone pixels, not inception"]
    assert preset["unknown"] == [
        "repeats (here 3)",
        "batch_norm (here batch)",
        "neighbours (here 3)",
        "groups of Digits_LT_rho50 (here those given)",
    ]
    printed = capsys.readouterr().out
    assert "Protocol utlo: Khorram et al., CVPR 2024: the program khorrams/utlo at d596154. Numbers" in printed
    assert "  Generator: StyleGAN2-ADA; here resnet.\n  Given here: images 96, not 50000.\n" in printed
    assert "  Unknown there: repeats (here 3).\n" in printed
    assert "labels 3 to 0 (cat, bird, automobile, airplane)" in printed
    assert evaluated(run, "--protocol", "utlo", "--split", "reference")["reference_images"] == [40] * 10


def test_the_papers_protocol_is_the_default_but_for_the_split_and_the_backbone(run: Path, pixels: str) -> None:
    plain, paper = evaluated(run), evaluated(run, "--protocol", "paper")
    assert paper["all"] == plain["all"]
    assert terms_of(paper["protocol"]) == terms_of(plain["protocol"])
    assert plain["protocol"]["preset"] is None
    assert paper["protocol"]["preset"]["options"] == ["images 96, not 50000", "backbone pixels, not inception"]
    assert paper["protocol"]["preset"]["unknown"] == ["groups of Digits_LT_rho50 (here the standard ones)"]
    noisy = evaluated(run, "--protocol", "noisytwins")
    assert noisy["protocol"]["repeats"] == 1


def test_a_presets_own_groups_are_measured_and_a_given_one_wins(
    tmp_path: Path, run: Path, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset("a source", "a generator", ranks={"Digits_LT": {"few": range(8, 10), "two": (0, 1)}})
    monkeypatch.setitem(PRESETS, "ours", preset)  # type: ignore[arg-type]
    found = evaluated(run, *ONE, "--protocol", "ours")
    assert found["protocol"]["groups"] == {"few": [8, 9], "two": [0, 1]}
    assert found["protocol"]["preset"]["options"] == []
    other = evaluated(run, *ONE, "--protocol", "ours", "--groups", "two=3")
    assert other["protocol"]["groups"] == {"few": [8, 9], "two": [3]}
    assert other["protocol"]["preset"]["options"] == ["other classes in the group two"]
    assert other["groups"]["few"] == found["groups"]["few"]


def test_an_unknown_preset_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, str(tmp_path / "nowhere"), "--protocol", "utol")
    assert message.startswith("studiogan-gsr: --protocol: found utol; allowed: paper, utlo, ")
    assert message.endswith("; did you mean utlo?")


def test_a_result_of_a_named_protocol_does_not_replace_one_without_a_name(
    run: Path, pixels: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    argv = ["evaluate", str(folder), "--backbone", "pixels", "--images", "96", "--device", "cpu", *ONE]
    for more in ([], ["--protocol", "utlo", "--split", "reference"]):
        with one_thread():
            assert main([*argv, *more]) == 0
    results = [json.loads(path.read_text()) for path in (folder / "evaluations").iterdir()]
    assert len(results) == 2
    assert {str((result["protocol"]["preset"] or {}).get("name")) for result in results} == {"None", "utlo"}
    assert len({terms_of(result["protocol"]) for result in results}) == 1  # comparable all the same
