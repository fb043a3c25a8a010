"""The commands that the README and docs/ show as tested, run in order on small files.

docs/reproduce-the-tables.md has a test of its own, test_reproduce_page.py.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from studiogan_gsr.cli import main
from studiogan_gsr.evaluation import cache
from studiogan_gsr.settings import load_configuration
from support.documents import PAGES, snippets, texts
from support.paper_sets import use_files, write_all
from support.plugins import PIXELS, MakePackage
from support.runs import one_thread

# What makes a command small.
SHORTER = {
    "train": ["--steps", "4", "--save-freq", "2", "--workers", "0", "--device", "cpu"],
    "evaluate": ["--images", "24", "--repeats", "1", "--backbone", "pixels", "--device", "cpu"],
    "spectrum": [],
    "generate": ["--device", "cpu"],
    "downstream": ["--width", "2", "--updates", "1", "--seeds", "2", "--fill", "20", "--device", "cpu"],
}
MEASURED = ["--evaluate", "24", "--backbone", "pixels"]
COUNTS = {"cat": 24, "lynx": 8}


def commands_of(page: str) -> list[list[str]]:
    """The arguments of each `studiogan-gsr` line in the snippets that are marked as tested."""
    return [
        words[1:]
        for snippet in snippets("sh", page)
        if snippet.mark == "tested"
        for line in snippet.text.splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def run(words: list[str], *more: str) -> None:
    with one_thread():
        assert main([*words, *SHORTER.get(words[0], []), *more]) == 0, words


@pytest.fixture
def place(tmp_path: Path, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with the backbone `pixels` and caches of its own."""
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "references")
    monkeypatch.setattr(cache, "CLASSIFIERS", tmp_path / "classifiers")
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_pets(digits: Path) -> None:
    """Write two classes of digits to `pets`, under the names that the pages use."""
    for kind, digit in (("cat", "3"), ("lynx", "8")):
        for part, number in (("train", COUNTS[kind]), ("valid", 4)):
            folder = Path("pets", part, kind)
            folder.mkdir(parents=True)
            for image in sorted((digits / part / digit).iterdir())[:number]:
                shutil.copy(image, folder)


def narrow(file: Path) -> None:
    """Make the networks and the batch of a configuration small."""
    sections = load_configuration(file)
    sections["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    sections["OPTIMIZATION"] |= {"batch_size": 8, "d_updates_per_step": 1}
    file.write_text(yaml.safe_dump(sections))


@pytest.mark.slow
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_a_folder_of_images_becomes_an_answer(page: str, digits: Path) -> None:
    write_pets(digits)
    commands = commands_of(page)
    assert [words[0] for words in commands][:3] == ["init", "train", "train"]
    for words in commands:
        run(words, *(MEASURED if words[0] == "train" and "--evaluate" in words else []))
        if words[0] == "init":
            shown = [yaml.safe_load(text) for text in texts("yaml", page) if "MODEL" in text]
            assert all(sections == load_configuration(Path("configs", "gsr.yaml")) for sections in shown)
            for file in Path("configs").glob("*.yaml"):
                narrow(file)
    assert Path("gsr-report", "index.html").is_file()
    assert len(list(Path("images").glob("lynx/*.png"))) == 100
    filled = Path("filled", "lynx")
    assert not filled.exists() or len(list(filled.iterdir())) == COUNTS["cat"]


@pytest.mark.slow
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", ["docs/evaluation.md", "docs/generated-images.md"])
def test_a_pair_of_runs_is_measured_and_used(page: str, pair: tuple[Path, Path]) -> None:
    for run_of_pair, name in zip(pair, ("sngan", "sngan-gsr"), strict=True):
        folder = shutil.copytree(run_of_pair, Path("runs", name))
        record = json.loads((folder / "run.json").read_text())
        record["data"]["classes"] = ["cat", "ship", *"abcdefgh"]
        (folder / "run.json").write_text(json.dumps(record))
    commands = commands_of(page)
    assert len(commands) >= 3
    for words in commands:
        run(words, *(["--images", "4"] if "--images" in words else []))


@pytest.mark.slow
def test_sets_are_shown_packed_and_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(place / "data", per_class=100, scene=1000, reference=2)
    use_files(place / "data", monkeypatch)
    for words in commands_of("docs/data-sets.md"):
        run(words)
    assert (place / "cifar10-lt.csv").is_file()
    assert list(place.glob("data/iNaturalist2019_64_*_train.hdf5"))


def test_every_command_shown_says_whether_it_is_tested() -> None:
    """The generated reference's examples are parsed by commands/test_help.py."""
    for page in PAGES:
        if page != "docs/commands.md":
            for snippet in snippets("sh", page):
                assert snippet.mark in ("tested", "tests") or snippet.mark.startswith("not tested: "), snippet
    run_here = {"README.md", "docs/getting-started.md", "docs/evaluation.md", "docs/generated-images.md"}
    run_here |= {"docs/data-sets.md", "docs/reproduce-the-tables.md"}
    assert {page for page in PAGES if any(s.mark == "tested" for s in snippets("sh", page))} == run_here
