"""The command, in this process: exit statuses, one-line errors, fetching, and what it shows."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studiogan_gsr import cli
from studiogan_gsr.cli import main
from studiogan_gsr.commands import doctor as doctor_command
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.studiogan import checkout, doctor, launcher
from studiogan_gsr.hosts.studiogan.shims import SHIMS
from studiogan_gsr.registry import REGULARIZERS
from studiogan_gsr.shipped import EXAMPLE
from support.plugins import MakePackage

Git = Callable[..., str]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr, which is one line of ours."""
    text = capsys.readouterr().err
    assert text.startswith("studiogan-gsr: ")
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    return text


def test_plugins_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for name in ("gsr", "CIFAR10_LT", "CIFAR100_LT", "Digits_LT", "Folder_LT"):
        assert f" {name} " in out


def roles_shown(out: str) -> dict[str, str]:
    """The column of roles, by the name of the plug-in."""
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines() if "│" in line]
    (header,) = [line for line in out.splitlines() if " roles " in line]
    place = [cell.strip() for cell in header.split("┃")].index("roles")
    return {row[2]: row[place] for row in rows}


def test_plugins_shows_what_each_regularizer_can_do(
    make_package: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {name: f"stranger_methods:{name}" for name in ("Smooth", "late", "said", "one", "Missing")}
    make_package("stranger", REGULARIZERS, entries, {"stranger_methods": METHODS})
    assert main(["plugins"]) == 1  # Missing
    shown = roles_shown(capsys.readouterr().out)
    assert shown == shown | {
        "class_balance": "draw",
        "gsr": "penalty",
        "lecam": "discriminator_loss",
        "mode_seeking": "generator_loss, draw",
        "noisytwins": "generator_loss, draw",
        "Smooth": "penalty, generator_loss",
        "late": "known when it is made",
        "said": "discriminator_loss, draw",
        "one": "draw",
        "Missing": "",
        "CIFAR10_LT": "",
    }


METHODS = """
class Smooth:
    threshold = 3
    def __init__(self, generator, class_counts): ...
    def penalty(self): ...
    def generator_loss(self, batch): ...

def late(generator, class_counts): ...

def said(generator, class_counts): ...
said.roles = ("discriminator_loss", "draw")

def one(generator, class_counts): ...
one.roles = "draw"
"""


def test_plugins_names_a_broken_one_and_fails(make_package: MakePackage, capsys: pytest.CaptureFixture[str]) -> None:
    make_package("stranger", REGULARIZERS, {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": "raise OSError"})
    assert main(["plugins"]) == 1
    out = capsys.readouterr().out
    assert " ridge " in out
    assert " gsr " in out
    assert "OSError" in out


def test_a_redirected_table_is_not_cut_to_a_terminals_width(
    make_package: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "raise OSError('a library of this plug-in was built for another version of torch')"
    make_package("stranger", REGULARIZERS, {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": source})
    main(["plugins"])
    out = capsys.readouterr().out
    assert "studiogan_gsr.regularizers.gsr:GroupSpectralRegularizer" in out
    assert "a library of this plug-in was built for another version of torch" in out


@pytest.mark.parametrize("command", ["plugins", "doctor"])
def test_a_table_shows_brackets_and_colons_as_they_are(
    command: str, make_package: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "raise OSError('[/lib] :x:')"
    make_package("stranger", REGULARIZERS, {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": source})
    assert main([command]) == 1
    out = capsys.readouterr().out
    assert "[/lib]" in out
    assert ":x:" in out
    assert "[studiogan.regularizers]" in out


def test_doctor_mentions_every_shim_and_misses_the_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    for shim in SHIMS:
        assert f"shim {shim.name}" in out
    assert "no PyTorch-StudioGAN at" in " ".join(out.split())


def test_doctor_is_readable_on_80_columns_and_begins_with_what_is_to_be_mended(
    make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path))
    source = "raise OSError('a library of this plug-in was built for another version of torch, and does not load')"
    make_package("stranger", REGULARIZERS, {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": source})
    assert main(["doctor", "--root", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    # A word that is longer, as a URL, stays whole; so does a remedy, which may be a command.
    long = [line.split() for line in lines if len(line) > 80]
    assert all(len(words) == 1 or words[0] == "remedy:" for words in long)
    text = "\n".join(lines)
    order = [
        "StudioGAN  ",
        "remedy: studiogan-gsr studiogan fetch",
        "FID's weights",
        "remedy: none needed; without network",
        "python",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "built for another version of torch, and does not load" in " ".join(text.split())
    assert lines[-2].startswith("2 to fix, listed first: ")


def _weights(root: Path) -> list[doctor.Finding]:
    return [finding for finding in doctor.diagnose(str(root)) if finding.what == "FID's weights"]


def test_doctor_tells_of_the_fid_networks_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path))
    path = tmp_path / doctor.INCEPTION_URL.rpartition("/")[2]

    def found() -> doctor.Finding:
        return _weights(tmp_path)[0]

    assert f"`evaluate` downloads {doctor.INCEPTION_URL}" in found().found
    assert found().remedy == f"none needed; without network, put that file into {tmp_path}"
    assert not found().problem
    path.write_bytes(b"cut off")
    assert (found().found, found().remedy) == (f"{path}: damaged", f"rm {path}")
    monkeypatch.setattr(doctor, "INCEPTION_SHA256", doctor.sha256(path)[:8])
    assert found() == doctor.Finding("FID's weights", str(path))


def test_doctor_names_every_networks_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path))
    (tmp_path / "ViT-B-32.pt").write_bytes(b"cut off")
    (tmp_path / "dinov2_vitl14_pretrain.pth").write_bytes(b"of no known digest")
    findings = {finding.what: finding for finding in doctor.diagnose(str(tmp_path))}
    assert findings["FID's weights"].found.startswith("not downloaded yet: `evaluate` downloads https://")
    assert findings["CLIP's weights"] == doctor.Finding(
        "CLIP's weights", f"{tmp_path}/ViT-B-32.pt: damaged", f"rm {tmp_path}/ViT-B-32.pt"
    )
    assert findings["DINOv2's weights"].found == f"{tmp_path}/dinov2_vitl14_pretrain.pth"
    (tmp_path / "ViT-B-32.pt").unlink()
    findings = {finding.what: finding for finding in doctor.diagnose(str(tmp_path))}
    assert "`evaluate --backbone clip` downloads https://openaipublic" in findings["CLIP's weights"].found
    assert not findings["CLIP's weights"].problem


def test_doctor_tells_of_the_weights_of_studiogans_own_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    what = "StudioGAN's FID weights"

    def found() -> doctor.Finding:
        (finding,) = [finding for finding in doctor.diagnose(str(tmp_path)) if finding.what == what]
        return finding

    assert found().found.startswith("not downloaded yet: `studiogan run -- ... -metrics fid` downloads https://")
    assert found().remedy == f"none needed; without network, put that file into {path.parent}"
    assert not found().problem
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    assert (found().found, found().remedy) == (f"{path}: damaged", f"rm {path}")
    monkeypatch.setattr(doctor.fid_weights, "SHA256", doctor.sha256(path)[:8])
    assert found() == doctor.Finding(what, str(path))


def test_doctor_knows_a_remedy_for_a_broken_plugin(make_package: MakePackage, tmp_path: Path) -> None:
    make_package("stranger", REGULARIZERS, {"ridge": "stranger_ridge:Ridge"}, {"stranger_ridge": "raise OSError"})
    findings = {finding.what: finding for finding in doctor.diagnose(str(tmp_path))}
    assert findings["studiogan.regularizers: ridge"].remedy == "reinstall or remove stranger"
    assert findings["studiogan.regularizers: gsr"].remedy == doctor.OK
    assert findings["StudioGAN"].remedy == "studiogan-gsr studiogan fetch"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["plugin"],
        ["plugins", "--root", "x"],
        ["studiogan"],
        ["studiogan", "run", "--device", "tpu"],
        ["studiogan", "run", "--ranks", "0"],
        ["studiogan", "run", "--ranks", "two"],
        ["doctor", "--root"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: studiogan-gsr" in capsys.readouterr().err


def test_arguments_of_the_benchmark_without_two_dashes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["studiogan", "run", "-t", "-cfg", "x"])
    assert caught.value.code == 2
    assert "main.py's own arguments follow --" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["studiogan", "run", "--dvice", "cpu"])
    assert "unrecognized arguments: --dvice" in (printed := capsys.readouterr().err)
    assert printed.strip().endswith("; did you mean --device?")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("studiogan-gsr 0.")


def test_a_run_without_a_checkout_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["studiogan", "run", "--root", str(tmp_path / "nowhere"), "--", "-t"]) == 2
    line = error_line(capsys)
    for part in (str(tmp_path / "nowhere"), "src/main.py", "studiogan-gsr studiogan fetch", "--root"):
        assert part in line


def test_the_usual_place_of_a_checkout_is_told_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIOGAN_ROOT", str(tmp_path / "from-environment"))
    assert main(["studiogan", "run"]) == 2
    assert str(tmp_path / "from-environment") in error_line(capsys)


def test_traceback_shows_the_whole_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traceback", "studiogan", "run", "--root", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last)")
    assert "HostError: no PyTorch-StudioGAN at" in text
    assert main(["evaluate", str(tmp_path), "--traceback"]) == 2
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")


def run_that_raises(error: BaseException) -> Callable[..., None]:
    def run(*_: Any) -> None:
        raise error

    return run


def test_a_failing_run_exits_with_1_and_tells_type_and_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "run", run_that_raises(ValueError("batch\n  too small")))
    assert main(["studiogan", "run"]) == 1
    line = error_line(capsys)
    assert "the run failed: ValueError: batch too small (at test_cli.py:" in line
    assert "--traceback shows the rest" in line


def test_a_failing_rank_is_told_by_the_last_line_of_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File x\n"
    report += "OSError: disk full\n"
    monkeypatch.setattr(launcher, "run", run_that_raises(RuntimeError(report)))
    assert main(["studiogan", "run"]) == 1
    assert "the run failed: OSError: disk full (at " in error_line(capsys)


def test_an_error_without_words_is_told_by_its_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "run", run_that_raises(AssertionError()))
    assert main(["studiogan", "run"]) == 1
    assert "AssertionError" in error_line(capsys)


def test_an_interrupted_run_exits_with_1_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "run", run_that_raises(KeyboardInterrupt()))
    assert main(["studiogan", "run"]) == 1
    assert error_line(capsys) == "studiogan-gsr: interrupted\n"


def test_the_hosts_arguments_reach_it_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(launcher, "run", lambda *arguments: calls.append(arguments))
    ours = ["--root", "R", "--device", "cpu", "--ranks", "2", "--no-shim", "wandb-image", "--no-shim", "x"]
    host = ["-t", "-cfg", "CIFAR10_LT/SNGAN-gSR", "--seed", "1", "--", "--root", "S"]
    assert main(["studiogan", "run", *ours, "--", *host]) == 0
    assert main(["studiogan", "run"]) == 0
    assert calls == [("R", host, "cpu", 2, ["wandb-image", "x"]), (None, [], None, 1, [])]


@pytest.fixture
def git(monkeypatch: pytest.MonkeyPatch) -> Git:
    """git(folder, argument, ...) -> stdout, untouched by the user's settings and by a surrounding git."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def git(folder: Path, *arguments: str) -> str:
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(folder), *author, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return git


@pytest.fixture
def repository(tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository like StudioGAN's, whose pinned commit is the one before the last."""
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for text in ("pinned", "later"):
        (folder / "src" / "main.py").write_text(f"print({text!r})\n")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", text)
    for module in (checkout, doctor):
        monkeypatch.setattr(module, "PINNED", git(folder, "rev-parse", "HEAD~"))
    return folder


def fetch(source: Path, root: Path) -> int:
    return main(["studiogan", "fetch", "--from", str(source), "--root", str(root)])


def after_fetching(root: Path) -> str:
    """The last line of `studiogan fetch`."""
    place = shlex.quote(str(root))
    run = f"studiogan-gsr studiogan run --root {place} -- -t -cfg {EXAMPLE} -data data -save runs"
    return f"Next: `{run}`, `studiogan-gsr doctor --root {place}`\n"


def test_fetch_clones_the_pinned_commit(
    repository: Path, git: Git, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cache" / "deep" / "PyTorch-StudioGAN"
    assert fetch(repository, root) == 0
    assert capsys.readouterr().out == f"PyTorch-StudioGAN {checkout.PINNED} at {root}\n{after_fetching(root)}"
    assert (root / "src" / "main.py").read_text() == "print('pinned')\n"
    assert git(root, "rev-parse", "HEAD") == checkout.PINNED
    assert git(root, "status", "--porcelain") == ""
    assert list(root.parent.iterdir()) == [root]


def test_fetch_fills_an_empty_folder(repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    assert fetch(repository, root) == 0
    assert (root / "src" / "main.py").is_file()


def test_fetch_leaves_a_checkout_that_is_there_as_it_is(repository: Path, git: Git) -> None:
    before = git(repository, "rev-parse", "HEAD")
    assert fetch(repository / "nowhere", repository) == 0
    assert git(repository, "rev-parse", "HEAD") == before
    assert (repository / "src" / "main.py").read_text() == "print('later')\n"


def test_a_clone_that_fails_leaves_nothing_behind(
    git: Git, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    assert fetch(tmp_path / "nowhere", place / "root") == 2
    assert list(place.iterdir()) == []
    line = error_line(capsys)
    assert "git clone failed: " in line
    assert str(tmp_path / "nowhere") in line
    assert "--from" in line


def test_a_source_without_the_pinned_commit_leaves_nothing_behind(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkout, "PINNED", "0123456789" * 4)
    place = tmp_path / "place"
    assert fetch(repository, place / "root") == 2
    assert list(place.iterdir()) == []
    line = error_line(capsys)
    assert "git checkout failed: " in line
    assert checkout.PINNED in line


def test_fetch_does_not_touch_a_place_that_is_taken(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    file.write_text("mine")
    for taken in (folder, file):
        assert fetch(repository, taken) == 2
        assert f"{taken} exists and is not a PyTorch-StudioGAN" in error_line(capsys)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert file.read_text() == "mine"


def test_a_machine_without_git_is_told_in_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch(repository, tmp_path / "place" / "root") == 2
    assert "git" in error_line(capsys).removeprefix("studiogan-gsr: ")
    assert list((tmp_path / "place").iterdir()) == []


def test_doctor_tells_another_commit_and_changed_files(repository: Path, git: Git) -> None:
    (repository / "src" / "main.py").write_text("changed")
    (repository / "untracked").write_text("left alone")
    findings = {finding.what: finding for finding in doctor.diagnose(str(repository))}
    assert findings["its commit"].found == f"{git(repository, 'rev-parse', 'HEAD')}, not the pinned one"
    assert findings["its commit"].remedy == f"git -C {repository} checkout {checkout.PINNED}"
    assert findings["its changed files"].found == "src/main.py"
    git(repository, "checkout", "--quiet", "--force", checkout.PINNED)
    findings = {finding.what: finding for finding in doctor.diagnose(str(repository))}
    assert findings["its commit"].found == f"{checkout.PINNED}, the pinned one"
    assert findings["its commit"].remedy == doctor.OK
    assert findings["its changed files"].found == "none"


def test_a_checkout_that_is_no_clone_has_no_commit_even_inside_a_repository(
    repository: Path, git: Git, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unpacked archive: git would tell the commit of the repository around it."""
    root = repository / "unpacked archive"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("print('later')\n")
    git(repository, "add", ".")
    (root / "src" / "main.py").write_text("print('changed')\n")
    found = checkout.find_checkout(root)
    assert (found.commit(), found.changed_files()) == (None, [])
    assert main(["studiogan", "fetch", "--root", str(root)]) == 0
    assert capsys.readouterr().out == f"PyTorch-StudioGAN of an unknown commit at {root}\n{after_fetching(root)}"
    finding = next(finding for finding in doctor.diagnose(str(root)) if finding.what == "its commit")
    assert finding.found == "unknown: the folder is not a git clone"
    assert finding.remedy == f"mv '{root}' '{root}.old' && studiogan-gsr studiogan fetch --root '{root}'"
    git(repository, "clone", "--quiet", str(repository), str(tmp_path / "a clone"))
    finding = next(one for one in doctor.diagnose(str(tmp_path / "a clone")) if one.what == "its commit")
    assert finding.remedy == f"git -C '{tmp_path}/a clone' checkout {checkout.PINNED}"


def test_a_checkout_whose_commit_git_does_not_tell_has_a_remedy_that_shows_why(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = next(finding for finding in doctor.diagnose(str(repository)) if finding.what == "its commit")
    assert finding.found == "unknown: git is not installed, or fails there"
    assert finding.remedy == f"git -C {repository} rev-parse HEAD"


def test_a_ranks_error_is_told_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spawned ranks and workers report a traceback as text; ours in it keeps its message and its exit status."""
    for last, text, status in (
        ("studiogan_gsr.errors.DataError: DATA.num_classes: found 9", "DATA.num_classes: found 9", 2),
        ("KeyError: 'x'", "the run failed: KeyError: 'x' (at ", 1),
        (
            "RuntimeError: CUDA error\nFor debugging: see\n",
            "the run failed: RuntimeError: CUDA error For debugging: ",
            1,
        ),
    ):
        for kind in (RuntimeError, DataError):  # workers raise the kind again
            error = kind(f"-- Process 1 terminated\nTraceback (most recent call last):\n  File ...\n{last}\n")

            def fail(options: object, error: Exception = error) -> int:
                raise error

            monkeypatch.setattr(doctor_command, "run", fail)
            assert cli.main(["doctor"]) == status
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"studiogan-gsr: {text}")


@pytest.mark.parametrize(("module", "package"), [("wandb", "wandb,"), ("sklearn.manifold", "scikit-learn,")])
def test_our_extra_is_advised_for_what_it_brings(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, module.partition(".")[0], raising=False)
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    message = str(checkout.missing_module("StudioGAN's worker", error))
    assert message.endswith("pip install 'studiogan-gsr[studiogan]' brings all that the pinned commit needs")
    monkeypatch.setattr(checkout.metadata, "requires", lambda name: [])
    assert f"pip install {package}" in f"{checkout.missing_module('StudioGAN', error)},"
