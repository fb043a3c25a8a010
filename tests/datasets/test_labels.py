"""Labels from two sources: what targets say and what items have, of all that people wrap data sets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from torchvision.datasets import FakeData, ImageFolder

from studiogan_gsr import LongTailed
from studiogan_gsr.datasets.identity import file_of, where
from studiogan_gsr.datasets.labels import label_of, labels_of, some_names
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, LabelError, OptionError, RequestError

COUNTS = {"ant": 16, "bee": 12, "cat": 9, "dog": 8}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label, (name, count) in enumerate(COUNTS.items()):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (8, 8), (label, i, 0)).save(tmp_path / name / f"{i:02}.png")
    return tmp_path


def counted(dataset: Any) -> list[int]:
    """What items say, one by one."""
    return np.bincount([dataset[i][1] for i in range(len(dataset))]).tolist()


def reversing(label: int) -> int:
    return 3 - label


@pytest.mark.parametrize(
    ("transform", "counts", "classes"),
    [
        (None, [16, 9, 8, 4][:1], None),
        (reversing, [8, 9, 12, 16], ["0", "1", "2", "3"]),
        (lambda label: label // 2, [28, 17], ["0", "1"]),
        (lambda label: torch.tensor(label), [16, 12, 9, 8], ["ant", "bee", "cat", "dog"]),
        (float, [16, 12, 9, 8], ["ant", "bee", "cat", "dog"]),
    ],
    ids=["none", "reversed", "merged", "tensors", "floats"],
)
def test_labels_are_those_of_the_items(
    transform: Callable[[int], Any] | None, counts: list[int], classes: list[str] | None, root: Path
) -> None:
    """A target_transform acts on items, not on `targets`."""
    if transform is None:
        counts, classes = list(COUNTS.values()), list(COUNTS)
    dataset = ImageFolder(str(root), target_transform=transform)
    whole = LongTailed(dataset, 1, n_max=min(counts), seed=None)
    assert np.bincount(labels_of(dataset)).tolist() == counts
    assert whole.class_counts == counted(whole) == [min(counts)] * len(counts)
    assert whole.classes == classes


def test_subsets_and_concatenations_are_taken(root: Path) -> None:
    folder = ImageFolder(str(root))
    odd = Subset(folder, range(1, len(folder), 2))
    nested = Subset(odd, list(range(len(odd)))[::-1])
    both = ConcatDataset([odd, Subset(folder, range(0, len(folder), 2))])
    for dataset in (odd, nested, both, Subset(both, range(len(both)))):
        expected = counted(dataset)
        long_tailed = LongTailed(dataset, 2, n_max=min(expected), seed=3)
        assert np.bincount(labels_of(dataset)).tolist() == expected
        assert long_tailed.class_counts == counted(long_tailed)
        assert long_tailed.classes == list(COUNTS)
        for i in (0, len(long_tailed) - 1):
            image, label = long_tailed[i]
            file = file_of(long_tailed, i)
            assert file is not None
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(file)))
            assert file.parent.name == list(COUNTS)[label]
            assert where(long_tailed, i).endswith(file.name)


def test_labels_of_any_kind_of_list_are_taken() -> None:
    class Labelled:
        def __init__(self, **attributes: Any) -> None:
            vars(self).update(attributes)

    for labels in (
        [0, 1, 1],
        np.array([0, 1, 1]),
        torch.tensor([0, 1, 1]),
        [torch.tensor([0]), *2 * [torch.ones(1)]],
    ):
        for name in ("targets", "labels", "_labels"):
            assert labels_of(Labelled(**{name: labels})).tolist() == [0, 1, 1]
    with pytest.raises(OptionError, match="a data set with targets"):
        labels_of(FakeData(4))
    with pytest.raises(OptionError, match=r"target_transform: .*returns an integer for each label"):
        labels_of(Labelled(targets=[0, 1], target_transform=lambda label: [label, label]))


class Moving:
    """Items whose labels are not those of `targets`, and nothing says why."""

    targets, classes = [0, 0, 1, 1], ["a", "b"]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8)), 1 - self.targets[index]


def test_an_item_that_contradicts_its_target_ends_whatever_reads_it() -> None:
    with pytest.raises(LabelError, match=r"image 0 of Moving has the label 1, and the data set's targets say 0: the"):
        LongTailed(Moving(), 1, seed=None)[0]
    prepared = Prepared(Moving(), "Mine", 8)
    with pytest.raises(DataError, match=r"image 2 of Mine has the label 0, and the data set's targets say 1"):
        prepared[2]
    with pytest.raises(DataError, match="has the label"):
        Prepared(LongTailed(Moving(), 1, seed=None), "Mine", 8).read(1)


def test_many_names_are_cut_short_in_messages() -> None:
    assert some_names([*"abcde"]) == "a, b, c, d, e"
    assert some_names([*"abcdef"]) == "a, b, c, d, e, ..."
    assert some_names([*"abc"], most=1) == "a, ..."
    assert some_names([]) == ""


def test_a_class_is_found_by_its_name_first_and_then_by_its_label() -> None:
    assert [label_of(text, ["cat", "dog", "0"]) for text in ("dog", "0", "1")] == [1, 2, 1]
    assert label_of("10", ["10", "2"]) == 0  # folders sort so
    with pytest.raises(RequestError, match=r"found '2'; allowed: a name \(cat, dog\), or a label from 0 to 1"):
        label_of("2", ["cat", "dog"])
    with pytest.raises(RequestError, match="found 'cat', the name of 2 classes"):
        label_of("cat", ["cat", "cat"])
