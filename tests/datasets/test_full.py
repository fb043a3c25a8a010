"""The balanced sets that long-tailed ones were chosen from."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from studiogan_gsr.datasets.by_name import full_set, open_images
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.datasets.long_tailed import LongTailed
from studiogan_gsr.errors import DataError, PluginError
from support.cifar import write_cifar
from support.plugins import MakePackage


@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100])
def test_cifars_is_all_its_training_images(cifar: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, cifar, 10, monkeypatch)
    digests = set()
    for ending in ("_rho5", "_rho10_step", "_rho10_reversed_seed3"):
        train = open_images(f"{cifar.__name__}_LT{ending}", str(tmp_path), "train")
        full = full_set(f"{cifar.__name__}_LT{ending}", train)
        assert list(full.class_counts) == [10 * len(cifar.train_list)] * len(full.classes)
        assert len(train) < len(full)
        digests.add(digest(full))
    assert len(digests) == 1


def test_the_digits_are_all_but_the_reference() -> None:
    train = open_images("Digits_LT_rho50", "unused", "train")
    full = full_set("Digits_LT_rho50", train)
    assert list(full.class_counts) == list(open_images("Digits_LT", "unused", "train").class_counts)
    assert len(full) == 1397


def test_a_folders_and_a_files_are_the_whole_training_part(digits: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "train.hdf5", "w") as file:
        file["imgs"] = np.zeros((60, 8, 8, 3), np.uint8)
        file["labels"] = np.repeat(np.arange(3), 20)
    for name, root, counts in (("Folder_LT_rho4", digits, [120] * 10), ("HDF5_LT_rho10", tmp_path, [20] * 3)):
        assert list(full_set(name, open_images(name, str(root), "train")).class_counts) == counts


def test_a_set_that_is_as_it_is_has_none(digits: Path) -> None:
    for name, root in (("Digits_LT", "unused"), ("Folder_LT", str(digits)), ("My_Digits", str(digits))):
        train = open_images(name, root, "train")
        message = f"--split full: {name} was not chosen from a larger balanced training set; --split train measures"
        with pytest.raises(DataError, match=re.escape(message)):
            full_set(name, train)
        assert LongTailed(train, 2).full() is not None
        assert LongTailed(train, 2, capped=True).full() is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise OSError('gone')", r"stranger 2.3 .*full\(\) failed: OSError: gone"),
        ("return 3", "returned int without targets, class_counts, classes"),
    ],
)
def test_a_strangers_full_set_that_fails_is_named(body: str, message: str, make_package: MakePackage) -> None:
    source = f"""
class Shapes:
    targets, class_counts, classes = [0, 1], [1, 1], ["a", "b"]
    def __len__(self): return 2
    def __getitem__(self, index): raise IndexError
    def full(self): {body}
def shapes(root, split): return Shapes()
"""
    make_package("stranger", "studiogan.datasets", {"Shapes_LT": "s:shapes"}, {"s": source}, version="2.3")
    with pytest.raises(PluginError, match=message):
        full_set("Shapes_LT", open_images("Shapes_LT", "unused", "train"))
