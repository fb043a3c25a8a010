"""The table that `evaluate` prints, and the notes under it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from studiogan_gsr.evaluation.groups import described
from studiogan_gsr.evaluation.measure import MOST, SHOWN_TIMES, as_text
from studiogan_gsr.pages import shortened
from studiogan_gsr.runs.protocol import IMAGES_PER_NEIGHBOUR
from studiogan_gsr.runs.table_rows import ALL, table_rows

FEW = 20  # up to this many classes, each class has a row
WIDTH = 24  # characters; longer class names are shortened


def table_lines(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table, and of the notes under it."""
    return [*aligned(table_cells(result)), *table_notes(result)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text as lines with columns of equal width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        padded = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return lines


def table_cells(result: dict[str, Any]) -> list[list[str]]:
    """Return a header and the rows: all images, each group, and, for up to 20 classes, each class."""
    kernel, score = _titles(result)
    titles = {"frechet": result["column"], "kernel": kernel, "inception_score": score}
    columns = {name: titles.get(name, name) for name in result["all"]}
    cells = [["", "training", *columns.values()]]
    for name, count, values in _rows(result):
        cells.append([name, "" if count is None else str(count), *(as_text(values, key) for key in columns)])
    return cells


def table_notes(result: dict[str, Any]) -> list[str]:
    """Return what columns and groups mean, and what a reader must know before comparing the numbers."""
    kernel, _ = _titles(result)
    return [*_legend(result, kernel), *_cautions(result, kernel), *_other_protocol(result["protocol"])]


def _titles(result: dict[str, Any]) -> tuple[str, str]:
    """Return what the kernel distance and the inception score are called."""
    network = result["column"].removeprefix("FD")
    return ("KID", "IS") if network == "FID" else (f"KD{network}", f"IS{network}")


def _rows(result: dict[str, Any]) -> list[tuple[str, int | None, dict[str, Any]]]:
    """Return (name, number of training images or None, metrics) for every row."""
    counts, names = result["training_images"], None
    if len(counts) <= FEW and result["groups"]:
        names = [shortened(name, WIDTH) for name in result["class_names"]]
    rows = table_rows(result["groups"], counts, names, result["protocol"].get("groups"))
    return [(title, counts[key] if isinstance(key, int) else None, values_of(result, key)) for key, title in rows]


def values_of(result: dict[str, Any], key: str | int) -> dict[str, Any]:
    """Return the numbers of a row of `table_rows`; empty if the result has no such group."""
    if isinstance(key, int):
        return dict(result["classes"][key])
    return dict(result["all"] if key == ALL else result["groups"].get(key, {}))


def _legend(result: dict[str, Any], kernel: str) -> list[str]:
    """Return what the columns and the groups mean."""
    diversity = "Diversity: mean distance between two generated images of a row, divided by that of real images."
    lines = [f"{kernel} times {SHOWN_TIMES['kernel']}. {diversity}"]
    if "lpips_of_real_images" in result:
        of_real = [value for value in result["lpips_of_real_images"] if value is not None]
        lines.append(
            f"LPIPS: of two images of a class, AlexNet; a group has the mean over its classes. Real ones: "
            f"{sum(of_real) / max(1, len(of_real)):.4g}."
        )
    if result["groups"]:
        replaced = result["protocol"].get("groups_replaced", ())
        lines += [standard_groups(len(result["training_images"]), replaced), *given_groups(result)]
    return lines


def standard_groups(classes: int, replaced: Collection[str] = ()) -> str:
    """Return what the standard groups of so many classes are, as far as no given group replaces them."""
    shots = {"many": "many: over 100 training images", "few": "few: under 20 training images"}
    parts = [text for name, text in shots.items() if name not in replaced]
    two = classes == 2
    thirds = [name for name in (("head", "tail") if two else ("head", "middle", "tail")) if name not in replaced]
    if thirds:
        what = "the two classes" if two else "thirds of the classes"
        parts.append(f"{', '.join(thirds)}: {what} by number of training images")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else "No group is a standard one."


def given_groups(result: dict[str, Any]) -> list[str]:
    """Return a sentence about each group that the user or a preset named; none for results of older versions."""
    protocol = result["protocol"]
    return [
        f"The group {name} is given: {described(labels, result['class_names'])}"
        + (f"; it is not the standard group {name}." if name in protocol["groups_replaced"] else ".")
        for name, labels in (protocol.get("groups") or {}).items()
    ]


def _cautions(result: dict[str, Any], kernel: str) -> list[str]:
    """Return what a reader must know before comparing the numbers."""
    protocol, counts, references = result["protocol"], result["training_images"], result["reference_images"]
    lines = []
    if protocol["images"] < IMAGES_PER_NEIGHBOUR * protocol["neighbours"] * len(counts):
        lines.append(f"{protocol['images']} images are too few for metrics per class; 50,000 are usual.")
    if max(protocol["images"], sum(references)) > MOST:
        lines.append(
            f"Metrics that compare pairs of images ({kernel}, precision, recall, density, coverage, diversity) use "
            f"at most {MOST:,} images a side, chosen at random."
        )
    if protocol["reference"]["split"] == "train":
        lines.append(
            "The real images are the training images (--split train): a generator that copies them scores best."
        )
    if protocol["reference"]["split"] == "full":
        lines.append(
            f"The real images are the whole set of {protocol['reference']['images']:,} that the "
            f"{sum(counts):,} training images were chosen from, these among them (--split full): a generator that "
            "copies them scores better than against images that are held out."
        )
    lines += [f"Real images: {note}." for note in result["reference_notes"]]
    if result["groups"] and len(set(counts)) == 1 and len(counts) > 1:
        lines.append("All classes have equally many training images: head, middle and tail only follow the labels.")
    return [*lines, *few_references(result, kernel)]


def few_references(result: dict[str, Any], kernel: str) -> list[str]:
    """Return which metrics of single classes say little, because these have few reference images.

    kernel: what the kernel distance is called.
    """
    neighbours, lines = result["protocol"]["neighbours"], list[str]()
    fewest = min((number for number in result["reference_images"] if number), default=0)
    enough = fewest >= IMAGES_PER_NEIGHBOUR * neighbours
    if fewest < result["features"]:
        lines.append(
            f"A class has only {fewest} reference images, fewer than the {result['features']} dimensions of the "
            f"features: {result['column']} of such classes is mostly sampling error; compare classes by {kernel}"
            f"{', precision and coverage' if enough else ''}."
        )
    if not enough:
        lines.append(
            f"Precision, recall, density and coverage look at {neighbours} nearest neighbours: with fewer than "
            f"{IMAGES_PER_NEIGHBOUR * neighbours} reference images in a class they say little about it; compare "
            "groups, or hold out more images."
        )
    return lines


def _other_protocol(protocol: dict[str, Any]) -> list[str]:
    """Return in what the numbers are not those of the protocol that the user named; nothing without one."""
    preset = protocol.get("preset")
    if preset is None:
        return []
    lines = [f"Protocol {preset['name']}: {preset['source']}. Numbers published by it still differ from these:"]
    lines += [f"  Generator: {preset['generator']}."]
    lines += [f"  Given here: {difference}." for difference in preset["options"]]
    lines += [f"  Unknown there: {name}." for name in preset["unknown"]]
    return [*lines, *(f"  {difference}" for difference in preset["differs"])]
