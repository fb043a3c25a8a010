"""Runs of tables and their records, on digits and with tiny networks."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
import yaml

from benchmarks.paths import BENCHMARKS
from benchmarks.tables import (
    cluster_job,
    complete,
    executors,
    figures,
    make_command,
    plan,
    records,
    run_command,
    studiogan_host,
)
from benchmarks.tables import content as table_content
from benchmarks.tables import measured as measured_rows
from benchmarks.tables.executors import run_on_cluster
from benchmarks.tables.records import Record, RecordError
from benchmarks.tables.rows import read_tables
from studiogan_gsr import machine
from studiogan_gsr.errors import ConfigurationError, RequestError
from studiogan_gsr.evaluation.protocols import PRESETS, Preset
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.plugins import PIXELS, MakePackage
from support.runs import one_thread

TINY = {
    "DATA": {"name": "Digits_LT_rho50"},
    "MODEL": {"z_dim": 8, "g_conv_dim": 8, "d_conv_dim": 4},
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 1, "total_steps": 4},
}
TWO_UPDATES = {**TINY, "OPTIMIZATION": {**TINY["OPTIMIZATION"], "d_updates_per_step": 2}}
STACKED = [{"name": "gsr", "weight": 0.4}, {"name": "lecam", "released": True, "weight": 0.3}]
PROTOCOL = {
    "every": 2, "images_while_training": 40, "select_on": "validation", "images": 48, "repeats": 2,
    "batch_norm": "batch", "neighbours": 3, "backbone": "pixels", "resizer": "bilinear",
}  # fmt: skip


def write_tables(path: Path, **protocol: Any) -> Path:
    """A table of an SNGAN with and without gSR, and of one whose data are not there; another of SNGANs with LeCam."""
    rows = {
        "plain": {"configuration": "CIFAR10_LT/SNGAN", "overrides": TINY},
        "gsr": {"configuration": "CIFAR10_LT/SNGAN-gSR", "overrides": TINY, "baseline": "plain"},
        "lost": {
            "configuration": "CIFAR10_LT/SNGAN",
            "overrides": {**TINY, "DATA": {"name": "Folder_LT_rho3"}},
        },
    }
    table = {"title": "tiny", "protocol": "tiny", "seeds": [5], "rows": rows}
    stacked = {"configuration": "CIFAR10_LT/SNGAN-gSR", "overrides": {**TWO_UPDATES, "REGULARIZER": STACKED}}
    lecam = {"configuration": "CIFAR10_LT/SNGAN-DiffAug-LeCam", "overrides": TWO_UPDATES}
    others = {**table, "title": "LeCam", "rows": {"stacked": stacked, "lecam": lecam}}
    tables = {"tiny": table, "others": others}
    content = {"version": 1, "sources": {}, "protocols": {"tiny": PROTOCOL | protocol}, "tables": tables}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def planned(folder: Path, *names: str, **protocol: Any) -> list[plan.PlannedRun]:
    tables = read_tables(write_tables(folder / "tables.yaml", **protocol)).tables
    rows = {**tables["tiny"].rows, **tables["others"].rows}
    where = (str(folder), folder / "runs", folder / "records", "cpu")
    return plan.plan_runs([rows[name] for name in names], None, "native", *where)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run with gSR, as read from its file."""
    return completed(tmp_path_factory.mktemp("record"), "gsr")


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run with gSR and LeCam, and two updates of the discriminator per step."""
    return completed(tmp_path_factory.mktemp("stacked"), "stacked")


def completed(folder: Path, name: str, **protocol: Any) -> dict[str, Any]:
    """Complete a row's run; return its record as read from the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        info = folder / "pixels-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pixels\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[studiogan.backbones]\npixels = pixels:Pixels\n")
        (folder / "pixels.py").write_text(PIXELS)
        patch.setattr("studiogan_gsr.evaluation.cache.FOLDER", folder / "references")
        patch.setattr("studiogan_gsr.evaluation.perceptual.find_spec", lambda name: None)
        (run,) = planned(folder, name, **protocol)
        with one_thread():
            path = complete.complete(run)
        patch.delitem(sys.modules, "pixels")
    return json.loads(path.read_text())


