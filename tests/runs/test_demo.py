"""The demo, with a few steps in place of its minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from studiogan_gsr.cli import main
from studiogan_gsr.errors import DONE, WRONG_REQUEST
from studiogan_gsr.hosts.checkpoint_files import network_file, read_file
from studiogan_gsr.hosts.native.folder import read_starts
from studiogan_gsr.runs.demo import CONFIGURATION, Twin, _classifier, _features, _pixels, _real, _spread, reading


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--steps", "4", "--out", str(folder)]) == DONE
    return folder


def test_both_runs_start_alike_and_only_one_has_gsr(out: Path) -> None:
    record = json.loads((out / "demo.json").read_text())
    assert record["state"] == "done"
    plain, gsr = record["runs"]
    assert plain["steps"] == gsr["steps"] == [1, 2, 3, 4]
    # The norms after the first step differ by one step of gSR: not at all like two seeds'.
    assert plain["norms"][0] == pytest.approx(gsr["norms"][0], abs=0.002)
    assert plain["norms"] != gsr["norms"]
    files = [read_file(network_file(out / name / "checkpoints" / "step=4", "G")) for name in ("plain", "gsr")]
    assert [("regularizer" in file) for file in files] == [False, True]
    losses = [
        json.loads((out / name / "log.jsonl").read_text().splitlines()[0])["d_loss"] for name in ("plain", "gsr")
    ]
    assert losses[0] == losses[1]


def test_the_record_says_what_it_measured_and_how(out: Path) -> None:
    record = json.loads((out / "demo.json").read_text())
    assert record["class_counts"] == [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
    for word in (
        "Digits_LT_rho50",
        "16 pixels",
        "4 steps",
        "seed (0)",
        "one thread",
        "beta 0.99",
        "running batch-norm statistics",
    ):
        assert word in record["protocol"]
    for name in ("plain", "gsr"):
        (start,) = read_starts(out / name)
        assert (start["threads"], start["resizer"]) == (1, "box")
    for run in record["runs"]:
        assert len(run["diversity"]) == len(run["recognised"]) == 10
        assert all(0 <= share <= 1 for share in run["recognised"])


def test_the_page_shows_norms_samples_and_tables(out: Path) -> None:
    shown = (out / "index.html").read_text()
    assert shown.count("data:image/png;base64,") == 3
    assert shown.count("<svg") == 1
    for word in ("without gSR", "with gSR", "Head, middle and tail", "digit 9", "sketch of the effect"):
        assert word in shown


def test_a_second_demo_replaces_one_that_was_not_done_and_nothing_else(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert main(["demo", "--steps", "2", "--out", str(tmp_path)]) == WRONG_REQUEST
    assert "found other files there" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "x"
    for content in ("{}", "[]", "no JSON", '{"state": "of another program"}'):
        (tmp_path / "demo.json").write_text(content)
        assert main(["demo", "--steps", "2", "--out", str(tmp_path)]) == WRONG_REQUEST
        assert "found other files there" in capsys.readouterr().err
        assert (tmp_path / "thesis.tex").read_text() == "x"
    done = (out / "demo.json").read_text()
    assert main(["demo", "--steps", "2", "--out", str(out)]) == WRONG_REQUEST
    assert "found a demo that is done" in capsys.readouterr().err
    assert (out / "demo.json").read_text() == done
    (out / "demo.json").write_text(json.dumps({"state": "training"}))
    assert main(["demo", "--steps", "2", "--out", str(out)]) == DONE
    assert json.loads((out / "demo.json").read_text())["runs"][0]["steps"] == [1, 2]


def test_the_measures_mean_what_they_say() -> None:
    reference = _real("reference")
    pixels, targets = _pixels(reference), torch.tensor(reference.targets)
    # Of real images that it has not seen, the classifier knows nearly all.
    guessed = torch.from_numpy(_classifier().predict(_features(pixels)))
    assert (guessed == targets).double().mean() > 0.93
    zeros = torch.from_numpy(pixels)[targets == 0]
    assert _spread(zeros[:1].expand(10, -1, -1, -1)) == 0  # a collapsed class
    assert _spread(zeros) < _spread(torch.from_numpy(pixels))  # one digit against all
    assert len(reference) == 400
    assert CONFIGURATION["PRE"]["apply_rflip"] is False


def test_it_says_what_the_numbers_show_and_what_they_do_not() -> None:
    def twin(norm: float, diversity: float, recognised: float) -> Twin:
        return Twin("", [1], [[1.0, 1.0, norm]], [1, 1, diversity], [1, 1, recognised], torch.empty(0))

    clear = reading([twin(0.9, 0.3, 0.5), twin(0.4, 0.6, 0.5)], [9, 5, 1])
    assert clear[0] == "The tail's largest spectral norm is 0.40 with gSR and 0.90 without."
    assert clear[1] == "Diversity in the tail: 0.60 with gSR, 0.30 without."
    assert clear[2] == "Recognised, 0.50 against 0.50 in the tail: no clear difference in one seed."
    none = reading([twin(0.9, 0.6, 0.9), twin(0.85, 0.5, 0.1)], [9, 5, 1])
    assert "not visible here: 0.85 with it, 0.90 without" in none[0]
    assert "no clear difference" in none[1]
    assert none[2] == "Recognised in the tail: 0.10 with gSR, 0.90 without."
