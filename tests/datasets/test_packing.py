"""Packing into one HDF5 file: whole or not there, equal to its source, resumed after any kill."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from studiogan_gsr.datasets import pack as packing
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.pack import check_unindexed, pack
from studiogan_gsr.datasets.packed import INDEX, Index, Packed, open_packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError

SIZE, NAME = 8, "Folder_LT"


def write_photos(root: Path, number: int = 40, classes: int = 3) -> Path:
    """train/<class>/: noise, so that no two images are alike."""
    stream = np.random.RandomState(0)
    for label in range(classes):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(number):
            Image.fromarray(stream.randint(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{i:03}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 7 * 3 * SIZE**2)  # 7 images: the last chunk is not full


def prepared(root: Path) -> Prepared:
    return Prepared(folder_lt(str(root), "train"), NAME, SIZE)


def pixels(source: Prepared) -> np.ndarray:
    return np.stack([source.read(i)[0] for i in range(len(source))])


def pack_all(root: Path, path: Path, workers: int = 0, **options: Any) -> Index:
    return pack(prepared(root), path, workers=workers, **options)


def hidden(folder: Path) -> list[str]:
    """What a packing leaves behind, but for its lock."""
    return [p.name for p in folder.iterdir() if p.name.startswith(".") and not p.name.endswith(".lock")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_packed_file_has_the_sources_pixels_labels_and_index(photos: Path, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "out" / "photos.hdf5"
    done = pack_all(photos, path, workers)
    source = prepared(photos)
    with h5py.File(path) as file:  # as StudioGAN reads it
        assert file["imgs"].shape == (120, SIZE, SIZE, 3)
        assert file["imgs"].dtype == np.uint8
        assert file["labels"].dtype == np.int64
        assert np.array_equal(file["imgs"][:], pixels(source))
        assert np.array_equal(file["imgs"][57], source.read(57)[0])
        assert file["labels"][:].tolist() == source.targets
        assert json.loads(file[INDEX][()]) == done.record()
    assert (done.name, done.split, done.size, done.images) == (NAME, "train", SIZE, 120)
    assert done.class_counts == [40, 40, 40]
    assert done.classes == ["class0", "class1", "class2"]
    assert done.preprocessing == {"crop": True, "resizer": "wo_resize"}
    assert done.options == {}
    assert (done.skipped, done.rotated) == ([], 0)
    assert hidden(path.parent) == []


def test_a_packed_file_is_a_data_set_in_any_process(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.hdf5"
    pack_all(photos, path)
    packed, source = open_packed(path, NAME, SIZE), prepared(photos)
    assert len(packed) == 120
    assert (packed.class_counts, packed.classes) == ([40] * 3, ["class0", "class1", "class2"])
    image, label = packed[50]
    assert np.array_equal(np.asarray(image), source.read(50)[0])
    assert label == source.targets[50]
    again = pickle.loads(pickle.dumps(packed))
    assert np.array_equal(again.pixels[119], source.read(119)[0])
    views = Prepared(packed, NAME, SIZE)
    loader = DataLoader(_Arrays(views), batch_size=40, num_workers=2)
    assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), pixels(source))


class _Arrays:
    def __init__(self, source: Prepared) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(self.source.read(index)[0])


def test_the_digest_is_that_of_the_unpacked_set_and_names_no_folder(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.hdf5"
    done = pack_all(photos, path)
    view = folder_lt(str(photos), "train")
    assert digest(Packed(path)) == digest(view) == done.images_sha256
    moved = photos.rename(tmp_path / "elsewhere")
    assert digest(folder_lt(str(moved), "train")) == done.images_sha256
    assert digest(folder_lt(str(moved), "train", ratio=4)) != done.images_sha256
    first, second = sorted((moved / "train" / "class0").iterdir())[:2]
    first.rename(moved / "train" / "class0" / "zzz.png")
    assert digest(folder_lt(str(moved), "train")) != done.images_sha256
    assert second.exists()


def test_a_finished_file_is_kept_and_a_changed_source_is_refused(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.hdf5"
    first = pack_all(photos, path)
    before = path.stat()
    assert pack_all(photos, path) == first
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    victim = photos / "train" / "class1" / "003.png"
    Image.new("RGB", (SIZE, SIZE)).save(victim)
    with pytest.raises(DataError, match=r"packed from other images.* move it away and pack it again"):
        pack_all(photos, path)
    victim.unlink()
    with pytest.raises(DataError, match=r"\(120 then, 119 now\)"):
        pack_all(photos, path)


# Interruptions.


class Interrupted(Prepared):
    """A source whose reading ends after a number of images."""

    left = 10**9
    reads = 0

    def read(self, index: int) -> Any:
        type(self).left -= 1
        type(self).reads += 1
        if type(self).left < 0:
            raise KeyboardInterrupt
        return super().read(index)


@pytest.fixture
def interrupted(photos: Path) -> type[Interrupted]:
    Interrupted.left, Interrupted.reads = 10**9, 0
    return Interrupted


def test_an_interrupted_packing_goes_on_where_it_was(
    photos: Path, tmp_path: Path, interrupted: type[Interrupted]
) -> None:
    source = interrupted(folder_lt(str(photos), "train"), NAME, SIZE)
    path = tmp_path / "photos.hdf5"
    interrupted.left = 50  # in the eighth chunk of seven
    with pytest.raises(KeyboardInterrupt):
        pack(source, path)
    assert not path.exists()
    interrupted.left, interrupted.reads = 10**9, 0
    pack(source, path)
    assert interrupted.reads == 120 - 49
    assert np.array_equal(Packed(path).pixels, pixels(prepared(photos)))
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("damage", ["journal", "cut partial", "no partial", "source", "nonsense"])
def test_what_is_left_of_another_packing_is_not_trusted(
    photos: Path, tmp_path: Path, interrupted: type[Interrupted], damage: str
) -> None:
    source = interrupted(folder_lt(str(photos), "train"), NAME, SIZE)
    path = tmp_path / "photos.hdf5"
    interrupted.left = 50
    with pytest.raises(KeyboardInterrupt):
        pack(source, path)
    journal, (partial,) = tmp_path / ".photos.hdf5.journal", tmp_path.glob(".photos.hdf5.*.partial")
    if damage == "journal":
        journal.write_text(journal.read_text()[:-9])
    elif damage == "nonsense":
        journal.write_text("[1]")
    elif damage == "cut partial":
        os.truncate(partial, partial.stat().st_size - 1)
    elif damage == "no partial":
        partial.unlink()
    else:
        Image.new("RGB", (SIZE, SIZE)).save(photos / "train" / "class0" / "000.png")
    interrupted.left, interrupted.reads = 10**9, 0
    pack(source, path)
    assert interrupted.reads == 120
    assert np.array_equal(Packed(path).pixels, pixels(prepared(photos)))


PACKER = """
import sys, time
from pathlib import Path
from studiogan_gsr.datasets import pack as packing
from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.preprocessing import Prepared
class Slow(Prepared):
    def read(self, index):
        time.sleep(0.002)
        return super().read(index)
