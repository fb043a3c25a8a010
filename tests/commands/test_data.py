"""`studiogan-gsr data`: packing and showing sets by name; HDF5_LT; packed files in the native host."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from studiogan_gsr.cli import main
from studiogan_gsr.datasets.digits import digits_lt
from studiogan_gsr.datasets.hdf5 import hdf5_lt
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.packed import Packed, open_packed
from studiogan_gsr.datasets.show import show
from studiogan_gsr.errors import DataError, OptionError
from studiogan_gsr.hosts.native import shares
from studiogan_gsr.hosts.native.images import InMemory, Streamed
from studiogan_gsr.hosts.native.training_set import open_training_set
from studiogan_gsr.shipped import shipped_configuration

NAME = "Digits_LT_rho50_seed3"


@pytest.fixture
def packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["data", "prepare", NAME, "--data", str(tmp_path)]) == 0
    path = tmp_path / f"{NAME}_32_wo_resize_train.hdf5"
    assert f"{path}: 371 images of 32 x 32 pixels" in capsys.readouterr().out
    return path


def test_prepare_packs_a_set_by_its_name_and_again_finds_it(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, digits = open_packed(packed, NAME, 32), digits_lt("", "train", 50, seed=3)
    assert found.targets == digits.targets
    assert all(np.array_equal(found.pixels[i], np.asarray(digits[i][0])) for i in range(len(digits)))
    assert found.index is not None
    assert found.index.options == {"ratio": 50, "seed": 3}
    assert main(["data", "prepare", NAME, "--data", str(packed.parent)]) == 0
    assert "is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Birds_LT"], "NAME: found 'Birds_LT'; data sets are AnimalFaces_LT"),
        (["CIFAR10"], "NAME: found 'CIFAR10'; data sets are AnimalFaces_LT"),
        (["Digits_LT_rho50_released"], "Digits_LT has no _released; write Digits_LT_rho50"),
        (["Digits_LT", "--size", "16"], "DATA.img_size: found 16; image 0 of Digits_LT"),
        (["Folder_LT"], "needs train/ and valid/"),
        (["ImageNet_LT"], "ImageNet_LT_train.txt"),
    ],
)
def test_what_cannot_be_packed_is_told_in_a_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", *arguments, "--data", str(tmp_path / "data")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.rglob("*.hdf5"))


def test_sets_of_many_sizes_need_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, number in (("Bear", 24), ("Cat", 30)):
        (tmp_path / "Image" / part).mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (20 + i, 30), (i, 0, 0)).save(tmp_path / "Image" / part / f"{i:02}.png")
    command = ["data", "prepare", "AnimalFaces_LT", "--data", str(tmp_path)]
    assert main(command) == 2
    assert "AnimalFaces_LT is resized" in capsys.readouterr().err
    assert main([*command, "--size", "16", "--workers", "2"]) == 0
    found = Packed(tmp_path / "AnimalFaces_LT_16_wo_resize_train.hdf5")
    assert found.class_counts == [10, 4]
    assert found.index is not None
    assert found.index.preprocessing == {"crop": True, "resizer": "bilinear"}
    assert main([*command, "--size", "16", "--resizer", "lanczos", "--split", "reference"]) == 0
    assert Packed(tmp_path / "AnimalFaces_LT_16_lanczos_reference.hdf5").class_counts == [20, 20]


def test_damaged_and_rotated_images_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        for i in range(30):
            exif = Image.Exif()
            exif[0x0112] = 1 + i % 2
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "train" / label / f"{i:02}.jpg", exif=exif)
    for i in range(3, 26):
        (tmp_path / "train" / "a" / f"{i:02}.jpg").write_bytes(b"oh")
    (tmp_path / "train" / "a" / "00.jpg").rename(tmp_path / "train" / "a" / "kept")
    (tmp_path / "train" / "a" / "00.jpg").write_bytes(b"oh")
    assert main(["data", "prepare", "Folder_LT", "--data", str(tmp_path), "--skip-damaged"]) == 2
    assert f"image 0 of Folder_LT ({tmp_path}/train/a/00.jpg) cannot be read" in capsys.readouterr().err
    (tmp_path / "train" / "a" / "kept").rename(tmp_path / "train" / "a" / "00.jpg")
    command = ["data", "prepare", "Folder_LT", "--data", str(tmp_path), "--size", "8"]
    assert main(command) == 2
    assert f"image 3 of Folder_LT ({tmp_path}/train/a/03.jpg) cannot be read" in capsys.readouterr().err
    assert main([*command, "--skip-damaged"]) == 0
    out = capsys.readouterr().out
    assert "37 images of 8 x 8 pixels" in out
    assert "orientation" not in out  # the tags are applied
    assert "\n  23 damaged images were left out\n" in out
    assert out.count("cannot be read") == 20
    assert "and 3 more; all are in the file's index" in out


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two classes of 32 x 32, half of the images transparent, and a long one."""
    for label in "ab":
        (tmp_path / "odd" / "train" / label).mkdir(parents=True)
        for i in range(6):
            image = Image.new("RGBA", (32, 32), (i, 9, 9, 255 * (i % 2)))
            image.save(tmp_path / "odd" / "train" / label / f"{i}.png")
    Image.new("RGB", (32, 128)).save(tmp_path / "odd" / "train" / "a" / "1.png")
    return tmp_path / "odd"


