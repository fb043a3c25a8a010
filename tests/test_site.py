"""The documentation's site: built strictly, whole without a network, and without a dead link."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """links: what a page links to or loads; loads: the part that a browser fetches by itself; anchors: its ids."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        sources = [source.split()[0] for source in values.get("srcset", "").split(",") if source]
        links = sources + [values[name] for name in ("href", "src") if name in values]
        self.links += links
        if tag != "a":
            self.loads += links


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build strictly; --quiet would count no warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """The pages by their paths in the site."""
    # The theme's page for what is not there links from the site's root, wherever that is.
    return {file.relative_to(site).as_posix(): Page(file) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    dead = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(urljoin(name, link))
            target, anchor = unquote(parts.path), unquote(parts.fragment)
            if parts.scheme or target == ".":
                continue
            if not (site / target).is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                dead.append(f"{name}: {link}")
    assert not dead


def test_pages_load_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    assert not {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}


def test_every_page_of_docs_is_in_the_navigation() -> None:
    named = set(re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} == {
        name for name in named if name.startswith("docs/")
    }


def test_files_outside_docs_are_shown(site: Path) -> None:
    for path in ("CHANGELOG.md", "benchmarks/results/collapse.md", "tests/support/paper_sets.py", "configs"):
        assert (site / f"{path}.html").is_file(), path
    shown = (site / "tests" / "support" / "paper_sets.py.html").read_text(encoding="utf-8")
    assert re.search(r'<span class="k">def</span>', shown), "the source is not highlighted"
    assert (site / "benchmarks" / "results" / "collapse.svg").is_file()


@pytest.mark.parametrize("link", ["no-page.md", "evidence.md#no-anchor", "../no.py", "../no-folder"])
def test_a_dead_link_fails_the_build(link: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("site_hook.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, docs)
    (docs / "index.md").write_text(f"# Home\n\n[dead]({link}) [alive](evidence.md#evidence)\n")
    (docs / "evidence.md").write_text("# Evidence\n")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = "nav: [docs/index.md, docs/evidence.md]\n\n"
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"^nav:\n(.+\n)+\n", nav, settings, flags=re.MULTILINE))
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert f"'{link}'" in done.stderr
    assert done.stderr.count("WARNING") == 1