def test_a_record_holds_all_that_made_a_run(record: dict[str, Any]) -> None:
    assert record["title"] == "tiny: gsr, seed 5"
    assert record["data"]["class_counts"] == [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
    assert len(record["data"]["images_sha256"]) == 64
    assert not {"root", "packed"} & set(record["data"])
    (rank,) = record["ranks"]
    (regularizer,) = rank["regularizers"]
    assert regularizer["summary"].startswith("gsr of studiogan-gsr ")
    assert regularizer["acted"] == 4
    assert "torch" in rank["packages"]
    assert [step for step, _ in record["penalties"]["gsr"]] == [1, 2, 4]
    assert set(record["results"]) == {"last", "best"}
    assert record["results"]["last"]["protocol"]["checkpoint_rule"] == "last"
    assert record["results"]["best"]["protocol"]["checkpoint_rule"].startswith("best: lowest FD-Pixels")
    for result in record["results"].values():  # neither on what chose the best
        assert result["protocol"]["reference"]["split"] == "test"
    assert len(record["git"]["commit"]) == 40
    assert record["hours"]["training"] > 0
    (start,) = record["host"]["starts"]
    assert start["step"] == 0
    assert "torch" in start["versions"]
    regularizers, sets = "[studiogan.regularizers] gsr", "[studiogan.datasets] Digits_LT"
    assert [wanted in message for wanted, message in zip((sets, regularizers), rank["plugins"], strict=True)] == [
        True
    ] * 2
    assert [line["step"] for line in record["course"]] == [2, 4]
    assert record["course"][-1]["class_norms"] == record["norms"]["last"]
    assert len(record["course"][-1]["class_diversity"]) == 10
    assert len(record["norms"]["start"]) == len(record["norms"]["best"]) == 10
    assert str(Path.home()) not in json.dumps(record)
    for result in record["results"].values():
        assert result["protocol"]["checkpoint"] in ("step=2", "step=4")


def test_a_record_holds_every_regularizer_of_a_run(stacked: dict[str, Any]) -> None:
    gsr, lecam = stacked["ranks"][0]["regularizers"]
    assert (gsr["name"], gsr["roles"], gsr["acted"]) == ("gsr", ["penalty"], 4)
    assert gsr["options"]["weight"] == 0.4
    assert gsr["options"]["power_iterations"] == 4  # a default
    assert (lecam["name"], lecam["roles"], lecam["acted"]) == ("lecam", ["discriminator_loss"], 8)
    assert lecam["options"] == {"weight": 0.3, "decay": 0.99, "start": 1000, "released": True}
    assert lecam["summary"].startswith("lecam of studiogan-gsr ")
    plugins = ["[studiogan.datasets] Digits_LT", "[studiogan.regularizers] gsr", "[studiogan.regularizers] lecam"]
    for plugin, found in zip(plugins, stacked["ranks"][0]["plugins"], strict=True):
        assert plugin in found
    assert [regularizer["plugin"] for regularizer in (gsr, lecam)] == stacked["ranks"][0]["plugins"][1:]
    steps = {name: [step for step, _ in series] for name, series in stacked["penalties"].items()}
    assert steps == {"gsr": [1, 2, 4], "lecam": [1, 2, 4]}
    log = [penalty for _, penalty in stacked["penalties"]["lecam"]]
    assert len(set(log)) == 3


def test_a_record_holds_the_lecam_that_the_host_makes_from_loss(tmp_path: Path) -> None:
    record = completed(tmp_path, "lecam")
    (lecam,) = record["ranks"][0]["regularizers"]
    assert "REGULARIZER" not in record["sections"]
    assert (lecam["name"], lecam["acted"]) == ("lecam", 8)
    assert lecam["options"] == {"weight": 0.3, "decay": 0.99, "start": 1000, "released": False}
    assert record["penalties"] == {"lecam": [[1, 0.0], [2, 0.0], [4, 0.0]]}  # before step 1000
    lecam["acted"] = 7
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="lecam was active in 7 of 8 updates of rank 0"):
        records.read(path, record["key"])


_STARTS = {
    "speed": [{"speed": {"precision": "float32"}}, {}, {"speed": {"precision": "bfloat16"}}],
    "images_sha256": [{"images_sha256": "a"}, {"images_sha256": "b"}],
}


def _set(*places: Any) -> Callable[[dict[str, Any]], None]:
    *keys, value = places

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("seed", 6), "are of another run"),
        (_set("sections", "REGULARIZER", "weight", 0.4), "are of another run"),
        (_set("steps", 3), "trained 3 of 4 steps"),
        (_set("penalties", {}), "gsr's penalties do not cover the whole run"),
        (_set("penalties", "gsr", [[1, 0.2]]), "penalties do not cover the whole run"),
        (_set("penalties", "gsr", [[4, 0.2], [2, 0.2]]), "penalties do not cover the whole run"),
        (_set("penalties", "gsr", [[1, 0.2], [1, 0.2], [4, 0.2]]), "penalties do not cover the whole run"),
        (_set("penalties", "gsr", [[1, 0.2], [4, 0.0]]), "contradict its weight"),
        (_set("penalties", "gsr", [[1, float("nan")], [4, 0.1]]), "holds NaN, which is not a finite number"),
        (_set("penalties", "gsr", [[float("inf"), 0.1], [4, 0.1]]), "holds Infinity, which is not a finite number"),
        (_set("penalties", "lecam", []), "it has penalties of lecam, which its configuration does not have"),
        (_set("ranks", []), "no rank has reported"),
        (_set("host", "starts", _STARTS["speed"]), "began with speed {'precision': 'float32'} and was resumed with"),
        (_set("host", "starts", _STARTS["images_sha256"]), "began with images_sha256 a and was resumed with b"),
        (_set("course", []), "was not measured every 2 steps while it trained"),
        (_set("course", 0, "frechet", -1.0), "is not the best of its evaluations while it trained"),
        (_set("course", 0, "frechet", float("nan")), "holds NaN, which is not a finite number"),
        (_set("norms", {}), "found norms of nothing"),
        (_set("norms", "best", [0.5]), "its norms are not those of 10 classes"),
        (_set("data", "class_counts", []), "no class counts, or no digest of its images"),
        (_set("data", "images_sha256", None), "no class counts, or no digest of its images"),
        (_set("hours", {}), "hours are {}; expected hours of training, "),
        (_set("ranks", 0, "regularizers", []), "rank 0 reports no gsr"),
        (_set("ranks", 0, "regularizers", 0, "name", "lecam"), "rank 0 reports lecam, which its configuration does"),
        (
            _set("ranks", 0, "regularizers", 0, "summary", "gsr of x: weight 0.0001, beta 0.999"),
            "reports gsr with other options than weight 0",
        ),
        (_set("ranks", 0, "regularizers", 0, "options", "beta", 0.9), "rank 0 reports gsr with beta 0.9, not 0.999"),
        (_set("ranks", 0, "regularizers", 0, "acted", 3), "was active in 3 of 4 updates of rank 0"),
        (_set("ranks", 0, "regularizers", 0, "acted", 5), "was active in 5 of 4 updates of rank 0"),
        (_set("ranks", 0, "regularizers", 0, "acted", 0), "was active in 0 of 4 updates of rank 0"),
        (_set("results", "best", None), "the best checkpoint has not been measured"),
        (
            _set("results", "last", "all", "frechet", "mean", None),
            "the last checkpoint has distance None",
        ),
        (_set("results", "last", "protocol", "images", 47), "measured with images 47, not 48"),
        (_set("results", "best", "protocol", "backbone", "other"), "measured with backbone other, not pixels"),
        (_set("results", "best", "protocol", "reference", "split", "validation"), "measured on validation, not test"),
        (_set("results", "last", "protocol", "step", 2), "the last checkpoint is of step 2, not 4"),
        (_set("results", "best", "protocol", "selection", None), "was chosen by another protocol"),
        (_set("data", "preprocessing", "resizer", "nearest"), "were resized by "),
        (_set("data", "name", "Digits_LT_rho10"), "was measured on Digits_LT_rho50"),
        (_set("results", "last", "protocol", "checkpoint_rule", "step 2, by name"), "chosen as step 2"),
        (_set("version", 0), "found format 0; this program reads 1 and 2"),
        (_set("more", 1), "missing or unknown fields: more"),
    ],
)
def test_a_record_that_proves_too_little_is_refused_by_its_path(
    record: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path, key = records.path_of(record["key"], tmp_path), record["key"]
    path.write_text(json.dumps(record))
    assert isinstance(records.read(path, key), Record)
    with pytest.raises(RecordError, match=f"belongs to run {key}, not other"):
        records.read(path, "other")
    content = json.loads(json.dumps(record))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError) as caught:
        records.read(path, key)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    path.write_text(json.dumps(record)[:-30])
    with pytest.raises(RecordError, match="damaged"):
        records.read(path, key)


