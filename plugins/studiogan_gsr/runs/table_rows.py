"""The rows of a table of metrics: all images, groups of classes, and classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.evaluation.measure import groups

ALL = "all"


def table_rows(
    shown: Collection[str],
    class_counts: Sequence[int],
    names: Sequence[str] | None,
    given: Mapping[str, list[int]] | None = None,
) -> list[tuple[str | int, str]]:
    """Return (key, title) of each row: ALL, the groups, and the labels by falling number of training images.

    A group with the same classes as another row has no row of its own.  The other's title names it: "many, head", or
    "cat (label 3, tail)".
    shown: names of the groups.  names: of the classes, in label order; None: classes have no rows.
    given: labels of the groups that the user or a preset named.
    """
    order = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    members = groups(class_counts, given)
    row_of: dict[frozenset[int], str | int] = {frozenset(order): ALL}
    if names is not None:
        row_of |= {frozenset([label]): label for label in order if len(order) > 1}
    named: dict[str | int, list[str]] = {}  # the groups that a row shows, by its key
    for group in shown:
        named.setdefault(row_of.setdefault(frozenset(members[group]), group), []).append(group)
    rows: list[tuple[str | int, str]] = [(ALL, ", ".join([ALL, *named.get(ALL, [])]))]
    rows += [(group, ", ".join(named[group])) for group in shown if group in named]
    if names is not None:
        rows += [(label, class_title(label, names, *named.get(label, []))) for label in order]
    return rows
