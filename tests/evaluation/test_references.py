"""References: balanced and apart from the training images, whoever's data set it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studiogan_gsr.cli import main
from studiogan_gsr.datasets import overlap
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.folder import class_folders, folder_lt
from studiogan_gsr.datasets.images import check_reference, checked_reference
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.overlap import shared_files, shared_images
from studiogan_gsr.datasets.packed import Packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError
from studiogan_gsr.evaluation.reference import open_reference
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.host import DIGITS, Host, configure, refused
from support.plugins import MakePackage

BLOBS = """
from PIL import Image
class Blobs:
    classes = ["dark", "light"]
    def __init__(self, root, split, shared=SHARED, uneven=UNEVEN):
        first = 0 if split == "train" else 16 - shared
        self.shades = range(first, first + 16 - 3 * uneven * (split != "train"))
        self.targets = [i % 2 for i in range(len(self.shades))]
        self.class_counts = [self.targets.count(0), self.targets.count(1)]
        if PUBLISHED:
            self.published_split = True
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        return Image.new("RGB", (32, 32), (9, self.shades[index], 0)), self.targets[index]
"""


@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_a_strangers_reference_is_refused_or_noted(
    shared: int,
    uneven: bool,
    published: bool,
    make_package: MakePackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = BLOBS.replace("SHARED", str(shared)).replace("UNEVEN", str(uneven)).replace("PUBLISHED", str(published))
    make_package("blobs", "studiogan.datasets", {"Blobs": "blobs:Blobs"}, {"blobs": source})
    number = 13 if uneven else 16
    faults = []
    if uneven:
        faults.append("the reference is not balanced: class light has 6 images, class dark has 7")
    if shared:
        first = "the first is 0 (training: 11), then 1, 2, 3, 4"
        faults.append(f"{shared} of {number} reference images are training images, {first}")
    trained_on = Prepared(open_images("Blobs", "unused", "train"), "Blobs", 32)
    show = ["data", "show", "Blobs", "--data", str(tmp_path), "--split", "reference", "--out", str(tmp_path / "page")]
    if faults and not published:
        with pytest.raises(DataError) as caught:
            open_reference(trained_on, "unused", "wo_resize")
        assert str(caught.value).startswith(f"Blobs: {faults[0]}; ")
        assert str(caught.value).endswith("set published_split = True on the data set: then it is only a note")
        assert main(show) == 2
        assert capsys.readouterr().err == f"studiogan-gsr: {caught.value}\n"
        return
    notes = open_reference(trained_on, "unused", "wo_resize").notes
    assert [note.partition("; ")[0] for note in notes] == faults
    assert main(show) == 0
    printed = capsys.readouterr().out
    assert all(f"Blobs: {note}\n" in printed for note in notes)


class Shades:
    """An image a shade, without files, as StudioGAN's CIFAR10."""

    def __init__(self, *shades: int) -> None:
        self.shades, self.targets = shades, [0] * len(shades)

    def __len__(self) -> int:
        return len(self.shades)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (self.shades[index], 0, 0)), 0


def test_a_published_archive_is_counted_and_not_refused() -> None:
    (note,) = check_reference(Shades(1, 2, 3), Shades(3, 4), "CIFAR10", plugin=False)
    assert note == "1 of 2 reference images are training images, the first is 0 (training: 2)"
    with pytest.raises(DataError, match="Mine: 1 of 2 reference images"):
        check_reference(Shades(1, 2, 3), Shades(3, 4), "Mine", plugin=False)
    assert check_reference(Shades(1, 2), Shades(3, 4), "Mine", plugin=False) == []