_LECAM = ("ranks", 0, "regularizers", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["ranks"][0]["regularizers"].pop(0), "rank 0 reports no gsr"),
        (lambda content: content["ranks"][0]["regularizers"].pop(1), "rank 0 reports no lecam"),
        (_set("ranks", 0, "regularizers", 0, "acted", 8), "gsr was active in 8 of 4 updates of rank 0"),
        (_set(*_LECAM, "acted", 4), "lecam was active in 4 of 8 updates of rank 0"),
        (_set(*_LECAM, "acted", 9), "lecam was active in 9 of 8 updates of rank 0"),
        (_set(*_LECAM, "roles", ["discriminator_loss", "generator_loss"]), "lecam was active in 8 of 4 updates"),
        (_set(*_LECAM, "options", "released", False), "rank 0 reports lecam with released False, not True"),
        (_set("penalties", "lecam", [[1, 0.2], [2, 0.2]]), "lecam's penalties do not cover the whole run"),
        (_set("penalties", "gsr", []), "gsr's penalties do not cover the whole run"),
    ],
)
def test_evidence_is_required_of_every_regularizer(
    stacked: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path, content = tmp_path / "a.json", copy.deepcopy(stacked)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message):
        records.read(path, stacked["key"])


@pytest.mark.parametrize("roles", [["draw"], ["discriminator_loss", "draw"]])
def test_a_regularizer_may_draw_more_often_than_it_must(
    stacked: dict[str, Any], roles: list[str], tmp_path: Path
) -> None:
    path, content = tmp_path / "a.json", copy.deepcopy(stacked)
    content["ranks"][0]["regularizers"][1] |= {"roles": roles, "acted": 9}
    path.write_text(json.dumps(content))
    assert records.read(path, stacked["key"]).ranks[0]["regularizers"][1]["acted"] == 9
    content["ranks"][0]["regularizers"][1]["acted"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="lecam was active in 3 of 4 updates"):
        records.read(path, stacked["key"])


COMMITTED = BENCHMARKS / "results" / "records"


def test_committed_records_of_version_1_are_read_under_their_keys() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in COMMITTED.glob("*.json")}
    old = {key: content for key, content in found.items() if content["version"] == 1}
    assert len(old) >= 39
    with_gsr = 0
    for key, content in old.items():
        record = records.read(records.path_of(key, COMMITTED), key)
        (before,), (rank,) = content["ranks"], record.ranks
        assert (record.version, rank["device"], rank["plugins"]) == (2, before["device"], before["plugins"])
        if before["regularizer"] is None:
            assert (rank["regularizers"], record.penalties) == ([], {})
            continue
        with_gsr += 1
        assert rank["regularizers"] == [
            {
                "name": "gsr",
                "options": None,
                "plugin": before["plugins"][1],
                "roles": ["penalty"],
                "summary": before["regularizer"],
                "acted": before["acted"],
            }
        ]
        assert record.penalties == {"gsr": [tuple(pair) for pair in content["penalties"]]}
    assert with_gsr >= 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("ranks", 0, "acted", 4999), "gsr was active in 4999 of 5000 updates of rank 0"),
        (_set("ranks", 0, "regularizer", None), "rank 0 reports no gsr"),
        (_set("ranks", 0, "regularizer", "gsr of x: weight 5"), "reports gsr with other options than weight 0.05"),
        (_set("ranks", 0, "regularizer", "other of x: y"), "rank 0 reports other, which its configuration does not"),
        (_set("penalties", [[1, 0.2]]), "gsr's penalties do not cover the whole run"),
        (_set("penalties", []), "gsr's penalties do not cover the whole run"),
    ],
)
def test_a_record_of_version_1_needs_the_same_evidence(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    key = "0ef7fbe4cc7c"
    path, content = tmp_path / "a.json", json.loads(records.path_of(key, COMMITTED).read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message):
        records.read(path, key)


def test_a_record_of_version_1_without_a_regularizer_has_no_penalties(tmp_path: Path) -> None:
    key = "0933f7d8aa7a"
    path, content = tmp_path / "a.json", json.loads(records.path_of(key, COMMITTED).read_text())
    content["penalties"] = [[5000, 0.2]]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="it has penalties of a regularizer, which its configuration does not have"):
        records.read(path, key)


