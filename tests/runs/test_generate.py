"""Images by class from trained runs: which, how many, where they come from, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import studiogan_gsr
from studiogan_gsr.cli import main
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.hdf5 import hdf5_lt
from studiogan_gsr.errors import CheckpointError, RequestError
from studiogan_gsr.files import sha256
from studiogan_gsr.hosts.checkpoint_files import read_file
from studiogan_gsr.runs.image_files import ImageArray, PNGFolder, folder_names
from studiogan_gsr.runs.staging import staged
from studiogan_gsr.runs.trained import load_trained
from support.documents import texts
from support.plugins import MakePackage
from support.runs import (
    BIGGAN,
    COUNTS,
    PLAIN,
    arguments,
    changed,
    command,
    command_that_dies,
    command_with_small_files,
    one_thread,
    run,
    start,
    write,
)


@pytest.fixture(scope="module")
def sngan(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of an SNGAN with gSR on Digits_LT_rho50; checkpoints of steps 2 and 4."""
    return shutil.copytree(pair[1], tmp_path_factory.mktemp("generate") / "run")


@pytest.fixture(scope="module")
def biggan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("biggan")
    with one_thread():
        assert main(arguments(write(folder / "c.yaml", BIGGAN), folder / "run")) == 0
    return folder / "run"


