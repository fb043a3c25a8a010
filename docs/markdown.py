"""Write Markdown: tables, words as code, and the generated parts of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# What Markdown would read as markup, and options; a word is taken whole, without the punctuation around it.
_CODE = re.compile(r"`[^`]*`|(?<![\w`])(?:--[a-z][\w-]*|[^\s(`]*[<*_][^\s)`]*?(?=[.,;:)]*(?:\s|$)))")


def with_parts(text: str, parts: Mapping[str, Sequence[str]]) -> str:
    """Return a page with its generated parts replaced; parts: the lines of each, by name.

    A part is between `<!-- generated: NAME -->` and `<!-- /generated -->`.  KeyError for an unknown name.
    """

    def made(found: re.Match[str]) -> str:
        return "\n".join([found[1], *parts[found[2]], found[3]])

    return re.sub(r"(<!-- generated: (\w+) -->)\n.*?(<!-- /generated -->)", made, text, flags=re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    grid = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid]


def plain(text: str) -> str:
    """Return plain text as Markdown: options, and words with < * or _ become code."""
    return _CODE.sub(lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`", text)
