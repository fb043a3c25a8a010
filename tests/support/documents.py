"""The README and the pages of docs/: their texts and their snippets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
_SNIPPET = re.compile(r"(?:<!-- (?P<mark>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", flags=re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A code block; mark: the text of the comment on the line before it, or an empty string."""

    page: str
    language: str
    text: str
    mark: str


def snippets(language: str, page: str | None = None) -> list[Snippet]:
    """The snippets in one language, of one page or of all."""
    return [
        Snippet(name, language, found["text"], found["mark"] or "")
        for name, text in PAGES.items()
        if page in (None, name)
        for found in _SNIPPET.finditer(text)
        if found["language"] == language
    ]


def texts(language: str, page: str) -> list[str]:
    """The texts of a page's snippets in one language."""
    return [snippet.text for snippet in snippets(language, page)]
