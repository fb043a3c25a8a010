"""CITATION.cff: valid, of this version, and with the paper."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def test_it_has_the_keys_that_the_format_requires() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(CITATION)
    assert {"type", "title", "authors"} <= set(CITATION["preferred-citation"])


def test_it_agrees_with_the_package() -> None:
    for key, field in {"version": "version", "license": "license_expression"}.items():
        assert f'    {field}="{CITATION[key]}",\n' in SETUP
    assert f'    author="{CITATION["authors"][0]["name"]}",\n' in SETUP
    assert CITATION["preferred-citation"]["url"] in SETUP


def test_the_paper_is_the_one_that_the_page_of_the_method_names() -> None:
    paper = CITATION["preferred-citation"]
    attribution = (ROOT / "docs" / "methods" / "gsr.md").read_text(encoding="utf-8").split("## Attribution\n")[1]
    words = re.sub(r"\s+", " ", attribution)
    assert ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"]) in words
    assert f"*{paper['title']}*" in words
    assert paper["url"] in words
    assert f"ECCV {paper['year']}" in words
