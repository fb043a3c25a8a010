"""Groups of classes that a user names: few=6,7,8,9."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from studiogan_gsr.datasets.labels import label_of
from studiogan_gsr.errors import RequestError

FORM = "NAME=CLASSES, such as few=6,7,8,9 or few=70-99,cat"


def read_groups(texts: Sequence[str], classes: Sequence[str]) -> dict[str, list[int]]:
    """Return {name: labels} of groups as text, each "name=classes", several of them separated by ";".

    Classes are separated by commas: names, labels, or ranges of labels, such as 70-99.
    Raises RequestError for another form, a name or a class given twice, a group without classes, and an unknown
    class.
    """
    found: dict[str, list[int]] = {}
    for text in (part.strip() for given in texts for part in given.split(";")):
        name, equals, members = (part.strip() for part in text.partition("="))
        if not equals or not re.fullmatch(r"\w[\w-]*", name) or name == "all":
            raise RequestError(f"--groups: found {text!r}; the form is {FORM}; the name may not be all")
        if name in found:
            raise RequestError(f"--groups: found {name} twice; give each group once, all its classes after one =")
        try:
            found[name] = _labels(members, classes)
        except RequestError as error:
            raise RequestError(f"--groups {name}: {error}") from error
    return found


def _labels(text: str, classes: Sequence[str]) -> list[int]:
    labels: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = re.fullmatch(r"(\d+)-(\d+)", part) if part not in classes else None
        if ends is None:
            labels.append(label_of(part, classes))
            continue
        first, last = int(ends[1]), int(ends[2])
        if not first <= last < len(classes):
            raise RequestError(f"found {part}; allowed: a range of labels from 0 to {len(classes) - 1}, rising")
        labels += range(first, last + 1)
    if not labels:
        raise RequestError(f"found no class; the form is {FORM}")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise RequestError(f"found class {classes[twice[0]]} twice; give each class once")
    return sorted(labels)


def described(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Return sorted labels as text, "3, 70-99", with the names of up to ten classes."""
    runs = [[label for _, label in run] for _, run in groupby(enumerate(labels), lambda pair: pair[1] - pair[0])]
    numbers = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    names = [classes[label] for label in labels]
    if len(labels) > 10 or names == [str(label) for label in labels]:
        return numbers
    return f"{numbers} ({', '.join(names)})"
