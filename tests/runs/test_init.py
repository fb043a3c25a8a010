"""Configurations for a folder of images: layouts of the folder, what is chosen, and that both hosts read them."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.tables.rows import read_tables
from studiogan_gsr.cli import main
from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.networks import Discriminator, Generator
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.runs import split_folder
from studiogan_gsr.runs.init import init
from studiogan_gsr.runs.proposal import propose
from studiogan_gsr.runs.proposal_text import MEANINGS, proposal_text
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration
from support.host import Host, write_configuration
from support.runs import Sections, one_thread

NUMBERS = itertools.count()


def write_images(folder: Path, number: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Path:
    """Write so many different images; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        pixels = np.random.default_rng(next(NUMBERS)).integers(0, 256, (*reversed(size), 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return folder


def write_parts(root: Path, **parts: dict[str, int]) -> Path:
    """Write root/<part>/<class>/ with so many images; a part "flat" is `root` itself."""
    for part, classes in parts.items():
        for name, number in classes.items():
            write_images((root if part == "flat" else root / part) / name, number)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images of cats, two of dogs, and a balanced reference, in a folder of the working folder."""
    monkeypatch.chdir(tmp_path)
    return write_parts(Path("my photos"), train={"cat": 6, "dog": 2}, valid={"cat": 2, "dog": 2})


def written(out: Path) -> tuple[Sections, Sections]:
    """Return the sections of the two files in a folder, without gSR and with it."""
    return load_configuration(out / "plain.yaml"), load_configuration(out / "gsr.yaml")


def test_a_pair_differs_in_the_regularizer_alone_and_is_complete(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", str(photos)]) == 0
    out = capsys.readouterr().out
    plain, gsr = written(Path("configs-my photos"))
    assert gsr.pop("REGULARIZER") == {"name": "gsr", "weight": 0.5, "beta": 0.99}
    assert plain == gsr
    assert plain["DATA"] == {"name": "Folder_LT", "img_size": 32, "num_classes": 2}
    assert (plain["OPTIMIZATION"]["batch_size"], plain["OPTIMIZATION"]["total_steps"]) == (8, 20_000)
    assert "8 images of 2 classes in my photos/train: from 6 (cat) to 2 (dog), ratio 3." in out
    assert (
        "size: 32: the largest of 32, 64, 128 that upscales at most half of the images; shorter sides are 36" in out
    )
    assert "by the headers of 8 of 8 images" in out
    assert "missing" not in out
    assert "note: valid/ has 2 images of each class: too few to measure single classes by; from 50 on" in out
    lines = [line.strip() for line in out.splitlines()]
    pair = [f"'configs-my photos/{name}.yaml'" for name in ("plain", "gsr")]
    assert "studiogan-gsr data show Folder_LT --data 'my photos'" in lines
    for path, run in zip(pair, ("runs/plain", "runs/gsr"), strict=True):
        train = f"studiogan-gsr train {path} --data 'my photos' --out {run} --resizer lanczos --evaluate"
        assert train in lines
        save = run.replace("/", "/studiogan-")
        theirs = f"-metrics fid -ref valid --pre_resizer lanczos --seed 0 -cfg {path} -data 'my photos' -save {save}"
        assert f"studiogan-gsr studiogan run -- -t {theirs}" in lines
    assert "studiogan-gsr report runs/plain runs/gsr" in lines
    assert "studiogan-gsr report runs/studiogan-plain runs/studiogan-gsr" in lines


@pytest.mark.parametrize(("held_out", "few"), [(49, True), (50, False)])
def test_few_references_are_noted(
    held_out: int, few: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    init(write_parts(Path("folder"), train={"cat": 8, "dog": 2}, valid={"cat": held_out, "dog": held_out}))
    assert ("images of each class: too few" in capsys.readouterr().out) == few


def test_other_files_are_not_overwritten(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(photos, Path("c"))
    before = contents(Path("c"))
    init(photos, Path("c"))  # identical
    Path("c/gsr.yaml").write_text("mine")
    write_images(photos / "train" / "dog", 3)
    mine = contents(Path("c"))
    assert main(["init", "--data", str(photos), "--out", "c"]) == 2
    assert "c/plain.yaml exists and differs; --overwrite replaces it" in capsys.readouterr().err
    assert contents(Path("c")) == mine
    assert main(["init", "--data", str(photos), "--out", "c", "--overwrite"]) == 0
    assert contents(Path("c")).keys() == before.keys()
    assert contents(Path("c")) != before


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (
            {"flat": {"cat": 2, "dog": 2}},
            [],
            r"found class folders, but both hosts read train/ .*--split '?folder-split",
        ),
        ({"training": {"cat": 2, "dog": 2}}, [], r"found training/, but both hosts read train/ and valid/"),
        ({"flat": {"cat": 2}}, ["--split", "new"], r"found one class, cat, with 0.png, 1.png; a class-cond"),
        ({"train": {"cat": 2}}, [], r"found one class, cat"),
        ({"train": {"cat": 2, "dog": 0}}, [], r"in train/: no image of dog \(the folders are empty\)"),
        ({"train": {"cat": 4, "dog": 3}}, [], r"found 7 training images; 8 or more make a batch"),
        ({"train": {"cat": 2, "dog": 2}}, ["--size", "48"], r"--size 48: allowed: 16, 32, 64, 128"),
        ({"train": {"cat": 2, "dog": 2}}, ["--hold-out", "1"], r"--hold-out needs --split"),
        ({"flat": {"cat": 5, "dog": 2}}, ["--split", "new", "--hold-out", "2"], r"class dog has 2 images; at most 1"),
        ({"flat": {"cat": 2, "dog": 2}}, ["--split", "folder/new"], r"found a folder in --data folder"),
        ({"flat": {"cat": 2, "dog": 2}}, ["--split", "folder"], r"--split folder: found files there; name a new"),
        (
            {"train": {"cat": 2, "dog": 2}, "valid": {"cat": 1, "dog": 1}},
            ["--split", "new", "--hold-out", "1"],
            r"folder has a reference, valid/; leave it out",
        ),
        (
            {"train": {"cat": 2, "dog": 2}, "val": {"cat": 1, "cow": 1}},
            ["--split", "new"],
            r"train/ and val/ differ in the classes cow, dog",
        ),
    ],
)
def test_a_folder_that_does_not_do_is_refused_in_one_line(
    parts: dict[str, dict[str, int]],
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parts(Path("folder"), **parts)
    assert main(["init", "--data", "folder", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(line)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_no_folder_and_a_file_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for name, found in (("nowhere", "no such folder"), ("file", "a file")):
        assert main(["init", "--data", str(tmp_path / name)]) == 2
        assert f"{name}: {found}; expected: a folder of images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({}, "valid/, the images to measure against; add --split folder-split, which writes a folder with both"),
        ({"val": {"cat": 2, "dog": 2}}, "valid/, which is called val/ here; rename it; add --split folder-split"),
        ({"valid": {"cat": 3, "dog": 2}}, "a balanced valid/, whose classes now have 2 to 3 images; add --split"),
        ({"valid": {"cat": 1, "dog": 2}}, "two images of each class in valid/ to measure against; add some"),
        ({"valid": {"cat": 2, "cow": 2}}, "only one of them has cow, dog"),
    ],
)
def test_without_a_reference_it_says_what_is_missing_and_leaves_measuring_out(
    parts: dict[str, dict[str, int]],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parts(Path("folder"), train={"cat": 6, "dog": 4}, **parts)
    assert main(["init", "--data", "folder"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("missing: ")]
    assert missing in line
    assert "--evaluate" not in out
    assert "-metrics none" in out


@pytest.mark.parametrize("linked", [True, False])
def test_a_split_holds_out_images_and_leaves_the_folder_as_it_is(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_parts(Path("train and car"), flat={"train": 12, "car": 5})  # `train` is a class here
    write_images(source / "car" / "old", 6)  # deeper
    (source / "car" / ".hidden.png").write_bytes(b"")
    before = contents(source)
    if not linked:

        def refuse(*given: Any) -> None:
            raise OSError("another disk")

        monkeypatch.setattr(os, "link", refuse)
    assert main(["init", "--data", str(source), "--split", "new"]) == 0
    out = capsys.readouterr().out
    how = "hard links, which take no space" if linked else "copies"
    assert f"new: written, {how}; 19 images in train/, 4 in valid/" in out  # a fifth of 11
    assert "missing" not in out
    assert contents(source) == before
    assert Counter(contents(Path("new")).values()) == Counter(v for k, v in before.items() if "hidden" not in k)
    assert folder_lt("new", "train").class_counts == [9, 10]
    assert folder_lt("new", "reference").class_counts == [2, 2]
    same = [path.stat().st_ino for path in Path("new").rglob("*.png")] + [
        path.stat().st_ino for path in source.rglob("[!.]*.png")
    ]
    assert len({*same}) == (23 if linked else 46)
    assert Path("configs-train and car").is_dir()


def test_a_split_takes_the_references_first_images_and_equally_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parts(Path("folder"), train={"cat": 6, "dog": 4}, test={"cat": 3, "dog": 2})
    assert main(["init", "--data", "folder", "--split", "new"]) == 0
    assert "missing" not in capsys.readouterr().out
    assert folder_lt("new", "train").class_counts == [6, 4]
    assert contents(Path("new/valid")).keys() == {"cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"}


def test_a_class_with_one_image_is_trained_on_and_not_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parts(Path("folder"), flat={"cat": 11, "dog": 1})
    assert main(["init", "--data", "folder", "--split", "new"]) == 0
    out = capsys.readouterr().out
    assert "missing: valid/, the images to measure against; none was held out" in out
    assert folder_lt("new", "train").class_counts == [11, 1]
    _, gsr = written(Path("configs-folder"))
    assert gsr["OPTIMIZATION"]["batch_size"] == 8  # of twelve images


def test_copies_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parts(Path("folder"), flat={"cat": 2, "dog": 2})
    monkeypatch.delattr(os, "link")
    monkeypatch.setattr(os, "link", lambda *given: (_ for _ in ()).throw(OSError("another disk")), raising=False)
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(split_folder.shutil, "disk_usage", lambda folder: full)
    assert main(["init", "--data", "folder", "--split", "new"]) == 2
    assert "hard links are not possible there, and copies need" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_odd_is_noted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cats = photos / "train" / "cat"
    write_images(cats / "gray", 1, mode="L")
    write_images(cats / "transparent", 2, mode="RGBA")
    write_images(cats / "deep", 1, mode="I;16")
    (cats / "damaged.png").write_bytes(b"no image")
    (cats / "notes.txt").write_text("")
    assert main(["init", "--data", str(photos)]) == 0
    out = capsys.readouterr().out
    for note in (
        "train/: left out 1 .txt: no images by their extensions",
        "1 of 13 images cannot be opened, the first is train/cat/damaged.png; remove them",
        "3 of 12 images (L, RGBA) are no RGB images; they become RGB",
        "1 of 12 images (I;16) have more than 8 bits per channel and cannot be trained on; convert them",
    ):
        assert f"note: {note}" in out
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no image")
    assert main(["init", "--data", str(photos)]) == 2
    assert "none of 13 images can be opened; first train/cat/" in capsys.readouterr().err


def test_equal_classes_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parts(tmp_path / "folder", train={"cat": 4, "dog": 4})
    assert main(["init", "--data", str(tmp_path / "folder"), "--out", str(tmp_path / "c")]) == 0
    assert "DATA.name: Folder_LT_rho100 would make them long-tailed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sides", "size", "why"),
    [
        ([200, 200, 20], 128, "the largest of 32, 64, 128 that upscales at most half of the images"),
        ([200, 60, 60], 32, "the largest"),
        ([64, 64, 10, 10], 64, "6 of these are upscaled"),
        ([20, 20, 20], 32, "the smallest that StudioGAN has; shorter sides are 20"),
    ],
)
def test_the_size_is_the_largest_that_few_images_are_upscaled_to(
    sides: list[int], size: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, side in enumerate(sides):
        write_images(tmp_path / "folder" / "train" / "ab"[i % 2] / str(i), 3, (side + 9, side))
    init(tmp_path / "folder", tmp_path / "c")
    assert written(tmp_path / "c")[0]["DATA"]["img_size"] == size
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("size: ")]
    assert line.startswith(f"size: {size}: ")
    assert why in line


def test_images_of_the_size_are_not_resized_and_16_pixels_are_the_native_hosts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write_images(tmp_path / "folder" / "train" / name, 4, (16, 20))
    init(tmp_path / "folder", tmp_path / "c", size=16)
    out = capsys.readouterr().out
    assert "--resizer" not in out
    assert "StudioGAN has no 16 pixels" in out
    assert "studiogan run" not in out
    assert written(tmp_path / "c")[1]["REGULARIZER"]["weight"] == 0.05


@pytest.mark.parametrize(
    ("counts", "beta", "why"),
    [
        ([460, 2], 0.99, "no class has more"),
        ([461, 2], 0.999, "from 4,613 on."),
        ([9000, 4613], 0.999, "as all classes have"),
    ],
)
def test_beta_tells_the_classes_apart(counts: list[int], beta: float, why: str) -> None:
    proposal = propose(["a", "b"], counts, 32)
    assert proposal.gsr["beta"] == beta
    assert why in proposal.reasons["REGULARIZER.beta"]


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("classes", [2, 100, 101])
def test_every_proposal_is_complete_commented_and_read_by_the_native_host(size: int, classes: int) -> None:
    counts = [max(1, 4000 // (label + 1)) for label in range(classes)]
    proposal = propose([f"class\n{label}" for label in range(classes)], counts, size)
    many = classes > 100 and size > 16
    assert proposal.model == ("BigGAN" if many else "SNGAN")
    assert proposal.gsr["weight"] == (0.05 if size == 16 else 0.01 if many else 0.5)
    text = proposal_text(proposal, "these images", with_gsr=True)
    sections = yaml.safe_load(text)
    assert sections == proposal.sections | {"REGULARIZER": proposal.gsr}
    made = read_configuration(sections)
    assert made.MODEL.g_ema_start is None or made.MODEL.g_ema_start < made.OPTIMIZATION.total_steps / 2
    keys = [line for line in text.splitlines() if line.startswith("  ") and not line.startswith("  #")]
    assert len(keys) == sum(map(len, sections.values()))
    assert all("  # " in line for line in keys)
    assert max(map(len, text.splitlines())) < 119
    assert {f"{section}.{key}" for section, values in sections.items() for key in values} <= {*MEANINGS}


@pytest.mark.parametrize(("classes", "size"), [(101, 32), (101, 64), (101, 128), (2, 128)])
def test_the_average_covers_the_same_part_of_a_shorter_run(classes: int, size: int) -> None:
    proposal = propose(list(map(str, range(classes))), [9] * classes, size)
    shipped = load_configuration(shipped_configuration(proposal.base))
    factor = proposal.sections["OPTIMIZATION"]["total_steps"] / shipped["OPTIMIZATION"]["total_steps"]
    assert factor < 1
    model = proposal.sections["MODEL"]
    assert model["g_ema_start"] == pytest.approx(factor * shipped["MODEL"]["g_ema_start"], abs=1)
    assert 1 - model["g_ema_decay"] == pytest.approx((1 - shipped["MODEL"]["g_ema_decay"]) / factor, abs=1e-6)


def test_small_networks_are_those_of_the_studies(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--data", str(photos), "--small", "--out", "c"]) == 0
    plain, gsr = written(Path("c"))
    assert gsr["REGULARIZER"]["weight"] == 0.05
    study = read_tables().tables["cpu-study"].rows["SNGAN + LeCam + DiffAug, ratio 100"].sections
    assert study is not None
    assert plain["DATA"]["img_size"] == study["DATA"]["img_size"]
    assert plain["MODEL"] == study["MODEL"]
    few = {"batch_size": 8, "total_steps": 2000}  # there are eight images
    assert plain["OPTIMIZATION"] == study["OPTIMIZATION"] | few
    out = capsys.readouterr().out
    assert "size: 16: by --small; " in out
    assert "--resizer lanczos --evaluate 500" in out
    many = propose(list(map(str, range(200))), [20] * 200, 32, small=True)
    assert (many.model, many.sections["MODEL"]["backbone"], many.gsr["weight"]) == ("SNGAN", "resnet", 0.5)
    whole = propose(["a", "b"], [5000, 50], 32)
    narrow = propose(["a", "b"], [5000, 50], 32, small=True)
    assert narrow.teraflop == pytest.approx(whole.teraflop * (8 * 16) / 64**2 * 32 / 64 * 3 / 6)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_the_comments_on_channels_are_true_of_the_networks(size: int) -> None:
    sections = propose(["a", "b"], [9, 9], size).sections
    model = read_configuration({**sections, "MODEL": sections["MODEL"] | {"g_conv_dim": 1, "d_conv_dim": 1}}).MODEL
    generator, discriminator = Generator(size, 2, model, True), Discriminator(size, 2, model, True)
    channels = {
        "MODEL.g_conv_dim": [block[0].conv2d2.out_channels for block in generator.blocks],
        "MODEL.d_conv_dim": [block[0].conv2d2.out_channels for block in discriminator.blocks],
    }
    channels["MODEL.g_conv_dim"].insert(0, generator.linear0.out_features // 4**2)
    for key, found in channels.items():
        small, low, high = re.findall(r"(\d+) times.*up to 32 pixels, else (\d+) to (\d+) times", MEANINGS[key])[0]
        assert (found[0], found[-1]) == ((int(small),) * 2 if size <= 32 else (int(low), int(high))), key


def test_total_steps_follow_the_number_of_images() -> None:
    found = [propose(["a", "b"], [n, n], 32).sections["OPTIMIZATION"]["total_steps"] for n in (50, 3000, 10**6)]
    assert found == [20_000, 58_000, 120_000]


def test_the_native_host_trains_and_measures_both(photos: Path, pixels: str) -> None:
    for path in init(photos, Path("c")):
        sections = load_configuration(path)
        sections["MODEL"] |= {"g_conv_dim": 4, "d_conv_dim": 4}
        path.write_text(yaml.safe_dump(sections))
        argv = ["train", str(path), "--data", str(photos), "--out", path.stem, "--steps", "1", "--device", "cpu"]
        with one_thread():
            measuring = ["--evaluate", "8", "--backbone", pixels]
            assert main([*argv, "--resizer", "lanczos", "--workers", "0", *measuring]) == 0
        assert (Path(path.stem) / "selection.jsonl").is_file()


@pytest.mark.host
def test_studiogan_trains_them(checkout: Checkout, photos: Path, tmp_path: Path) -> None:
    (_, gsr) = init(photos, Path("c"))
    short = {"total_steps": 1, "batch_size": 8, "d_updates_per_step": 1}
    configuration = write_configuration(tmp_path / "short.yaml", gsr, OPTIMIZATION=short)
    outcome = Host(checkout).run(
        configuration, tmp_path / photos, tmp_path / "save", "--pre_resizer", "lanczos", "-metrics", "none"
    )
    assert outcome.status == 0, outcome.output
    assert outcome.lines("weight 0.5, beta 0.99")
