"""The CSV file of `data show --write`: it gives others exactly these images."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import CIFAR10, ImageFolder

from studiogan_gsr.cli import main
from studiogan_gsr.datasets import splits
from studiogan_gsr.datasets.by_name import open_named
from studiogan_gsr.datasets.identity import digest
from support.cifar import write_cifar
from support.documents import texts

NAMES = ["a, b", 'the "c"', "two\nlines", "Zürich 鳥", "#5"]  # of classes, in the order of folders


def written(data: Path, name: str, file: Path, *more: str) -> list[dict[str, str]]:
    argv = ["data", "show", name, "--data", str(data), "--out", str(file.parent / "page"), "--write", str(file)]
    assert main([*argv, *more]) == 0
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(sorted(NAMES)):
        for part, number in (("train", 6 - label), ("valid", 1)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.full((8, 8, 3), (40 * label, 9 * i, 200 if part == "valid" else 0), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}, {part}.png")
    return tmp_path / "data"


def test_the_lines_of_docs_read_the_images_and_labels_of_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_cifar(Path("data"), CIFAR10, 20, monkeypatch, noise=True)
    written(Path("data"), "CIFAR10_LT_rho10_reversed_seed3", Path("cifar10-lt.csv"))
    (lines,) = texts("python", "docs/data-sets.md")
    assert len([line for line in lines.splitlines() if line and "import" not in line]) <= 4
    namespace: dict[str, Subset[tuple[Image.Image, int]]] = {}
    exec(lines, namespace)
    theirs, (ours, _) = namespace["images"], open_named("CIFAR10_LT_rho10_reversed_seed3", "data", "train")
    assert len(theirs) == len(ours)
    assert ours.class_counts[0] < ours.class_counts[9] == 100
    for (image, label), (expected, target) in zip((theirs[i] for i in range(len(ours))), ours, strict=False):
        assert label == target
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("split", ["train", "reference"])
def test_rows_name_the_files_in_order_whatever_classes_are_called(folder: Path, tmp_path: Path, split: str) -> None:
    rows = written(
        folder, "Folder_LT_rho3" if split == "train" else "Folder_LT", tmp_path / "split.csv", "--split", split
    )
    theirs = ImageFolder(str(folder / ("train" if split == "train" else "valid")))
    assert [int(row["label"]) for row in rows] == sorted(int(row["label"]) for row in rows)
    assert {row["class"] for row in rows} == set(NAMES)
    for row in rows:
        path, label = theirs.samples[int(row["index"])]
        assert (folder / row["image"]).samefile(path)
        assert (int(row["label"]), row["class"]) == (label, theirs.classes[label])
    described = json.loads((tmp_path / "split.csv.json").read_text())
    data, _ = open_named(described["data"], str(folder), described["split"])
    assert described["images_sha256"] == digest(data)
    assert described["class_counts"] == np.bincount([int(row["label"]) for row in rows]).tolist()
    # Anyone can check the digest from the rows alone.
    lines = "".join(f"{row['image']}\t{row['label']}\n" for row in rows)
    assert described["images_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_a_file_name_that_is_no_text_is_kept_byte_by_byte(tmp_path: Path) -> None:
    name = b"\xff, 0.png".decode("utf-8", "surrogateescape")
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "train" / "a" / name)
    file = tmp_path / "split.csv"
    assert (
        main(
            [
                "data",
                "show",
                "Folder_LT",
                "--data",
                str(tmp_path / "data"),
                "--out",
                str(tmp_path),
                "--write",
                str(file),
            ]
        )
        == 0
    )
    assert b'0,0,"a","train/a/\xff, 0.png"\n' in file.read_bytes()


def refused(capsys: pytest.CaptureFixture[str], file: Path, *more: str) -> str:
    capsys.readouterr()
    argv = ["data", "show", "Digits_LT", "--data", "unused", "--out", str(file.parent / "page"), "--write", str(file)]
    assert main([*argv, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_only_its_own_unchanged_file_is_replaced_without_being_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "split.csv"
    first = written(tmp_path, "Digits_LT_rho50", file)
    assert first != written(tmp_path, "Digits_LT_rho50_seed1", file)
    file.write_text(file.read_text() + "a note\n")
    assert "which this command has not written or which has changed since" in refused(capsys, file)
    assert file.read_text().endswith("a note\n")
    assert not (tmp_path / "page" / "index.html").read_text().count("Digits_LT,")
    assert written(tmp_path, "Digits_LT_rho50", file, "--overwrite") == first
    file.unlink()
    splits.description(file).write_text("[1]")
    assert f"found {file}.json" in refused(capsys, file)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "found a folder; name a file" in refused(capsys, tmp_path)
    assert f"found no folder {tmp_path / 'none'}" in refused(capsys, tmp_path / "none" / "split.csv")
    argv = ["data", "show", "Digits_LT", "--data", "unused", "--overwrite"]
    assert main(argv) == 2
    assert "--overwrite needs --write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
