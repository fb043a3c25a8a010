"""Draw the spectral norms of each class over training.

    python -m benchmarks.studies.norms_over_time PICTURE.png TITLE=RECORD.jsonl [TITLE=RECORD.jsonl ...]

Each line of a record holds `step`, `class_counts` and `norms`.  A class's norm is the largest exact norm over layers,
gain and bias.  results/norms-sngan-*.jsonl were written every 50 steps by two runs of the real StudioGAN.  Both hosts
now write such norms to a run's log.jsonl, and `studiogan-gsr report` draws them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studiogan_gsr.charts import norms_chart
from studiogan_gsr.errors import GSRError, RequestError, in_one_line, reason


def plot(picture: Path, records: Sequence[tuple[str, Path]]) -> None:
    """Draw the records as a PNG chart with one panel each; see `norms_chart`.

    Raises RequestError if a record cannot be read, or if the records' class counts differ.
    """
    panels, first, counts = [], records[0][1], None
    for title, path in records:
        for line in (lines := _lines(path)):
            counts = line["class_counts"] if counts is None else counts
            if line["class_counts"] != counts:
                raise RequestError(
                    f"RECORD: found class_counts {line['class_counts']} at step {line['step']} in {path}, "
                    f"and {counts} in {first}; the panels share one legend, so draw these records separately"
                )
        panels.append((title, [line["step"] for line in lines], [line["norms"] for line in lines]))
    assert counts is not None
    picture.write_bytes(norms_chart(panels, counts, "png"))


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return a record's lines, at least one, each with its three keys."""
    expected = "expected: JSON lines with step, class_counts and norms"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        complete = all({"step", "class_counts", "norms"} <= line.keys() for line in lines)
    except (OSError, ValueError, AttributeError) as error:
        raise RequestError(f"RECORD: {path} cannot be read: {reason(error)}; {expected}") from error
    if not lines or not complete:
        raise RequestError(f"RECORD: {path} has {'a line without these keys' if lines else 'no line'}; {expected}")
    return lines


def _titled(argument: str) -> tuple[str, Path]:
    title, separator, path = argument.rpartition("=")
    if not separator:
        raise RequestError(f"TITLE=RECORD: found {argument}; allowed: a panel's title, =, and the path of its record")
    return title, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("records", nargs="+", metavar="TITLE=RECORD")
    options = parser.parse_args(argv)
    try:
        plot(options.picture, [_titled(argument) for argument in options.records])
    except GSRError as error:
        print(f"norms_over_time.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