@pytest.mark.parametrize("way", ["in_memory", "streamed", "packed"])
def test_a_run_says_which_images_look_otherwise_than_they_are_used(
    odd: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clear = "6 images have transparent pixels; the colours hidden there are used, as in torchvision"
    long = "1 images are at least twice as long as wide; half or more of each is cropped away"
    if way == "packed":
        assert main(["data", "prepare", "Folder_LT", "--data", str(odd), "--size", "32", "--workers", "2"]) == 0
        assert f"\n  {clear}\n  {long}\n" in capsys.readouterr().out
        found = Packed(odd / "Folder_LT_32_wo_resize_train.hdf5")
        assert found.notes == (clear, long)
        assert found.index is not None
        assert (found.index.rotated, found.index.transparent, found.index.elongated) == (0, 6, 1)
        shutil.rmtree(odd / "train")
    sections = yaml.safe_load(shipped_configuration("CIFAR10_LT/SNGAN-gSR").read_text())
    sections["DATA"] |= {"name": "Folder_LT", "num_classes": 2}
    sections["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    sections["OPTIMIZATION"]["batch_size"] = 4
    configuration = odd / "narrow.yaml"
    configuration.write_text(yaml.safe_dump(sections))
    command = ["train", str(configuration), "--data", str(odd), "--out", str(odd / "run"), "--steps", "1"]
    assert main([*command, *(["--stream"] if way == "streamed" else [])]) == 0
    printed = capsys.readouterr().out
    assert printed.count(clear) == printed.count(long) == 1
    assert json.loads((odd / "run" / "run.json").read_text())["data"]["notes"] == [clear, long]
    log = json.loads((odd / "run" / "log.jsonl").read_text().splitlines()[0])
    assert {key for key in log if "norm_" in key} == {"gsr/norm_head", "gsr/norm_tail"}


def test_workers_counts_reach_the_run(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(shares, "_WORTH_WORKERS", 1)
    pixels = open_training_set("Folder_LT", str(odd), 2, 32, "wo_resize").pixels
    assert InMemory(pixels, torch.device("cpu"), 2).notes == InMemory(pixels, torch.device("cpu"), 0).notes != []


def test_show_says_what_is_cropped_and_that_a_set_is_balanced(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "Folder_LT", "--data", str(odd), "--out", str(odd / "page")]) == 0
    printed = capsys.readouterr().out
    assert "\nhead and tail: none, each class has 6 images\n" in printed
    assert "\nnote: 1 images are at least twice as long as wide; half or more of each is cropped away\n" in printed
    (odd / "train" / "b" / "5.png").unlink()
    assert main(["data", "show", "Folder_LT", "--data", str(odd), "--out", str(odd / "page")]) == 0
    assert "\nhead and tail: a; b\n" in capsys.readouterr().out


# Packed files in the native host


def test_the_native_host_trains_on_a_packed_file_as_on_its_source(packed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one = open_training_set(NAME, str(empty), 10, 32, "wo_resize")
    other = open_training_set(NAME, str(packed.parent), 10, 32, "wo_resize")
    assert one.class_counts == other.class_counts
    assert one.record["images_sha256"] == other.record["images_sha256"]
    assert one.record["packed"] is None
    assert other.record["packed"] == str(packed)
    assert f"from {packed}" in other.summary
    import torch

    device, batches = torch.device("cpu"), [torch.tensor([5, 300, 5]), torch.tensor([0, 370, 99])]
    wanted = list(InMemory(one.pixels, device, 0).fetch(iter(batches)))
    for images in (InMemory(other.pixels, device, 0), Streamed(other.pixels, device, 2)):
        for (a, x), (b, y) in zip(wanted, images.fetch(iter(batches)), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(x, y)


def test_a_run_says_and_records_what_it_trains_on(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = yaml.safe_load(shipped_configuration("CIFAR10_LT/SNGAN-gSR").read_text())
    sections["DATA"]["name"] = NAME
    sections["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    sections["OPTIMIZATION"]["batch_size"] = 8
    configuration = packed.parent / "narrow.yaml"
    configuration.write_text(yaml.safe_dump(sections))
    out = packed.parent / "run"
    command = ["train", str(configuration), "--data", str(packed.parent), "--out", str(out), "--steps", "1"]
    assert main(command) == 0
    assert f"{NAME} from {packed}: class counts 134 " in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())["data"]
    assert record["packed"] == str(packed)
    assert (record["head_class"], record["tail_class"]) == ("0", "9")
    assert record["preprocessing"] == {"crop": True, "resizer": "wo_resize"}
    assert record["notes"] == []
    # The run goes on with the images themselves, and with no others.
    packed.rename(packed.parent / "kept")
    assert main([*command[:-1], "2", "--resume"]) == 0
    assert json.loads((out / "run.json").read_text())["data"]["packed"] is None
    (packed.parent / "kept").rename(packed)
    assert main([*command[:-1], "3", "--resume", "--resizer", "lanczos"]) == 2
    assert "--resume: found --resizer lanczos; the run in" in capsys.readouterr().err
    # A file that a kill cut short, or that is another set's, never trains.
    with packed.open("r+b") as file:
        file.truncate(packed.stat().st_size - 1)
    again = [*command[:-3], str(packed.parent / "again"), *command[-2:]]
    assert main(again) == 2
    assert "is cut off: " in capsys.readouterr().err
    packed.unlink()
    assert main(["data", "prepare", "Digits_LT_rho50", "--data", str(packed.parent)]) == 0
    shutil.move(packed.parent / "Digits_LT_rho50_32_wo_resize_train.hdf5", packed)
    assert main(again) == 2
    assert f"name is 'Digits_LT_rho50', expected '{NAME}'; move it away and pack it again" in capsys.readouterr().err
    assert not (packed.parent / "again" / "run.json").exists()


# HDF5_LT


@pytest.fixture
def files(tmp_path: Path) -> Path:
    stream = np.random.RandomState(0)
    for name, labels in (("train", np.repeat([0, 1, 2], 16)), ("valid", np.repeat([0, 1, 2], 2))):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            shape = (len(labels), 8, 8, 3)
            file.create_dataset("imgs", data=stream.randint(0, 256, shape, np.uint8), chunks=(5, 8, 8, 3))
            file["labels"] = labels[::-1].astype(np.int64)
    return tmp_path


def test_any_studiogan_file_becomes_long_tailed(files: Path) -> None:
    whole = hdf5_lt(str(files), "train")
    assert whole.class_counts == [16] * 3
    train = hdf5_lt(str(files), "train", ratio=16)
    assert train.class_counts == [16, 4, 1]
    with h5py.File(files / "train.hdf5") as file:
        for place in (0, 18, 20):
            image, label = train[place]
            assert np.array_equal(np.asarray(image), file["imgs"][train.indices[place]])
            assert label == file["labels"][train.indices[place]]
    assert hdf5_lt(str(files), "reference", ratio=16).class_counts == [2] * 3
    assert main(["data", "prepare", "HDF5_LT_rho4", "--data", str(files)]) == 0
    assert open_packed(files / "HDF5_LT_rho4_8_wo_resize_train.hdf5", "HDF5_LT_rho4", 8).class_counts == [16, 8, 4]
    assert hdf5_lt(str(files), "train", 2).class_counts == [16, 11, 8]  # still of the whole file
    (files / "train.hdf5").rename(files / "photos_train.hdf5")
    with pytest.raises(DataError, match=r"needs train.hdf5, .*found: HDF5_LT_rho4_.*, photos_train.hdf5, valid.hdf5"):
        hdf5_lt(str(files), "train", 2)  # and never of the packed tail
    (files / "train.hdf5").symlink_to(files / "photos_train.hdf5")
    assert hdf5_lt(str(files), "train", 2).class_counts == [16, 11, 8]


def test_a_file_of_another_size_than_the_networks_is_told(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "HDF5_LT", "--data", str(files), "--size", "16"]) == 2
    assert "DATA.img_size: found 16; image 0 of HDF5_LT (train.hdf5/0) is 8 x 8 pixels" in capsys.readouterr().err
    assert main(["data", "prepare", "HDF5_LT", "--data", str(files), "--size", "16", "--resizer", "lanczos"]) == 0


@pytest.mark.parametrize(("first", "kind"), [(0, np.float32), (1, np.int64)])
def test_labels_as_floats_are_taken_and_labels_from_1_are_named(files: Path, first: int, kind: type) -> None:
    with h5py.File(files / "train.hdf5", "r+") as file:
        labels = file["labels"][:]
        del file["labels"]
        file["labels"] = (labels + first).astype(kind)
    if not first:
        assert hdf5_lt(str(files), "train", ratio=4).class_counts == [16, 8, 4]
        return
    for ratio in (None, 4):
        with pytest.raises(OptionError, match="the labels begin at 1: subtract 1 from each"):
            hdf5_lt(str(files), "train", ratio)


def test_the_digest_of_a_file_is_of_its_images(files: Path) -> None:
    before = digest(hdf5_lt(str(files), "train", 4))
    assert digest(hdf5_lt(str(files), "train", 4)) == before
    with h5py.File(files / "train.hdf5", "r+") as file:
        file["imgs"][:] = 255 - file["imgs"][:]
    assert digest(hdf5_lt(str(files), "train", 4)) != before


def test_what_is_no_pair_of_files_is_told(files: Path, tmp_path: Path) -> None:
    with h5py.File(files / "valid.hdf5", "r+") as file, h5py.File(files / "train.hdf5") as train:
        kept = file["imgs"][1]
        file["imgs"][1] = train["imgs"][40]
    with pytest.raises(DataError, match=r"1 of 6 images of .*valid.hdf5 are in .*train.hdf5 too, first image 1"):
        hdf5_lt(str(files), "reference")
    with h5py.File(files / "valid.hdf5", "r+") as file:
        file["imgs"][1] = kept
        file["labels"][0] = 0
    with pytest.raises(DataError, match="not balanced"):
        hdf5_lt(str(files), "reference")
    (files / "valid.hdf5").unlink()
    with pytest.raises(DataError, match=r"needs valid.hdf5, .*found: train.hdf5"):
        hdf5_lt(str(files), "reference")
    (files / "train.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="is no HDF5 file; if it was one, copy it again"):
        hdf5_lt(str(files), "train")


# show


def test_show_prints_counts_and_digest_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "show", "Digits_LT_rho50", "--data", str(tmp_path), "--out", str(tmp_path / "page")]
    assert main(command) == 0
    out = capsys.readouterr().out
    for label, count in enumerate(digits_lt("", "train", 50).class_counts):
        assert re.search(rf"^ +{label}  {label} +{count}  █+$", out, re.M)
    digest = re.search(r"digest of the chosen images: ([0-9a-f]{64})\n", out)
    assert digest is not None
    text = (tmp_path / "page" / "index.html").read_text()
    assert digest[1] in text
    assert text.count("data:image/png;base64,") == 2
    assert "<svg" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    other = show("Digits_LT_rho50_seed1", str(tmp_path), tmp_path / "other")
    assert other.images_sha256 != digest[1]
    assert show("Digits_LT_rho50", str(tmp_path), tmp_path / "same").images_sha256 == digest[1]


def test_show_of_many_classes_prints_both_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(120):
        folder = tmp_path / "train" / f"kind{label:03}"
        folder.mkdir(parents=True)
        for i in range(1 + (label == 7)):
            Image.new("RGB", (5, 4), (label, i, 0)).save(folder / f"{i}.png")
    assert main(["data", "show", "Folder_LT", "--data", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("█" in line for line in lines) == 20
    assert lines[1].split()[:3] == ["7", "kind007", "2"]
    assert "few-shot: 120 classes with fewer than 20" in lines


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in "ab":
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "data" / "train" / label / f"{i}.png")
    sections = yaml.safe_load(shipped_configuration("CIFAR10_LT/SNGAN-gSR").read_text())
    sections["DATA"] |= {"name": "Folder_LT", "num_classes": 2}
    sections["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    sections["OPTIMIZATION"]["batch_size"] = 4
    configuration = tmp_path / "narrow.yaml"
    configuration.write_text(yaml.safe_dump(sections))
    command = ["train", str(configuration), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main([*command, "--steps", "1"]) == 0
    (tmp_path / "data" / "train" / "a" / "4.png").rename(tmp_path / "data" / "train" / "b" / "5.png")
    capsys.readouterr()
    assert main([*command, "--steps", "2", "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--resume: the run in" in line
    assert "has other images (images_sha256 " in line
    assert "--allow-changed-images resumes on these, and run.json records it" in line