packing._CHUNK_BYTES = 7 * 3 * 8**2
packing._JOURNAL_SECONDS = 0.02
source = Slow(folder_lt(sys.argv[1], "train"), "Folder_LT", 8)
print("ready", flush=True)
packing.pack(source, Path(sys.argv[2]), workers=int(sys.argv[3]), skip_damaged=True)
"""


@pytest.mark.parametrize("damage", [False, True])  # with damage, a second file is made at the end
def test_packings_killed_at_random_moments_leave_nothing_that_is_not_whole(
    photos: Path, tmp_path: Path, damage: bool
) -> None:
    kills = int(os.environ.get("PACKING_KILLS", "4"))
    path, wanted = tmp_path / "out" / "photos.hdf5", pixels(prepared(photos))
    if damage:
        (photos / "train" / "class0" / "005.png").write_bytes(b"no image")
        wanted = np.delete(wanted, 5, axis=0)
    stream = np.random.RandomState(kills)
    killed = kept = 0
    while killed < kills or (not kept and killed < kills + 20):
        command = [sys.executable, "-c", PACKER, str(photos), str(path), str(killed % 3)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(stream.uniform(0, 0.35))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.stdout.close()
        process.wait()
        done = [json.loads(file.read_text())["done"] for file in path.parent.glob(".*.journal")]
        kept += any("01" in chunks for chunks in done)
        if path.exists():  # whole, whatever happened after the renaming
            assert np.array_equal(open_packed(path, NAME, SIZE).pixels, wanted)
            path.unlink()
    assert kept, "no kill fell between the first chunk and the last"
    pack_all(photos, path, skip_damaged=True)
    assert np.array_equal(open_packed(path, NAME, SIZE).pixels, wanted)
    assert hidden(path.parent) == []


def test_two_packings_at_once_make_one_file_of_what_the_images_are_by_then(
    photos: Path, tmp_path: Path, interrupted: type[Interrupted]
) -> None:
    source, path = interrupted(folder_lt(str(photos), "train"), NAME, SIZE), tmp_path / "photos.hdf5"
    with FileLock(tmp_path / ".photos.hdf5.lock"):
        both = [threading.Thread(target=pack, args=(source, path)) for _ in range(2)]
        for one in both:
            one.start()
        both[0].join(0.5)
        assert all(one.is_alive() for one in both)
        assert not path.exists()
        Image.new("RGB", (SIZE, SIZE), "red").save(photos / "train" / "class1" / "007.png")
    for one in both:
        one.join()
    assert interrupted.reads == 120
    assert np.array_equal(Packed(path).pixels, pixels(prepared(photos)))
    assert pack_all(photos, path).images == 120


def test_images_that_change_while_they_are_packed_are_told(photos: Path, tmp_path: Path) -> None:
    class Changing(Prepared):
        def read(self, index: int) -> Any:
            if index == 60:
                Image.new("RGB", (SIZE, SIZE)).save(photos / "train" / "class0" / "001.png")
            return super().read(index)

    path = tmp_path / "photos.hdf5"
    with pytest.raises(DataError, match="images of Folder_LT changed while they were packed; run again"):
        pack(Changing(folder_lt(str(photos), "train"), NAME, SIZE), path)
    assert not path.exists()
    pack_all(photos, path)
    assert np.array_equal(Packed(path).pixels, pixels(prepared(photos)))


def test_a_worker_that_is_killed_is_told_and_its_work_goes_on(photos: Path, tmp_path: Path) -> None:
    class Killed(Prepared):
        def read(self, index: int) -> Any:
            if index == 60 and not (tmp_path / "again").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(index)

    source, path = Killed(folder_lt(str(photos), "train"), NAME, SIZE), tmp_path / "photos.hdf5"
    with pytest.raises(DataError, match=r"a worker ended \(RuntimeError: .*run again, with fewer --workers"):
        pack(source, path, workers=1)
    (tmp_path / "again").touch()
    pack(source, path, workers=2)
    assert np.array_equal(Packed(path).pixels, pixels(prepared(photos)))


def test_an_image_that_is_gone_is_told(photos: Path, tmp_path: Path) -> None:
    source = prepared(photos)
    (photos / "train" / "class1" / "007.png").unlink()
    with pytest.raises(DataError, match=r"Folder_LT: an image cannot be read: FileNotFoundError: .*class1/007.png"):
        pack(source, tmp_path / "photos.hdf5")


def test_what_a_kill_after_the_renaming_leaves_is_removed_by_the_next_run(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.hdf5"
    pack_all(photos, path)
    for name in (".photos.hdf5.journal", ".photos.hdf5.12ab34cd.partial"):
        (tmp_path / name).write_bytes(b"left")
    pack_all(photos, path)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("copied", [False, True])
def test_images_that_were_replaced_meanwhile_are_not_mixed_with_the_old(
    tmp_path: Path, interrupted: type[Interrupted], copied: bool
) -> None:
    """Uncompressed images are of one size: their times tell. Of torchvision's folder too, as in StudioGAN."""

    def write(value: int) -> None:
        for label in "ab":
            (tmp_path / "train" / label).mkdir(parents=True, exist_ok=True)
            for i in range(30):
                Image.new("RGB", (SIZE, SIZE), (value, i, 0)).save(tmp_path / "train" / label / f"{i:02}.bmp")

    write(1)
    folder = ImageFolder(str(tmp_path / "train")) if copied else folder_lt(str(tmp_path), "train")
    source, path = interrupted(folder, NAME, SIZE), tmp_path / "photos.hdf5"
    interrupted.left = 40
    with pytest.raises(KeyboardInterrupt):
        pack(source, path)
    write(2)
    interrupted.left = 10**9
    pack(source, path)
    assert set(Packed(path).pixels[:, 0, 0, 0]) == {2}


