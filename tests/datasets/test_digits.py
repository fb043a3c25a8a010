"""Digits_LT: scikit-learn's handwritten digits as a long-tailed data set."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from studiogan_gsr.datasets.by_name import find_dataset, make_dataset
from studiogan_gsr.datasets.digits import digits_lt
from studiogan_gsr.datasets.long_tailed import LongTailed, Whole
from studiogan_gsr.errors import ConfigurationError, DataError, OptionError

# The largest n with n^9 * rho^y <= 134^9 for y = 0 .. 9, in integers: int(134 * rho^(-y / 9)).
COUNTS = {rho: [max(n for n in range(135) if n**9 * rho**y <= 134**9) for y in range(10)] for rho in (1, 10, 50, 134)}


@pytest.fixture(scope="module")
def labels() -> list[int]:
    """scikit-learn's, of all 1797 images in the file's order."""
    return load_digits().target.tolist()


@pytest.fixture(scope="module")
def places() -> dict[bytes, int]:
    """The pixels that each image should have -> its place in the file; no two images look alike."""
    images = [Image.fromarray((image * 255 / 16).round().astype(np.uint8)) for image in load_digits().images]
    pixels = [i.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB").tobytes() for i in images]
    assert len(set(pixels)) == 1797
    return {p: place for place, p in enumerate(pixels)}


def places_of(dataset: Any, places: dict[bytes, int]) -> list[int]:
    return [places[dataset[i][0].tobytes()] for i in range(len(dataset))]


def test_the_expected_counts_are_those_written_by_hand() -> None:
    assert COUNTS[50] == [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
    assert COUNTS[10] == [134, 103, 80, 62, 48, 37, 28, 22, 17, 13]


@pytest.mark.parametrize("ratio", COUNTS)
@pytest.mark.parametrize("reversed", [False, True])
def test_an_exponential_tail_has_the_counts_of_the_definition(ratio: int, reversed: bool) -> None:
    train = digits_lt("unused", "train", ratio=ratio, reversed=reversed)
    assert isinstance(train, LongTailed)
    assert train.class_counts == COUNTS[ratio][:: -1 if reversed else 1]
    assert Counter(train.targets) == dict(enumerate(train.class_counts))
    assert len(train) == sum(COUNTS[ratio])


def test_step_keeps_five_classes_and_cuts_five() -> None:
    train = digits_lt("unused", "train", ratio=50, profile="step")
    assert train.class_counts == [134] * 5 + [2] * 5
    train = digits_lt("unused", "train", ratio=50, profile="step", reversed=True)
    assert train.class_counts == [2] * 5 + [134] * 5


def test_without_a_ratio_the_whole_pool_trains(places: dict[bytes, int]) -> None:
    train = digits_lt("unused", "train")
    assert isinstance(train, Whole)
    assert train.class_counts == [138, 142, 137, 143, 141, 142, 141, 139, 134, 140]
    assert len(train) == 1397
    reference = digits_lt("unused", "reference")
    assert sorted(places_of(train, places) + places_of(reference, places)) == list(range(1797))


@pytest.mark.parametrize("ratio", [None, 50])
def test_the_reference_is_the_last_40_images_of_each_class(
    ratio: int | None, labels: list[int], places: dict[bytes, int]
) -> None:
    reference = digits_lt("unused", "reference", ratio=ratio)
    assert isinstance(reference, Whole)
    assert reference.class_counts == [40] * 10
    last = [place for y in range(10) for place in [p for p in range(1797) if labels[p] == y][-40:]]
    assert places_of(reference, places) == sorted(last)


@pytest.mark.parametrize(
    "options",
    [{}, {"ratio": 1}, {"ratio": 50}, {"ratio": 10, "profile": "step", "reversed": True, "seed": 3}],
    ids=str,
)
def test_no_image_is_in_both_splits_or_twice_in_one(options: dict[str, Any], places: dict[bytes, int]) -> None:
    train = places_of(digits_lt("unused", "train", **options), places)
    reference = places_of(digits_lt("unused", "reference", **options), places)
    assert len({*train, *reference}) == len(train) + len(reference)


def test_another_seed_keeps_other_images_of_the_same_counts(places: dict[bytes, int]) -> None:
    first, again, other = (digits_lt("unused", "train", ratio=10, seed=seed) for seed in (0, 0, 1))
    assert places_of(first, places) == places_of(again, places)
    assert set(places_of(first, places)) != set(places_of(other, places))
    assert first.class_counts == other.class_counts


@pytest.mark.parametrize(("split", "ratio"), [("train", None), ("train", 50), ("reference", 50)])
def test_every_label_is_that_of_its_image(
    split: str, ratio: int | None, labels: list[int], places: dict[bytes, int]
) -> None:
    dataset = digits_lt("unused", split, ratio=ratio)
    wanted = [labels[place] for place in places_of(dataset, places)]
    assert [dataset[i][1] for i in range(len(dataset))] == dataset.targets == wanted
    assert all(type(dataset[i][1]) is int for i in range(len(dataset)))
    assert dataset.classes == [str(y) for y in range(10)]


@pytest.mark.parametrize("split", ["train", "reference"])
def test_an_image_is_rgb_of_32_by_32_bytes_over_the_whole_range(split: str) -> None:
    dataset = digits_lt("unused", split, ratio=50)
    images = [dataset[i][0] for i in range(len(dataset))]
    assert {(image.mode, image.size) for image in images} == {("RGB", (32, 32))}
    pixels = np.stack([np.asarray(image) for image in images])
    assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (32, 32, 3))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (pixels == pixels[..., :1]).all()


def test_an_enlarged_image_still_shows_its_digit(places: dict[bytes, int]) -> None:
    reference = digits_lt("unused", "reference")
    digits = load_digits().images[places_of(reference, places)]
    pixels = np.stack([np.asarray(reference[i][0])[..., 0] for i in range(len(reference))])
    cells = pixels.reshape(-1, 8, 4, 8, 4).mean((2, 4))
    assert np.corrcoef(cells.ravel(), digits.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("split", "ratio"), [("train", None), ("train", 50), ("reference", 50)])
def test_digits_survive_pickling_as_data_workers_need(split: str, ratio: int | None) -> None:
    dataset = digits_lt("unused", split, ratio=ratio)
    again = pickle.loads(pickle.dumps(dataset))
    assert (again.class_counts, again.targets, again.classes) == (
        dataset.class_counts,
        dataset.targets,
        dataset.classes,
    )
    assert all(again[i] == dataset[i] for i in range(len(dataset)))


def test_a_name_finds_and_makes_them() -> None:
    found = find_dataset("Digits_LT_rho50")
    assert found is not None
    loaded, options = found
    assert (loaded.factory, options) == (digits_lt, {"ratio": 50})
    assert make_dataset(loaded, "unused", "train", options).class_counts == COUNTS[50]
    assert make_dataset(loaded, "unused", "reference", options).class_counts == [40] * 10
    found = find_dataset("Digits_LT_rho50_step_reversed_seed3")
    assert found is not None
    assert make_dataset(found[0], "unused", "train", found[1]).class_counts == [2] * 5 + [134] * 5
    found = find_dataset("Digits_LT")
    assert found is not None
    assert len(make_dataset(found[0], "unused", "train", found[1])) == 1397


def test_a_ratio_that_empties_a_class_is_refused_by_its_name() -> None:
    found = find_dataset("Digits_LT_rho135")
    assert found is not None
    with pytest.raises(ConfigurationError, match=r"DATA\.name: .*found 135; allowed: at most 134"):
        make_dataset(found[0], "unused", "train", found[1])


@pytest.mark.parametrize("split", ["train", "reference"])
@pytest.mark.parametrize("options", [{"profile": "step"}, {"seed": 3}, {"reversed": True}], ids=str)
def test_a_variant_without_a_ratio_would_do_nothing_and_is_refused(split: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"ratio: found None; allowed: a ratio \(_rho<ratio>\)"):
        digits_lt("unused", split, **options)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(OptionError, match="split: found 'valid'; allowed: train or reference"):
        digits_lt("unused", "valid", ratio=10)


@pytest.mark.parametrize("split", ["train", "reference"])
def test_without_scikit_learn_one_line_says_what_to_install(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match="pip install scikit-learn") as caught:
        digits_lt("unused", split, ratio=50)
    assert "Digits_LT" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
