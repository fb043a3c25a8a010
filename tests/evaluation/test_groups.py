"""Groups of classes as users write them."""

from __future__ import annotations

import re

import pytest

from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.groups import described, read_groups
from studiogan_gsr.evaluation.measure import groups

CLASSES = ["plane", "car", "bird", "cat", "deer", "T-shirt/top", "10", "8-9", "ship", "truck"]


def test_classes_are_names_labels_and_ranges() -> None:
    assert read_groups(["few=6,7,8,9"], [str(label) for label in range(10)]) == {"few": [6, 7, 8, 9]}
    assert read_groups(["few= 7-9 ,cat", "my_own=T-shirt/top; x=1-1"], CLASSES) == {
        "few": [3, 7, 8, 9],
        "my_own": [5],
        "x": [1],
    }
    # A name comes first: it is no label and no range.
    assert read_groups(["a=10", "b=8-9"], CLASSES) == {"a": [6], "b": [7]}
    assert read_groups([], CLASSES) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["few=cat,brid"], "--groups few: class: found 'brid'; allowed: a name (plane, car, "),
        (["few=cat,brid"], "; did you mean bird?"),
        (["few=99"], "--groups few: class: found '99'; allowed: a name"),
        (["few=3,cat"], "--groups few: found class cat twice"),
        (["few=2-4,3"], "--groups few: found class cat twice"),
        (["few="], "--groups few: found no class; the form is NAME=CLASSES"),
        (["few=,"], "--groups few: found no class"),
        (["few=7-12"], "--groups few: found 7-12; allowed: a range of labels from 0 to 9, rising"),
        (["few=7-5"], "--groups few: found 7-5; allowed: a range"),
        (["few"], "--groups: found 'few'; the form is NAME=CLASSES, such as few=6,7,8,9"),
        (["few=1;"], "--groups: found ''; the form is"),
        (["=1"], "--groups: found '=1'; the form is"),
        (["all=1"], "few=6,7,8,9 or few=70-99,cat; the name may not be all"),
        (["few=1;few=2"], "--groups: found few twice; give each group once, all its classes after one ="),
        (["few=1", "few=2"], "--groups: found few twice"),
    ],
)  # fmt: skip
def test_what_is_no_group_is_told(texts: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        read_groups(texts, CLASSES)


def test_given_groups_join_the_standard_ones_or_replace_them() -> None:
    counts = [200, 150, 50, 10, 5, 3]
    standard = groups(counts)
    assert list(standard) == ["many", "medium", "few", "head", "middle", "tail"]
    found = groups(counts, {"few": [0, 5], "odd": [1, 3]})
    assert found == {**standard, "few": [0, 5], "odd": [1, 3]}


def test_labels_are_described_by_ranges_and_names() -> None:
    assert described([1, 2, 3, 8], CLASSES) == "1-3, 8 (car, bird, cat, ship)"
    assert described(list(range(70, 100)), [f"class {y}" for y in range(100)]) == "70-99"
    assert described([6, 7, 8, 9], [str(y) for y in range(10)]) == "6-9"
