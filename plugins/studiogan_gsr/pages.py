"""Figures, and pages that need no network."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #60666c; --paper: #fdfdfc; --line: #d9dcdf; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --faint: #9aa2a9; --paper: #16191c; --line: #353b40; }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1.2rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; } tr.group th { border-bottom: none; padding-bottom: 0; text-align: right; }
table.facts th, table.facts td { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
table.facts th { min-width: 7rem; max-width: 22rem; }
h1 { overflow-wrap: anywhere; }
.note { color: var(--faint); font-size: .9rem; max-width: 46rem; overflow-wrap: anywhere; }
.warning { color: inherit; border-left: 4px solid #d95f02; padding-left: .7rem; }
figure { margin: 0; } figure.chart { background: #fff; border-radius: 6px; padding: .5rem; }
figure.chart svg { width: 100%; height: auto; display: block; }
.side { display: flex; gap: 1.2rem; flex-wrap: wrap; } .side figure { flex: 1 1 16rem; }
.side img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.wide { overflow-x: auto; background: /* a shadow where the table goes on */
  linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--faint), transparent) right / .6rem 100% no-repeat scroll; }
.wide table { font-size: .85rem; white-space: nowrap; }
.wide th { white-space: normal; overflow-wrap: anywhere; min-width: 5rem; vertical-align: bottom; }
.wide td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: min(11rem, 40vw); }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: var(--paper); }
details { margin: .4rem 0; } pre { overflow: auto; max-height: 20rem; font-size: .8rem; border: 1px solid var(--line);
  padding: .6rem; border-radius: 6px; user-select: all; }
figcaption { font-size: .9rem; color: var(--faint); margin: .3rem 0; overflow-wrap: anywhere; }
"""


# What LaTeX would read as a command, or print as another letter.
_LATEX = str.maketrans(
    {special: f"\\{special}" for special in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML page of (heading, HTML) sections; an empty heading gives none."""
    body = "".join((f"<h2>{html.escape(heading)}</h2>" if heading else "") + content for heading, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}"
        f'<p class="note">studiogan-gsr {version("studiogan-gsr")}</p></body></html>\n'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], groups: Mapping[str, int] | None = None) -> str:
    """An HTML table; groups: headings above the header, with the number of columns that each spans."""
    above = "".join(f'<th colspan="{span}">{html.escape(name)}</th>' for name, span in (groups or {}).items())
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table><thead><tr class="group">{above}</tr><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A table of names and texts, without a header."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in pairs)
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def paragraph(text: str, note: bool = False) -> str:
    """Return plain text as a paragraph of HTML; a note is in small print."""
    opening = '<p class="note">' if note else "<p>"
    return f"{opening}{html.escape(text)}</p>"


def picture(image: Image.Image, caption: str) -> str:
    """A figure with the image inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><figcaption>{text}</figcaption><img src="data:image/png;base64,{data}" alt="{text}"></figure>'


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def latex(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as LaTeX."""

    def line(cells: Sequence[object]) -> str:
        return " & ".join(str(cell).translate(_LATEX) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    columns = f"l{'r' * (len(header) - 1)}"
    return f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{line(header)}\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n"


def copyable(title: str, text: str) -> str:
    """Text behind a fold, to be copied."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def shortened(text: str, length: int) -> str:
    """Return the text; of one of more than `length` letters both ends, where long names often differ."""
    head, tail = (length - 1) - (length - 1) // 2, (length - 1) // 2
    return text if len(text) <= length else f"{text[:head]}…{text[-tail:]}"


def chart(svg: bytes, caption: str) -> str:
    """A figure with an SVG inside the page."""
    drawing = svg[svg.index(b"<svg") :].decode()
    return f'<figure class="chart">{drawing}</figure><p class="note">{html.escape(caption)}</p>'
