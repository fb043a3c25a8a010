"""Save the results of speed measurements as JSON, Markdown and a chart."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.paths import BENCHMARKS
from benchmarks.speed.part import Part, as_markdown
from benchmarks.tables import records
from studiogan_gsr.charts import ratios_chart
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import device_name, instruction_set


def keep(parts: dict[str, Part], device: str, command: str, folder: Path) -> list[Path]:
    """Save the measured parts as JSON, Markdown and SVG, and return the paths; parts not measured now are kept."""
    kind = "gpu" if device == "cuda" else "cpu"
    path = folder / f"speed-{kind}.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    made = {"device": device_name(device), "torch": torch.__version__, "date": date.today().isoformat()}
    made |= {"command": command, "git": records.git_state(BENCHMARKS)["commit"]}
    made |= {"instruction_set": instruction_set()} if kind == "cpu" else {}
    kept |= {name: {**asdict(part), "made": made} for name, part in parts.items()}
    ratios = {name: content["ratios"] for name, content in kept.items() if content["ratios"]}
    titles = {name: kept[name]["title"] for name in ratios}
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {".json": json.dumps(kept, indent=1) + "\n", ".md": as_markdown(kept, kind)}
    if ratios:
        contents[".svg"] = ratios_chart([(titles[name], of) for name, of in ratios.items()])
    for suffix, content in contents.items():
        write_atomically(path.with_suffix(suffix), content)
    return [path.with_suffix(suffix) for suffix in contents]
