"""Apply the patch series to a checkout with `git apply`, and revert it.

A patch only inserts lines, has no context, and names each file's blob hash before and after (git's
`index` line).  So a file is unpatched, patched, or changed by someone else.  Nothing is written
unless every file is one of the first two.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from studiogan_gsr.errors import HostError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.studiogan.checkout import PINNED, Checkout
from studiogan_gsr.shipped import shipped_folder

PATCHED, UNPATCHED, CHANGED = "patched", "unpatched", "changed"
_NEXT_FILE = re.compile(r"^(?=diff --git )", re.MULTILINE)
_INDEX = re.compile(r"^index ([0-9a-f]{40})\.\.([0-9a-f]{40})( \d+)?$", re.MULTILINE)
_PATH = re.compile(r"^\+\+\+ b/(.+)\n", re.MULTILINE)
_INSERTION = re.compile(r"@@ -\d+,0 \+\d+(,\d+)? @@.*|\+.*")


@dataclass(frozen=True)
class FilePatch:
    """The patch of one file.

    path: relative to the checkout.  before, after: git's blob hashes of the unpatched and the patched file.
    text: the patch, as `git apply` reads it.
    """

    path: str
    before: str
    after: str
    text: str


def series() -> list[FilePatch]:
    """Return the shipped series, in order."""
    paths = sorted(shipped_folder("patches").glob("*.patch"))
    return [patch for path in paths for patch in read_patch(path.read_bytes().decode(), path.name)]


def read_patch(text: str, name: str) -> list[FilePatch]:
    """Split a patch by file.

    name: the patch's file name, for errors.
    Raises HostError if a file's path or full hashes are missing, or if the patch does more than insert lines.
    """
    patches = []
    for section in _NEXT_FILE.split(text)[1:]:
        path, index = _PATH.search(section), _INDEX.search(section)
        if path is None or index is None:
            raise HostError(f"{name}: found no file with its hashes; make it with `git diff -U0 --full-index`")
        for line in section[path.end() :].removesuffix("\n").split("\n"):
            if not _INSERTION.fullmatch(line):
                raise HostError(f"{name}: found {line!r}; a patch of this series only inserts lines")
        patches.append(FilePatch(path[1], before=index[1], after=index[2], text=section))
    return patches


def state_of(checkout: Checkout, patches: Sequence[FilePatch]) -> dict[str, str]:
    """Return PATCHED, UNPATCHED or CHANGED for each file of the series."""
    return {patch.path: _state(_content(checkout, patch), patch) for patch in patches}


def apply_series(checkout: Checkout, patches: Sequence[FilePatch], *, revert: bool = False) -> list[str]:
    """Apply or revert the series; return the paths of the files that were written, which may be none.

    Writes all files or none.  Raises HostError if a file has other changes than the patch, if git fails or is
    missing, or if a file cannot be written.
    """
    contents = {patch.path: _content(checkout, patch) for patch in patches}
    states = {patch.path: _state(contents[patch.path], patch) for patch in patches}
    if changed := [path for path, state in states.items() if state == CHANGED]:
        raise HostError(
            f"{checkout.root}: found {', '.join(changed)} changed; the patch is for the files of commit "
            f"{PINNED[:7]}, and nothing was written: `studiogan-gsr studiogan run` works without a patch"
        )
    remaining = [patch for patch in patches if states[patch.path] == (PATCHED if revert else UNPATCHED)]
    made = _apply_with_git(contents, remaining, revert)
    try:
        _write_all(checkout, made, contents)
    except OSError as error:
        raise HostError(f"{checkout.root} cannot be written to: {reason(error)}") from error
    return list(made)


def _apply_with_git(contents: Mapping[str, bytes], patches: Sequence[FilePatch], revert: bool) -> dict[str, bytes]:
    """Return the new content of each file, by path.

    Git works on copies in a temporary folder.  In a checkout inside another repository it would skip files, and it
    might write one file before it fails at the next.
    """
    if not patches:
        return {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for patch in patches:
            copy = folder / patch.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(contents[patch.path])
        _git_apply(folder, "".join(patch.text for patch in patches), revert)
        made = {patch.path: (folder / patch.path).read_bytes() for patch in patches}
    for patch in patches:
        if _state(made[patch.path], patch) != (UNPATCHED if revert else PATCHED):
            raise HostError(
                f"{patch.path}: the result does not have the hash that the patch names; nothing was written: install "
                "this package again"
            )
    return made


def _git_apply(folder: Path, text: str, revert: bool) -> None:
    command = ["git", "apply", "--unidiff-zero", *(["-R"] if revert else []), "-"]
    try:
        done = subprocess.run(
            command, input=text.encode(), cwd=folder, env=_without_settings(folder), capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise HostError("git is not installed, or not on the PATH") from error
    if done.returncode:
        cause = " ".join(done.stderr.decode(errors="replace").split())
        raise HostError(f"git apply failed: {cause}; nothing was written")


def _without_settings(folder: Path) -> dict[str, str]:
    """Return an environment in which git finds no repository and no settings, which could convert line endings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **environment,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }


def _write_all(checkout: Checkout, made: Mapping[str, bytes], before: Mapping[str, bytes]) -> None:
    """Write all files; if one cannot be written, restore those written before it."""
    with ExitStack() as undo:
        for path, content in made.items():
            _write(checkout.root / path, content)
            undo.callback(_write, checkout.root / path, before[path])
        undo.pop_all()


def _write(path: Path, content: bytes) -> None:
    """Write a file and keep its mode; if it is a symbolic link, write its target."""
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
