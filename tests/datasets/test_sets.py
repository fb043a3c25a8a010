"""The paper's data sets in their real formats, made small: LMDB, COCO JSON, list files, archives' folders."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, LSUN, Flowers102
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from studiogan_gsr.datasets import identity, inaturalist, lists, lsun, uneven
from studiogan_gsr.datasets.cifar import cifar10_lt
from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.hdf5 import hdf5_lt
from studiogan_gsr.datasets.identity import identities, where
from studiogan_gsr.datasets.images import ImageFiles
from studiogan_gsr.datasets.inaturalist import inaturalist2017, inaturalist2018, inaturalist2019, read_coco
from studiogan_gsr.datasets.lists import imagenet_lt, places_lt, read_list
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.lsun import SCENES, lsun_lt
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.datasets.tiny_imagenet import tiny_imagenet_lt
from studiogan_gsr.datasets.uneven import animal_faces_lt, flowers102_lt
from studiogan_gsr.errors import DataError, OptionError
from studiogan_gsr.hosts.studiogan.checkout import default_root
from support.cifar import write_cifar

stream = np.random.RandomState(0)


def picture(width: int = 12, height: int = 9) -> Image.Image:
    return Image.fromarray(stream.randint(0, 256, (height, width, 3), np.uint8))


def save(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path)
    return path


def colours(view: View) -> list[bytes]:
    return [np.asarray(view[i][0]).tobytes() for i in range(len(view))]


def disjoint(train: View, reference: View) -> bool:
    return not set(identities(train)) & set(identities(reference))


def test_identities_see_a_shared_image(tmp_path: Path) -> None:
    """`disjoint` can fail."""
    save(tmp_path / "train" / "cat" / "0.png")
    (tmp_path / "other").mkdir()
    os.link(tmp_path / "train" / "cat" / "0.png", tmp_path / "other" / "1.png")
    (tmp_path / "train.txt").write_text("train/cat/0.png 0\n")
    (tmp_path / "other.txt").write_text("other/1.png 0\n")
    one, two = (read_list(tmp_path / f"{name}.txt", tmp_path) for name in ("train", "other"))
    assert identities(one) == identities(two)


@pytest.mark.parametrize("slow", [0.0, 1e9])
def test_identities_stand_in_the_images_order_asked_in_turn_or_at_once(
    slow: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_SLOW", slow)
    monkeypatch.setattr(identity, "_FIRST", 7)
    names = [f"{i % 30}.png" for i in range(100)]
    for name in names[:30]:
        save(tmp_path / name)
    files = ImageFiles(tmp_path, names, [0] * 100, ["all"])
    wanted = [(status.st_dev, status.st_ino) for status in ((tmp_path / name).stat() for name in names)]
    assert identities(files) == wanted


# LSUN


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five databases of 30 JPEG images under random keys, in LSUN's layout."""
    root = tmp_path_factory.mktemp("lsun")
    for scene in SCENES:
        with (
            lmdb.open(str(root / f"{scene}_train_lmdb"), map_size=1 << 24) as env,
            env.begin(write=True) as transaction,
        ):
            for _ in range(30):
                buffer = io.BytesIO()
                picture(stream.randint(20, 30), 20).save(buffer, "JPEG")
                transaction.put(stream.bytes(20).hex().encode(), buffer.getvalue())
    return root


@pytest.fixture
def small_lsun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsun, "N_MAX", 16)
    monkeypatch.setattr(lsun, "REFERENCE", 6)