def test_what_one_run_may_leave_out_another_may_not(
    photos: Path, tmp_path: Path, interrupted: type[Interrupted]
) -> None:
    bad = photos / "train" / "class0" / "002.png"
    bad.write_bytes(b"no image")
    source, path = interrupted(folder_lt(str(photos), "train"), NAME, SIZE), tmp_path / "photos.hdf5"
    interrupted.left = 50
    with pytest.raises(KeyboardInterrupt):
        pack(source, path, skip_damaged=True)
    interrupted.left, interrupted.reads = 10**9, 0
    with pytest.raises(DataError, match=r"class0/002.png\) cannot be read"):
        pack(source, path)
    interrupted.reads = 0
    done = pack(source, path, skip_damaged=True)
    assert done.images == 119
    assert interrupted.reads < 120


def test_a_class_without_images_keeps_its_place(tmp_path: Path) -> None:
    class Theirs:
        targets = (0, 1, 0)
        class_counts = (2, 1, 0)
        classes = ("a", "b", "c")

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (SIZE, SIZE)), self.targets[index]

    path = tmp_path / "theirs.hdf5"
    pack(Prepared(Theirs(), "Theirs", SIZE), path)
    assert open_packed(path, "Theirs").class_counts == [2, 1, 0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_and_a_file_in_it_is_found(photos: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    path = closed / "photos.hdf5"
    done = pack_all(photos, path)
    closed.chmod(0o500)
    assert pack_all(photos, path) == done
    with pytest.raises(DataError, match=r"other.hdf5 cannot be written: PermissionError"):
        pack_all(photos, closed / "other.hdf5")


# Damage.


@pytest.fixture
def damaged(photos: Path) -> list[Path]:
    """Three images that cannot be read, in as many ways; two in one chunk."""
    files = [photos / "train" / "class0" / name for name in ("002.png", "003.png")]
    files.append(photos / "train" / "class2" / "039.png")
    files[0].write_bytes(b"no image")
    files[1].write_bytes(files[1].read_bytes()[:100])
    files[2].write_bytes(b"")
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_a_packing_with_its_path(
    photos: Path, damaged: list[Path], tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "photos.hdf5"
    with pytest.raises(DataError) as caught:
        pack_all(photos, path, workers)
    assert f"image 2 of Folder_LT ({damaged[0]}) cannot be read: UnidentifiedImageError" in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_can_be_left_out_and_are_counted_by_name(
    photos: Path, damaged: list[Path], tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "photos.hdf5"
    done = pack_all(photos, path, workers, skip_damaged=True)
    assert (done.images, done.class_counts) == (117, [38, 40, 39])
    assert [text.split("(")[1].split(")")[0] for text in done.skipped] == [str(file) for file in damaged]
    assert done.notes == ["3 damaged images were left out"]
    source = prepared(photos)
    assert done.images_sha256 != digest(source.dataset)
    good = [i for i in range(120) if i not in (2, 3, 119)]
    assert done.images_sha256 == digest(View(source.dataset, good, done.classes))
    packed = open_packed(path, NAME, SIZE)
    assert packed.targets == [source.targets[i] for i in good]
    assert np.array_equal(packed.pixels, np.stack([source.read(i)[0] for i in good]))
    assert packed.index == done
    assert hidden(tmp_path) == []
    assert pack_all(photos, path, skip_damaged=True) == done  # there already


def test_a_class_with_no_good_image_is_an_error(photos: Path, tmp_path: Path) -> None:
    for file in (photos / "train" / "class1").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="every image of class class1 is damaged"):
        pack_all(photos, tmp_path / "photos.hdf5", skip_damaged=True)


def test_an_image_of_another_size_is_no_damage(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(photos / "train" / "class0" / "000.png")
    with pytest.raises(DataError, match=r"DATA.img_size: found 8; image 0 .* is 9 x 9 pixels"):
        pack_all(photos, tmp_path / "photos.hdf5", skip_damaged=True)


def test_labels_that_contradict_the_targets_are_refused(photos: Path, tmp_path: Path) -> None:
    class Lying(Prepared):
        def read(self, index: int) -> Any:
            image, label = super().read(index)
            return image, label + (index == 9)

    source = Lying(folder_lt(str(photos), "train"), NAME, SIZE)
    with pytest.raises(DataError, match="image 9 has the label 1, but targets say 0"):
        pack(source, tmp_path / "photos.hdf5")


def test_a_full_disk_is_told_before_and_while_it_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos.hdf5"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
        with pytest.raises(DataError, match=r"the packed images need 0.0 GB; .* has 0.0 GB free"):
            pack_all(photos, path)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_lay_out", lambda *_: _raise(OSError(28, "No space left on device")))
        with pytest.raises(DataError, match=r"photos.hdf5 cannot be written: OSError: \[Errno 28\] No space"):
            pack_all(photos, path)
    full = Path("/dev/full")
    if full.exists():  # a real failing write
        source = prepared(photos)
        chunks = packing._Chunks(source, np.asarray(source.targets), full, 0, 7, False)
        assert "No space left on device" in str(chunks[0])
    assert not path.exists()


def _raise(error: Exception) -> None:
    raise error


# Files that are not what they should be.


@pytest.fixture
def packed_file(photos: Path, tmp_path: Path) -> Path:
    path = tmp_path / "photos.hdf5"
    pack_all(photos, path)
    return path


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_refused(packed_file: Path, share: float) -> None:
    os.truncate(packed_file, int(packed_file.stat().st_size * share))
    with pytest.raises(
        DataError,
        match=r"photos.hdf5 is (cut off: .* bytes|empty); .*copy it again, or move it away and pack it again",
    ):
        open_packed(packed_file, NAME, SIZE)


def test_a_folder_that_was_packed_without_its_orientation_tags_is_refused(photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (photos / "train" / "class1").glob("00*.png"):
        with Image.open(path) as image:
            image.save(path, exif=exif)
    path, under_another_name = tmp_path / "folder.hdf5", tmp_path / "mine.hdf5"
    as_stored = open_images("Mine", str(photos), "train")
    for name, file in ((NAME, path), ("Mine", under_another_name)):  # the first as an older version did
        assert pack(Prepared(as_stored, name, SIZE), file).rotated == 10
    open_packed(under_another_name, "Mine")
    message = r"did not turn images as their orientation tags say \(10 have one\); move it away and pack it again"
    for use in (lambda: open_packed(path, NAME), lambda: pack_all(photos, path)):
        with pytest.raises(DataError, match=message):
            use()
    path.unlink()
    pack_all(photos, path)
    assert np.array_equal(open_packed(path, NAME).pixels, pixels(prepared(photos)))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"name": "Folder_LT_rho4"}, r"name is 'Folder_LT', expected 'Folder_LT_rho4'"),
        ({"size": 16}, "size is 8, expected 16"),
        ({"resizer": "lanczos"}, "resizer is 'wo_resize', expected 'lanczos'"),
        ({"split": "reference"}, "split is 'train', expected 'reference'"),
    ],
)
def test_another_sets_file_is_refused_under_this_ones_name(
    packed_file: Path, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"holds other images: {message}; move it away"):
        open_packed(packed_file, **{"name": NAME, "size": SIZE, **wanted})


@pytest.mark.parametrize(
    "change", ["labels", "index", "no index", "format", "unknown", "kind", "no labels", "garbage"]
)
def test_a_file_whose_content_and_index_disagree_is_refused(packed_file: Path, change: str) -> None:
    with h5py.File(packed_file, "r+") as file:
        index = json.loads(file[INDEX][()])
        if change == "labels":
            file["labels"][5] = 1
        elif change == "no labels":
            del file["labels"]
        elif change == "huge":
            file["labels"][5] = 2**45
        elif change == "group":
            del file["imgs"]
            file.create_group("imgs")
        elif change == "kind":
            del file["imgs"]
            file["imgs"] = np.zeros((120, SIZE, SIZE, 3), np.float32)
        else:
            del file[INDEX]
            index |= {
                "index": {"images": 119},
                "format": {"format": 2},
                "unknown": {"colour": 1},
                "preprocessing": {"preprocessing": {"turn": 90}},
            }.get(change, {})
            if change != "no index":
                file[INDEX] = "{" if change == "garbage" else json.dumps(index)
    with pytest.raises(DataError, match=r"photos\.hdf5.*(pack it again|expected: imgs)"):
        open_packed(packed_file, NAME, SIZE)


# Files of StudioGAN's own packer.


def studiogans(path: Path, images: np.ndarray, labels: list[int]) -> None:
    """As it writes them: in chunks, that grow."""
    with h5py.File(path, "w") as file:
        options = {"maxshape": (None, *images.shape[1:]), "chunks": (50, *images.shape[1:])}
        file.create_dataset("imgs", data=images, **options)
        file.create_dataset("labels", data=np.array(labels), maxshape=(None,), chunks=(50,))


def test_a_whole_file_of_another_packer_is_recognised_by_its_images(photos: Path, tmp_path: Path) -> None:
    source, path = prepared(photos), tmp_path / "theirs.hdf5"
    images = pixels(source)
    studiogans(path, images, source.targets)
    check_unindexed(path, source)
    assert Packed(path).index is None
    with pytest.raises(DataError, match="has no index, so its content"):
        open_packed(path, NAME, SIZE)
    for change, message in (
        (lambda: studiogans(path, images[:-20], source.targets[:-20]), "it has 100 images, Folder_LT has 120"),
        (lambda: studiogans(path, images, source.targets[::-1]), "its labels differ"),
        (lambda: studiogans(path, images * (np.arange(120) < 119)[:, None, None, None], source.targets), "image 119"),
        (lambda: studiogans(path, images[::-1], source.targets), "image 0 differs"),
    ):
        change()
        with pytest.raises(DataError, match=f"is incomplete, or holds other images: .*{message}"):
            check_unindexed(path, source)


def test_images_with_channels_first_are_read_too(photos: Path, tmp_path: Path) -> None:
    source, path = prepared(photos), tmp_path / "old.hdf5"
    studiogans(path, pixels(source).transpose(0, 3, 1, 2), source.targets)
    packed = Packed(path)
    assert np.array_equal(np.asarray(packed[7][0]), source.read(7)[0])