def test_of_very_many_images_so_many_are_decoded_and_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Shades(*range(100))
    assert shared_images(train, Shades(3, 200)) == ([(0, 3)], 100)
    monkeypatch.setattr(overlap, "MOST_DECODED", 10)
    with pytest.raises(DataError, match="Mine: 10 of 100 reference images"):
        check_reference(train, train, "Mine", plugin=False)
    notes = check_reference(train, Shades(200), "Mine", plugin=False)
    assert notes == ["the reference was compared with 10 of 100 training images"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise, so that files differ in size."""
    stream = np.random.RandomState(0)
    for part, number in (("train", 12), ("valid", 4)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = stream.randint(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.jpg", quality=int(stream.randint(40, 99)))
    return tmp_path


def test_only_files_of_equal_size_are_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(photos / "train" / "a" / "3.jpg", photos / "valid" / "b" / "copy.jpg")
    train, reference = (class_folders(photos, part, "") for part in ("train", "valid"))
    sizes = [{file.stat().st_size for file in (photos / part).rglob("*.jpg")} for part in ("train", "valid")]
    read: list[Path] = []
    own = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: read.append(path) or own(path, *a, **k))
    pairs = shared_files(train, reference)
    assert [(reference.where(i), train.where(j)) for i, j in pairs] == [("valid/b/copy.jpg", "train/a/3.jpg")]
    assert {file.stat().st_size for file in read} == sizes[0] & sizes[1]
    assert len(read) < len(train)


def test_a_packed_training_set_is_compared_by_its_pixels(photos: Path) -> None:
    assert main(["data", "prepare", "Folder_LT", "--data", str(photos), "--workers", "0"]) == 0
    trained_on = Prepared(Packed(photos / "Folder_LT_16_wo_resize_train.hdf5"), "Mine", 16)
    reference = Prepared(class_folders(photos, "valid", ""), "Mine", 16)
    assert check_reference(trained_on, reference, "Mine", plugin=False) == []
    Image.open(photos / "train" / "b" / "5.jpg").save(photos / "valid" / "a" / "0.png")
    (photos / "valid" / "a" / "0.jpg").unlink()
    reference = Prepared(class_folders(photos, "valid", ""), "Mine", 16)
    with pytest.raises(DataError, match=r"1 of 8 .* the first is valid/a/0.png \(training: .*train.hdf5/19\)"):
        check_reference(trained_on, reference, "Mine", plugin=False)


def test_a_checked_reference_is_not_read_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = folder_lt(str(photos), "reference")
    monkeypatch.setattr(overlap, "_equal", None)
    assert check_reference(folder_lt(str(photos), "train"), reference, "Folder_LT", plugin=True) == []


@pytest.mark.parametrize(
    ("theirs", "difference"),
    [
        (["cat", "dog", "fox"], "only one of them has eel, fox"),
        (["cat", "eel", "dog"], "label 1 is dog in training, and eel in the reference"),
        (["cat", "dog", "eel", "eel"], "label 3 is no class in training, and eel in the reference"),
    ],
)
def test_other_classes_of_a_reference_are_named(theirs: list[str], difference: str) -> None:
    def view(classes: list[str]) -> View:
        return View(Shades(*range(12)), range(12), classes)

    with pytest.raises(DataError) as caught:
        checked_reference(view(["cat", "dog", "eel"]), view(theirs), "Mine")
    assert str(caught.value) == f"Mine: training has 3 classes, the reference {len(theirs)}; {difference}"


@pytest.mark.host
def test_studiogans_own_folders_are_checked_when_they_are_opened(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    host, data = Host(checkout), shutil.copytree(digits, tmp_path / "data")
    (data / "train" / "3" / "000.png").rename(data / "train" / "3" / "000.jfif")
    (data / "train" / "4" / "000.png").rename(data / "train" / "4" / "._000.png")
    (data / "valid" / "5" / "120.png").unlink()
    configuration = configure(tmp_path, steps=1, DATA={**DIGITS, "name": "My_Digits"})
    outcome = host.run(configuration, data, tmp_path / "out", "--save_real_images", "-ref", "valid")
    assert outcome.status == 0, outcome.output
    message = "\n".join(outcome.lines("[studiogan-gsr] rank 0: My_Digits"))
    assert (
        "My_Digits, train: torchvision also counts 1 files that are hidden or reached twice, the first is "
        "train/4/._000.png" in message
    )
    assert "My_Digits, train: torchvision leaves out 1 .jfif, which Pillow opens" in message
    assert (
        "My_Digits, train: under the DATA.name Folder_LT: 1,199 images of 10 classes; train/: left out 1 hidden"
        in message
    )
    assert "My_Digits, reference: the reference is not balanced: class 5 has 3 images, class 0 has 4" in message
    shutil.copy(data / "train" / "7" / "005.png", data / "valid" / "7" / "120.png")
    again = host.run(configuration, data, tmp_path / "again", "--save_real_images", "-ref", "valid")
    refused(again, r"My_Digits: 1 of 39 .*/valid/7/120.png \(training: .*train/7/005.png\); take them out")


def test_images_that_a_reference_has_twice_are_counted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos / "valid"
    label = sorted(path.name for path in folder.iterdir())[0]
    images = sorted((folder / label).iterdir())
    images[1].write_bytes(images[0].read_bytes())
    trained_on = Prepared(class_folders(photos, "train", ""), "Mine", 32, "bilinear")
    notes = open_reference(trained_on, str(photos), "bilinear").notes
    (note,) = [note for note in notes if "repeat others" in note]
    first, second = (f"valid/{label}/{path.name}" for path in images[:2])
    assert note.startswith("1 of ")
    assert f"reference images repeat others, the first is {second} ({first}); classes: {label}; precision" in note
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    assert overlap.duplicates(Stored(pixels)) == [(1, 0)]


def test_a_part_of_a_reference_has_two_images_of_a_class_and_all_of_the_notes(photos: Path) -> None:
    folder = sorted((photos / "valid").iterdir())[0]
    images = sorted(folder.iterdir())
    images[1].write_bytes(images[0].read_bytes())
    trained_on = Prepared(class_folders(photos, "train", ""), "Mine", 16, "bilinear")
    whole = open_reference(trained_on, str(photos), "bilinear")
    part = open_reference(trained_on, str(photos), "bilinear", images=3)
    assert part.targets == [0, 0, 1]
    assert whole.targets[:3] != part.targets
    assert part.notes == whole.notes
    assert part.preprocessing == whole.preprocessing
    places = [0, 1, whole.targets.index(1)]
    assert [part.read(i)[0].tolist() for i in range(3)] == [whole.read(i)[0].tolist() for i in places]


class Stored:
    """Images without files."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images, self.targets = images, [0] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), 0
