"""The table that `evaluate` prints, and the notes under it."""

from __future__ import annotations

from typing import Any

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.evaluation.measure import MOST, SHOWN_TIMES, as_text
from studiogan_gsr.pages import shortened

_FEW = 20  # up to this many classes, each class has a row
_WIDTH = 24  # characters; longer class names are shortened


def table_lines(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table, and of the notes under it.

    Rows: all images, each group, and, for up to 20 classes, each class.
    """
    network = result["column"].removeprefix("FD")
    kernel, score = ("KID", "IS") if network == "FID" else (f"KD{network}", f"IS{network}")
    columns = {"frechet": result["column"], "kernel": kernel, "inception_score": score, "precision": "precision"}
    columns |= {name: name for name in result["all"] if name not in columns}
    cells = [["", "training", *columns.values()]]
    for name, count, values in _rows(result):
        cells.append([name, "" if count is None else str(count), *(as_text(values, key) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        padded = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return [*lines, *_legend(result, kernel), *_cautions(result, kernel)]


def _rows(result: dict[str, Any]) -> list[tuple[str, int | None, dict[str, Any]]]:
    """Return (name, number of training images or None, metrics) for every row."""
    rows: list[tuple[str, int | None, dict[str, Any]]] = [("all", None, result["all"])]
    rows += [(name, None, values) for name, values in result["groups"].items()]
    counts = result["training_images"]
    if len(counts) <= _FEW and result["groups"]:
        names = [shortened(name, _WIDTH) for name in result["class_names"]]
        order = sorted(range(len(counts)), key=lambda label: -counts[label])
        rows += [(class_title(label, names), counts[label], result["classes"][label]) for label in order]
    return rows


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
        two = len(result["training_images"]) == 2
        thirds = "head, tail: the two classes" if two else "head, middle, tail: thirds of the classes"
        lines.append(f"Many: over 100 training images; few: under 20; {thirds} by number of training images.")
    return lines


def _cautions(result: dict[str, Any], kernel: str) -> list[str]:
    """Return what a reader must know before comparing the numbers."""
    protocol, counts, references = result["protocol"], result["training_images"], result["reference_images"]
    lines = []
    if protocol["images"] < 10 * len(counts) * protocol["neighbours"]:
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
    lines += [f"Real images: {note}." for note in result["reference_notes"]]
    if result["groups"] and len(set(counts)) == 1 and len(counts) > 1:
        lines.append("All classes have equally many training images: head, middle and tail only follow the labels.")
    fewest = min((number for number in references if number), default=0)
    if fewest < result["features"]:
        lines.append(
            f"A class has only {fewest} reference images, fewer than the {result['features']} dimensions of the "
            f"features: {result['column']} of such classes is mostly sampling error; compare classes by {kernel}, "
            "precision and coverage."
        )
    return lines
