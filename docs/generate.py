"""Write the generated parts of docs/commands.md and docs/configuration.md: `python -m docs.generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from docs.commands import command_parts
from docs.configuration import configuration_parts
from docs.markdown import with_parts
from studiogan_gsr.files import write_atomically

FOLDER = Path(__file__).parent


def pages() -> dict[Path, Mapping[str, Sequence[str]]]:
    """Return the lines of the generated parts of each page, by name."""
    return {FOLDER / "commands.md": command_parts(), FOLDER / "configuration.md": configuration_parts()}


if __name__ == "__main__":
    for path, parts in pages().items():
        write_atomically(path, with_parts(path.read_text(encoding="utf-8"), parts))
