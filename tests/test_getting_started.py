"""The commands for a folder of one's own, in the README and docs/getting-started.md, run in order on a small one."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from studiogan_gsr.cli import main
from studiogan_gsr.evaluation import cache
from studiogan_gsr.settings import load_configuration
from support.documents import snippets
from support.plugins import PIXELS, MakePackage
from support.runs import one_thread

# What makes a command small.
SHORTER = {
    "train": ["--steps", "4", "--save-freq", "2", "--workers", "0", "--device", "cpu"],
    "evaluate": ["--images", "24", "--backbone", "pixels", "--device", "cpu"],
    "generate": ["--device", "cpu"],
}
MEASURED = ["--evaluate", "24", "--backbone", "pixels"]
COUNTS = {"cat": 24, "lynx": 8}


@pytest.fixture
def pets(digits: Path, tmp_path: Path) -> Path:
    """Two classes of digits under the names that the pages use, in `pets` of an empty folder."""
    for kind, digit in (("cat", "3"), ("lynx", "8")):
        for part, number in (("train", COUNTS[kind]), ("valid", 4)):
            folder = tmp_path / "pets" / part / kind
            folder.mkdir(parents=True)
            for image in sorted((digits / part / digit).iterdir())[:number]:
                (folder / image.name).write_bytes(image.read_bytes())
    return tmp_path


def narrow(file: Path) -> None:
    """Make the networks and the batch of a configuration small."""
    sections = load_configuration(file)
    sections["MODEL"] |= {"g_conv_dim": 8, "d_conv_dim": 8}
    sections["OPTIMIZATION"] |= {"batch_size": 8, "d_updates_per_step": 1}
    file.write_text(yaml.safe_dump(sections))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_commands_take_a_folder_from_images_to_an_answer(
    page: str, pets: Path, make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(cache, "FOLDER", pets / "references")
    monkeypatch.chdir(pets)
    commands = [
        words[1:]
        for snippet in snippets("sh", page)
        if snippet.mark == "tested"
        for line in snippet.text.splitlines()
        if (words := shlex.split(line, comments=True))
    ]
    assert [words[0] for words in commands][:3] == ["init", "train", "train"]
    for words in commands:
        measured = MEASURED if words[0] == "train" and "--evaluate" in words else []
        with one_thread():
            assert main([*words, *SHORTER.get(words[0], []), *measured]) == 0, words
        if words[0] == "init":
            for file in Path("configs").glob("*.yaml"):
                narrow(file)
    assert (Path("gsr-report") / "index.html").is_file()
    assert len(list(Path("images").glob("lynx/*.png"))) == 100
    filled = Path("filled", "lynx")
    assert not filled.exists() or len(list(filled.iterdir())) == COUNTS["cat"]
