"""Fixtures: plug-in packages made of real metadata, and the checkout of StudioGAN if there is one."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from studiogan_gsr.cli import main
from studiogan_gsr.errors import GSRError
from studiogan_gsr.evaluation import cache, perceptual
from studiogan_gsr.hosts.studiogan.checkout import Checkout, find_checkout
from studiogan_gsr.machine import share_of_cores
from support.plugins import PIXELS, MakePackage
from support.runs import PLAIN, SNGAN, arguments, changed, one_thread, write

SEED = int(os.environ.get("TEST_SEED", "0"))

settings.register_profile("repeatable", print_blob=True)  # a failure prints how Hypothesis finds its example again
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Share the cores among pytest-xdist's workers: more threads than cores would wait for one another."""
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        torch.set_num_threads(share_of_cores(int(workers)))


@pytest.fixture(autouse=True)
def seed() -> int:
    """The seed of every random number that a test does not seed itself: 0, or TEST_SEED of the environment."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    return SEED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print with each failure the command that repeats it."""
    report = yield
    if report.failed:
        report.sections.append(("run it again", f"TEST_SEED={SEED} python -m pytest -m '' '{item.nodeid}'"))
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat on a GPU, where there is one, the tests that use `device`; without one, their names stay as they are."""
    if "device" in metafunc.fixturenames and torch.cuda.is_available():
        devices = [pytest.param("cpu"), pytest.param("cuda:0", id="cuda", marks=pytest.mark.cuda)]
        metafunc.parametrize("device", devices, indirect=True, scope="session")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every device that there is: the CPU and, where there is one, a GPU, which computes in full float32 here."""
    found = torch.device(getattr(request, "param", "cpu"))
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    if found.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
    yield found
    if found.type == "cuda":
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePackage:
    """make_package(name, group, {entry: value}, {module: source}) -> the folder put on the import path."""

    def make(name: str, group: str, entries: dict[str, str], modules: dict[str, str], version: str = "1.0") -> Path:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry} = {value}" for entry, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(folder)
        return folder

    return make


@pytest.fixture
def pixels(make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backbone of another package, a cache of its own, and no LPIPS, whose weights would be downloaded."""
    make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "references")
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    return "pixels"


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four steps of an SNGAN without gSR, and with it; to be copied by those who write there."""
    folder = tmp_path_factory.mktemp("pair")
    with one_thread():
        for name, sections in (("plain", PLAIN), ("gsr", SNGAN)):
            assert main(arguments(write(folder / f"{name}.yaml", sections), folder / name)) == 0
    return folder / "plain", folder / "gsr"


@pytest.fixture(scope="session")
def checkout() -> Checkout:
    """The checkout in its usual place; the test is skipped where there is none."""
    try:
        return find_checkout()
    except GSRError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def patched(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone that the command has patched."""
    clone = tmp_path_factory.mktemp("patched") / "PyTorch-StudioGAN"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    assert main(["studiogan", "patch", "--root", str(clone)]) == 0
    return Checkout(clone)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as an image folder: 120 training and 4 validation images per class."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, labels = load_digits(return_X_y=True)
    root = tmp_path_factory.mktemp("digits")
    for label in range(10):
        for i, image in enumerate(images[labels == label][:124]):
            folder = root / ("train" if i < 120 else "valid") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (image.reshape(8, 8) * 15.9).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).convert("RGB").save(folder / f"{i:03}.png")
    return root


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="session")
def named(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `digits` in folders named zero to nine, and a run of four steps on them, in `run`."""
    folder = tmp_path_factory.mktemp("named")
    for part in ("train", "valid"):
        for digit, word in enumerate(
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        ):
            shutil.copytree(digits / part / str(digit), folder / part / word)
    sections = changed(SNGAN, DATA={"name": "Folder_LT_rho4"})
    argv = arguments(write(folder / "configuration.yaml", sections), folder / "run")
    argv[argv.index("--data") + 1] = str(folder)
    with one_thread():
        assert main(argv) == 0
    return folder / "run"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran against the real benchmark."""

    def count(outcome: str) -> int:
        reports = terminalreporter.stats.get(outcome, [])
        return sum(r.when != "teardown" for r in reports if "host" in getattr(r, "keywords", {}))

    ran, skipped = count("passed") + count("failed"), count("skipped")
    why = "" if not skipped else " (no checkout: `studiogan-gsr studiogan fetch`)"
    terminalreporter.write_line(f"host tests: {ran} ran, {skipped} skipped{why}")
