"""From images of any kind to squares of RGB bytes: as torchvision does, and as StudioGAN does."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.folder import class_folders, folder_lt
from studiogan_gsr.datasets.identity import content_digests, digest, where
from studiogan_gsr.datasets.preprocessing import (
    Prepared,
    Preprocessing,
    describe_marks,
    inspect_files,
    to_rgb,
)
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DamagedImage, DataError

stream = np.random.RandomState(0)
ROTATED = 6  # "turn by 90 degrees"


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(stream.randint(0, 256, (height, width, 3), np.uint8))


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    noise(10, 10).save(path, exif=exif)


# What cameras, scanners and other programs leave in folders.
WRITERS = {
    "rgb.jpg": lambda path: noise(10, 10).save(path),
    "grey.jpg": lambda path: noise(10, 10).convert("L").save(path),
    "cmyk.jpg": lambda path: noise(10, 10).convert("CMYK").save(path),
    "rotated.jpg": rotated,
    "progressive.jpg": lambda path: noise(10, 10).save(path, progressive=True),
    "palette.png": lambda path: noise(10, 10).convert("P").save(path),
    "palette_clear.png": lambda path: noise(10, 10).convert("P").save(path, transparency=3),
    "palette_fading.png": lambda path: noise(10, 10).convert("P").save(path, transparency=bytes(range(256))),
    "clear.png": lambda path: noise(10, 10).convert("RGBA").save(path),
    "grey_clear.png": lambda path: noise(10, 10).convert("LA").save(path),
    "bits.png": lambda path: noise(10, 10).convert("1").save(path),
    "flat.bmp": lambda path: noise(10, 10).save(path),
    "scan.tif": lambda path: noise(10, 10).save(path),
    "web.webp": lambda path: noise(10, 10).save(path, lossless=True),
    "ünïcode name.PNG": lambda path: noise(10, 10).save(path),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # torchvision's way, here
@pytest.mark.parametrize("name", WRITERS)
def test_any_image_is_read_as_torchvision_reads_it(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    with Image.open(tmp_path / name) as image:
        image.load()
        found = to_rgb(image)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(default_loader(str(tmp_path / name))))


def test_more_than_eight_bits_are_refused_rather_than_cut_off(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "train" / "a" / "deep.png")
    prepared = Prepared(folder_lt(str(tmp_path), "train"), "Folder_LT", 4)
    with pytest.raises(DataError, match=r"deep.png\) cannot be read: DataError: mode I;16 has more") as caught:
        prepared[0]
    assert not isinstance(caught.value, DamagedImage)  # not one to leave out
    assert prepared.marks["rotated"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (13, 8), (8, 13), (64, 64), (7, 6), (101, 250)])
@pytest.mark.parametrize("resizer", [r for r in RESIZERS if r != "wo_resize"])
def test_cropping_and_squashing_equal_torchvisions(size: tuple[int, int], resizer: str) -> None:
    image, filtering = noise(*size), InterpolationMode(resizer)
    cropped = Compose([CenterCrop(min(size)), Resize(16, filtering)])(image)
    squashed = Resize((16, 16), filtering)(image)
    assert np.array_equal(np.asarray(Preprocessing(True, resizer)(image, 16)), np.asarray(cropped))
    assert np.array_equal(np.asarray(Preprocessing(False, resizer)(image, 16)), np.asarray(squashed))


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    """Every kind of image, links, and a class whose images lie deeper."""
    folder = tmp_path / "data" / "train" / "all"
    folder.mkdir(parents=True)
    for name, write in WRITERS.items():
        write(folder / name)
    noise(1, 1).save(folder / "pixel.png")
    deep = tmp_path / "data" / "train" / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "link.png").symlink_to(folder / "palette.png")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    noise(30, 20).save(elsewhere / "far.jpg")
    (tmp_path / "data" / "train" / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".hidden.png").unlink()
    return tmp_path / "data"


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_folder_of_odd_images_equals_torchvisions(odd_folder: Path) -> None:
    theirs = ImageFolder(str(odd_folder / "train"), Compose([_SquareOf16()]))
    ours = class_folders(odd_folder, "train", "")
    assert (ours.targets, ours.classes) == (theirs.targets, theirs.classes)
    prepared = pickle.loads(pickle.dumps(Prepared(ours, "Mine", 16, "lanczos")))
    for i in range(len(theirs)):
        assert np.array_equal(np.asarray(prepared[i][0]), np.asarray(theirs[i][0])), ours.where(i)
    assert prepared.marks["rotated"] == 1


def phone_photos(folder: Path, kind: str = "jpg") -> list[Path]:
    """Images of 12 x 20 with each orientation tag, one that is no orientation, and none."""
    folder.mkdir(parents=True)
    pixels = np.kron(stream.randint(0, 256, (5, 3, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    paths = [folder / f"{tag}.{kind}" for tag in range(10)]
    for tag, path in enumerate(paths):
        exif = Image.Exif()
        exif[0x0112] = tag
        Image.fromarray(pixels).save(path, quality=95, **({"exif": exif} if tag else {}))
    return paths


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_folder_lt_applies_orientation_tags_and_a_folder_under_another_name_does_not(
    kind: str, tmp_path: Path
) -> None:
    paths = phone_photos(tmp_path / "train" / "a", kind)
    turned = Prepared(pickle.loads(pickle.dumps(folder_lt(str(tmp_path), "train"))), "Folder_LT", 16, "lanczos")
    stored = Prepared(open_images("Mine", str(tmp_path), "train"), "Mine", 16, "lanczos")
    different = 0
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            as_stored, as_seen = image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(stored.dataset[i][0], as_stored)
        assert np.array_equal(turned.dataset[i][0], as_seen)
        assert np.array_equal(turned.read(i)[0], turned.preprocessing(as_seen, 16))
        different += not np.array_equal(turned.read(i)[0], stored.read(i)[0])
    assert different == 7  # of the tags 2 to 8
    lines = ["7 images have an orientation tag; it is not applied, as in torchvision"]
    assert describe_marks(stored.marks, stored.preprocessing) == lines
    assert inspect_files(stored.dataset, stored.preprocessing) == lines
    assert describe_marks(turned.marks, turned.preprocessing) == []
    assert inspect_files(turned.dataset, turned.preprocessing) == []


def test_digests_of_a_folders_content_change_where_images_are_turned(tmp_path: Path) -> None:
    paths = phone_photos(tmp_path / "train" / "a")
    for number in (10, 9, 2):  # the last two, 0 and 1, are not turned
        for path in paths[number:]:
            path.unlink(missing_ok=True)
        stored, turned = open_images("Mine", str(tmp_path), "train"), folder_lt(str(tmp_path), "train")
        digests = [content_digests(images, digest(images)) for images in (stored, turned)]
        pairs = zip(*digests, strict=True)
        assert all((one == other) == (number == 2) for one, other in pairs)


class _SquareOf16:
    def __call__(self, image: Image.Image) -> Image.Image:
        return Resize(16, InterpolationMode.LANCZOS)(CenterCrop(min(image.size))(image))


def test_a_broken_link_is_named(odd_folder: Path) -> None:
    (odd_folder / "train" / "deep" / "er" / "link.png").unlink()
    (odd_folder / "train" / "deep" / "er" / "link.png").symlink_to(odd_folder / "gone.png")
    ours = folder_lt(str(odd_folder), "train")
    place = ours.targets.index(1)
    with pytest.raises(DataError, match=r"deep/er/link.png\) cannot be read: FileNotFoundError") as caught:
        Prepared(ours, "Folder_LT", 16, "lanczos")[place]
    assert not isinstance(caught.value, DamagedImage)  # which may be left out


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (OSError("image file is truncated"), True),
        (UnidentifiedImageError("cannot identify image file"), True),
        (SyntaxError("broken PNG file"), True),
        (OSError(24, "Too many open files"), False),
        (OSError(5, "Input/output error"), False),
        (PermissionError(13, "Permission denied"), False),
        (MemoryError(), False),
        (TypeError("a fault of the data set's program"), False),
    ],
)
def test_only_bytes_that_are_no_image_are_damage(error: Exception, damaged: bool) -> None:
    class Failing:
        targets = (0,)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            raise error

    with pytest.raises(DataError, match="image 0 of Some cannot be read: ") as caught:
        Prepared(Failing(), "Some", 8)[0]
    assert isinstance(caught.value, DamagedImage) == damaged


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_does_no_harm(kind: str, tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    noise(8, 8).save(tmp_path / "train" / "a" / f"x.{kind.lower()}", kind, exif=b"Exif\0\0no TIFF here", dpi=(72, 72))
    prepared = Prepared(folder_lt(str(tmp_path), "train"), "Folder_LT", 8)
    assert prepared[0][0].size == (8, 8)
    assert prepared.marks["rotated"] == 0


def test_a_sets_own_way_is_used_and_a_users_resizer_replaces_its_filter() -> None:
    class Squashed:
        preprocessing = Preprocessing(crop=False, resizer="bilinear")
        targets = (0,)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return image, 0

    image = noise(30, 20)
    for resizer, wanted in (("wo_resize", Image.Resampling.BILINEAR), ("nearest", Image.Resampling.NEAREST)):
        prepared = Prepared(Squashed(), "Some", 8, resizer)
        assert np.array_equal(np.asarray(prepared[0][0]), np.asarray(image.resize((8, 8), wanted)))
        assert np.array_equal(prepared.read(0)[0], np.asarray(prepared[0][0]))


def test_an_image_of_another_size_is_refused_with_both_hosts_remedies() -> None:
    class One:
        targets = (0,)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return noise(9, 9), 0

    with pytest.raises(DataError, match=r"DATA.img_size: found 8; .* 9 x 9 pixels \(--resizer .*--pre_resizer"):
        Prepared(One(), "Some", 8)[0]


class Theirs:
    """A stranger's set that keeps to the contract, with attributes of its own under names that we use."""

    targets = (0, 1, 0)
    classes = ("a", "b")
    class_counts = (2, 1)
    samples = np.arange(3)
    preprocessing = staticmethod(lambda image: image)
    path = file = "somewhere"
    pixels = np.zeros((9, 8, 8, 3), np.uint8)
    dataset = (1, 2)
    root = None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (index, 0, 0)), self.targets[index]


