"""Several ranks read a data set into memory: each decodes its share, and all have all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import WRONG_REQUEST
from studiogan_gsr.hosts.native import images as native_images
from studiogan_gsr.hosts.native.images import InMemory, Streamed, load_images
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.process import Ranks
from support.runs import (
    PLAIN,
    arguments,
    changed,
    command_in_blocks,
    noise_folder,
    share_of_rank,
    start_ranks,
    write,
)

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 images, of which 4 and 17 are twice as long as wide: with blocks of 5, one in each rank's share."""
    root = noise_folder(tmp_path / "data")
    for name in ("a/04.png", "b/05.png"):
        long = np.random.default_rng(1).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(long).save(root / "train" / name)
    return root


def shares(tmp_path: Path, data: Path, dies_at: int | None = None) -> list[dict[str, Any]]:
    """What `share_of_rank` saves of each of two ranks."""
    kept = [tmp_path / f"{rank}.pth" for rank in range(2)]
    ranks = start_ranks(tmp_path, 2, share_of_rank, [(data, path, dies_at) for path in kept])
    assert [child.end() for child in ranks] == [0, 0], "".join(child.output for child in ranks)
    return [torch.load(path, weights_only=True) for path in kept]


def test_each_rank_decodes_its_share_and_holds_what_one_process_holds(data: Path, tmp_path: Path) -> None:
    pixels = Pixels(Prepared(folder_lt(str(data), "train"), "Folder_LT", 32))
    alone = InMemory(pixels, CPU, 0)
    (note,) = alone.notes
    assert note.startswith("2 images are at least twice as long as wide")
    first, second = shares(tmp_path, data)
    assert first["read"] == [*range(5), *range(10, 15), *range(20, 24)]
    assert second["read"] == [*range(5, 10), *range(15, 20)]
    for found in (first, second):
        assert torch.equal(found["images"], alone.images)
        assert torch.equal(found["labels"], alone.labels)
        assert found["notes"] == alone.notes


def test_a_worker_of_one_rank_that_dies_ends_all(data: Path, tmp_path: Path) -> None:
    for found in shares(tmp_path, data, dies_at=7):
        assert found["error"].startswith("a worker that reads images was killed by SIGKILL; fewer --workers ")


def outputs(tmp_path: Path, *data: Path) -> list[str]:
    """What two ranks print that train on these folders, which both refuse."""
    sections = changed(PLAIN, DATA={"name": "Folder_LT", "num_classes": 2})
    configuration, out = write(tmp_path / "c.yaml", sections), tmp_path / "out"
    given = [(arguments(configuration, out, "--data", str(root)), 5) for root in data]
    ranks = start_ranks(tmp_path, 2, command_in_blocks, given)
    assert [child.end() for child in ranks] == [WRONG_REQUEST] * 2, "".join(child.output for child in ranks)
    return [child.output for child in ranks]


def test_of_damaged_images_the_first_is_named_by_all_ranks(data: Path, tmp_path: Path) -> None:
    for name in ("a/08.png", "b/00.png"):  # 8 is in the second rank's share, 12 in the first's
        (data / "train" / name).write_bytes(b"no image")
    for output in outputs(tmp_path, data, data):
        *_, line = output.splitlines()
        assert line.startswith(f"studiogan-gsr: image 8 of Folder_LT ({data}/train/a/08.png) cannot be read: ")
        assert output.count("cannot be read") == 1


def test_ranks_with_data_sets_of_different_size_are_refused(data: Path, tmp_path: Path) -> None:
    other = noise_folder(tmp_path / "other")
    (other / "train" / "b" / "11.png").unlink()
    for output in outputs(tmp_path, data, other):
        assert "studiogan-gsr: Folder_LT: found [24, 23] images on the ranks; expected: the same" in output


class Voting(Ranks):
    """Two ranks, of which the other has too little memory."""

    def any(self, mine: bool) -> bool:
        return True


def test_images_stay_in_memory_only_where_they_fit_on_all_ranks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = Pixels(Prepared(folder_lt(str(data), "train"), "Folder_LT", 32))
    monkeypatch.setattr(native_images, "_free_memory", lambda device: 2**30)
    assert type(load_images(pixels, CPU, 0, None)) is InMemory
    assert type(load_images(pixels, CPU, 0, None, ranks=Voting(0, 2, CPU))) is Streamed


def test_a_streaming_rank_reads_only_its_part_of_each_batch(data: Path) -> None:
    read: list[int] = []

    class Noted(Pixels):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    images = Streamed(Noted(Prepared(folder_lt(str(data), "train"), "Folder_LT", 32)), CPU, 0)
    list(images.fetch(iter([torch.tensor([3, 20]), torch.tensor([7, 7])])))
    assert read == [3, 20, 7, 7]
