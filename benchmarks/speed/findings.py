"""Results of speed measurements: tables, printed immediately and saved as JSON, Markdown and a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.paths import BENCHMARKS
from benchmarks.tables import records
from studiogan_gsr.charts import ratios_chart
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import device_name, instruction_set


@dataclass
class Part:
    """One benchmark: a table with notes.

    ratios: time of the alternative over our time, by comparison; drawn in the chart.
    data: machine-readable results, kept in the JSON file only.
    """

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def columns(self, *names: str) -> None:
        self.header = list(names)
        print(f"\n{self.title}\n\n{_line(names)}\n|{'---|' * len(names)}", flush=True)

    def row(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])
        print(_line(self.rows[-1]), flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", _line(self.header), f"|{'---|' * len(self.header)}", *map(_line, self.rows)]
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes), ""])


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


def as_markdown(kept: dict[str, Any], kind: str) -> str:
    """Return all parts as Markdown, each with its machine, torch version, date and command; kind: "cpu" or "gpu"."""
    lines = [f"# Speed, {kind.upper()}", ""]
    for content in kept.values():
        of, part = content["made"], Part(**{k: v for k, v in content.items() if k != "made"})
        unknown = "" if kind == "gpu" or "instruction_set" in of else "instruction set not recorded; "
        lines += [
            part.markdown(),
            f"{of['device']}; {unknown}torch {of['torch']}; {of['date']}; `{of['command']}`",
            "",
        ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
