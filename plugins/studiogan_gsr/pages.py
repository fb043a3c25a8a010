"""HTML pages that need no network, and the parts that they are made of.

Each part is rendered from a template in `templates/`.  Jinja2 escapes every text; only a Markup is taken as HTML.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

# Characters that LaTeX would read as a command or print as another character, and their replacements.
_LATEX = str.maketrans(
    {special: f"\\{special}" for special in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)


def page(title: str, sections: Sequence[tuple[str, Markup]]) -> str:
    """Return a whole HTML page of (heading, HTML) sections; an empty heading is left out."""
    return _render("page.html", title=title, sections=sections, version=version("studiogan-gsr")) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], groups: Mapping[str, int] | None = None) -> Markup:
    """Return an HTML table.

    groups: headings above the header, with the number of columns that each spans.
    """
    return _render("table.html", header=header, rows=rows, groups=groups or {})


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Return a table of names and texts, without a header."""
    return _render("facts.html", pairs=pairs)


def paragraph(text: str, note: bool = False) -> Markup:
    """Return a paragraph; a note is in small print."""
    return _render("paragraph.html", text=text, kind="note" if note else "")


def warning(text: str) -> Markup:
    """Return a note with a coloured bar."""
    return _render("paragraph.html", text=text, kind="note warning")


def notes(texts: Iterable[str]) -> Markup:
    """Return a paragraph in small print for each text."""
    return Markup().join(paragraph(text, note=True) for text in texts)


def picture(image: Image.Image, caption: str) -> Markup:
    """Return a figure with the image inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _render("picture.html", png=base64.b64encode(buffer.getvalue()).decode(), caption=caption)


def chart(svg: bytes, caption: str) -> Markup:
    """Return a figure with an SVG inside the page."""
    return _render("chart.html", drawing=Markup(svg[svg.index(b"<svg") :].decode()), caption=caption)


def side_by_side(figures: Iterable[Markup]) -> Markup:
    """Return figures in a row that wraps where the page is narrow."""
    return _render("side_by_side.html", figures=figures)


def wide(content: Markup) -> Markup:
    """Return a table with its own scroll bar if it is wider than the page."""
    return _render("wide.html", content=content)


def copyable(title: str, text: str) -> Markup:
    """Return a collapsed section with text that the reader can copy."""
    return _render("copyable.html", title=title, text=text)


def _render(template: str, **values: object) -> Markup:
    return Markup(_templates().get_template(template).render(values))


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("studiogan_gsr"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def latex(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as LaTeX."""

    def line(cells: Sequence[object]) -> str:
        return " & ".join(str(cell).translate(_LATEX) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    columns = f"l{'r' * (len(header) - 1)}"
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n"


def shortened(text: str, length: int) -> str:
    """Return the text, shortened to `length` characters by cutting its middle; names often differ at both ends."""
    head, tail = (length - 1) - (length - 1) // 2, (length - 1) // 2
    return text if len(text) <= length else f"{text[:head]}…{text[len(text) - tail :]}"
