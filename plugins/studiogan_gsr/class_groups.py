"""Groups of classes by their numbers of training images: thirds, and many-, medium- and few-shot classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studiogan_gsr.errors import OptionError

STANDARD_GROUPS = ("many", "medium", "few", "head", "middle", "tail")


def frequency_thirds(class_counts: Sequence[int]) -> dict[str, list[int]]:
    """Return {"head", "middle", "tail"}: the labels, sorted by decreasing count and split into thirds.

    Equal counts keep label order.  With two classes, the rarer one is the tail and the middle is empty; a single
    class is the head.
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    if len(order) == 2:
        return {"head": order[:1].tolist(), "middle": [], "tail": order[1:].tolist()}
    thirds = (part.tolist() for part in np.array_split(order, 3))
    return dict(zip(("head", "middle", "tail"), thirds, strict=True))


def shot_groups(class_counts: Sequence[int], fewer_than: int = 20, more_than: int = 100) -> dict[str, list[int]]:
    """Return {"many", "medium", "few"}: labels with more than `more_than` images, the rest, fewer than `fewer_than`.

    The defaults are the usual thresholds (Liu et al., "Large-Scale Long-Tailed Recognition in an Open World",
    CVPR 2019).  Raises OptionError if the thresholds overlap.
    """
    if not 0 <= fewer_than <= more_than + 1:
        raise OptionError("fewer_than", fewer_than, f"a number from 0 to more_than + 1 = {more_than + 1}")
    groups: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for label, count in enumerate(class_counts):
        groups["many" if count > more_than else "few" if count < fewer_than else "medium"].append(label)
    return groups


_LISTED_CLASSES, _ENDS = 20, 3


def listed(counts: Sequence[int], classes: Sequence[str] | None = None) -> str:
    """Return class counts as one line: "cat 300, ship 100", or "300 100" if the classes have no names.

    classes: names in label order; None, or the labels as text: no names.
    Of more than 20 classes it names the range and, by falling count, the first and the last three.
    """
    named = classes is not None and any(not name.isdecimal() for name in classes)
    each = [f"{name} {count}" for name, count in zip(classes, counts, strict=True)] if named and classes else []
    if len(counts) <= _LISTED_CLASSES:
        return ", ".join(each) if each else " ".join(map(str, counts))
    text = f"{max(counts)} to {min(counts)} in {len(counts)} classes"
    order = sorted(range(len(each)), key=lambda label: -counts[label])
    ends = [*(each[label] for label in order[:_ENDS]), "...", *(each[label] for label in order[-_ENDS:])]
    return f"{text}: {', '.join(ends)}" if each else text
