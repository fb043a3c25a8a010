"""Data sets: the long-tailed view, CIFAR in torchvision's own format, folders of images, names."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder

from studiogan_gsr import LongTailed, long_tailed_indices
from studiogan_gsr.class_groups import shot_groups
from studiogan_gsr.datasets.cifar import cifar10_lt, cifar100_lt
from studiogan_gsr.datasets.folder import _leads_up, folder_lt
from studiogan_gsr.datasets.identity import digest, file_of, where
from studiogan_gsr.datasets.labels import class_counts_of
from studiogan_gsr.datasets.lists import read_list
from studiogan_gsr.datasets.long_tailed import Whole
from studiogan_gsr.datasets.names import parse_variant, variant_name
from studiogan_gsr.datasets.preprocessing import to_rgb
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import ConfigurationError, DataError, OptionError
from support.cifar import write_cifar

FACTORIES = {CIFAR10: cifar10_lt, CIFAR100: cifar100_lt}


class Photos:
    """Map-style, `sizes[y]` images of each class y, mixed; an image is its own index."""

    def __init__(self, *sizes: int) -> None:
        self.targets = np.random.RandomState(1).permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()

    def __getitem__(self, index: int) -> tuple[str, np.int64]:
        return f"image {index}", np.int64(self.targets[index])


class NamedPhotos(Photos):
    classes = ("cat", "dog", "eel")


def test_a_long_tailed_view_has_counts_targets_and_items_of_the_kept_images() -> None:
    photos = NamedPhotos(16, 16, 16)
    view = LongTailed(photos, ratio=16)
    assert view.class_counts == [16, 4, 1]
    assert view.targets == [0] * 16 + [1] * 4 + [2]
    assert view.classes == ["cat", "dog", "eel"]
    assert len(view) == 21
    assert view.indices == long_tailed_indices(photos.targets, [16, 4, 1], seed=0)
    items = list(view)
    assert items == [(f"image {i}", photos.targets[i]) for i in view.indices]
    assert all(type(label) is int for _, label in items)


def test_a_data_set_without_class_names_gets_numbers() -> None:
    assert LongTailed(Photos(4, 4), ratio=2).classes == ["0", "1"]


def test_a_reversed_view_has_its_rarest_class_first() -> None:
    view = LongTailed(Photos(3, 9, 16), ratio=16, reversed=True)
    assert view.class_counts == [1, 4, 16]
    assert view.targets == [0] + [1] * 4 + [2] * 16


def test_the_head_class_gives_all_its_images_unless_n_max_says_less() -> None:
    photos = Photos(20, 30, 40)
    assert LongTailed(photos, ratio=4).class_counts == [20, 10, 5]
    assert LongTailed(photos, ratio=4, n_max=8).class_counts == [8, 4, 2]
    with pytest.raises(OptionError, match="at most 20, the images of class 0"):
        LongTailed(photos, ratio=4, n_max=40)


def test_profile_and_seed_reach_the_view() -> None:
    photos = Photos(20, 20, 20, 20)
    assert LongTailed(photos, ratio=10, profile="step").class_counts == [20, 20, 2, 2]
    other = LongTailed(photos, ratio=10, seed=5)
    assert other.indices == long_tailed_indices(photos.targets, other.class_counts, seed=5)
    assert other.indices != LongTailed(photos, ratio=10).indices


def test_a_view_survives_pickling_as_data_workers_need() -> None:
    view = LongTailed(NamedPhotos(8, 8, 8), ratio=4)
    again = pickle.loads(pickle.dumps(view))
    assert list(again) == list(view)
    assert (again.class_counts, again.targets, again.classes) == (view.class_counts, view.targets, view.classes)


def test_a_slice_of_a_view_is_a_view() -> None:
    view = LongTailed(NamedPhotos(16, 16, 16), ratio=16)
    part = view[14:18]
    assert list(part) == [view[i] for i in range(14, 18)]
    assert (part.targets, part.class_counts, part.classes) == ([0, 0, 1, 1], [2, 2, 0], ["cat", "dog", "eel"])
    assert part.indices == view.indices[14:18]
    assert list(part[::-1][:2]) == [view[17], view[16]]
    assert len(view[100:]) == 0


def test_shot_groups_are_those_of_the_thresholds() -> None:
    view = LongTailed(Photos(*[200] * 5), ratio=200)
    assert view.class_counts == [200, 53, 14, 3, 1]
    assert view.few_shot_classes() == {"many": [0], "medium": [1], "few": [2, 3, 4]}
    assert view.few_shot_classes(fewer_than=4, more_than=50) == {"many": [0, 1], "medium": [2], "few": [3, 4]}
    assert shot_groups([101, 100, 20, 19]) == {"many": [0], "medium": [1, 2], "few": [3]}
    with pytest.raises(OptionError, match="fewer_than: found 30"):
        view.few_shot_classes(fewer_than=30, more_than=20)


@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_are_found_under_the_names_that_torchvision_has_for_them(attribute: str, kind: Any) -> None:
    photos = Photos(9, 9, 9)
    other = SimpleNamespace(**{attribute: kind(photos.targets)})
    assert LongTailed(other, ratio=9).indices == LongTailed(photos, ratio=9).indices


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (SimpleNamespace(), "dataset: found 'SimpleNamespace'; allowed: a data set with targets"),
        (SimpleNamespace(targets=[0.5, 1.5]), "targets: found .* not float64"),
        (SimpleNamespace(targets=["cat", "dog"]), "one integer per image"),
        (SimpleNamespace(targets=[[0, 1], [1, 0]]), r"of shape \(2, 2\)"),
        (SimpleNamespace(targets=[]), "at least 2: one class has no tail"),
        (SimpleNamespace(targets=[0, 0, 0]), "num_classes: found 1"),
        (SimpleNamespace(targets=[-1, 0, 1]), r"targets: found \[-1, 0, 1\]"),
        (SimpleNamespace(targets=[1, 2, 3, 3]), r"labels 0 to 2; the labels begin at 1: subtract 1 from each"),
        (SimpleNamespace(targets=[float("nan"), 1.0]), "not float64"),
    ],
)
def test_data_without_usable_labels_is_refused(dataset: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LongTailed(dataset, ratio=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5}, "ratio: found 0.5; allowed: an imbalance ratio >= 1"),
        ({"ratio": 2, "profile": "linear"}, "profile: found 'linear'; allowed: exp or step"),
        ({"ratio": 2, "seed": -1}, "seed: found -1"),
        ({"ratio": 2, "n_max": 9}, "counts: found 9; allowed: at most 8"),
        ({"ratio": 9}, "ratio: found 9; allowed: at most 8"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LongTailed(Photos(8, 8, 8), **options)


def test_without_a_seed_the_first_images_of_each_class_are_kept() -> None:
    photos = Photos(8, 8, 8)
    view = LongTailed(photos, ratio=8, seed=None)
    places = [np.flatnonzero(np.array(photos.targets) == label) for label in range(3)]
    assert view.indices == [*places[0], *places[1][:2], places[2][0]]


def test_a_capped_view_takes_what_a_small_class_has() -> None:
    photos = Photos(10, 3, 2)
    with pytest.raises(OptionError, match="at most 3, the images of class 1"):
        LongTailed(photos, ratio=5)
    assert LongTailed(photos, ratio=4, capped=True).class_counts == [10, 3, 2]
    assert LongTailed(photos, ratio=10, capped=True).class_counts == [10, 3, 1]


@pytest.mark.parametrize("counts", [(300, 100, 40, 15), (15, 40, 100, 300), (45, 900, 900, 100)])
def test_a_set_that_is_more_long_tailed_already_is_refused(counts: tuple[int, ...]) -> None:
    photos = Photos(*counts)
    message = (
        rf"ratio: found 5; allowed: at least 20, as the classes already have {min(counts)} to {max(counts)} images"
    )
    for reversed in (False, True):
        with pytest.raises(OptionError, match=rf"{message}: use all of them, without a ratio .*capped=True"):
            LongTailed(photos, ratio=5, reversed=reversed)
    assert LongTailed(photos, ratio=5, n_max=15).class_counts == [15, 8, 5, 3]
    assert sum(LongTailed(photos, ratio=5, capped=True).class_counts) > 100


def test_a_balanced_subset_of_uneven_classes_is_allowed() -> None:
    assert LongTailed(Photos(8, 9, 40), ratio=1).class_counts == [8, 8, 8]


def test_labels_that_skip_a_class_are_refused() -> None:
    photos = Photos(4, 0, 4)
    with pytest.raises(OptionError, match=r"targets: found \[0, 2\]; allowed: each of the labels 0 to 1"):
        LongTailed(photos, ratio=2)
    with pytest.raises(OptionError, match=r"found \[4, 0, 4\]; allowed: images in each of 3 classes"):
        Whole(photos, ["cat", "dog", "eel"])


def test_a_label_without_a_class_name_is_not_one_without_images() -> None:
    with pytest.raises(OptionError, match="classes: found '25 names'; allowed: one for each of the labels 0 to 25"):
        Whole(Photos(*[1] * 26), [str(label) for label in range(25)])
    with pytest.raises(
        OptionError, match="class_counts: found 'none for label 3'; allowed: images in each of 26 cla"
    ):
        Whole(Photos(1, 1, 1, 0, *[1] * 22), [str(label) for label in range(26)])


def test_whole_labels_that_are_stored_as_floats_are_labels() -> None:
    floats = SimpleNamespace(targets=[float(label) for label in Photos(4, 2).targets])
    assert LongTailed(floats, ratio=2).indices == LongTailed(Photos(4, 2), ratio=2).indices
    assert class_counts_of(floats) == [4, 2]


def test_labels_from_1_are_named_as_such_in_every_form(tmp_path: Path) -> None:
    hint = "the labels begin at 1: subtract 1 from each"
    with pytest.raises(OptionError, match=hint):
        Whole(SimpleNamespace(targets=[1, 2, 2]), ["a", "b", "c"])
    with pytest.raises(OptionError, match=hint):
        long_tailed_indices([1, 2, 2], [1, 1])
    (tmp_path / "list.txt").write_text("a.png 1\nb.png 2\n")
    with pytest.raises(DataError, match=hint):
        read_list(tmp_path / "list.txt", tmp_path)
    (tmp_path / "gap.txt").write_text("a.png 1\nb.png 3\nc.png 3\n")
    with pytest.raises(DataError, match=r"no image has label 0, but one has 3; expected: 0 to C-1$"):
        read_list(tmp_path / "gap.txt", tmp_path)


def test_labels_that_do_not_start_at_0_are_reported_as_labels() -> None:
    with pytest.raises(OptionError, match=r"targets: found \[1, 2\]"):
        LongTailed(Photos(0, 4, 4), ratio=2)


@pytest.mark.parametrize("cifar", FACTORIES, ids=lambda c: c.__name__)
def test_long_tailed_cifar_trains_on_a_tail_and_refers_to_the_whole_test_set(
    cifar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, cifar, per_class=2 if cifar is CIFAR10 else 10, monkeypatch=monkeypatch)
    classes = 10 if cifar is CIFAR10 else 100
    train = FACTORIES[cifar](str(tmp_path), "train", ratio=10)
    assert (train.class_counts[0], train.class_counts[-1]) == (10, 1)
    assert train.class_counts == sorted(train.class_counts, reverse=True)
    assert Counter(train.targets) == dict(enumerate(train.class_counts))
    assert train.classes == [f"class {y}" for y in range(classes)]
    for position, target in enumerate(train.targets):
        image, label = train[position]
        assert image.size == (32, 32)
        assert label == target == np.asarray(image).max() == np.asarray(image).min()
    reference = FACTORIES[cifar](str(tmp_path), "reference", ratio=10)
    assert reference.class_counts == [1] * classes
    assert [label for _, label in (reference[i] for i in range(len(reference)))] == list(range(classes))


def test_the_options_of_a_name_reach_long_tailed_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, CIFAR10, per_class=2, monkeypatch=monkeypatch)
    options = parse_variant("CIFAR10_LT_rho5_step_reversed_seed2", "CIFAR10_LT")
    train = cifar10_lt(str(tmp_path), "train", **options)
    assert isinstance(train, LongTailed)
    assert train.class_counts == [2] * 5 + [10] * 5
    assert train.indices == long_tailed_indices(list(range(10)) * 10, train.class_counts, seed=2)


@pytest.mark.parametrize("cifar", FACTORIES, ids=lambda c: c.__name__)
def test_missing_cifar_that_cannot_be_downloaded_is_one_line_that_says_what_to_get(
    cifar: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "url", (tmp_path / "nowhere" / cifar.filename).as_uri())
    with pytest.raises(DataError) as caught:
        FACTORIES[cifar](str(tmp_path), "train", ratio=100)
    text = str(caught.value)
    assert "\n" not in text
    for part in (cifar.__name__, str(tmp_path), cifar.filename, cifar.base_folder, cifar.url, "MB"):
        assert part in text


def write_folder(root: Path, red: int | None = None, **sizes: int) -> Path:
    """One folder of PNG files a class, no two equal, unless `red` is."""
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (4, 4), (i if red is None else red, i, ord(name[0]))).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def photos_root(tmp_path: Path) -> Path:
    write_folder(tmp_path / "train", cat=9, dog=9, eel=5)
    write_folder(tmp_path / "valid", red=200, cat=2, dog=2, eel=2)
    return tmp_path


def test_a_folder_becomes_long_tailed_by_a_ratio(photos_root: Path) -> None:
    train = folder_lt(str(photos_root), "train", ratio=9)
    assert train.class_counts == [9, 3, 1]
    assert train.classes == ["cat", "dog", "eel"]
    assert [train[i][1] for i in range(len(train))] == train.targets == [0] * 9 + [1] * 3 + [2]
    assert {train[i][0].getpixel((0, 0))[0] for i in range(9)} == set(range(9))


def test_a_folder_without_a_ratio_keeps_the_tail_that_it_has(photos_root: Path) -> None:
    train = folder_lt(str(photos_root), "train")
    assert train.class_counts == [9, 9, 5]
    assert (len(train), len(train.targets)) == (23, 23)
    assert train[22][1] == 2


def test_a_folders_reference_is_all_of_valid_whatever_the_ratio(photos_root: Path) -> None:
    reference = folder_lt(str(photos_root), "reference", ratio=9)
    assert reference.class_counts == [2, 2, 2]
    assert reference.targets == [0, 0, 1, 1, 2, 2]


def test_a_folders_reference_must_be_balanced_and_apart_from_its_training_images(photos_root: Path) -> None:
    folder_lt(str(photos_root), "reference")
    linked = photos_root / "valid" / "dog" / "0.png"
    linked.unlink()
    linked.symlink_to(photos_root / "train" / "eel" / "3.png")
    with pytest.raises(DataError, match=r"1 of 6 reference images are training images, the first is valid/dog/0.png"):
        folder_lt(str(photos_root), "reference")
    # Only what this variant trains on is at fault: eel has one training image here.
    kept = folder_lt(str(photos_root), "train", ratio=9)
    if where(kept, 12) != "train/eel/3.png":
        assert folder_lt(str(photos_root), "reference", ratio=9).class_counts == [2, 2, 2]
    linked.unlink()
    with pytest.raises(DataError, match="not balanced: class dog has 1 images, class cat has 2; give all classes 1"):
        folder_lt(str(photos_root), "reference")
    (photos_root / "valid" / "dog").rename(photos_root / "valid" / "Dog")
    with pytest.raises(DataError, match=r"only one of them has Dog, dog"):
        folder_lt(str(photos_root), "reference")


def test_copies_of_training_images_are_no_reference(photos_root: Path) -> None:
    copied = photos_root / "valid" / "dog" / "1.png"
    shutil.copy(photos_root / "train" / "cat" / "4.png", copied)
    with pytest.raises(
        DataError, match=r"1 of 6 .* the first is valid/dog/1.png \(training: train/cat/4.png\); take them out of one"
    ):
        folder_lt(str(photos_root), "reference")
    # Of the variant at hand: what it does not train on may be in the reference.
    kept = folder_lt(str(photos_root), "train", 9)
    chosen = {where(kept, i) for i in range(len(kept))}
    other = next(f"train/eel/{i}.png" for i in range(5) if f"train/eel/{i}.png" not in chosen)
    Image.new("RGB", (4, 4), (1, 99, 99)).save(photos_root / other)
    shutil.copy(photos_root / other, copied)
    assert folder_lt(str(photos_root), "reference", 9).class_counts == [2, 2, 2]
    with pytest.raises(DataError, match="1 of 6 reference images are training images"):
        folder_lt(str(photos_root), "reference")


def test_a_missing_split_is_told_with_the_layout_and_what_is_there(photos_root: Path) -> None:
    (photos_root / "train").rename(photos_root / "training")
    with pytest.raises(DataError, match=r"needs train/ and valid/.*found: training/, valid/") as caught:
        folder_lt(str(photos_root), "train", ratio=9)
    assert str(photos_root) in str(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        folder_lt(str(photos_root / "elsewhere"), "train")


def test_a_class_folder_without_images_is_named_in_one_line(photos_root: Path) -> None:
    (photos_root / "train" / "fox").mkdir()
    with pytest.raises(DataError, match=r"in train/.*fox") as caught:
        folder_lt(str(photos_root), "train")
    assert "\n" not in str(caught.value)


def test_hidden_files_are_no_images_and_hidden_folders_no_classes(photos_root: Path) -> None:
    before = folder_lt(str(photos_root), "train")
    train = photos_root / "train"
    for hidden in (".ipynb_checkpoints", "__MACOSX", "eel/.thumbnails"):
        (train / hidden).mkdir()
        Image.new("RGB", (4, 4)).save(train / hidden / "0.png")
    for junk in ("cat/._0.png", "cat/.hidden.jpg", "dog/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        (train / junk).write_bytes(b"")
    after = folder_lt(str(photos_root), "train")
    assert (after.classes, after.class_counts) == (["cat", "dog", "eel"], [9, 9, 5])
    assert digest(after) == digest(before)
    assert before.notes == ()
    assert after.notes == ("train/: left out 8 hidden files or folders",)


def test_formats_that_pillow_opens_are_taken_and_others_are_counted_by_extension(photos_root: Path) -> None:
    train = photos_root / "train"
    image = Image.new("RGB", (4, 4))
    for name, kind in (
        ("a.jfif", "JPEG"),
        ("b.JPE", "JPEG"),
        ("c.GIF", "GIF"),
        ("d.jp2", "JPEG2000"),
        ("e.pjpeg", "JPEG"),
    ):
        image.save(train / "eel" / name, kind)
    image.save(train / "eel" / "moving.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")])
    for name in ("eel/f.heic", "eel/g.HEIC", "cat/notes.txt", "cat/labels.csv", "cat/README", "dog/more.txt"):
        (train / name).write_bytes(b"?")
    (train / "stray.png").write_bytes((train / "cat" / "0.png").read_bytes())
    found = folder_lt(str(photos_root), "train")
    assert found.class_counts == [9, 9, 5 + 6]
    assert {to_rgb(found[i][0]).getpixel((0, 0)) for i in range(18 + 5, 18 + 11)} == {(0, 0, 0)}
    assert found.notes == (
        "train/: left out 2 .heic: images that this Pillow does not open; convert them to PNG or JPEG",
        "train/: left out 2 .txt, 1 without extension, 1 .csv: no images by their extensions",
        "train/: left out 1 .png beside the class folders",
    )
    assert folder_lt(str(photos_root), "train", ratio=9)[:3].notes == found.notes
    assert describe(found)["notes"] == list(found.notes)
    for file in (train / "eel").iterdir():
        if file.suffix.lower() != ".heic":
            file.unlink()
    with pytest.raises(DataError, match=r"in train/: no image of eel \(.*left out 2 .heic"):
        folder_lt(str(photos_root), "train")


def test_a_link_to_a_folder_above_it_is_not_counted_again_and_again(photos_root: Path) -> None:
    (photos_root / "train" / "cat" / "again").symlink_to("..", target_is_directory=True)
    (photos_root / "train" / "dog" / "cats").symlink_to(photos_root / "train" / "eel", target_is_directory=True)
    found = folder_lt(str(photos_root), "train")
    assert found.class_counts == [9, 9 + 5, 5]
    assert found.notes == (f"train/: left out links to a parent folder, the first is {photos_root}/train/cat/again",)


def test_links_to_one_another_are_followed_once(photos_root: Path) -> None:
    train, apart = photos_root / "train", photos_root / "apart"
    for one, other in (("left", "right"), ("right", "left")):
        (train / "cat" / one).mkdir()
        shutil.copy(train / "cat" / "0.png", train / "cat" / one / "0.png")
        (train / "cat" / one / "link").symlink_to(f"../{other}", target_is_directory=True)
    (apart / "more").mkdir(parents=True)
    shutil.copy(train / "dog" / "0.png", apart / "more" / "0.png")
    (train / "dog" / "more").symlink_to(apart / "more", target_is_directory=True)
    (apart / "more" / "up").symlink_to(train, target_is_directory=True)
    (train / "eel").rename(apart / "eel")
    (train / "eel").symlink_to(apart / "eel", target_is_directory=True)
    (apart / "eel" / "up").symlink_to(train, target_is_directory=True)
    found = folder_lt(str(photos_root), "train")
    assert found.class_counts == [9 + 2 + 2, 9 + 1, 5]
    first = f"{train}/cat/left/link/link"
    assert found.notes == (f"train/: left out links to a parent folder, the first is {first}",)


def test_a_link_to_the_root_of_the_file_system_leads_up() -> None:
    assert _leads_up("/", ["/data/train/cat"])
    assert _leads_up("/data/train", ["/data/train/cat"])
    assert not _leads_up("/data/tra", ["/data/train/cat"])


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    photos_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos_root / "train" / "cat" / "more").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"a folder of images cannot be read: PermissionError: .*train/cat/more"):
        folder_lt(str(photos_root), "train")


def test_images_stand_in_torchvisions_order(photos_root: Path) -> None:
    for name in ("b/1", "a", "b", "b-2", "B"):
        write_folder(photos_root / "train" / "cat" / name, **{"x": 2})
    theirs = ImageFolder(str(photos_root / "train"))
    ours = folder_lt(str(photos_root), "train")
    assert [str(file_of(ours, i)) for i in range(len(ours))] == [path for path, _ in theirs.samples]
    assert (ours.targets, ours.classes) == (theirs.targets, theirs.classes)


def test_a_folder_without_classes_is_refused_with_what_is_there(photos_root: Path) -> None:
    for name in ("cat", "dog", "eel"):
        (photos_root / "train" / name).rename(photos_root / name)
    (photos_root / "train" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"in train/: no class folder, found: 0.png"):
        folder_lt(str(photos_root), "train")


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ("", {}),
        ("_rho100", {"ratio": 100}),
        ("_rho2.5", {"ratio": 2.5}),
        ("_step", {"profile": "step"}),
        ("_rho10_reversed", {"ratio": 10, "reversed": True}),
        ("_rho10_released", {"ratio": 10, "released": True}),
        ("_rho10_seed0", {"ratio": 10, "seed": 0}),
        (
            "_rho100_step_reversed_released_seed12",
            {"ratio": 100, "profile": "step", "reversed": True, "released": True, "seed": 12},
        ),
    ],
)
def test_a_names_parts_are_options(parts: str, options: dict[str, Any]) -> None:
    found = parse_variant(f"CIFAR10_LT{parts}", "CIFAR10_LT")
    assert found == options
    assert {key: type(value) for key, value in found.items()} == {k: type(v) for k, v in options.items()}


@pytest.mark.parametrize(
    "name",
    [
        "CIFAR10_LT_step_rho100",
        "CIFAR10_LT_rho100_reversed_step",
        "CIFAR10_LT_rho100_seed1_released",
        "CIFAR10_LT_rho100_rho100",
        "CIFAR10_LT_rho100_step_step",
        "CIFAR10_LT_rho100_seed1_seed1",
        "CIFAR10_LT_rho",
        "CIFAR10_LT_rho0",
        "CIFAR10_LT_rho-1",
        "CIFAR10_LT_rho1e2",
        "CIFAR10_LT_rho100.0",
        "CIFAR10_LT_rho0100",
        "CIFAR10_LT_rho100_seed01",
        "CIFAR10_LT_rho100_seed-1",
        "CIFAR10_LT_rho100_Step",
        "CIFAR10_LT_rho100_sometimes",
        "CIFAR10_LT_rho100\n",
        "CIFAR10_LTrho100",
        "CIFAR100_LT_rho100",
    ],
)
def test_a_name_outside_the_grammar_is_refused_with_the_canonical_form(name: str) -> None:
    form = "<data set>_rho<ratio>[_step][_reversed][_released][_seed<k>]"
    with pytest.raises(ConfigurationError) as caught:
        parse_variant(name, "CIFAR10_LT")
    assert caught.value.path == "DATA.name"
    assert repr(name) in str(caught.value)
    assert form in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "hint"),
    [
        ("_rho1e2", "; write CIFAR10_LT_rho100"),
        ("_rho100.0_step", "; write CIFAR10_LT_rho100_step"),
        ("_rho0.01", "over the smallest, 1 or more; write CIFAR10_LT_rho100"),
        ("_rho0.4_seed1", "over the smallest, 1 or more; write CIFAR10_LT_rho2.5_seed1"),
        ("_rho-1", "; the ratio is the largest class over the smallest, 1 or more"),
        ("_rhoinf", "none twice"),
    ],
)
def test_a_ratio_in_another_spelling_is_refused_with_the_name_to_write(parts: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_variant(f"CIFAR10_LT{parts}", "CIFAR10_LT")
    assert str(caught.value).endswith(hint)


def test_a_variant_without_a_ratio_would_do_nothing_and_is_refused(tmp_path: Path) -> None:
    for options in ({"profile": "step"}, {"seed": 3}, {"reversed": True}):
        with pytest.raises(OptionError, match=r"ratio: found None; allowed: a ratio \(_rho<ratio>\)"):
            folder_lt(str(tmp_path), "train", **options)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    for factory in (cifar10_lt, cifar100_lt, folder_lt):
        with pytest.raises(OptionError, match="split: found 'valid'; allowed: train or reference"):
            factory(str(tmp_path), "valid", ratio=10)


@given(
    ratio=st.none() | st.integers(1, 10_000) | st.integers(1, 10_000).map(lambda n: n + 0.5),
    step=st.booleans(),
    flags=st.sets(st.sampled_from(["reversed", "released"])),
    seed=st.none() | st.integers(0, 10**6),
    order=st.randoms(use_true_random=False),
)
def test_a_variant_has_one_name_and_any_other_order_is_refused_with_it(
    ratio: float | None, step: bool, flags: set[str], seed: int | None, order: Any
) -> None:
    options: dict[str, Any] = {} if ratio is None else {"ratio": ratio}
    options |= {"profile": "step"} if step else {}
    options |= dict.fromkeys(flags, True)
    options |= {} if seed is None else {"seed": seed}
    name = variant_name("CIFAR10_LT", options)
    assert parse_variant(name, "CIFAR10_LT") == options
    parts = name.removeprefix("CIFAR10_LT").split("_")[1:]
    order.shuffle(parts)
    other = "_".join(["CIFAR10_LT", *parts])
    if other != name:
        with pytest.raises(ConfigurationError, match=f"; write {re.escape(name)}$"):
            parse_variant(other, "CIFAR10_LT")
