"""The native host's real images: how they are prepared, and in which order they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from studiogan_gsr.cli import main
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.native import images as native_images
from studiogan_gsr.hosts.native.images import InMemory, Streamed, load_images
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.stream import ImageStream
from studiogan_gsr.seeds import mixed
from support.plugins import MakePackage
from support.runs import PLAIN, arguments, changed, one_thread, write

CPU, META = torch.device("cpu"), torch.device("meta")
NUMBER = 30


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    """Every worker ends with its stream."""
    yield
    assert not multiprocessing.active_children()


class Pictures:
    """A torchvision-style data set of given images, each a class of its own."""

    def __init__(self, images: list[Any]) -> None:
        self.images, self.targets = images, list(range(len(images)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], index


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = np.random.RandomState(seed).randint(0, 256, (len(mode), height, width), dtype=np.uint8)
    if mode in ("1", "P"):
        return Image.fromarray(bands[0]).convert(mode)
    return Image.merge(mode, [Image.fromarray(band) for band in bands])


def pixels_of(dataset: Pictures, name: str, resizer: str = "wo_resize") -> Pixels:
    return Pixels(Prepared(dataset, name, 8, resizer))


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    """Thirty images of 8 x 8, no two alike, none its own mirror image."""
    return pixels_of(Pictures([noise(8, 8, seed=seed) for seed in range(NUMBER)]), "Noise")


def whole(pixels: Pixels) -> Tensor:
    return torch.stack([pixels[i][0] for i in range(len(pixels))])


def taken(stream: ImageStream, number: int) -> list[tuple[Tensor, Tensor]]:
    """The next batches, and no more."""
    with closing(stream):
        return [next(stream) for _ in range(number)]


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    assert len(one) == len(other)
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# An image.


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    image = noise(8, 8, mode)
    assert image.mode == mode
    prepared, label = pixels_of(Pictures([noise(8, 8), image]), "Some")[1]
    assert prepared.dtype == torch.uint8
    assert prepared.shape == (3, 8, 8)
    assert label == 1
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("size", "box"), [((12, 8), (2, 0, 10, 8)), ((8, 20), (0, 6, 8, 14)), ((8, 8), None)])
def test_the_middle_square_is_taken(size: tuple[int, int], box: tuple[int, ...] | None) -> None:
    image = noise(*size)
    prepared, _ = pixels_of(Pictures([image]), "Some")[0]
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), np.asarray(image.crop(box) if box else image))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_resizer_resizes_it_as_pillow_does(name: str) -> None:
    image = noise(20, 12)
    prepared, _ = pixels_of(Pictures([image]), "Some", name)[0]
    wanted = image.crop((4, 0, 16, 12)).resize((8, 8), Image.Resampling[name.upper()])
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_an_image_of_another_size_is_refused_with_the_remedy() -> None:
    error = pixels_of(Pictures([noise(8, 8), noise(9, 9)]), "Some")[1]
    assert isinstance(error, DataError)
    wanted = "DATA.img_size: found 8; image 1 of Some is 9 x 9 pixels ("
    wanted += "--resizer lanczos, or StudioGAN's --pre_resizer, resizes them)"
    assert str(error) == wanted


def test_what_is_no_image_is_refused() -> None:
    error = pixels_of(Pictures([torch.zeros(3, 8, 8)]), "Some")[0]
    assert isinstance(error, DataError)
    assert "image 0 of Some cannot be read: TypeError: expected a PIL image, found Tensor" in str(error)


# The stream.


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("number", "batch"), [(NUMBER, 8), (5, 8), (NUMBER, 30)])
def test_from_memory_and_from_workers_the_stream_is_the_same(
    number: int, batch: int, flip: bool, pixels: Pixels
) -> None:
    """Over several passes, and where a batch is larger than the set."""
    some = pixels_of(Pictures(pixels.images.dataset.images[:number]), "Some")
    in_memory, streamed = InMemory(some, CPU, 0), Streamed(some, CPU, 1)
    batches = taken(ImageStream(in_memory, number, batch, flip, seed=3), 10)
    assert same(batches, taken(ImageStream(streamed, number, batch, flip, seed=3), 10))
    assert batches[0][0].shape == (batch, 3, 8, 8)
    assert batches[0][0].dtype == torch.float32
    # Going on in the middle, within a pass and at its start.
    for drawn in (0, 1, 4, 9):
        later = ImageStream(in_memory, number, batch, flip, seed=3, drawn=drawn)
        assert same(taken(later, 10 - drawn), batches[drawn:])
        assert later.drawn == 10
    assert same(taken(ImageStream(streamed, number, batch, flip, seed=3, drawn=4), 6), batches[4:])


def test_each_pass_has_every_image_once_and_in_another_order(pixels: Pixels) -> None:
    stream = ImageStream(InMemory(pixels, CPU, 0), NUMBER, 8, False, seed=1)
    labels = torch.cat([labels for _, labels in taken(stream, 15)])  # four passes
    passes = labels.view(4, NUMBER).tolist()
    assert all(sorted(one) == list(range(NUMBER)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    small = ImageStream(InMemory(pixels, CPU, 0), 3, 8, False, seed=1)
    labels = torch.cat([labels for _, labels in taken(small, 3)])
    assert all(sorted(one) == [0, 1, 2] for one in labels.view(8, 3).tolist())


def test_images_and_labels_belong_together_and_are_scaled_as_studiogan_scales_them(pixels: Pixels) -> None:
    ((images, labels),) = taken(ImageStream(InMemory(pixels, CPU, 0), NUMBER, 8, False, seed=1), 1)
    wanted = whole(pixels)[labels].float().div(255).sub(0.5).div(0.5)
    assert torch.equal(images, wanted)
    assert images.min() >= -1
    assert images.max() <= 1


def test_half_of_the_images_are_mirrored_at_random_anew_in_each_pass(pixels: Pixels) -> None:
    stream = ImageStream(InMemory(pixels, CPU, 0), NUMBER, NUMBER, True, seed=1)
    plain = ImageStream(InMemory(pixels, CPU, 0), NUMBER, NUMBER, False, seed=1)
    mirrored = []
    for (images, labels), (unflipped, same_labels) in zip(taken(stream, 20), taken(plain, 20), strict=True):
        assert torch.equal(labels, same_labels)
        as_is = (images == unflipped).flatten(1).all(1)
        flipped = (images == unflipped.flip(3)).flatten(1).all(1)
        assert (as_is ^ flipped).all()
        mirrored.append(flipped[labels.argsort()])
    share = torch.stack(mirrored).float()
    assert 0.4 < share.mean() < 0.6
    assert ((share.mean(0) > 0) & (share.mean(0) < 1)).all()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_ranks_parts_make_up_the_batch(streamed: bool, pixels: Pixels) -> None:
    images = Streamed(pixels, CPU, 1) if streamed else InMemory(pixels, CPU, 0)
    batches = taken(ImageStream(InMemory(pixels, CPU, 0), NUMBER, 12, True, seed=1), 6)
    parts = [taken(ImageStream(images, NUMBER, 12, True, 1, rank, 3), 6) for rank in range(3)]
    for batch, *of_ranks in zip(batches, *parts, strict=True):
        assert [len(labels) for _, labels in of_ranks] == [4, 4, 4]
        together = [torch.cat(tensors) for tensors in zip(*of_ranks, strict=True)]
        assert same([batch], [(together[0], together[1])])


def test_another_seed_is_another_order(pixels: Pixels) -> None:
    images = InMemory(pixels, CPU, 0)
    orders = [taken(ImageStream(images, NUMBER, NUMBER, False, seed), 1)[0][1] for seed in (0, 1)]
    assert not torch.equal(*orders)
    assert len({mixed(seed, stream) for seed in range(30) for stream in range(30)}) == 900
    assert len({mixed(seed, 1) for seed in range(-30, 30)}) == 60
    assert mixed(0, 1) == 2918264622725855778  # as in earlier versions: runs are resumed


def test_a_long_stream_remembers_few_passes(pixels: Pixels) -> None:
    for batch, passes in ((8, 2), (100, 5)):
        stream = ImageStream(InMemory(pixels, CPU, 0), NUMBER, batch, False, seed=1)
        for _ in range(50):
            next(stream)
            assert len(stream._passes) <= passes
            assert not stream._mirrored


def defined(
    pixels: Pixels, number: int, batch_size: int, flip: bool, seed: int, rank: int, ranks: int, batch: int
) -> tuple[Tensor, Tensor]:
    """A rank's part of a batch, image by image."""
    images, labels, part = [], [], batch_size // ranks
    for place in range(batch * batch_size + rank * part, batch * batch_size + (rank + 1) * part):
        stream = torch.Generator().manual_seed(mixed(seed, place // number))
        order, mirrored = torch.randperm(number, generator=stream), torch.rand(number, generator=stream) < 0.5
        image, label = pixels[int(order[place % number])]
        assert isinstance(image, Tensor)
        image = image.flip(2) if flip and mirrored[place % number] else image
        images.append(image.float().div(255).sub(0.5).div(0.5))
        labels.append(label)
    return torch.stack(images), torch.tensor(labels)


@pytest.mark.parametrize("workers", [None, 0])
@pytest.mark.parametrize(
    ("number", "batch", "ranks", "seed", "drawn"),
    [(NUMBER, 8, 1, 0, 0), (NUMBER, 12, 3, 7, 1000), (NUMBER, 30, 2, 1, 3), (5, 8, 4, 2, 9), (3, 64, 2, 3, 0)],
)
def test_the_batches_are_those_of_the_definition(
    number: int, batch: int, ranks: int, seed: int, drawn: int, workers: int | None, pixels: Pixels
) -> None:
    """To the bit, from memory and streamed: runs are resumed with them."""
    some = pixels_of(Pictures(pixels.images.dataset.images[:number]), "Some")
    images = InMemory(some, CPU, 0) if workers is None else Streamed(some, CPU, workers)
    for rank in range(ranks):
        for flip in (False, True):
            found = taken(ImageStream(images, number, batch, flip, seed, rank, ranks, drawn), 6)
            wanted = [defined(some, number, batch, flip, seed, rank, ranks, drawn + i) for i in range(6)]
            assert same(found, wanted)
            assert all(images.is_contiguous() for images, _ in found)


class OnTheHost(TorchDispatchMode):
    """Counts the operations that read or write host memory."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)]
        self.number += any(tensor.device.type == "cpu" for tensor in tensors)
        return found


def test_batches_from_memory_touch_the_host_only_where_a_pass_begins(pixels: Pixels) -> None:
    """The meta device holds no values: what waits for them raises."""
    with OnTheHost() as host, closing(ImageStream(InMemory(pixels, META, 0), NUMBER, 5, True, seed=1)) as stream:
        before = []
        for _ in range(18):  # three passes
            before.append(host.number)
            images, labels = next(stream)
            assert images.device == labels.device == META
            assert images.shape == (5, 3, 8, 8)
    counts = [after - now for now, after in pairwise(before)]
    assert [i for i, count in enumerate(counts) if count] == [0, 6, 12]
    assert max(counts) == 5  # order, random numbers, mirrored, and two copies


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [None, 0, 1])
def test_batches_on_a_gpu_are_those_of_the_cpu_though_it_is_busy(workers: int | None, pixels: Pixels) -> None:
    """While earlier work occupies the GPU, batches are taken, used and dropped without waiting for it."""
    device, number = torch.device("cuda", 0), 40
    expected = taken(ImageStream(InMemory(pixels, CPU, 0), NUMBER, 8, True, seed=1), number)
    images = InMemory(pixels, device, 0) if workers is None else Streamed(pixels, device, workers)
    load = torch.randn(4096, 4096, device=device)
    found = []
    with closing(ImageStream(images, NUMBER, 8, True, seed=1)) as stream:
        next(stream)  # starts what starts once
    with closing(ImageStream(images, NUMBER, 8, True, seed=1)) as stream:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(number):
                load = torch.nn.functional.normalize(load @ load)
                batch, labels = next(stream)
                found.append((batch.clone(), labels.clone()))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for (batch, labels), (wanted, wanted_labels) in zip(found, expected, strict=True):
        torch.testing.assert_close(batch.cpu(), wanted, rtol=0, atol=1e-6)  # CUDA divides by multiplying
        assert torch.equal(labels.cpu(), wanted_labels)


def test_images_stay_in_memory_where_they_fit(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = NUMBER * 3 * 8 * 8
    for free, kind in ((4 * needed, InMemory), (2 * needed, Streamed)):
        monkeypatch.setattr(native_images, "_free_memory", lambda device, free=free: free)
        assert type(load_images(pixels, CPU, 0, None)) is kind
    assert type(load_images(pixels, CPU, 0, True)) is InMemory
    assert type(load_images(pixels, CPU, 0, False)) is Streamed
    monkeypatch.undo()
    assert native_images._free_memory(CPU) > 0


def test_no_more_workers_are_started_than_there_are_cores(pixels: Pixels) -> None:
    """torch would warn of each such run."""
    images = load_images(pixels, CPU, 10_000, False)
    assert isinstance(images, Streamed)
    assert 1 <= images.workers < 10_000


# Image folders.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ and valid/ with two classes: 6 and 3 images of 32 x 32, of various modes."""
    for split in ("train", "valid"):
        for label, number in (("cat", 6), ("dog", 3)):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for i, mode in zip(range(number), ("RGB", "L", "P", "RGBA", "CMYK", "LA"), strict=False):
                kind = "jpg" if mode == "CMYK" else "png"
                noise(32, 32, mode).save(tmp_path / "data" / split / label / f"{i}.{kind}")
    return tmp_path / "data"


def attempt(
    tmp_path: Path, folder: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str, **changes: Any
) -> tuple[int, str]:
    """Two steps on a folder: the exit status, and what stands on stderr."""
    sections = changed(PLAIN, DATA={"name": name, "num_classes": 2, **changes})
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out", "--steps", "2", *more)
    argv[argv.index("--data") + 1] = str(folder)
    status = main(argv)
    return status, capsys.readouterr().err


@pytest.mark.parametrize("name", ["Folder_LT_rho2", "Folder_LT", "My_Animals"])
def test_an_image_folder_trains(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt(tmp_path, folder, name, capsys) == (0, "")


@pytest.mark.parametrize("name", ["Folder_LT_rho2", "Folder_LT", "My_Animals"])
@pytest.mark.parametrize("more", [(), ("--stream", "--workers", "1")])
@pytest.mark.parametrize("whole", [False, True])
def test_an_unreadable_image_is_named(
    name: str, more: tuple[str, ...], whole: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for bad in (folder / "train").rglob("*.png"):
        bad.write_bytes(b"no image" if whole else bad.read_bytes()[:200])
    status, error = attempt(tmp_path, folder, name, capsys, *more)
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("studiogan-gsr: image ")
    assert f" of {name} ({folder}/train/" in line
    assert " cannot be read: " in line
    path = Path(line.split("(")[1].split(")")[0])
    assert path.is_file()
    assert path.suffix == ".png"


def test_images_of_another_size_are_named_and_a_resizer_helps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise(50, 40).save(folder / "train" / "dog" / "9.png")
    status, error = attempt(tmp_path, folder, "My_Animals", capsys)
    assert status == 2
    assert f"DATA.img_size: found 32; image 9 of My_Animals ({folder}/train/dog/9.png) is 40 x 40 pixels" in error
    assert attempt(tmp_path, folder, "My_Animals", capsys, "--resizer", "lanczos") == (0, "")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "My_Animals",
            {"num_classes": 3},
            "DATA.num_classes: found 3; My_Animals has 2 classes (images: cat 6, dog 3)",
        ),
        ("Folder_LT_rho2", {"num_classes": 3}, "DATA.num_classes: found 3; Folder_LT_rho2 has 2 classes"),
        ("Folder_LT_rho9", {}, "ratio: found 9"),
        ("Folder_LT_rho", {}, "DATA.name: found 'Folder_LT_rho'"),
    ],
)
def test_a_folder_that_contradicts_the_configuration_is_refused(
    name: str,
    changes: dict[str, Any],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, error = attempt(tmp_path, folder, name, capsys, **changes)
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_missing_and_empty_folders_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "elsewhere"
    for name in ("My_Animals", "Folder_LT"):
        status, error = attempt(tmp_path, missing, name, capsys)
        assert status == 2
        assert f"{missing} needs train/" in error
    assert not missing.exists()
    for image in (folder / "train" / "dog").iterdir():
        image.unlink()
    for name in ("My_Animals", "Folder_LT"):
        status, error = attempt(tmp_path, folder, name, capsys)
        assert status == 2
        assert "dog" in error
        assert len(error.splitlines()) == 1


def test_a_strangers_data_set_trains(
    make_package: MakePackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
from PIL import Image
class Greys:
    def __init__(self, root, split):
        self.targets, self.class_counts, self.classes = [0] * 9 + [1], [9, 1], ["dark", "light"]
    def __len__(self):
        return 10
    def __getitem__(self, index):
        return Image.new("L", (40, 32), 25 * index), self.targets[index]
"""
    make_package("greys", "studiogan.datasets", {"Greys": "greys:Greys"}, {"greys": source})
    assert attempt(tmp_path, tmp_path, "Greys", capsys) == (0, "")
