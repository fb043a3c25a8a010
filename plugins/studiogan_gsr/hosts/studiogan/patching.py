"""Putting the patch series into a checkout, and taking it out again.

A patch only inserts lines, has no context, and names each file's blob hash before and after (git's
`index` line).  So a file is unpatched, patched, or changed by someone else, and nothing is written
unless every file is one of the first two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.errors import HostError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.studiogan.checkout import PINNED, Checkout
from studiogan_gsr.shipped import shipped_folder

PATCHED, UNPATCHED, CHANGED = "patched", "unpatched", "changed"
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")  # as git counts lines
_INDEX = re.compile(r"index ([0-9a-f]{40})\.\.([0-9a-f]{40})( \d+)?")
_HUNK = re.compile(r"@@ -(\d+),0 \+\d+(?:,(\d+))? @@.*")


@dataclass(frozen=True)
class FilePatch:
    """What is inserted into one file.

    insertions: (after so many lines of the unpatched file, the lines with their ends), in order.
    before, after: git's hashes of the whole file.
    """

    path: str
    before: str
    after: str
    insertions: tuple[tuple[int, tuple[bytes, ...]], ...]

    def apply(self, content: bytes) -> bytes:
        lines = _LINE.findall(content)
        for place, inserted in reversed(self.insertions):
            lines[place:place] = inserted
        return b"".join(lines)

    def revert(self, content: bytes) -> bytes:
        lines = _LINE.findall(content)
        for place, inserted in self.insertions:
            del lines[place : place + len(inserted)]
        return b"".join(lines)


def series() -> list[FilePatch]:
    """The shipped series, in order."""
    paths = sorted(shipped_folder("patches").glob("*.patch"))
    return [patch for path in paths for patch in read_patch(path.read_bytes().decode(), path.name)]


def read_patch(text: str, name: str) -> list[FilePatch]:
    """The files of a patch; HostError for one that does more than to insert lines."""
    patches: list[FilePatch] = []
    before = after = path = ""
    insertions: list[tuple[int, list[bytes]]] = []

    def finish() -> None:
        if path:
            patches.append(FilePatch(path, before, after, tuple((at, tuple(lines)) for at, lines in insertions)))

    for line in text.split("\n")[:-1]:
        if line.startswith("diff --git "):
            finish()
            path, insertions = "", []
        elif index := _INDEX.fullmatch(line):
            before, after = index[1], index[2]
        elif line.startswith("+++ b/"):
            path = line.removeprefix("+++ b/")
        elif hunk := _HUNK.fullmatch(line):
            insertions.append((int(hunk[1]), []))
        elif insertions and line.startswith("+"):
            insertions[-1][1].append(f"{line[1:]}\n".encode())
        elif insertions or line.startswith("@@"):
            raise HostError(f"{name}: found {line!r}; a patch of this series only inserts lines")
    finish()
    return patches


def state_of(checkout: Checkout, patches: Sequence[FilePatch]) -> dict[str, str]:
    """PATCHED, UNPATCHED or CHANGED for each file of the series."""
    return {patch.path: _state(_content(checkout, patch), patch) for patch in patches}


def apply_series(checkout: Checkout, patches: Sequence[FilePatch], *, revert: bool = False) -> list[str]:
    """Insert the series' lines, or take them out again; the files that were written, none where all was done.

    All or nothing: HostError, with nothing changed, where a file is not the pinned one.
    """
    wanted, other = (UNPATCHED, PATCHED) if revert else (PATCHED, UNPATCHED)
    contents = {patch.path: _content(checkout, patch) for patch in patches}
    states = {patch.path: _state(contents[patch.path], patch) for patch in patches}
    if changed := [path for path, state in states.items() if state == CHANGED]:
        raise HostError(
            f"{checkout.root}: found {', '.join(changed)} changed; the patch is for the files of commit "
            f"{PINNED[:7]}, and nothing was written: `studiogan-gsr studiogan run` works without a patch"
        )
    written: list[str] = []
    try:
        for patch in patches:
            if states[patch.path] == other:
                made = patch.revert(contents[patch.path]) if revert else patch.apply(contents[patch.path])
                if _state(made, patch) != wanted:
                    raise HostError(f"{patch.path}: the patch does not give the file that it names; nothing was kept")
                _write(checkout.root / patch.path, made)
                written.append(patch.path)
    except BaseException as error:
        for path in written:
            _write(checkout.root / path, contents[path])
        if isinstance(error, OSError):
            raise HostError(f"{checkout.root} cannot be written to: {reason(error)}") from error
        raise
    return written


def _write(path: Path, content: bytes) -> None:
    """Through a link to its target, with the file's own mode."""
    path = path.resolve()
    mode = path.stat().st_mode
    write_atomically(path, content)
    path.chmod(mode)


def _content(checkout: Checkout, patch: FilePatch) -> bytes:
    try:
        return (checkout.root / patch.path).read_bytes()
    except OSError as error:
        raise HostError(f"{checkout.root / patch.path} cannot be read: {reason(error)}") from error


def _state(content: bytes, patch: FilePatch) -> str:
    blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
    return {patch.before: UNPATCHED, patch.after: PATCHED}.get(blob, CHANGED)
