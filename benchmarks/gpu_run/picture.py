"""Draw the charts of a results file; its own process, as matplotlib may be missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from studiogan_gsr.charts import curves_chart, ratios_chart
from studiogan_gsr.files import write_atomically


def draw(path: Path) -> None:
    """Draw table.svg, the ratios, and norms.svg, beside table.json, as far as there is something to draw."""
    kept = json.loads(path.read_text())
    if panels := [(part["title"], part["ratios"]) for part in kept.values() if part["ratios"]]:
        write_atomically(path.with_suffix(".svg"), ratios_chart(panels))
    series = kept.get("training", {}).get("data", {})
    if curves := [(run, found["steps"], found["norms"]) for run, found in series.items() if found["steps"]]:
        write_atomically(path.with_name("norms.svg"), curves_chart(curves, "spectral norm"))


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
