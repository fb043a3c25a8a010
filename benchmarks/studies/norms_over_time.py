"""Draw the spectral norms of each class over training.

    python -m benchmarks.studies.norms_over_time PICTURE.png TITLE=RECORD.jsonl [TITLE=RECORD.jsonl ...]

Each line of a record holds `step`, `class_counts` and `norms`.  A class's norm is the largest exact norm over layers,
gain and bias.  results/norms-sngan-*.jsonl were written every 50 steps by two runs of the real StudioGAN.  Both hosts
now write such norms to a run's log.jsonl, and `studiogan-gsr report` draws them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from studiogan_gsr.charts import norms_chart


def plot(picture: Path, records: Sequence[tuple[str, Path]]) -> None:
    """Draw the records as a PNG chart with one panel each; see `norms_chart`."""
    panels, counts = [], []
    for title, path in records:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        counts = lines[0]["class_counts"]
        panels.append((title, [line["step"] for line in lines], [line["norms"] for line in lines]))
    picture.write_bytes(norms_chart(panels, counts, "png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("records", nargs="+", metavar="TITLE=RECORD")
    options = parser.parse_args()
    plot(options.picture, [(title, Path(path)) for title, path in (r.rsplit("=", 1) for r in options.records)])


if __name__ == "__main__":
    main()