def test_a_strangers_own_attributes_are_left_alone() -> None:
    prepared = Prepared(Theirs(), "Theirs", 8)
    assert [prepared.read(i)[0][0, 0, 0] for i in range(3)] == [0, 1, 2]
    assert describe(Theirs())["class_counts"] == [2, 1]
    assert where(Theirs(), 2) == "2"
    assert where(Subset(Theirs(), [2, 0]), 1) == "0"
    with pytest.raises(DataError, match="image 1 of Theirs is 8 x 8"):
        Prepared(Theirs(), "Theirs", 9)[1]


def see_through(path: Path, alpha: int, mode: str = "RGBA") -> None:
    image = noise(10, 10).convert("RGBA")
    image.putalpha(Image.new("L", (10, 10), alpha))
    image.convert(mode).save(path)


def test_images_that_look_otherwise_than_they_are_used_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for name, write in WRITERS.items():
        write(folder / name)
    see_through(folder / "half.png", 128)
    see_through(folder / "grey_half.png", 128, "LA")
    see_through(folder / "opaque.png", 255)  # an alpha channel that hides nothing
    noise(10, 10).save(folder / "key.png", transparency=(1, 2, 3))  # a colour that does not occur
    for size in ((64, 256), (20, 10), (19, 10)):
        noise(*size).save(folder / f"{size[0]}.png")
    dataset = class_folders(tmp_path, "train", "")
    prepared = Prepared(dataset, "Mine", 16, "lanczos")
    # A palette's transparent colour counts where it occurs.
    with Image.open(folder / "palette_clear.png") as palette:
        occurs = 3 in np.asarray(palette)
    wanted = {"rotated": 1, "transparent": 3 + occurs, "elongated": 2}
    for i in range(len(dataset)):
        prepared[i]
    assert prepared.marks == wanted
    lines = [
        "1 images have an orientation tag; it is not applied, as in torchvision",
        f"{3 + occurs} images have transparent pixels; the colours hidden there are used, as in torchvision",
        "2 images are at least twice as long as wide; half or more of each is cropped away",
    ]
    assert describe_marks(prepared.marks, prepared.preprocessing) == lines
    assert inspect_files(dataset, prepared.preprocessing) == lines
    assert describe_marks(prepared.marks, Preprocessing(crop=False))[2].endswith("they are squashed to squares")
    seen = inspect_files(dataset, prepared.preprocessing, most=5)
    assert all(line.startswith("of 5 images inspected, ") for line in seen)
    assert inspect_files(dataset, prepared.preprocessing, seconds=-1) == []


def test_sets_without_files_and_damaged_files_are_not_looked_at(tmp_path: Path) -> None:
    assert inspect_files(Theirs(), Preprocessing()) == []
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"")
    noise(40, 10).save(tmp_path / "train" / "a" / "1.png")
    assert len(inspect_files(folder_lt(str(tmp_path), "train"), Preprocessing())) == 1