def generate(path: Path, out: Path, *options: str) -> dict[str, Any]:
    """Generate, and return the manifest."""
    with one_thread():
        assert main(["generate", str(path), "--out", str(out), "--device", "cpu", *options]) == 0
    return json.loads((out / "manifest.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with one_thread():
        assert main(["generate", *argv, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def pictures(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): np.asarray(Image.open(path)).tobytes() for path in sorted(out.glob("*/*.png"))
    }


# ------------------------------------------------------------------ which images


@pytest.mark.parametrize("name", ["sngan", "biggan"])
def test_an_image_is_the_same_whatever_else_is_generated(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trained = request.getfixturevalue(name)
    few, many = tmp_path / "few", tmp_path / "many"
    generate(trained, few, "--images", "3", "--classes", "8", "2", "--batch-size", "16")
    generate(trained, many, "--images", "20", "--batch-size", "100")
    some, every = pictures(few), pictures(many)
    assert sorted(some) == [f"{label}/{number:06}.png" for label in (2, 8) for number in range(3)]
    assert len(every) == 200
    assert len(set(every.values())) == 200
    assert some == {file: every[file] for file in some}
    other = tmp_path / "other"
    generate(trained, other, "--images", "3", "--classes", "8", "2", "--seed", "1")
    assert not set(pictures(other).values()) & set(some.values())


def test_the_manifest_says_where_each_image_comes_from(sngan: Path, tmp_path: Path) -> None:
    manifest = generate(sngan, tmp_path / "out", "--images", "2", "--seed", "5", "--truncation", "0.7")
    file = load_trained(sngan).file
    assert manifest["checkpoint"] == str(file.resolve())
    assert manifest["checkpoint_sha256"] == sha256(file)
    assert (manifest["step"], manifest["checkpoint_rule"], manifest["data"]) == (4, "last", "Digits_LT_rho50")
    assert (manifest["seed"], manifest["truncation"], manifest["batch_norm"]) == (5, 0.7, "running")
    assert manifest["configuration"]["MODEL"]["g_conv_dim"] == 8
    assert manifest["generated"] == [2] * 10
    listed = {image.pop("file"): image for image in manifest["images"]}
    assert sorted(listed) == sorted(pictures(tmp_path / "out"))
    assert listed["7/000001.png"] == {"class": 7, "origin": "generated", "number": 1}


def test_rare_classes_are_filled_up_beside_the_training_images(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = generate(sngan, out, "--fill", "--with-real")
    assert manifest["generated"] == [134 - count for count in COUNTS]
    assert manifest["training_images"] == COUNTS
    folder = ImageFolder(str(out))
    assert np.bincount(folder.targets).tolist() == [134] * 10
    assert folder.classes == [str(label) for label in range(10)]
    # The training images are those of training, and the record says which.
    images = open_images("Digits_LT_rho50", "", "train")
    listed = [image for image in manifest["images"] if image["origin"] == "training image"]
    assert [image["index"] for image in listed] == list(range(sum(COUNTS)))
    for image in listed[::50]:
        picture, label = images[image["index"]]
        assert label == image["class"]
        assert np.array_equal(np.asarray(Image.open(out / image["file"])), np.asarray(picture.convert("RGB")))


def test_classes_are_filled_up_to_a_number(sngan: Path, tmp_path: Path) -> None:
    manifest = generate(sngan, tmp_path / "out", "--fill", "10", "--classes", "5", "9", "0")
    assert manifest["generated"] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 8]
    assert manifest["training_images"] is None


def test_nothing_to_fill_is_said_and_nothing_is_written(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_thread():
        assert main(["generate", str(sngan), "--out", str(tmp_path / "out"), "--fill", "2"]) == 0
    assert "nothing to generate, and nothing written: every chosen class has as many" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("checkpoint", ["2", "4", "last"])
def test_the_checkpoint_can_be_chosen(checkpoint: str, sngan: Path, tmp_path: Path) -> None:
    manifest = generate(sngan, tmp_path / "out", "--checkpoint", checkpoint, "--images", "1")
    step = 2 if checkpoint == "2" else 4
    assert (manifest["step"], manifest["checkpoint_rule"]) == (step, "named" if step == 2 else "last")
    assert f"step={step}" in manifest["checkpoint"]


def test_a_checkpoint_folder_can_be_given(sngan: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", sngan / "checkpoints" / "step=2"
    generate(sngan, run, "--checkpoint", "2", "--images", "1")
    assert generate(folder, tmp_path / "folder", "--images", "1")["step"] == 2
    assert pictures(run) == pictures(tmp_path / "folder")


def test_batch_statistics_are_announced_and_depend_on_the_batch_size(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = generate(sngan, tmp_path / "few", "--images", "2", "--batch-norm", "batch")
    assert few["batch_size"] == 8  # OPTIMIZATION.batch_size
    assert "an image depends on the others of its batch of 8" in capsys.readouterr().out
    generate(sngan, tmp_path / "more", "--images", "3", "--batch-norm", "batch")
    generate(sngan, tmp_path / "large", "--images", "2", "--batch-norm", "batch", "--batch-size", "32")
    first, more, large = (pictures(tmp_path / name) for name in ("few", "more", "large"))
    assert first == {file: more[file] for file in first}
    assert not set(first.values()) & set(large.values())


def test_averaged_generators_are_used_unless_told_otherwise(biggan: Path, tmp_path: Path) -> None:
    averaged = generate(biggan, tmp_path / "averaged", "--images", "1")
    plain = generate(biggan, tmp_path / "plain", "--images", "1", "--no-ema")
    assert (averaged["averaged_generator"], plain["averaged_generator"]) == (True, False)
    assert "G_ema" in averaged["checkpoint"]
    assert pictures(tmp_path / "averaged") != pictures(tmp_path / "plain")


# ------------------------------------------------------------------ formats


def test_all_formats_hold_the_same_images(sngan: Path, tmp_path: Path) -> None:
    for format in ("folder", "hdf5", "npz"):
        generate(sngan, tmp_path / format, "--fill", "12", "--with-real", "--format", format)
    listed = json.loads((tmp_path / "folder" / "manifest.json").read_text())["images"]
    expected = [np.asarray(Image.open(tmp_path / "folder" / image["file"])) for image in listed]
    labels = [image["class"] for image in listed]
    with np.load(tmp_path / "npz" / "images.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], expected)
        assert arrays["labels"].tolist() == labels
    with h5py.File(tmp_path / "hdf5" / "train.hdf5") as file:
        assert np.array_equal(file["imgs"], expected)
        assert file["labels"][:].tolist() == labels
    rows = json.loads((tmp_path / "npz" / "manifest.json").read_text())["images"]
    assert [image["row"] for image in rows] == list(range(len(labels)))
    assert sorted(path.name for path in (tmp_path / "npz").iterdir()) == ["images.npz", "manifest.json"]
    # The file is a data set of ours.
    found = hdf5_lt(str(tmp_path / "hdf5"), "train")
    assert found.class_counts == [max(12, count) for count in COUNTS]
    assert np.array_equal(np.asarray(found[0][0]), expected[0])


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["a/b", "a\\b", "c:d"], ["0_a_b", "1_a_b", "c_d"]),
        (["..", ".hidden", "", "end."], ["0_..", "1_.hidden", "2_", "3_end."]),
        (["Cat", "cat", "größe"], ["0_Cat", "1_cat", "größe"]),
        (["1_a", "A", "a"], ["0_1_a", "1_A", "2_a"]),
        (["manifest.json", "x"], ["0_manifest.json", "x"]),
    ],
)
def test_class_names_become_folders(classes: list[str], expected: list[str], tmp_path: Path) -> None:
    assert folder_names(classes) == expected
    store = PNGFolder(tmp_path / "x", [f"{name}/0.png" for name in expected])
    store.write(range(len(expected)), np.zeros((len(expected), 4, 4, 3), np.uint8))
    store.finish()
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == sorted(expected)


# ------------------------------------------------------------------ whole or absent


def test_a_killed_command_resumes_and_gives_what_it_would_have_given(sngan: Path, tmp_path: Path) -> None:
    argv = ["generate", str(sngan), "--device", "cpu", "--images", "500"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(tmp_path, command, [*argv, "--out", str(whole)]).process.exitcode == 0
    staging = tmp_path / ".out.partial"
    child = start(tmp_path, command, [*argv, "--out", str(out)])
    while child.process.is_alive() and len(list(staging.glob("*/*.png"))) < 300:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.end()
    kept = {path: path.stat().st_mtime_ns for path in staging.glob("*/*.png")}
    assert 300 <= len(kept) < 5000
    assert not out.exists()
    first = min(kept)
    first.write_bytes(first.read_bytes()[:-4])  # cut off, as after a power failure
    assert run(tmp_path, command, [*argv, "--out", str(out)]).process.exitcode == 0
    assert pictures(out) == pictures(whole)
    again = {path: (out / path.relative_to(staging)).stat().st_mtime_ns for path in kept}
    assert [path for path in kept if kept[path] != again[path]] == [first]
    assert not staging.exists()


def test_an_array_knows_the_rows_that_it_has(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    array = ImageArray(tmp_path, range(6), 4, "npz")
    array.write([4, 1], images[[4, 1]])
    array.close()
    array = ImageArray(tmp_path, range(6), 4, "npz")
    assert array.missing() == [0, 2, 3, 5]
    array.write([0, 2, 3, 5], images[[0, 2, 3, 5]])
    array.finish()
    with np.load(tmp_path / "images.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], images)


def test_a_full_disk_keeps_what_was_generated(sngan: Path, tmp_path: Path) -> None:
    """Images fit in files of 4,000 bytes, the manifest does not; the operating system raises the error."""
    argv = ["generate", str(sngan), "--device", "cpu", "--images", "9", "--out", str(tmp_path / "out")]
    child = run(tmp_path, command_with_small_files, argv, 4000)
    assert child.process.exitcode == 2
    assert "cannot be written: OSError" in child.output
    assert "free some space, then the same command resumes" in child.output
    assert not (tmp_path / "out").exists()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".out.partial/3/*.png")}
    assert len(before) == 9
    assert run(tmp_path, command, argv).process.exitcode == 0
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/3/*.png")} == before


def test_a_disk_that_is_too_small_is_refused_before(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    line = refused(capsys, str(sngan), "--out", str(tmp_path / "out"), "--format", "npz")
    assert "writing the images needs" in line


def test_the_same_request_again_is_done_and_others_are_refused(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    generate(sngan, out, "--images", "2")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    generate(sngan, out, "--images", "2")
    assert "has these images already" in capsys.readouterr().out
    assert "images that another command generated; name a new folder" in refused(
        capsys, str(sngan), "--out", str(out), "--images", "3"
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (["--fill", "--with-real", "--classes", "8"], ["--fill", "--with-real", "--classes", "0", "8"]),
        (["--fill", "5", "--with-real"], ["--fill", "5", "--with-real", "--resizer", "box"]),
        (["--images", "2"], ["--images", "2", "--truncation", "1"]),
    ],
)
def test_requests_that_differ_are_not_taken_for_the_same(
    first: list[str], other: list[str], sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = generate(sngan, tmp_path / "out", *first)
    assert manifest["options"]["with_real"] is ("--with-real" in first)
    assert "images that another command generated" in refused(
        capsys, str(sngan), "--out", str(tmp_path / "out"), *other
    )


def test_a_command_that_is_killed_before_its_folder_appears_resumes(sngan: Path, tmp_path: Path) -> None:
    argv = ["generate", str(sngan), "--device", "cpu", "--images", "2", "--out", str(tmp_path / "out")]
    at = 0
    while not (tmp_path / "out").exists():  # kill at the first flush of a file, then at the second, ...
        at += 1
        run(tmp_path, command_that_dies, argv, at)
    assert at > 2
    assert run(tmp_path, command, argv).process.exitcode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*map(str, range(10)), "manifest.json"]
    assert not list(tmp_path.glob(".out*"))


def test_folders_in_another_order_than_the_labels_are_announced(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sngan, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    for classes, announced in (([*"9876543210"], True), ([*"abcdefghij"], False)):
        record["data"]["classes"] = classes
        (folder / "run.json").write_text(json.dumps(record))
        generate(folder, tmp_path / classes[0], "--images", "1")
        assert ("folders sort in another order" in capsys.readouterr().out) is announced


def test_somebodys_files_are_left_alone(sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("folder", ".staged.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert "found a folder with thesis.tex" in refused(capsys, str(sngan), "--out", str(tmp_path / "folder"))
    assert "found a file; name a new folder" in refused(capsys, str(sngan), "--out", str(tmp_path / "file"))
    assert ".staged.partial is in the way" in refused(capsys, str(sngan), "--out", str(tmp_path / "staged"))
    for file in ("folder/thesis.tex", ".staged.partial/thesis.tex", "file"):
        assert (tmp_path / file).read_text() == "mine"


def test_an_unfinished_folder_of_another_request_is_begun_again(sngan: Path, tmp_path: Path) -> None:
    argv = ["generate", str(sngan), "--device", "cpu", "--out", str(tmp_path / "out"), "--images", "9"]
    assert run(tmp_path, command_with_small_files, argv, 4000).process.exitcode == 2
    assert generate(sngan, tmp_path / "out", "--images", "2", "--classes", "3")["generated"][3] == 2
    assert sorted(pictures(tmp_path / "out")) == ["3/000000.png", "3/000001.png"]


@pytest.mark.parametrize("flush", range(1, 7))
def test_a_command_that_is_killed_at_any_flush_goes_on(flush: int, sngan: Path, tmp_path: Path) -> None:
    """Flushes: of the request and its folder, of the manifest and its folder, before and after the new name."""
    argv = ["generate", str(sngan), "--device", "cpu", "--out", str(tmp_path / "out"), "--images", "1"]
    assert run(tmp_path, command_that_dies, argv, flush).process.exitcode == -signal.SIGKILL
    assert (tmp_path / "out").exists() == (flush == 6)
    generate(sngan, tmp_path / "out", "--images", "1")
    assert len(pictures(tmp_path / "out")) == 10
    assert not (tmp_path / ".out.partial").exists()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_an_interrupted_command_says_what_remains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", {}):
        raise KeyboardInterrupt
    assert f"stays in {tmp_path / '.out.partial'}; the same command resumes" in capsys.readouterr().out


def test_of_two_commands_the_one_that_waited_leaves_the_images_of_the_other(tmp_path: Path) -> None:
    def second() -> str:
        with pytest.raises(RequestError) as caught, staged(tmp_path / "out", {}):
            pass
        return str(caught.value)

    with ThreadPoolExecutor() as threads:
        with staged(tmp_path / "out", {}) as folder:
            (folder / "image").write_text("first")
            waiting = threads.submit(second)
            time.sleep(0.5)
            assert not waiting.done()
        assert "another process has written it meanwhile" in waiting.result()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "image"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_folder_is_written(exists: bool, sngan: Path, tmp_path: Path) -> None:
    if exists:
        (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    generate(sngan, tmp_path / "link", "--images", "1")
    assert len(pictures(tmp_path / "disk")) == 10
    assert (tmp_path / "link").is_symlink()


def test_names_that_are_no_text_are_kept(sngan: Path, tmp_path: Path) -> None:
    folder, name = shutil.copytree(sngan, tmp_path / "run"), "caf\udce9"
    record = json.loads((folder / "run.json").read_text())
    record["data"]["classes"] = [name, *"bcdefghij"]
    (folder / "run.json").write_text(json.dumps(record))
    assert generate(folder, tmp_path / "out", "--images", "1")["classes"][0] == name
    assert f"{name}/000000.png" in pictures(tmp_path / "out")
    with one_thread():
        assert main(["export", str(folder), "--out", str(tmp_path / "exported")]) == 0
        assert main(["report", str(folder), "--out", str(tmp_path / "page")]) == 0
    assert studiogan_gsr.load_generator(tmp_path / "exported").classes[0] == name


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("images", ["100000000", "9" * 30])
def test_more_images_than_can_be_listed_are_refused(
    images: str, sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, str(sngan), "--out", str(tmp_path / "out"), "--images", images)
    assert "GB are free: fewer, several times" in line


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "JSONDecodeError"),
        ("[]", "no mapping;"),
        ('{"data": null}', "no mapping data"),
        ('{"data": {"classes": 3}}', "no list data.classes"),
        ('{"data": {"class_counts": [1, 2]}}', "its data.class_counts is not that of 10 classes"),
        ('{"data": {"class_counts": "ten"}}', "its data.class_counts is not that of 10 classes"),
        ('{"starts": [3]}', "no list of mappings starts"),
        ('{"starts": [{}]}', "no step of each start"),
    ],
)
def test_a_damaged_record_is_told(
    content: str, found: str, sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = shutil.copytree(sngan, tmp_path / "run"), tmp_path / "out"
    (folder / "run.json").write_text(content)
    line = refused(capsys, str(folder), "--out", str(out))
    assert f"{folder / 'run.json'}: damaged" in line
    assert found in line
    (folder / "run.json").unlink()  # as the message says
    generate(folder, out, "--images", "1")


def test_a_checkpoint_that_the_run_removes_meanwhile_is_told(sngan: Path, tmp_path: Path) -> None:
    trained = load_trained(shutil.copytree(sngan, tmp_path / "run"))
    trained.file.unlink()
    with pytest.raises(CheckpointError, match=r"was removed while it was read; .*start the command again"):
        _ = trained.sha256
    with pytest.raises(CheckpointError, match="was removed while it was read"):
        read_file(trained.file)


def test_wrong_requests_are_refused_in_one_line(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for options, message in {
        ("--classes", "12"): "class: found '12'; allowed: a name, or a label from 0 to 9",
        ("--classes", "-1"): "class: found '-1'",
        ("--images", "5", "--fill"): "--images and --fill: found both",
        ("--checkpoint", "3"): "--checkpoint: found 3; ",
        ("--checkpoint", "newest"): "--checkpoint: found 'newest'; allowed: last, best, or a step",
        ("--checkpoint", "best"): "no best checkpoint was kept",
        ("--truncation", "0"): "truncation: found 0.0; allowed: a number above 0",
        ("--with-real", "--data", str(tmp_path), "--config", "nowhere"): "nowhere",
    }.items():
        assert message in refused(capsys, str(sngan), "--out", out, *options)
    assert "has the steps 2, 4" in refused(capsys, str(sngan), "--out", out, "--checkpoint", "3")
    assert not list(tmp_path.iterdir())


def test_an_unknown_class_is_told_with_the_nearest_name(biggan: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(biggan, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    record["data"]["classes"] = ["airplane", "automobile", *"bcdefghi"]
    (folder / "run.json").write_text(json.dumps(record))
    generator = studiogan_gsr.load_generator(folder, device="cpu")
    with pytest.raises(RequestError, match=r"found 'aeroplane'; .*did you mean airplane\?"):
        generator(["aeroplane"])
    assert torch.equal(generator(["automobile"]), generator([1]))


def test_a_generator_without_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run", "--steps", "2")) == 0
    assert "MODEL.g_cond_mtd is W/O" in refused(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "out"))


def test_a_checkpoint_of_another_number_of_classes_is_refused(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sngan, tmp_path / "run")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("num_classes: 10", "num_classes: 12"))
    line = refused(capsys, str(folder), "--out", str(tmp_path / "out"))
    assert "the checkpoint has 10 classes, but DATA.num_classes is 12" in line


def test_a_fill_needs_to_know_the_training_images(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(sngan / "checkpoints" / "step=4", folder)
    config = str(sngan / "config.yaml")
    line = refused(capsys, str(folder), "--config", config, "--out", str(tmp_path / "out"), "--fill")
    assert "--fill: the run's record has no class counts; --data names" in line
    manifest = generate(folder, tmp_path / "out", "--config", config, "--fill", "3", "--data", str(tmp_path))
    assert manifest["generated"] == [max(0, 3 - count) for count in COUNTS]


GAPPY = """
from studiogan_gsr.datasets.digits import digits_lt
from studiogan_gsr.datasets.long_tailed import View

def make(root, split, **options):
    whole = digits_lt(root, split, 50)
    return View(whole, [i for i, label in enumerate(whole.targets) if label != 7], whole.classes)
"""


def test_a_class_without_training_images_is_filled_up_and_named(
    sngan: Path, tmp_path: Path, make_package: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    make_package("gappy", "studiogan.datasets", {"Gappy": "gappy:make"}, {"gappy": GAPPY})
    folder = shutil.copytree(sngan / "checkpoints" / "step=4", tmp_path / "alone")
    config = (sngan / "config.yaml").read_text().replace("Digits_LT_rho50", "Gappy")
    (folder / "config.yaml").write_text(config)
    options = ("--fill", "3", "--with-real", "--data", str(tmp_path))
    manifest = generate(folder, tmp_path / "out", *options)
    assert "classes without training images: 7" in capsys.readouterr().out
    assert (manifest["training_images"][7], manifest["generated"][7]) == (0, 3)
    assert sorted(path.name for path in (tmp_path / "out" / "7").iterdir()) == [f"{i:06}.png" for i in range(3)]


# ------------------------------------------------------------------ in Python


def test_a_loaded_generator_gives_the_images_that_the_command_writes(sngan: Path, tmp_path: Path) -> None:
    generate(sngan, tmp_path / "out", "--images", "2", "--seed", "3")
    generator = studiogan_gsr.load_generator(sngan, device="cpu")
    assert generator.classes == [str(label) for label in range(10)]
    with one_thread():
        images = generator([4, "4", 7], seed=3)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    written = pictures(tmp_path / "out")
    for image, file in zip(images, ("4/000000.png", "4/000001.png", "7/000000.png"), strict=True):
        assert image.permute(1, 2, 0).contiguous().numpy().tobytes() == written[file]
    assert torch.equal(generator(torch.tensor([4, 4, 7]), seed=3), images)
    assert not torch.equal(generator([4, 4, 7], seed=4), images)
    assert "step 4, 10 classes" in repr(generator)


def test_standing_statistics_are_the_commands(sngan: Path, tmp_path: Path) -> None:
    generate(sngan, tmp_path / "out", "--images", "1", "--seed", "5", "--batch-norm", "standing")
    generator = studiogan_gsr.load_generator(sngan, batch_norm="standing", device="cpu")
    with one_thread():
        image = generator([3], seed=5)[0]
    assert image.permute(1, 2, 0).contiguous().numpy().tobytes() == pictures(tmp_path / "out")["3/000000.png"]


def test_no_labels_give_no_images(sngan: Path) -> None:
    assert studiogan_gsr.load_generator(sngan, device="cpu")([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("wrong", [[10], [-1], ["ten"], "4", 4, [0.7], [None], [[1]], b"4", [b"4"]])
def test_a_loaded_generator_refuses_unknown_classes(wrong: Any, sngan: Path) -> None:
    with pytest.raises(RequestError, match="allowed"):
        studiogan_gsr.load_generator(sngan, device="cpu")(wrong)


def test_no_labels_are_no_images(sngan: Path) -> None:
    images = studiogan_gsr.load_generator(sngan, device="cpu")([])
    assert (images.shape, images.dtype) == ((0, 3, 32, 32), torch.uint8)


def test_a_checkpoint_that_is_missing_is_told(sngan: Path) -> None:
    with pytest.raises(CheckpointError, match="has the steps 2, 4"):
        studiogan_gsr.load_generator(sngan, 3)


def test_the_script_of_docs_works_in_a_new_process(sngan: Path, tmp_path: Path) -> None:
    (script,) = texts("python", "docs/generated-images.md")
    folder = shutil.copytree(sngan, tmp_path / "runs" / "sngan-gsr")
    record = json.loads((folder / "run.json").read_text())
    record["data"]["classes"] = ["cat", "ship", *"abcdefgh"]
    (folder / "run.json").write_text(json.dumps(record))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'cat', 'ship'" in done.stdout
    assert "torch.Size([3, 3, 32, 32])" in done.stdout
