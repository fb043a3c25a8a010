"""docs/reproduce-the-tables.md: its commands run, on small files, and its generated parts are current."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.paths import REPRODUCE
from benchmarks.tables import make_command, reproduce_page, run_command
from benchmarks.tables.first_steps import Beginning
from benchmarks.tables.reproduce_page import papers_tables, with_generated_parts
from benchmarks.tables.rows import read_tables
from studiogan_gsr.cli import main
from studiogan_gsr.datasets import lsun
from studiogan_gsr.evaluation.backbones import INCEPTION_URL, WEIGHTS_VARIABLE
from support.paper_sets import NARROW_TABLES, use_files, write_all
from support.plugins import PIXELS, MakePackage

PAGE = REPRODUCE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- (tested|not tested: [^\n]+) -->\n)?```sh\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for mark, block in BLOCKS if mark == "tested" for line in block.splitlines()]
SET_SIZES = {"per_class": 100, "scene": 1000, "reference": 2}  # ratio 1000 needs 1,000 images


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data sets in `data`."""
    root = tmp_path_factory.mktemp("sets")
    write_all(root / "data", **SET_SIZES)
    return root


def run(command: str, folder: Path) -> int:
    """Run a command of the page with narrow tables; return its exit status."""
    program, *argv = shlex.split(command)
    own = ["--tables", str(NARROW_TABLES), "--records", str(folder / "records")]
    if program == "studiogan-gsr":
        return main(argv)
    assert program == "python"
    if argv[0] == "benchmarks/run.py":
        return run_command.main([*argv[1:], *own, "--out", str(folder / "runs"), "--device", "cpu"])
    assert argv[0] == "benchmarks/make_table.py"
    return make_command.main([*argv[1:], *own, "--out", str(folder / "tables")])


def test_every_command_says_whether_a_test_runs_it() -> None:
    assert PAGE.count("```sh") == len(BLOCKS) > 6
    assert all(mark for mark, _ in BLOCKS), BLOCKS
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_does_what_it_says(
    command: str,
    sets: Path,
    tmp_path: Path,
    make_package: MakePackage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    for name, value in (("HOME", str(tmp_path)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    for folder in (site, sets / "data" / "python"):
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    use_files(sets / "data", monkeypatch)
    monkeypatch.chdir(sets)
    assert run(command, tmp_path) == 0
    printed = capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()} - {site.name, ".cache"}
    if "--dry-run" in command:
        assert "4 of 4 runs are to be made" in printed
    elif "--first-steps" in command:
        sizes = [
            ("lecam-diffaug: SNGAN + gSR: 242 images in 10 classes (100 to 1)", "gsr, lecam", 20),
            ("lsun-lt: SNGAN: 1,457 images in 5 classes (1,000 to 10)", "lecam", 10),
            ("inaturalist-2019: BigGAN + gSR: 4,550 images in 1,010 classes (9 to 1)", "gsr, lecam", 64),
        ]
        lines = [line for line in printed.splitlines() if line.startswith("begun: ")]
        for line, (found, regularizers, reference) in zip(lines, sizes, strict=True):
            assert line.startswith(f"begun: {found}; G ")
            assert f"; {regularizers}; " in line
            assert f"; 40 images measured against {reference} by pixels; " in line
        assert "3 of 3 runs began" in printed
        assert not left  # neither runs nor records
    elif "run.py" in command:
        assert "1 of 1 runs have records" in printed
        assert left == {"records", "runs"}
    elif "make_table" in command:
        assert {path.name for path in (tmp_path / "tables").glob("*.md")} == {
            "lecam-diffaug.md", "lsun-lt.md", "inaturalist-2019.md",
        }  # fmt: skip
    else:
        assert re.search(r"_train\.hdf5: \d+ images of (64 x 64|128 x 128) pixels", printed)


def test_the_generated_parts_are_current() -> None:
    assert with_generated_parts(PAGE, read_tables()) == PAGE, "run python -m benchmarks.tables.reproduce_page"
    assert PAGE.count("<!-- generated: ") == 3


def test_a_row_counts_as_tried_where_its_run_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beginning = Beginning(images=[5000, 50], measured="64 images measured")
    failed = "failed: ada: SNGAN + ADA: no images in 3 classes"
    (tmp_path / "first-steps-native.txt").write_text(
        f"begun: lsun-128: SNGAN; ablation: gSR: {beginning}\n{failed}\n"
    )
    (tmp_path / "first-steps-studiogan.txt").write_text("")
    monkeypatch.setattr(reproduce_page, "RESULTS", tmp_path)
    text = with_generated_parts("<!-- generated: tried -->\n<!-- /generated -->", read_tables())
    assert "| `lecam-diffaug` | 1 of 4: SNGAN + LeCam + DiffAug + gSR | none of 4 |" in text  # the same run
    assert "| `cifar10-lt` | 1 of 8: SNGAN + gSR, ratio 100 | none of 8 |" in text
    assert "| `lsun-128` | 1 of 4: SNGAN | none of 4 |" in text
    assert "| `ada` | none of 4 | none of 4 |" in text


def test_every_table_of_the_paper_is_on_the_page() -> None:
    names = [table.name for table in papers_tables(read_tables())]
    assert len(names) >= 8
    for name in names:
        assert f"`{name}`" in PAGE[PAGE.index("| of the paper | here |") :], name


def test_downloads_are_named_as_the_program_names_them() -> None:
    assert INCEPTION_URL in PAGE
    assert WEIGHTS_VARIABLE in PAGE
    for scene in lsun.SCENES:
        assert f"`{scene}_train_lmdb/`" in PAGE


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE):
        assert (REPRODUCE.parent / link).exists(), link