@pytest.mark.usefixtures("small_lsun")
def test_lsun_is_torchvisions_in_file_order(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # torchvision leaves its lists of keys here
    copy = shutil.copytree(scenes, tmp_path / "copy")  # one process cannot open a database twice
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its lists' files open
        theirs = LSUN(copy, [f"{scene}_train" for scene in SCENES])
    train = lsun_lt(str(scenes), "train", ratio=16)
    assert isinstance(train, View)
    assert train.class_counts == [16, 8, 4, 2, 1]
    assert train.classes == list(SCENES)
    assert train.targets == [0] * 16 + [1] * 8 + [2] * 4 + [3] * 2 + [4]
    assert train.indices[:3] == [0, 1, 2]
    full = train.full()
    assert full is not None
    assert full.class_counts == [16] * 5
    assert full.preprocessing == train.preprocessing
    places = [30 * label + i for label, count in enumerate(train.class_counts) for i in range(count)]
    for at, place in enumerate(places):
        image, label = theirs[place]
        assert train[at][1] == label
        assert np.array_equal(np.asarray(train[at][0].convert("RGB")), np.asarray(image))


@pytest.mark.usefixtures("small_lsun")
@pytest.mark.parametrize("ratio", [1, 2, 16])
@pytest.mark.parametrize("options", [{}, {"reversed": True}, {"profile": "step"}])
def test_lsuns_reference_is_after_the_training_range_whatever_the_variant(
    scenes: Path, ratio: int, options: dict[str, Any]
) -> None:
    train = lsun_lt(str(scenes), "train", ratio, **options)
    reference = lsun_lt(str(scenes), "reference", ratio, **options)
    assert reference.class_counts == [6] * 5
    assert disjoint(train, reference)
    assert colours(reference) == colours(lsun_lt(str(scenes), "reference", 7))
    assert not set(colours(train)) & set(colours(reference))
    assert reference.notes == ()


@pytest.mark.usefixtures("small_lsun")
def test_lsuns_released_reference_is_the_first_images_and_says_how_many_are_trained_on(scenes: Path) -> None:
    train = lsun_lt(str(scenes), "train", 16)
    reference = lsun_lt(str(scenes), "reference", 16, released=True)
    shared = len({where(train, i) for i in range(31)} & {where(reference, i) for i in range(30)})
    assert shared == 6 + 6 + 4 + 2 + 1
    assert reference.notes == (f"{shared} of the 30 reference images are training images (the authors' reference)",)
    assert colours(lsun_lt(str(scenes), "train", 16, released=True)) == colours(train)


@pytest.mark.parametrize(("ratio", "shared"), [(100, "8,081"), (1000, "5,912")])
def test_the_released_overlap_is_the_papers(ratio: int, shared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        starts = (0, 50_000, 100_000, 150_000, 200_000)

        def __init__(self, root: Path, scenes: Any, number: int) -> None:
            assert number == 50_000
            self.targets = np.repeat(np.arange(5), number)

    monkeypatch.setattr(lsun, "Scenes", Counted)
    reference = lsun_lt("anywhere", "reference", ratio, released=True)
    assert reference.notes[0].startswith(f"{shared} of the 10,000 reference images are training images")


@pytest.mark.usefixtures("small_lsun")
def test_lsun_is_read_in_workers_and_after_pickling(scenes: Path) -> None:
    train = lsun_lt(str(scenes), "train", 4)
    again = pickle.loads(pickle.dumps(train))
    assert colours(again) == colours(train)
    sizes = [item.tolist() for item in DataLoader(_Sizes(train), batch_size=None, num_workers=2)]
    assert sizes == [list(train[i][0].size) for i in range(len(train))]


class _Sizes:
    def __init__(self, view: View) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(self.view[index][0].size)


@pytest.mark.usefixtures("small_lsun")
def test_lsun_that_is_missing_short_or_damaged_is_told(scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "lsun"
    shutil.copytree(scenes, copy)
    (copy / "kitchen_train_lmdb" / "data.mdb").rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"needs kitchen_train_lmdb .*kitchen 33") as caught:
        lsun_lt(str(copy), "train", 4)
    assert "bedroom_train_lmdb/" in str(caught.value)
    (copy / "kitchen_train_lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DataError, match=r"kitchen_train_lmdb cannot be read: "):
        lsun_lt(str(copy), "train", 4)
    with pytest.raises(DataError, match=r"has 30 images; the first 50,000 are needed"):
        _with_real_sizes(lambda: lsun_lt(str(scenes), "train", 4))
    with pytest.raises(OptionError, match="at most 16"):
        lsun_lt(str(scenes), "train", 17)


def _with_real_sizes(call: Callable[[], Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lsun, "N_MAX", 50_000)
        call()


@pytest.mark.usefixtures("small_lsun")
def test_lsun_is_squashed_as_in_the_authors_program(scenes: Path) -> None:
    train = lsun_lt(str(scenes), "train", 4)
    for size in (8, 16):
        wanted = Resize((size, size))(train[5][0].convert("RGB"))
        assert np.array_equal(np.asarray(Prepared(train, "LSUN_LT", size)[5][0]), np.asarray(wanted))


# The authors' program


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Their loaders, where their program lies beside the checkout of StudioGAN."""
    path = default_root().parent / "gSRGAN" / "src" / "data_utils" / "load_dataset.py"
    if not path.is_file():
        pytest.skip(f"the authors' program is not at {path.parents[2]}")
    monkeypatch.chdir(tmp_path)  # torchvision's lists of keys
    spec = importlib.util.spec_from_file_location("authors_load_dataset", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("small_lsun")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_lsun_and_its_pixels_are_the_authors(authors: ModuleType, scenes: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scenes, tmp_path / "copy")
    names = [f"{scene}_train" for scene in SCENES]
    squash = Compose([Resize((12, 12)), ToTensor()])  # as their loader has it for "lsun"
    theirs = authors.IMBALANCELSUN(str(copy), imb_factor=1 / 16, classes=names, max_samples=16, transform=squash)
    ours = Prepared(lsun_lt(str(scenes), "train", 16), "LSUN_LT", 12)
    assert theirs.img_num_list == ours.class_counts
    assert len(theirs) == len(ours) == 31
    for i in range(31):
        image, label = theirs[i]
        assert label == ours[i][1]
        assert torch.equal(image, ToTensor()(ours[i][0]))


@pytest.mark.parametrize("ratio", [10, 50, 100])
@pytest.mark.parametrize("profile", ["exp", "step"])
def test_cifars_choice_is_the_authors(
    authors: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: int, profile: str
) -> None:
    write_cifar(tmp_path, CIFAR10, per_class=40, monkeypatch=monkeypatch, noise=True)
    for name in ("train_list", "test_list", "meta"):
        monkeypatch.setattr(authors.IMBALANCECIFAR10, name, getattr(CIFAR10, name))
    state = np.random.get_state()
    try:
        theirs = authors.IMBALANCECIFAR10("cifar10", str(tmp_path), profile, 1 / ratio)
    finally:
        np.random.set_state(state)
    ours = cifar10_lt(str(tmp_path), "train", ratio, profile)
    assert theirs.get_cls_num_list() == ours.class_counts
    assert theirs.targets == ours.targets
    assert np.array_equal(theirs.data, np.stack([np.asarray(image) for image, _ in ours]))


# List files


NAMES = ["cat/one.png", "cat/ein Bär.png", 'dog/quo"te.png', "dog/日本.png", "eel/a,b.png"]


def listed(root: Path, lines: list[str], encoding: str = "utf-8", end: str = "\n") -> Path:
    for name in NAMES:
        save(root / name)
    path = root / "list.txt"
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("form", "encoding", "end"),
    [
        ("{name} {label}", "utf-8", "\n"),
        ("{name}\t{label}", "utf-8", "\n"),
        ("{name},{label}", "utf-8", "\n"),
        ('"{name}" {label}', "utf-8", "\n"),
        ("'{name}'\t{label}  ", "utf-8", "\n"),
        ("./{name} {label}", "utf-8-sig", "\r\n"),
        ("  {name}   {label}\n", "utf-8", "\n"),
    ],
)
def test_list_files_name_any_path_in_any_usual_form(form: str, encoding: str, end: str, tmp_path: Path) -> None:
    labels = [0, 0, 1, 1, 2]
    lines = [form.format(name=name, label=label) for name, label in zip(NAMES, labels, strict=True)]
    files = read_list(listed(tmp_path, lines, encoding, end), tmp_path)
    assert [files.where(i) for i in range(5)] == NAMES
    assert files.targets == labels
    assert files.classes == ["cat", "dog", "eel"]
    assert [files[i][0].size for i in range(5)] == [(12, 9)] * 5
    assert pickle.loads(pickle.dumps(files))[3][1] == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat/one.png"], r"line 1: found 'cat/one.png'; expected: <path> <label from 0>"),
        (["cat/one.png 0", "cat/one.png x"], "line 2: found"),
        (["cat/one.png -1"], "line 1: found"),
        (["cat/one.png 0.5"], "line 1: found"),
        ([" 3"], "line 1: found"),
        (["/etc/passwd 0"], "line 1: /etc/passwd leads out of"),
        (["cat/../../x.png 0"], "leads out of"),
        (["cat/one.png 0", "cat/one.png 123456789012"], "no image has label 1, but one has 123456789012"),
        (["cat/one.png 0", "cat/one.png 2"], "no image has label 1, but one has 2"),
        ([""], "is empty"),
    ],
)
def test_malformed_list_files_are_told_by_line(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_list(listed(tmp_path, lines), tmp_path)
    assert str(tmp_path / "list.txt") in str(caught.value)


def test_a_list_in_another_encoding_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        read_list(listed(tmp_path, ["Bär.png 0"], "latin-1"), tmp_path)


def test_classes_without_folders_of_their_own_are_called_by_label(tmp_path: Path) -> None:
    files = read_list(listed(tmp_path, ["cat/one.png 1", "cat/ein Bär.png 0"]), tmp_path)
    assert files.classes == ["0", "1"]


FACTORIES = {"ImageNet_LT": (imagenet_lt, 1000), "Places_LT": (places_lt, 365)}


@pytest.fixture(params=FACTORIES)
def list_set(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, int]:
    """The whole number of classes, with one image file a class, and a longer tail for the first."""
    factory, classes = FACTORIES[request.param]
    data = save(tmp_path / "all.jpg").read_bytes()
    for part in ("train", "val"):
        lines = []
        for label in range(classes):
            for i in range(3 if part == "train" and label == 0 else 1):
                name = f"{part}/n{label:08}/n{label:08}_{i}.JPEG"
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(data)
                lines.append(f"{name} {label}")
        folder = tmp_path / (request.param if part == "val" else "")
        folder.mkdir(exist_ok=True)
        (folder / f"{request.param}_{part}.txt").write_text("\n".join(lines))
    return factory, tmp_path, classes


def test_listed_sets_have_the_lists_images_and_an_apart_balanced_reference(list_set: tuple[Any, Path, int]) -> None:
    factory, root, classes = list_set
    train, reference = factory(str(root), "train"), factory(str(root), "reference")
    assert train.class_counts == [3] + [1] * (classes - 1)
    assert train.classes[:2] == ["n00000000", "n00000001"]
    assert reference.class_counts == [1] * classes
    assert disjoint(train, reference)
    assert (train.preprocessing, reference.preprocessing) == (lists.CROPPED, lists.CROPPED)


def test_listed_sets_that_are_missing_or_mixed_are_told(list_set: tuple[Any, Path, int]) -> None:
    factory, root, classes = list_set
    name = next(n for n, (f, _) in FACTORIES.items() if f is factory)
    val = root / name / f"{name}_val.txt"
    text = val.read_text()
    val.write_text(text.replace("val/n00000007/n00000007_0", "train/n00000007/n00000007_0"))
    with pytest.raises(DataError, match=f"1 of {classes} reference images are training images, the first is train/"):
        factory(str(root), "reference")
    val.write_text(f"{text}\nval/n00000001/n00000001_0.JPEG 1")
    with pytest.raises(DataError, match="not balanced: class n00000000 has 1 images, class n00000001 has 2"):
        factory(str(root), "reference")
    val.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(DataError, match=f"found labels of {classes - 1} classes; {name} has {classes}"):
        factory(str(root), "reference")
    (root / "train").rename(root / "images")
    with pytest.raises(DataError, match=r"a list names .*/train/n\d+/.*, which is not there; in .*: .*images/"):
        factory(str(root), "train")
    (root / f"{name}_train.txt").unlink()
    with pytest.raises(
        DataError, match=rf"needs {name}_train.txt or {name}/{name}_train.txt; found: .*; get the lists that .*Open"
    ):
        factory(str(root), "train")
    with pytest.raises(DataError, match="no such folder"):
        factory(str(root / "nowhere"), "train")


def test_a_folder_that_cannot_be_read_is_told_as_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "closed" / "images" / "0.png")
    files = ImageFiles(tmp_path, ["closed/images/0.png"], [0], ["cat"])
    files.check_present()

    def refusing(own: Callable[..., Any], inside: bool) -> Callable[..., Any]:
        """Refuse to list the folder `closed`, and to look at what is inside, as the system does for most users."""

        def call(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if str(path).startswith(f"{tmp_path}/closed/" if inside else f"{tmp_path}/closed"):
                raise PermissionError(13, "Permission denied", str(path))
            return own(path, *args, **kwargs)

        return call

    for name, inside in (("stat", True), ("scandir", False), ("listdir", False)):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), inside))
    found = r"a folder that cannot be read \(PermissionError: .*Permission denied"
    with pytest.raises(DataError, match=rf"which is not there; in {tmp_path}/closed: {found}"):
        files.check_present()
    for factory in (
        imagenet_lt,
        lambda *given: lsun_lt(*given, ratio=2),
        lambda *given: tiny_imagenet_lt(*given, ratio=2),
        animal_faces_lt,
        folder_lt,
        hdf5_lt,
        inaturalist2019,
    ):
        with pytest.raises(DataError, match=f"found: {found}"):
            factory(str(tmp_path / "closed"), "train")


# iNaturalist


YEARS = {"2017": inaturalist2017, "2018": inaturalist2018, "2019": inaturalist2019}


@pytest.fixture
def few_species(monkeypatch: pytest.MonkeyPatch) -> None:
    for year in YEARS:
        found = getattr(inaturalist, f"_{year}")
        monkeypatch.setattr(inaturalist, f"_{year}", inaturalist._Year(year, 3, found.archives))


def coco(root: Path, part: str, counts: list[int], year: str = "2019", ids: tuple[int, ...] = (4, 0, 9)) -> Path:
    """COCO-style JSON and its images; categories, images and annotations in no order."""
    names = {0: "Ara", 4: "Bär", 9: "Cobra"}
    images, annotations = [], []
    for category, count in zip(sorted(ids), counts, strict=True):
        for i in range(count):
            name = f"train_val{year}/Birds/{category}/{part}{i} é.jpg"
            save(root / name)
            images.append({"id": 1000 * category + 10 * i + len(part), "width": 12, "height": 9, "file_name": name})
            annotations.append({"id": len(annotations), "image_id": images[-1]["id"], "category_id": category})
    content = {
        "info": {"year": int(year)},
        "categories": [{"id": i, "name": names[i], "supercategory": "Birds"} for i in ids],
        "images": images[::-1],
        "annotations": annotations,
    }
    path = root / f"{part}{year}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.usefixtures("few_species")
@pytest.mark.parametrize("year", YEARS)
def test_inaturalist_is_its_jsons_images_by_rising_category(year: str, tmp_path: Path) -> None:
    coco(tmp_path, "train", [5, 3, 1], year)
    coco(tmp_path, "val", [2, 2, 2], year)
    train, reference = (YEARS[year](str(tmp_path), split) for split in ("train", "reference"))
    assert train.class_counts == [5, 3, 1]
    assert train.classes == ["Ara", "Bär", "Cobra"]
    assert where(train, 5) == f"train_val{year}/Birds/4/train0 é.jpg"
    assert train[8][0].size == (12, 9)
    assert reference.class_counts == [2, 2, 2]
    assert reference.notes == ()
    assert disjoint(train, reference)
    wanted = Compose([CenterCrop(9), Resize((4, 4))])(train[0][0].convert("RGB"))
    assert np.array_equal(np.asarray(Prepared(train, "iNat", 4)[0][0]), np.asarray(wanted))


@pytest.mark.usefixtures("few_species")
def test_an_unbalanced_validation_part_is_cut_to_its_rarest_class_and_says_so(tmp_path: Path) -> None:
    coco(tmp_path, "train", [5, 3, 1], "2017")
    coco(tmp_path, "val", [4, 2, 3], "2017")
    reference = inaturalist2017(str(tmp_path), "reference")
    assert reference.class_counts == [2, 2, 2]
    assert [where(reference, i)[-8:] for i in (0, 1)] == ["al0 é.jpg"[-8:], "al1 é.jpg"[-8:]]
    assert reference.notes == ("the reference has 2 of each class, 6 of 9 validation images",)


@pytest.mark.usefixtures("few_species")
def test_inaturalists_list_files_are_read_where_there_is_no_json(tmp_path: Path) -> None:
    for part, counts in (("train", (3, 2, 1)), ("val", (1, 1, 1))):
        names = [f"train_val2019/{part}/{y}/{i}.jpg\t{y}" for y, count in enumerate(counts) for i in range(count)]
        for name in names:
            save(tmp_path / name.split("\t")[0])
        (tmp_path / f"iNaturalist19_{part}.txt").write_text("\n".join(names))
    assert inaturalist2019(str(tmp_path), "train").class_counts == [3, 2, 1]
    assert inaturalist2019(str(tmp_path), "reference").class_counts == [1, 1, 1]


def test_missing_inaturalist_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train2019.json or iNaturalist19_train.txt .*train_val2019.tar.gz \(74 GB\)"
    ):
        inaturalist2019(str(tmp_path), "train")
    coco(tmp_path, "train", [2, 1, 1])
    with pytest.raises(DataError, match="found 3 classes; iNaturalist2019 has 1010"):
        inaturalist2019(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "is not a COCO-style JSON file: KeyError"),
        (lambda c: c.update(images=3), "is not a COCO-style JSON file: TypeError"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "an image has two annotations"),
        (
            lambda c: c["annotations"][0].update(image_id=-5),
            "names image -5 and category 0, at least one of which is not listed",
        ),
        (lambda c: c["annotations"][0].update(category_id=77), "category 77, at least one of which is not listed"),
        (lambda c: c["categories"].append({"id": 5, "name": "x"}), "category 5 has no image"),
        (lambda c: c["images"][0].update(file_name="../../secret.jpg"), "leads out of"),
    ],
)
def test_malformed_coco_files_are_told(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = coco(tmp_path, "train", [2, 1, 1])
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_coco(path, tmp_path)
    path.write_text(json.dumps(content)[:50])
    with pytest.raises(DataError, match="is not a COCO-style JSON file: JSONDecodeError"):
        read_coco(path, tmp_path)


# Tiny ImageNet


@pytest.fixture(params=["annotations", "sorted", "sorted, annotations left"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    base = tmp_path / "tiny-imagenet-200"
    rows = []
    for label, name in enumerate(("n01", "n02", "n03")):
        for i in range(16):
            save(base / "train" / name / "images" / f"{name}_{i}.JPEG", picture(64, 64))
        (base / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
        for i in range(2):
            file = f"val_{2 * label + i}.JPEG"
            save(base / "val" / ("images" if request.param == "annotations" else name) / file, picture(64, 64))
            rows.append(f"{file}\t{name}\t0\t32\t44\t62")
    if request.param != "sorted":
        (base / "val" / "val_annotations.txt").write_text("\n".join(rows[::-1]) + "\n")
    return tmp_path


def test_tiny_imagenet_is_read_as_its_archive_unpacks(tiny: Path) -> None:
    for root in (tiny, tiny / "tiny-imagenet-200"):
        train, reference = (tiny_imagenet_lt(str(root), split, ratio=16) for split in ("train", "reference"))
        assert train.class_counts == [16, 4, 1]
        assert train.classes == ["n01", "n02", "n03"]
        full = train.full()
        assert full is not None
        assert full.class_counts == [16] * 3
        assert Prepared(train, "Tiny", 64)[0][0].size == (64, 64)
        assert reference.class_counts == [2, 2, 2]
        for i in range(6):
            assert where(reference, i).endswith(f"_{2 * reference.targets[i]}.JPEG") or where(reference, i).endswith(
                f"_{2 * reference.targets[i] + 1}.JPEG"
            )
        assert disjoint(train, reference)


def test_missing_tiny_imagenet_says_what_to_get(tiny: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny / "tiny-imagenet-200" / "val")
    with pytest.raises(DataError, match=r"val/val_annotations.txt; get tiny-imagenet-200.zip \(248 MB\)"):
        tiny_imagenet_lt(str(tiny), "reference", ratio=4)
    with pytest.raises(DataError, match=r"found: no such folder"):
        tiny_imagenet_lt(str(tmp_path / "nowhere"), "train", ratio=4)


# Sets of uneven classes


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(uneven, "_FACES_KEPT", 2)
    for name, number in {"BearHead": 6, "CatHead": 18, "EagleHead": 10, "Natural": 7}.items():
        for i in range(number):
            save(tmp_path / "Image" / name / f"{i:02}.jpg", picture(20, 20))
    return tmp_path


def test_animal_faces_come_by_falling_size_and_give_no_more_than_they_have(faces: Path) -> None:
    whole = animal_faces_lt(str(faces), "train")
    assert whole.classes == ["CatHead", "EagleHead", "BearHead"]
    assert whole.class_counts == [16, 8, 4]
    assert animal_faces_lt(str(faces), "train", ratio=16).class_counts == [16, 4, 1]
    assert animal_faces_lt(str(faces), "train", ratio=2).class_counts == [16, 8, 4]  # of 16, 11, 8
    assert animal_faces_lt(str(faces), "train", ratio=16, reversed=True).class_counts == [1, 4, 4]
    assert animal_faces_lt(str(faces), "train", ratio=16).full() is None  # its images are not balanced
    reference = animal_faces_lt(str(faces), "reference", ratio=16)
    assert reference.class_counts == [2, 2, 2]
    first = [where(reference, reference.targets.index(label)) for label in range(3)]
    assert first == [
        f"Image/{name}Head/{number}.jpg" for name, number in (("Cat", 16), ("Eagle", "08"), ("Bear", "04"))
    ]
    assert disjoint(whole, reference)


def test_missing_animal_faces_say_what_to_get(tmp_path: Path, faces: Path) -> None:
    with pytest.raises(DataError, match=r"get https://vcla.stat.ucla.edu/.*AnimalFace.zip"):
        animal_faces_lt(str(tmp_path / "nowhere"), "train")
    for i in range(2, 6):
        (faces / "Image" / "BearHead" / f"{i:02}.jpg").unlink()
    with pytest.raises(DataError, match="BearHead has 2 images; more than 2 are needed"):
        animal_faces_lt(str(faces), "train")


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three kinds in the archive's own files: images, MATLAB labels and MATLAB splits."""
    base = tmp_path / "flowers-102"
    labels = np.repeat([1, 2, 3], [5, 9, 7])
    for i in range(21):
        save(base / "jpg" / f"image_{i + 1:05}.jpg")
    ids = [np.flatnonzero(labels == y) + 1 for y in (1, 2, 3)]
    parts = {
        "trnid": np.concatenate([part[:1] for part in ids]),
        "valid": np.concatenate([part[1:3] for part in ids]),
        "tstid": np.concatenate([part[3:] for part in ids]),
    }
    savemat(base / "imagelabels.mat", {"labels": labels})
    savemat(base / "setid.mat", parts)
    import hashlib

    digests = {
        key: (name, hashlib.md5((base / name).read_bytes()).hexdigest() if (base / name).is_file() else md5)
        for key, (name, md5) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", digests)
    monkeypatch.setattr(Flowers102, "classes", ["rose", "lily", "iris"])
    return tmp_path


def test_flowers_are_trained_on_all_but_the_validation_images(flowers: Path) -> None:
    train = flowers102_lt(str(flowers), "train")
    assert train.classes == ["lily", "iris", "rose"]
    assert train.class_counts == [7, 5, 3]
    reference = flowers102_lt(str(flowers), "reference", ratio=7)
    assert reference.class_counts == [2, 2, 2]
    lilies = [where(reference, i) for i in range(6) if reference.targets[i] == 0]
    assert lilies == ["flowers-102/jpg/image_00007.jpg", "flowers-102/jpg/image_00008.jpg"]
    assert disjoint(train, reference)
    assert flowers102_lt(str(flowers), "train", ratio=7).class_counts == [7, 2, 1]


def test_missing_flowers_that_cannot_be_downloaded_say_what_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flowers102, "_download_url_prefix", (tmp_path / "nowhere").as_uri() + "/")
    with pytest.raises(DataError, match=r"flowers-102/jpg/ \(102flowers.tgz, 345 MB\)") as caught:
        flowers102_lt(str(tmp_path), "train")
    assert "\n" not in str(caught.value)
