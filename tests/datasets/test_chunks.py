"""HDF5 files of other programs: compressed chunks, locks, rights, damage, and what their errors advise."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch

from studiogan_gsr.datasets import chunks
from studiogan_gsr.datasets.hdf5 import hdf5_lt
from studiogan_gsr.datasets.packed import Packed
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.native.images import InMemory, Streamed
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.stream import ImageStream

NUMBER, ROWS = 120, 25
LABELS = np.arange(NUMBER) % 3


def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (NUMBER, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """As BigGAN-PyTorch packs: compressed chunks of channels first."""
    path = tmp_path / "train.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("imgs", data=images(), chunks=(ROWS, 3, 8, 8), compression="lzf")
        file["labels"] = LABELS
    return path


@pytest.fixture
def decompressed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the images' data set is read."""
    counts: Counter[str] = Counter()
    read = h5py.Dataset.__getitem__

    def counting(self: Any, *args: Any) -> Any:
        counts[self.name.strip("/")] += 1
        return read(self, *args)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    return counts


def shuffled(packed: Packed) -> list[int]:
    order: list[int] = np.random.default_rng(1).permutation(len(packed)).tolist()
    return order


def test_each_chunk_is_decompressed_once_whatever_the_order(theirs: Path, decompressed: Counter[str]) -> None:
    packed, wanted = Packed(theirs), images().transpose(0, 2, 3, 1)
    for i in shuffled(packed):
        assert np.array_equal(packed.read_pixels(i), wanted[i])
    again = Packed(theirs)  # while the first is in use
    assert np.array_equal(again.read_pixels(7), wanted[7])
    assert np.array_equal(pickle.loads(pickle.dumps(packed)).read_pixels(7), wanted[7])
    assert decompressed["imgs"] == -(-NUMBER // ROWS)
    assert not packed.notes


def test_of_a_set_that_does_not_fit_the_latest_chunks_are_kept_and_it_is_said(
    theirs: Path, decompressed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "free_memory", lambda: 1000)
    monkeypatch.setattr(chunks, "_KEPT_BYTES", 2 * ROWS * 3 * 8 * 8)
    packed, wanted = Packed(theirs), images().transpose(0, 2, 3, 1)
    (note,) = packed.notes
    assert note.startswith("train.hdf5 is stored in chunks of 25 images, and does not fit in memory: ")
    assert "`studiogan-gsr data prepare`" in note
    for i in range(NUMBER):
        assert np.array_equal(packed.read_pixels(i), wanted[i])
    assert decompressed["imgs"] == -(-NUMBER // ROWS) + 1  # its size was asked for
    for i in shuffled(packed):
        assert np.array_equal(packed.read_pixels(i), wanted[i])


def test_workers_share_what_was_decompressed(theirs: Path) -> None:
    pixels = Pixels(Prepared(hdf5_lt(str(theirs.parent), "train", 2), "HDF5_LT_rho2", 8))
    cpu = torch.device("cpu")
    expected = ImageStream(InMemory(pixels, cpu, 0), len(pixels), 8, False, seed=3)
    streamed = Streamed(pixels, cpu, 2)
    stream = ImageStream(streamed, len(pixels), 8, False, seed=3)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(next(stream), next(expected), strict=True))
    assert isinstance(pixels.images.dataset.dataset._opened[1], np.ndarray)  # in this process, before they began
    stream.close()


def test_channels_first_in_one_piece_are_read_without_a_library_between(
    tmp_path: Path, decompressed: Counter[str]
) -> None:
    with h5py.File(tmp_path / "train.hdf5", "w") as file:
        file["imgs"], file["labels"] = images(), LABELS
    packed = Packed(tmp_path / "train.hdf5")
    assert np.array_equal(packed.read_pixels(5), images()[5].transpose(1, 2, 0))
    assert not decompressed["imgs"]


# ------------------------------------------------------------------ what cannot be read


def test_a_file_that_another_process_writes_is_waited_for_and_not_deleted(theirs: Path) -> None:
    program = f"import h5py, time; f = h5py.File({str(theirs)!r}, 'a'); print('open', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            DataError, match=r"train.hdf5 is open in another program, .*: wait until it ends"
        ) as caught:
            Packed(theirs)
        assert "HDF5_USE_FILE_LOCKING=FALSE" in str(caught.value)
    finally:
        other.kill()
        other.wait()
        other.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "is not there"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder; an HDF5 file is expected"),
        (lambda path: os.truncate(path, 0), "is empty; if it was one, copy it again, or move it away"),
        (lambda path: path.write_text("<html>"), "is no HDF5 file; if it was one, copy it again"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), r"is cut off: [\d,]+ of [\d,]+ bytes; copy it"),
    ],
    ids=["missing", "folder", "empty", "text", "cut"],
)
def test_every_fault_has_its_own_words(harm: Any, message: str, theirs: Path) -> None:
    harm(theirs)
    with pytest.raises(DataError, match=f"train.hdf5 {message}") as caught:
        Packed(theirs)
    assert "delete" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_called_that(theirs: Path) -> None:
    theirs.chmod(0)
    with pytest.raises(DataError, match="may not be read: permission denied"):
        Packed(theirs)


def test_a_missing_right_and_an_open_flag_are_told_from_damage() -> None:
    from studiogan_gsr.datasets.packed import _unreadable

    assert "chmod a+r" in _unreadable(Path("x"), PermissionError(13, "denied"))
    flagged = OSError("Unable to open file (file is already open for write (may use <h5clear file> to clear flags))")
    assert "`h5clear -s x` opens it" in _unreadable(Path("x"), flagged)


def test_another_layout_is_told_from_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["images"], file["labels"] = images(), LABELS
    with pytest.raises(DataError, match=r"has another layout: .*imgs.*; expected: imgs \(N, H, W, 3\) of uint8"):
        Packed(tmp_path / "a.hdf5")
