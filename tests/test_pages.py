"""Pages that need no network, the figure of norms over time, and the norms in it."""

from __future__ import annotations

import html
import re

import torch
from markupsafe import Markup
from PIL import Image

from studiogan_gsr.charts import counts_chart, norms_chart
from studiogan_gsr.pages import (
    chart,
    copyable,
    facts,
    latex,
    notes,
    page,
    paragraph,
    picture,
    shortened,
    side_by_side,
    table,
    warning,
    wide,
)
from studiogan_gsr.regularizers.norms import largest_class_norms
from studiogan_gsr.regularizers.spectral import group_shape
from support.generators import OneHot, observed_affines


def test_the_largest_norm_of_a_class_is_over_layers_and_sides_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    generator = OneHot(4, [12, 16])
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    wanted = torch.zeros(4)
    for sides in observed_affines(generator, 4):
        for side in sides:
            norms = [torch.linalg.svdvals(row.reshape(group_shape(len(row))))[0] for row in side.detach()]
            wanted = torch.maximum(wanted, torch.stack(norms))
    torch.testing.assert_close(largest_class_norms(generator).float(), wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_a_page_is_whole_and_asks_no_network() -> None:
    svg = norms_chart([("one & two", [1, 2], [[0.1, 0.2], [0.3, 0.4]])], [9, 3], "svg")
    shown = page("a < b", [("c & d", table(["x", "y"], [["<i>", 1]], {"": 1, "both": 1})), ("", chart(svg, "e"))])
    shown += picture(Image.new("RGB", (2, 2)), "f")
    assert "<title>a &lt; b</title>" in shown
    assert "<h2>c &amp; d</h2>" in shown
    assert "<td>&lt;i&gt;</td><td>1</td>" in shown
    assert '<th colspan="1">both</th>' in shown
    sources = re.findall(r'(?:src|href)="([^"]*)"', shown)
    assert [s for s in sources if not s.startswith(("data:image/png;base64,", "#"))] == []
    assert re.findall(r"url\((?!#)|@import|<script", shown) == []


def test_the_chart_has_a_line_a_class_named_by_its_images_the_most_frequent_first() -> None:
    steps, norms = [1, 2, 3], [[0.1, 0.2, 0.3]] * 3
    svg = norms_chart([("without", steps, norms), ("with", steps, norms)], [5, 700, 50], "svg").decode()
    assert [int(n) for n in re.findall(r">(5|700|50)<", svg)] == [700, 50, 5]
    assert ">without<" in svg
    assert norms_chart([("without", steps, norms)], [5, 700, 50], "png").startswith(b"\x89PNG")


def test_texts_are_shown_as_they_are_in_html_and_latex() -> None:
    name = r"a<b>&\c$_{d}^~|#%"
    shown = (
        paragraph(name, note=True) + table([name], [[name]], {name: 1}) + facts([(name, name)]) + copyable(name, name)
    )
    assert "<b>" not in shown
    assert html.unescape(re.sub("<[^>]*>", "", shown)) == 8 * name
    written = latex([name], [[name]])
    assert written.count(r"a\textless{}b\textgreater{}\&\textbackslash{}c\$\_\{d\}\textasciicircum{}") == 2
    assert written.count(r"\textasciitilde{}\textbar{}\#\% \\") == 2
    assert latex(["x"], [["1 ± 2"]]).count(r"1 $\pm$ 2") == 1


def test_a_wide_table_scrolls_in_a_frame_that_the_window_holds() -> None:
    style = page("title", [("", wide(table(["x"], [[1]])))])
    frame = re.search(r"^\.wide \{(.*?)\}$", style, re.DOTALL | re.MULTILINE)[1]
    assert "max-width: calc(100vw - " in frame
    assert "overflow-x: auto" in frame
    assert ".wide::-webkit-scrollbar {" in style  # with a style it is visible on every system


def test_a_text_among_parts_is_escaped_and_a_part_is_not() -> None:
    part, text = paragraph("one"), Markup().join(["<b>two</b>"])
    assert "<p>one</p>&lt;b&gt;two&lt;/b&gt;" in page("title", [("", part + text)])
    assert side_by_side([part, part]) == '<div class="side"><p>one</p><p>one</p></div>'
    assert wide(part) == '<div class="wide"><p>one</p></div>'
    assert notes(["<i>", "b"]) == '<p class="note">&lt;i&gt;</p><p class="note">b</p>'
    assert warning("<i>") == '<p class="note warning">&lt;i&gt;</p>'


def test_a_shortened_text_has_the_length_and_both_ends() -> None:
    assert [shortened("abcdef", length) for length in range(1, 8)] == [
        "…",
        "a…",
        "a…f",
        "ab…f",
        "ab…ef",
        "abcdef",
        "abcdef",
    ]


def test_names_in_other_scripts_are_drawn_without_a_warning() -> None:
    drawn = counts_chart([3, 2], ["犬", "größe"])  # warnings are errors here
    assert "犬" in drawn.decode()
