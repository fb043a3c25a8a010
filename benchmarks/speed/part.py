"""A benchmark's results: a table that is printed immediately and written as Markdown.

Only the standard library: results can be shown on a machine where nothing else works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


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