def test_penalties_are_told_often(record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = records.path_of(record["key"], tmp_path)
    path.write_text(json.dumps(record))
    monkeypatch.setattr(records, "PENALTIES_EVERY", 1)  # the record has those of the steps 1, 2 and 4
    with pytest.raises(RecordError, match="penalties do not cover the whole run"):
        records.read(path, record["key"])


def test_a_record_without_a_regularizer_must_have_none(record: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads(json.dumps(record))
    del content["sections"]["REGULARIZER"]
    content["key"] = records.key_of("native", content["sections"], content["seed"], content["protocol"])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="rank 0 reports gsr, which its configuration does not have"):
        records.read(path, content["key"])
    content["penalties"], content["ranks"][0]["regularizers"] = {}, []
    content["results"]["last"]["groups"] = {}  # as of two classes
    path.write_text(json.dumps(content))
    records.read(path, content["key"])


def test_a_run_that_was_interrupted_goes_on_and_one_that_is_done_is_not_run_again(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = planned(tmp_path, "gsr", select_on="reference")
    from studiogan_gsr.hosts.native.options import TrainOptions
    from studiogan_gsr.hosts.native.run import train

    with one_thread():
        half = TrainOptions(
            data=str(tmp_path), out=Path(run.out), steps=2, device="cpu", seed=5, print_freq=4, save_freq=2,
            evaluate=40, select_on="reference", backbone=pixels, resizer="bilinear",
        )  # fmt: skip
        train(run.sections, half)
        assert run.done() == (None, "")
        for _ in range(2):  # the second as after a kill between training and record
            records.path_of(run.key, tmp_path / "records").unlink(missing_ok=True)
            complete.complete(run)
    record, _ = run.done()
    assert record is not None
    assert record.ranks[0]["regularizers"][0]["acted"] == 4  # over the restart
    assert [step for step, _ in record.penalties["gsr"]] == [1, 2, 4]
    assert "reference" in record.results["best"]["protocol"]["checkpoint_rule"]
    tables = ["--tables", str(tmp_path / "tables.yaml"), "--records", str(tmp_path / "records")]
    argv = ["tiny", "--only", "gsr", *tables, "--data", str(tmp_path), "--out", str(tmp_path / "runs")]
    capsys.readouterr()
    assert run_command.main(argv) == 0
    assert "has a record: tiny: gsr, seed 5" in capsys.readouterr().out
    path = records.path_of(run.key, tmp_path / "records")
    path.write_text("{")
    assert run_command.main([*argv, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "its record is refused" in printed
    assert "1 of 1 runs are to be made" in printed


def test_one_run_that_fails_does_not_stop_the_others(
    tmp_path: Path, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In processes of their own."""
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    for name, value in (("PYTHONPATH", str(site)), ("HOME", str(tmp_path)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    write_tables(tmp_path / "tables.yaml")
    argv = ["tiny", "--only", "lost", "--only", "plain", "--data", str(tmp_path), "--device", "cpu"]
    argv += ["--tables", str(tmp_path / "tables.yaml"), "--records", str(tmp_path / "records")]
    assert run_command.main([*argv, "--out", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr().out
    assert "done: tiny: plain, seed 5" in printed
    assert "1 of 2 runs have records" in printed
    last = printed.splitlines()[-1]
    assert last.startswith("failed: tiny: lost, seed 5: status 2: run.py: tiny: lost, seed 5: ")
    assert "needs train/ and valid/" in last
    (path,) = (tmp_path / "records").glob("*.json")
    assert records.read(path, path.stem).ranks[0]["regularizers"] == []
    (tmp_path / "file").touch()
    argv += ["--records", str(tmp_path / "other")]
    assert run_command.main([*argv, "--out", str(tmp_path / "file" / "runs")]) == 1  # no folder can be there
    assert "0 of 2 runs have records" in capsys.readouterr().out
    argv = argv[:-2]
    assert run_command.main([*argv, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "lost, seed 5: 4 steps, 0.0 h on CPU" in printed  # as the other, which is timed
    assert "1 of 2 runs are to be made" in printed


@pytest.mark.parametrize(
    ("jobs", "omp", "number", "threads"),
    [(None, None, 6, 1), (2, None, 2, 3), (4, None, 4, 1), (9, None, 9, 1), (None, "2", 3, 2), (2, "2", 2, 2)],
)
def test_runs_on_a_cpu_get_a_share_of_the_cores_each(
    jobs: int | None, omp: str | None, number: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (executors, machine):
        monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
        monkeypatch.setattr(torch, "get_num_threads", lambda: int(omp))
    assert executors.places("cpu", jobs) == [{"OMP_NUM_THREADS": str(threads)}] * number


def test_runs_on_gpus_get_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert executors.places(None, None) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    with pytest.raises(RequestError, match="--jobs is for --device cpu"):
        executors.places(None, 3)


def test_jobs_of_a_cluster_make_the_same_records(
    tmp_path: Path, record: dict[str, Any], make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By submitit's local executor: one that is done already, and one that fails."""
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    for name, value in (("PYTHONPATH", str(site)), ("HOME", str(tmp_path)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    done, lost = planned(tmp_path, "gsr", "lost")
    path = records.path_of(done.key, tmp_path / "records")
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    (failed,) = run_on_cluster([done, lost], {"timeout_min": 5}, cluster="local")
    assert failed.startswith("tiny: lost, seed 5: job ")
    assert "needs train/ and valid/" in failed
    with pytest.raises(RequestError, match="slurm_partion"):
        run_on_cluster([done], {"slurm_partion": "gpu"}, cluster="local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="no sbatch on this machine"):
        run_on_cluster([done], {})


def test_jobs_go_on_when_nobody_waits_and_are_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import submitit

    (run,) = planned(tmp_path, "plain")
    go, script = (
        tmp_path / "go",
        "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(.1)",
    )
    monkeypatch.setattr("benchmarks.tables.executors.command", lambda run: [sys.executable, "-c", script, str(go)])
    waits = submitit.LocalJob.exception

    def interrupted(job: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submitit.LocalJob, "exception", interrupted)
    assert run_on_cluster([run], {"timeout_min": 5}, cluster="local") == []
    monkeypatch.setattr(submitit.LocalJob, "exception", lambda job: (go.touch(), waits(job))[1])
    assert run_on_cluster([run], {"timeout_min": 5}, cluster="local") == []
    printed = capsys.readouterr().out
    assert printed.count("submitted: ") == 1
    assert "no longer waiting: the jobs continue; the same command waits for them again" in printed
    assert re.search(
        r"already submitted \(RUNNING; if the job no longer exists, remove .*\.job\): tiny: plain, seed 5, job ",
        printed,
    )
    assert "done: tiny: plain, seed 5" in printed
    assert run_on_cluster([run], {"timeout_min": 5}, cluster="local") == []
    assert "submitted: " in capsys.readouterr().out  # the first one's has ended


def test_a_job_whose_time_is_over_saves_and_goes_on(tmp_path: Path) -> None:
    """Through submitit's local executor, which asks as Slurm does."""
    import submitit

    script = (
        "import pathlib, signal, sys, time\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "if (place / 'saved').exists(): sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, lambda *_: ((place / 'saved').touch(), sys.exit(1)))\n"
        "time.sleep(120)\n"
    )
    cloudpickle.register_pickle_by_value(cluster_job)
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=1, signal_delay_s=56)  # after four seconds
    assert executor.submit(cluster_job.Job([sys.executable, "-c", script, str(tmp_path)])).exception() is None
    assert (tmp_path / "saved").exists()


def test_a_signal_ends_what_runs_and_begins_no_more(tmp_path: Path, make_package: MakePackage) -> None:
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    tables = write_tables(tmp_path / "tables.yaml")
    content = yaml.safe_load(tables.read_text())
    content["tables"]["tiny"]["rows"]["plain"]["overrides"]["OPTIMIZATION"]["total_steps"] = 10**6
    tables.write_text(yaml.safe_dump(content, sort_keys=False))
    argv = ["tiny", "--data", tmp_path, "--device", "cpu", "--tables", tables, "--only", "plain", "--only", "gsr"]
    argv += ["--records", tmp_path / "records", "--out", tmp_path / "runs", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(BENCHMARKS / "run.py"), *map(str, argv)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/checkpoints/step=4")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "stopping: the runs save and end" in message
    assert "stopped: tiny: plain, seed 5; the same command resumes it" in message
    assert "failed" not in message
    (log,) = tmp_path.glob("runs/*.log")
    assert re.search(r"stopped after step \d+ of 1000000", log.read_text())
    assert "begun: tiny: gsr" not in message
    assert "0 of 2 runs have records" in message


@pytest.mark.host
def test_studiogans_runs_are_chosen_and_measured_as_ours(
    checkout: Checkout, tmp_path: Path, pixels: str, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = read_tables(write_tables(tmp_path / "tables.yaml")).tables["others"].rows
    where = (str(tmp_path), tmp_path / "runs", tmp_path / "records", "cpu", str(checkout.root))
    (run,) = plan.plan_runs([rows["stacked"]], None, "studiogan", *where)
    (ours,) = planned(tmp_path, "stacked")
    assert run.key != ours.key
    # The first half, as of a process that was ended.
    half = copy.deepcopy(run.sections)
    half["OPTIMIZATION"]["total_steps"] = 2
    studiogan_host._run_studiogan(dataclasses.replace(run, sections=half), Path(f"{run.out}-studiogan"))
    with one_thread():
        complete.complete(run)
    record, why = run.done()
    assert record is not None, why
    assert record.host["name"] == "studiogan"
    assert record.host["commit"] == checkout.commit()
    assert record.host["changed_files"] == []
    assert [start["step"] for start in record.host["starts"]] == [0, 2]
    gsr, lecam = record.ranks[0]["regularizers"]
    assert (gsr["name"], gsr["acted"], lecam["name"], lecam["acted"]) == ("gsr", 4, "lecam", 8)  # over the restart
    assert gsr["summary"].startswith("gsr of studiogan-gsr ")
    assert lecam["options"]["released"] is True
    assert [[step for step, _ in record.penalties[name]] for name in ("gsr", "lecam")] == [[2, 4], [2, 4]]
    assert [line["step"] for line in record.course] == [2, 4]
    assert record.course[-1]["class_norms"] == record.norms["last"]
    assert record.data["class_counts"] == [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
    best = min(record.course, key=lambda line: line["frechet"])["step"]
    assert record.results["best"]["protocol"]["step"] == best
    assert record.results["last"]["protocol"]["step"] == 4
    assert str(tmp_path) not in records.path_of(run.key, tmp_path / "records").read_text()
    # Their weights are not kept twice over.
    kept = Path(run.out) / "checkpoints" / "step=4" / "model=G-current-weights-step=4.pth"
    assert set(torch.load(kept, weights_only=True)) == {"state_dict"}
    printed = capfd.readouterr().out
    for name in ("gsr", "lecam"):
        assert f"{name}: state restored from the checkpoint" in printed
    records.path_of(run.key, tmp_path / "records").unlink()
    with one_thread():
        complete.complete(run)  # trains nothing
    assert "Progress" not in capfd.readouterr().out
    again, _ = run.done()
    assert again is not None
    assert again.course == record.course


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("MODEL", "z_dim", 9), "MODEL.z_dim 9, not 8"),
        (_set("REGULARIZER", 1, "weight", 0.5), "REGULARIZER lecam.weight 0.5, not 0.3"),
        (_set("REGULARIZER", 1, "released", False), "REGULARIZER lecam.released False, not True"),
        (lambda content: content["REGULARIZER"].pop(), "REGULARIZER gsr, not gsr, lecam"),
        (lambda content: content.pop("REGULARIZER"), "REGULARIZER none, not gsr, lecam"),
    ],
)
def test_studiogans_configuration_is_compared_with_the_planned_one(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    (run,) = planned(tmp_path, "stacked")
    written = Path(run.out) / "config.yaml"
    written.parent.mkdir(parents=True)
    loaded = copy.deepcopy(run.sections)
    loaded["OPTIMIZATION"]["total_steps"] -= 1  # StudioGAN trains for one step more
    loaded["REGULARIZER"] = [{**settings, "start": 5} for settings in reversed(loaded["REGULARIZER"])]
    written.write_text(yaml.safe_dump(loaded))
    studiogan_host._check_configuration(run)
    loaded["REGULARIZER"].reverse()
    change(loaded)
    written.write_text(yaml.safe_dump(loaded))
    with pytest.raises(RecordError, match=f"StudioGAN trained with {re.escape(message)}$"):
        studiogan_host._check_configuration(run)


def test_what_studiogan_has_not_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--host", "studiogan", "--dry-run", "--records", str(tmp_path)]
    assert run_command.main(["ablation", *where]) == 0
    printed = capsys.readouterr().out
    assert "left out" not in printed
    assert "42 of 42 runs are to be made" in printed
    assert run_command.main(["cpu-study", *where]) == 2
    assert "StudioGAN has no networks of 16 pixels" in capsys.readouterr().out


def test_wrong_requests_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        (["lecam-difaug"], "did you mean lecam-diffaug?"),
        (["ada", "--only", "SNGAN + AD", "--data", "x"], "did you mean SNGAN + ADA?"),
        (["ada"], "--data is needed"),
        (["ada", "--data", "x", "--seeds", "-1"], "--seeds: found -1; allowed: integers from 0"),
        (["later-work", "--dry-run"], "no row runs with --host native"),
    ):
        assert run_command.main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_run_that_two_tables_need_is_one(tmp_path: Path) -> None:
    tables = read_tables().tables
    keys = [
        {run.key for run in plan.plan_runs(list(tables[name].rows.values()), None, "native", "d", tmp_path, tmp_path)}
        for name in ("lecam-diffaug", "cifar10-lt", "ablation")
    ]
    assert len(keys[0] & keys[1]) == len(keys[0] & keys[2]) == 6  # two rows, three seeds
    assert len(keys[1]) == 24


# ------------------------------------------------------------------ tables


def kept(folder: Path, record: dict[str, Any], distances: dict[str, dict[int, float]]) -> list[str]:
    """Arguments for a table of records with these distances of each row and seed."""
    path = write_tables(folder / "tables.yaml")
    content = yaml.safe_load(path.read_text())
    content["tables"]["tiny"]["seeds"] = [5, 6, 7]
    content["sources"] = {"poster": "a poster"}
    content["tables"]["tiny"]["rows"]["gsr"]["published"] = {
        "fid": {"value": "18.50", "deviation": "0.10", "source": "poster"}
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    rows = read_tables(path).tables["tiny"].rows
    for name, by_seed in distances.items():
        for seed, distance in by_seed.items():
            made = json.loads(json.dumps(record))
            made |= {"seed": seed, "sections": dict(rows[name].sections or {})}
            made["key"] = records.key_of("native", made["sections"], seed, made["protocol"])
            if name == "plain":
                made["penalties"], made["ranks"][0]["regularizers"] = {}, []
            made["results"]["best"]["all"]["frechet"]["mean"] = distance
            file = records.path_of(made["key"], folder / "records")
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(made))
    return ["tiny", "--tables", str(path), "--records", str(folder / "records"), "--out", str(folder / "out")]


def test_a_run_is_measured_by_a_preset(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = Preset("a source", "a generator", split="full", images=7, ranks={"Digits_LT": {"few": (8, 9)}})
    monkeypatch.setitem(PRESETS, "ours", preset)  # type: ignore[arg-type]
    measured = completed(tmp_path, "gsr", preset="ours")
    for result in measured["results"].values():
        assert result["protocol"]["reference"]["split"] == "full"
        assert result["protocol"]["images"] == 48  # the table's own
        assert result["protocol"]["groups"] == {"few": [8, 9]}
        assert result["protocol"]["preset"]["name"] == "ours"
    assert measured["key"] != record["key"]
    without = {**measured["protocol"], "preset": None}
    key = records.key_of("native", measured["sections"], 5, without)
    with pytest.raises(RecordError, match="the last checkpoint was measured by the protocol ours"):
        Record(**{**measured, "protocol": without, "key": key}).check()
    argv = ["tiny", "--tables", str(tmp_path / "tables.yaml"), "--records", str(tmp_path / "records")]
    assert make_command.main([*argv, "--out", str(tmp_path / "out")]) == 0
    _, *rows = csv.DictReader(io.StringIO((tmp_path / "out" / "tiny.csv").read_text()))
    found = measured["results"]["best"]["groups"]["few"]["frechet"]["mean"]
    assert rows[0]["FD-Pixels of few, best"] == f"{found:.4g}"
    whole, other = copy.deepcopy(measured), copy.deepcopy(measured)
    other["results"]["best"]["protocol"]["groups"] = {"few": [9]}
    row = read_tables(tmp_path / "tables.yaml").tables["tiny"].rows["gsr"]
    ours, baseline = (measured_rows.Measured(row, {5: Record(**content)}) for content in (whole, other))
    with pytest.raises(RecordError, match="its baseline was measured with other groups of classes"):
        table_content._check_images(ours, baseline)


def test_a_table_may_leave_to_a_preset_how_it_is_measured(tmp_path: Path) -> None:
    path = write_tables(tmp_path / "tables.yaml", preset="paper")
    content = yaml.safe_load(path.read_text())
    for key in ("images", "repeats", "batch_norm", "backbone"):
        del content["protocols"]["tiny"][key]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    protocol = read_tables(path).protocols["tiny"]
    assert (protocol.images, protocol.repeats, protocol.batch_norm) == (50_000, 3, "batch")
    assert (protocol.backbone, protocol.neighbours, protocol.preset) == ("inception", 3, "paper")


def test_a_table_has_means_deviations_and_paired_intervals(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distances = {"plain": {5: 30.0, 6: 34.0, 7: 32.0}, "gsr": {5: 20.0, 6: 21.0}}
    argv = kept(tmp_path, record, distances)
    assert make_command.main(argv) == 0
    header, *rows = csv.reader(io.StringIO((tmp_path / "out" / "tiny.csv").read_text()))
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert table["plain"]["FD-Pixels, best"] == "32.0 ± 2.0"
    assert table["gsr"]["FD-Pixels, best"] == "20.50 ± 0.71"
    assert table["gsr"]["published FID"] == "18.50 ± 0.10"
    assert "IS-Pixels, best" in header
    assert table["plain"]["published FID"] == "unknown"
    assert (table["plain"]["seeds"], table["gsr"]["seeds"], table["lost"]["seeds"]) == ("3", "2", "0")
    # Of the seeds 5 and 6: -10 and -13; t(0.975, 1) = 12.706, the deviation of the mean 1.5.
    assert table["gsr"]["FD-Pixels, best, over the baseline"] == "-11.5 [-30.6, +7.6]"
    text = (tmp_path / "out" / "tiny.md").read_text()
    assert "\n| gsr | plain | -11.5 [-30.6, +7.6] |" in text
    assert "Not as shipped: DATA.name Digits_LT_rho50, not CIFAR10_LT_rho100, " in text
    assert "a poster" in text
    assert "2 x 48 images, against 200 of test, by pixels" in text
    assert "A row with 0 seeds has not been trained here." in text
    assert (tmp_path / "out" / "tiny.tex").read_text().count("\\\\") == 1 + len(rows) + 2
    norms = record["norms"]
    assert table["gsr"]["norm of the tail, last"].startswith(f"{sum(norms['last'][-3:]) / 3:.4g}")
    assert table["gsr"]["norm of the tail, at the start"].startswith(f"{sum(norms['start'][-3:]) / 3:.4g}")
    assert float(table["gsr"]["KD-Pixels of the tail x 1000, best"].split()[0]) == pytest.approx(
        1000 * record["results"]["best"]["groups"]["tail"]["kernel"]["mean"], rel=1e-3
    )
    drawn = (tmp_path / "out" / "tiny.svg").read_text()
    for shown in ("FD-Pixels of the tail while training", "Digits_LT_rho50", ">plain<", ">gsr<"):
        assert shown in drawn
    (tmp_path / "records" / "0123456789ab.json").write_text("{}")
    capsys.readouterr()
    assert make_command.main([*argv, "--check"]) == 0
    told_more = capsys.readouterr().out
    assert told_more.count("\n") == 1
    assert "no row uses this record (any longer): " in told_more
    (tmp_path / "out" / "small.md").touch()
    assert make_command.main([*argv, "--check"]) == 1
    assert "this file belongs to no table (any longer): " in capsys.readouterr().out
    (tmp_path / "out" / "small.md").unlink()
    (tmp_path / "out" / "tiny.md").write_text(text.replace("32.0 ± 2.0", "31.0 ± 2.0"))
    assert make_command.main([*argv, "--check"]) == 1
    assert "31.0 ± 2.0" in (tmp_path / "out" / "tiny.md").read_text()
    assert make_command.main(argv) == 0
    (tmp_path / "out" / "tiny.svg").write_text(drawn.replace("plain", "simple"))  # by another version, say
    assert make_command.main([*argv, "--check"]) == 0
    (tmp_path / "out" / "tiny.svg").write_text(drawn.replace("<!-- of ", "<!-- of 0"))
    assert make_command.main([*argv, "--check"]) == 1


def test_a_figure_tells_rows_of_one_baseline_apart(record: dict[str, Any]) -> None:
    kept: dict[str, Any] = {}
    whole = Record(**record)
    few = dataclasses.replace(whole, data={**whole.data, "class_counts": [9]})  # without a tail
    for name, baseline in (("plain", None), ("gSR", "plain"), ("less", "gSR"), ("more", "gSR")):
        row = dataclasses.replace(read_tables().tables["ada"].rows["SNGAN + ADA"], name=name, baseline=baseline)
        kept[name] = (row, {0: few if name == "more" else whole})
    drawn = figures.figure(kept, "FID")
    assert drawn is not None
    styles = {style for style in re.findall(r'style="([^"]*)"', drawn) if "stroke-width: 1.4" in style}
    assert len(styles) == 4  # plain and gSR of one colour, dashed and not
    assert len({re.search(r"stroke: (#\w+)", style)[1] for style in styles}) == 3  # type: ignore[index]
    assert figures.tail_norm(few, [1.0]) is None
    two = dataclasses.replace(whole, data={**whole.data, "class_counts": [9, 3]})
    assert figures.tail_norm(two, [1.0, 2.0]) == 2.0


def test_a_pages_table_is_a_part_of_the_whole_one(record: dict[str, Any], tmp_path: Path) -> None:
    kept(tmp_path, record, {"plain": {5: 30.0}, "gsr": {5: 20.0, 6: 22.0}})
    tables = read_tables(tmp_path / "tables.yaml")
    text = "before\n<!-- table: tiny -->\nold\n<!-- /table -->\nafter\n"
    page = tmp_path / "page.md"
    page.write_text(text)
    made = make_command.in_page(page, tables, tmp_path / "records")
    lines = made.splitlines()
    assert lines[:2] == ["before", "<!-- table: tiny -->"]
    assert lines[-2:] == ["<!-- /table -->", "after"]
    assert "old" not in made
    assert [line.split("|")[1].strip() for line in lines[4:-2]] == ["plain", "gsr", "lost"]
    assert "norm of the tail, last" in lines[2]
    page.write_text(made)
    assert make_command.in_page(page, tables, tmp_path / "records") == made
    for mark, why in (
        ("<!-- table: tinny -->", "did you mean tiny?"),
        ("<!-- table: tiny-->", "a mark is wrong"),
    ):
        page.write_text(text.replace("<!-- table: tiny -->", mark))
        with pytest.raises(RequestError, match=rf"page.md.*{re.escape(why)}"):
            make_command.in_page(page, tables, tmp_path / "records")
    assert any("<!-- table: " in page.read_text() for page in make_command.PAGES)  # which `--check` looks at


def test_records_of_studiogan_have_lines_of_their_own(record: dict[str, Any], tmp_path: Path) -> None:
    argv = kept(tmp_path, record, {"plain": {5: 30.0}, "gsr": {5: 20.0}})
    for path in list((tmp_path / "records").iterdir()):
        content = json.loads(path.read_text())
        content["host"] = {"name": "studiogan", "commit": 40 * "a", "changed_files": [], "starts": []}
        content["results"]["best"]["all"]["frechet"]["mean"] += 1.0
        how = (content["sections"], content["seed"], content["protocol"])
        content["key"] = records.key_of("studiogan", *how)
        records.path_of(content["key"], path.parent).write_text(json.dumps(content))
    assert make_command.main(argv) == 0
    header, *rows = csv.reader(io.StringIO((tmp_path / "out" / "tiny.csv").read_text()))
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert list(table) == ["plain", "plain, in StudioGAN", "gsr", "gsr, in StudioGAN", "lost"]
    assert [line["FD-Pixels, best"] for line in table.values()] == ["30", "31", "20", "21", "-"]
    assert table["gsr, in StudioGAN"]["FD-Pixels, best, over the baseline"] == "-10"
    assert "StudioGAN aaaaaaa, 4 steps" in (tmp_path / "out" / "tiny.md").read_text()


def test_a_difference_of_one_seed_has_no_interval() -> None:
    assert measured_rows.difference({1: 3.0}, {1: 2.0, 2: 9.0}) == (1.0, None)
    assert measured_rows.difference({1: 3.0}, {2: 9.0}) is None
    middle, width = measured_rows.difference({1: 1.0, 2: 2.0, 3: 6.0}, {1: 0.0, 2: 0.0, 3: 0.0}) or (0, 0)
    assert middle == 3
    assert width == pytest.approx(4.302653 * 7**0.5 / 3**0.5)


def test_records_of_different_distances_make_no_table(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = kept(tmp_path, record, {"plain": {5: 30.0}, "gsr": {5: 20.0}})
    for path in list((tmp_path / "records").iterdir())[:1]:
        content = json.loads(path.read_text())
        for which in records.WHICH:
            content["results"][which]["column"] = "FID"
        path.write_text(json.dumps(content))
    assert make_command.main(argv) == 2
    assert "tiny: its records have different distances: FD-Pixels, FID" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("data", "images_sha256", "0"), "its baseline was trained on other images"),
        (_set("results", "best", "protocol", "reference", "content_sha256", "0"), "measured against other images"),
    ],
)
def test_a_row_and_its_baseline_have_the_same_images(
    record: dict[str, Any],
    change: Callable[[dict[str, Any]], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = kept(tmp_path, record, {"plain": {5: 30.0}, "gsr": {5: 20.0}})
    path = next((tmp_path / "records").iterdir())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert make_command.main(argv) == 1
    assert message in capsys.readouterr().err


def test_the_committed_tables_are_what_the_committed_records_make() -> None:
    assert make_command.main(["--check"]) == 0


def test_keys_do_not_follow_how_a_configuration_is_written() -> None:
    plain = {"DATA": {"name": "CIFAR10_LT_rho100"}, "OPTIMIZATION": {"total_steps": 5}}
    one, same, other = ({**plain, "REGULARIZER": {"name": "gsr", "weight": weight}} for weight in (1, 1.0, 0.9))
    how, more = {"images": 5}, {"images": 6}
    key = records.key_of("native", one, 0, {"name": "a", **how})
    assert records.key_of("native", {**same, "MODEL": {"backbone": "resnet"}}, 0, {"name": "b", **how}) == key
    lists = [
        [{"name": "gsr", "weight": 1}],
        ["lecam", {"name": "gsr", "weight": 1}],
        [{"name": "gsr", "weight": 1.0}, "lecam"],
    ]
    of_lists = [records.key_of("native", {**plain, "REGULARIZER": section}, 0, how) for section in lists]
    assert of_lists[0] == key
    assert of_lists[1] == of_lists[2] != key
    for changed in (("native", other, 0, how), ("native", one, 1, how), ("native", one, 0, more)):
        assert records.key_of(*changed) != key


def test_a_protocol_may_ask_for_downstream_accuracy(
    tmp_path: Path, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studiogan_gsr.evaluation.cache.CLASSIFIERS", tmp_path / "classifiers")
    sizes = {"updates": 1, "seeds": 2, "width": 2, "fill": 10}
    (without,), (run,) = planned(tmp_path, "plain"), planned(tmp_path, "plain", downstream=sizes)
    assert without.key != run.key
    with one_thread():
        path = complete.complete(run)
    record = records.read(path, run.key)
    assert record.downstream is not None
    assert record.downstream["protocol"]["step"] == record.results["best"]["protocol"]["step"]
    assert str(tmp_path) not in path.read_text()
    argv = ["tiny", "--tables", str(tmp_path / "tables.yaml"), "--records", str(path.parent)]
    assert make_command.main([*argv, "--out", str(tmp_path / "out")]) == 0
    header, row, *_ = csv.reader(io.StringIO((tmp_path / "out" / "tiny.csv").read_text()))
    mean = record.downstream["ways"]["filled"]["groups"]["tail"]["mean"]
    assert float(dict(zip(header, row, strict=True))["accuracy of the tail, filled"]) == pytest.approx(
        100 * mean, 1e-3
    )
    assert "ResNet-18 of width 2, 1 updates" in (tmp_path / "out" / "tiny.md").read_text()
    for change, message in (
        (_set("downstream", None), "found no result of downstream"),
        (_set("downstream", "protocol", "fill", 11), "downstream had fill 11, not 10"),
        (_set("downstream", "protocol", "step", 3), "downstream measured step 3"),
    ):
        content = json.loads(path.read_text())
        change(content)
        (tmp_path / "changed.json").write_text(json.dumps(content))
        with pytest.raises(RecordError, match=message):
            records.read(tmp_path / "changed.json", run.key)
    for odd in ({"updates": 1, "seeds": 2}, {**sizes, "seeds": 0}, {**sizes, "depth": 3}):
        with pytest.raises(ConfigurationError, match=r"protocols\.tiny\.downstream\.(width|seeds|depth)"):
            read_tables(write_tables(tmp_path / "odd.yaml", downstream=odd))
