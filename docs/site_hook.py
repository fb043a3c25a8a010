"""Make what a page links to part of the site.

The pages read well in the repository, too, so they link to files outside docs/: a table of results, a source file, a
folder of configurations.  MkDocs only knows the files in docs/, by their paths below it.  Here, each file of the site
has its path in the repository instead, and the files that pages link to are added.  MkDocs then resolves and checks
relative links as a repository viewer does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(\s*([^\s)#]+)")
COPIED = (".gif", ".jpg", ".png", ".svg")


class ShownFile(File):
    """A page that shows a source file or lists a folder."""

    def is_documentation_page(self) -> bool:
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the theme's files, those of docs/ and of the navigation, and all that these link to, directly or not."""
    paths = list(named_pages(config.nav))
    own = [file for file in files if file.src_dir == config.docs_dir]
    for file in own:
        files.remove(file)
        if file.inclusion != InclusionLevel.EXCLUDED:
            path = Path(config.docs_dir, file.src_uri).relative_to(ROOT).as_posix()
            files.append(repository_file(path, file.dest_uri, config))
            paths.extend(linked_paths(path))
    while paths:
        path = paths.pop()
        if files.get_file_from_path(path) is None and (ROOT / path).exists():
            files.append(linked_file(path, config))
            paths.extend(linked_paths(path))
    return files


def named_pages(nav: Any) -> Iterator[str]:
    """Yield the paths in a part of `nav`: a path, a list, or a title with either."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from named_pages(part)


def linked_paths(path: str) -> Iterator[str]:
    """Yield the paths in the repository that a Markdown file or the list of a folder links to."""
    if (ROOT / path).is_dir():
        text = folder_list(path)
    else:
        text = (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else ""
    for link in LINK.findall(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(link)))
        if target.split("/")[0] not in (".", ".."):
            yield target


def linked_file(path: str, config: MkDocsConfig) -> File:
    """Return a file or folder as the site has it: Markdown is rendered, images are copied, others are shown."""
    if path.endswith(COPIED):
        return repository_file(path, path, config)
    if path.endswith(".md"):
        return repository_file(path, f"{path}.html", config)
    shown = folder_list(path) if (ROOT / path).is_dir() else source(path)
    heading = f"---\nhide: [toc]\nsearch: {{exclude: true}}\n---\n\n# {posixpath.basename(path)}\n\n`{path}`\n\n"
    file = ShownFile.generated(config, path, content=heading + shown, inclusion=InclusionLevel.NOT_IN_NAV)
    file.dest_uri = f"{path}.html"
    return file


def repository_file(path: str, dest_uri: str, config: MkDocsConfig) -> File:
    """Return the file at a path in the repository; a page must be in the navigation if it is in docs/."""
    inclusion = InclusionLevel.INCLUDED if path.startswith("docs/") else InclusionLevel.NOT_IN_NAV
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=dest_uri, inclusion=inclusion)


def folder_list(path: str) -> str:
    """Return Markdown that links to all in a folder that is not hidden."""
    names = sorted(entry.name for entry in (ROOT / path).iterdir() if not entry.name.startswith((".", "__pycache__")))
    return "\n".join(f"- [{name}]({posixpath.basename(path)}/{name})" for name in names)


def source(path: str) -> str:
    """Return Markdown that shows the text of a file, highlighted by its suffix."""
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}{posixpath.splitext(path)[1].removeprefix('.')}\n{text}\n{fence}\n"
