"""The patch series: what it may hold, and how it is applied to a checkout and reverted."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from studiogan_gsr.cli import main
from studiogan_gsr.errors import HostError
from studiogan_gsr.hosts.studiogan import doctor, patching
from studiogan_gsr.hosts.studiogan.checkout import PINNED, SOURCE, Checkout
from studiogan_gsr.hosts.studiogan.patching import FilePatch, apply_series, read_patch, series, state_of
from studiogan_gsr.registry import GROUPS, STARTUP, find_plugins
from studiogan_gsr.shipped import EXAMPLE, shipped_configuration, shipped_folder

PATCHES = sorted(shipped_folder("patches").glob("*.patch"))
ONE, OTHER = b"first\nlast\n", "caf\u00e9 \u2028 one\r line\n".encode() + b"no end of line"
ONE_PATCHED, OTHER_PATCHED = b"zero\nfirst\nsecond\nthird\nlast\n", b"new\n\n+plus\n" + OTHER


def blob(content: bytes, folder: Path) -> str:
    command = ["git", "hash-object", "--stdin"]
    return subprocess.run(command, input=content, capture_output=True, check=True, cwd=folder).stdout.decode().strip()


@pytest.fixture
def two_files(tmp_path: Path) -> tuple[Checkout, list[FilePatch]]:
    """Return a checkout of two files, and a series for both, made by `git diff`."""
    return make_checkout(tmp_path / "checkout", (ONE, OTHER), (ONE_PATCHED, OTHER_PATCHED))


def make_checkout(
    root: Path, contents: tuple[bytes, bytes], patched: tuple[bytes, bytes]
) -> tuple[Checkout, list[FilePatch]]:
    (root / "src").mkdir(parents=True)
    checkout = Checkout(root)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    fill(checkout, contents)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "files"]):
        subprocess.run([*git, *command], check=True)
    fill(checkout, patched)
    command = [*git, "diff", "-U0", "--full-index"]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    fill(checkout, contents)
    return checkout, read_patch(text, "two.patch")


def fill(checkout: Checkout, contents: tuple[bytes, bytes]) -> None:
    for path, content in zip(("src/main.py", "src/other.py"), contents, strict=True):
        (checkout.root / path).write_bytes(content)


def files(checkout: Checkout) -> list[bytes]:
    return [(checkout.root / path).read_bytes() for path in ("src/main.py", "src/other.py")]


def test_the_series_only_inserts_a_few_lines_without_context_and_names_no_plugin() -> None:
    lines = [line for path in PATCHES for line in path.read_text().splitlines()]
    hunks = [line for line in lines if line.startswith("@@")]
    inserted = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    assert hunks
    assert all(hunk.split()[1].endswith(",0") for hunk in hunks)  # no line of the file is deleted or shown
    assert not [line for line in lines if line.startswith("-") and not line.startswith("---")]
    assert not [line for line in lines[lines.index(hunks[0]) :] if line.startswith(" ")]
    assert 0 < len(inserted) <= 60
    names = [word for group in GROUPS for plugin in find_plugins(group) for word in (plugin.name, plugin.value)]
    assert len(names) > 10
    assert not [name for name in names if any(name in line for line in inserted)]


def test_the_ledger_has_a_row_for_every_hunk() -> None:
    ledger = (shipped_folder("patches") / "LEDGER.md").read_text()
    for patch in series():
        for place in re.findall(r"^@@ -(\d+),0 ", patch.text, re.MULTILINE):
            assert f"| {patch.path}, after line {place} |" in ledger
    assert PINNED[:7] in ledger


def test_what_the_patch_calls_is_installed() -> None:
    assert [plugin.value for plugin in find_plugins(STARTUP)] == ["studiogan_gsr.hosts.studiogan.process:startup"]
    assert any(STARTUP in line for path in PATCHES for line in path.read_text().splitlines() if line[0:1] == "+")


@pytest.mark.host
def test_git_makes_the_same_files_in_the_checkout_itself(checkout: Checkout, tmp_path: Path) -> None:
    clones = [tmp_path / "git", tmp_path / "ours"]
    for clone in clones:
        subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    subprocess.run(["git", "-C", clones[0], "apply", "--unidiff-zero", *PATCHES], check=True)
    apply_series(Checkout(clones[1]), series())
    for patch in series():
        assert (clones[0] / patch.path).read_bytes() == (clones[1] / patch.path).read_bytes()
        assert blob((clones[0] / patch.path).read_bytes(), clones[0]) == patch.after
    diff = ["git", "-C", clones[1], "diff", "--numstat"]
    numbers = subprocess.run(diff, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    assert [line.split()[1] for line in numbers] == ["0"] * len(series())  # deletions


@pytest.mark.host
def test_the_command_patches_checks_and_reverts(
    checkout: Checkout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    patch = ["studiogan", "patch", "--root", str(clone)]
    example = shipped_configuration(EXAMPLE)
    train = f"Next: `python {clone}/src/main.py -t -cfg {example} -data data -save runs`\n"

    def diagnosed() -> str:
        (found,) = [finding.found for finding in doctor.diagnose(str(clone)) if finding.what == "the patch"]
        return found

    before = (clone / "src" / "main.py").read_bytes()
    assert main([*patch, "--check"]) == 1
    assert diagnosed() == "src/main.py: unpatched"
    assert capsys.readouterr().out == (
        f"{clone}/src/main.py: unpatched\nNext: `studiogan-gsr studiogan patch --root {clone}`\n"
    )
    assert main(patch) == 0
    assert capsys.readouterr().out == f"{clone}: patched, written: src/main.py\n{train}"
    after = (clone / "src" / "main.py").read_bytes()
    assert after != before
    assert main(patch) == 0
    assert capsys.readouterr().out == f"{clone}: patched already\n{train}"
    assert (clone / "src" / "main.py").read_bytes() == after
    assert main([*patch, "--check"]) == 0
    assert diagnosed() == "src/main.py: patched"
    assert main([*patch, "--revert"]) == main([*patch, "--revert"]) == 0
    assert (clone / "src" / "main.py").read_bytes() == before
    status = subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True, check=True)
    assert status.stdout == b""
    capsys.readouterr()
    (clone / "src" / "main.py").write_bytes(before + b"\n")
    assert diagnosed() == "src/main.py: changed"
    assert main(patch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "found src/main.py changed" in line
    assert "`studiogan-gsr studiogan run` works without a patch" in line
    assert SOURCE not in line


def test_applied_and_reverted_every_byte_is_back(two_files: tuple[Checkout, list[FilePatch]]) -> None:
    checkout, patches = two_files
    assert set(state_of(checkout, patches).values()) == {"unpatched"}
    assert apply_series(checkout, patches) == ["src/main.py", "src/other.py"]
    assert files(checkout) == [ONE_PATCHED, OTHER_PATCHED]
    assert set(state_of(checkout, patches).values()) == {"patched"}
    assert apply_series(checkout, patches) == []
    assert apply_series(checkout, patches, revert=True) == ["src/main.py", "src/other.py"]
    assert files(checkout) == [ONE, OTHER]


def test_a_changed_file_keeps_all_files_as_they_are(two_files: tuple[Checkout, list[FilePatch]]) -> None:
    checkout, patches = two_files
    (checkout.root / "src" / "other.py").write_bytes(OTHER + b"!")
    for revert in (False, True):
        with pytest.raises(HostError, match=r"found src/other.py changed; .* nothing was written"):
            apply_series(checkout, patches, revert=revert)
    assert files(checkout) == [ONE, OTHER + b"!"]
    (checkout.root / "src" / "other.py").unlink()
    with pytest.raises(HostError, match=r"src/other.py cannot be read: FileNotFoundError"):
        apply_series(checkout, patches)


def test_what_was_interrupted_is_completed_or_taken_back(two_files: tuple[Checkout, list[FilePatch]]) -> None:
    checkout, patches = two_files
    apply_series(checkout, patches[:1])
    assert apply_series(checkout, patches) == ["src/other.py"]
    apply_series(checkout, patches[1:], revert=True)
    assert apply_series(checkout, patches, revert=True) == ["src/main.py"]
    assert files(checkout) == [ONE, OTHER]


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_write_that_fails_takes_back_those_before_it(
    two_files: tuple[Checkout, list[FilePatch]], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, patches = two_files
    write, writes = patching.write_atomically, []

    def second_fails(path: Path, content: bytes) -> None:
        writes.append(path)
        if len(writes) == 2:
            raise error
        write(path, content)

    monkeypatch.setattr(patching, "write_atomically", second_fails)
    with pytest.raises(HostError if isinstance(error, OSError) else KeyboardInterrupt):
        apply_series(checkout, patches)
    assert len(writes) == 3
    assert files(checkout) == [ONE, OTHER]


def test_a_files_mode_and_a_link_to_it_stay(two_files: tuple[Checkout, list[FilePatch]], tmp_path: Path) -> None:
    checkout, patches = two_files
    path = checkout.root / "src" / "main.py"
    path.rename(tmp_path / "elsewhere.py")
    path.symlink_to(tmp_path / "elsewhere.py")
    os.chmod(tmp_path / "elsewhere.py", 0o750)
    apply_series(checkout, patches)
    assert path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o750
    assert path.read_bytes().startswith(b"zero\n")


def test_a_patch_that_does_not_give_the_file_that_it_names_is_not_kept(
    two_files: tuple[Checkout, list[FilePatch]],
) -> None:
    checkout, patches = two_files
    wrong = dataclasses.replace(patches[1], after="0" * 40)
    with pytest.raises(HostError, match="the result does not have the hash that the patch names"):
        apply_series(checkout, [patches[0], wrong])
    assert files(checkout) == [ONE, OTHER]


@pytest.mark.parametrize("around", ["no repository", "another repository", "a variable's"])
def test_repositories_around_a_checkout_do_not_matter(
    two_files: tuple[Checkout, list[FilePatch]], around: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout, patches = two_files
    shutil.rmtree(checkout.root / ".git")
    if around != "no repository":
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        monkeypatch.chdir(checkout.root / "src")
    if around == "a variable's":
        monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert apply_series(checkout, patches) == ["src/main.py", "src/other.py"]
    assert files(checkout) == [ONE_PATCHED, OTHER_PATCHED]
    assert apply_series(checkout, patches, revert=True) == ["src/main.py", "src/other.py"]
    assert files(checkout) == [ONE, OTHER]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_users_settings_of_git_change_no_byte(end: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = (b"first  " + end + b"last" + end, b"one" + end)
    after = (b"zero\t" + end + before[0], before[1] + b"  two  " + end)
    checkout, patches = make_checkout(tmp_path / "checkout", before, after)
    home = tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "attributes").write_text("* text eol=crlf\n")
    (home / ".gitconfig").write_text(
        "[core]\nautocrlf = true\nsafecrlf = true\n[apply]\nwhitespace = fix\nignoreWhitespace = change\n"
    )
    (checkout.root / ".gitattributes").write_text("* text eol=crlf\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    apply_series(checkout, patches)
    assert files(checkout) == list(after)
    apply_series(checkout, patches, revert=True)
    assert files(checkout) == list(before)


def test_without_git_one_line_says_so(
    two_files: tuple[Checkout, list[FilePatch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, patches = two_files
    monkeypatch.setenv("PATH", "")
    assert set(state_of(checkout, patches).values()) == {"unpatched"}
    with pytest.raises(HostError, match=r"^git is not installed, or not on the PATH$"):
        apply_series(checkout, patches)
    assert files(checkout) == [ONE, OTHER]


def test_what_git_cannot_apply_is_one_line(two_files: tuple[Checkout, list[FilePatch]]) -> None:
    checkout, patches = two_files
    damaged = dataclasses.replace(patches[1], text=patches[1].text.replace("-0,0", "-x,0"))
    with pytest.raises(HostError, match=r"^git apply failed: error: [^\n]*; nothing was written$"):
        apply_series(checkout, [patches[0], damaged])
    assert files(checkout) == [ONE, OTHER]


@pytest.mark.parametrize("hunk", ["@@ -2 +2 @@\n-last\n+end\n", "@@ -1,0 +2 @@\n first\n+new\n"])
def test_a_patch_with_a_deletion_or_context_is_refused(hunk: str) -> None:
    head = f"diff --git a/f b/f\nindex {'1' * 40}..{'2' * 40} 100644\n--- a/f\n+++ b/f\n"
    with pytest.raises(HostError, match=r"bad.patch: found .*; a patch of this series only inserts lines"):
        read_patch(head + hunk, "bad.patch")


def test_a_patch_without_hashes_is_refused() -> None:
    with pytest.raises(HostError, match=r"bad.patch: found no file with its hashes; make it with `git diff -U0"):
        read_patch("diff --git a/f b/f\n--- a/f\n+++ b/f\n@@ -1,0 +2 @@\n+new\n", "bad.patch")
