"""The distributions, built from a copy of the repository and installed elsewhere: they carry all that is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import studiogan_gsr

REPOSITORY = Path(__file__).parents[1]
CONSUMER = Path(__file__).with_name("support") / "consumer.py"
MODELS = [
    f"CIFAR10_LT/{backbone}{extra}{regularizer}"
    for backbone in ("BigGAN", "ContraGAN", "SNGAN")
    for extra in ("", "-ADA", "-DiffAug-LeCam")
    for regularizer in ("", "-gSR")
]


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with `path` and nothing else on PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def repository_files() -> set[str]:
    """The files of the repository, or of the source distribution that the tests were unpacked from."""
    if not (REPOSITORY / ".git").exists():
        (sources,) = REPOSITORY.glob("plugins/*.egg-info/SOURCES.txt")
        return {name for name in sources.read_text().splitlines() if ".egg-info/" not in name}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (REPOSITORY / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a source distribution, and the wheel made from it, were built to."""
    folder = tmp_path_factory.mktemp("package")
    for name in repository_files():
        (folder / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / "repository" / name)
    done = python("-m", "build", "--no-isolation", "--outdir", str(folder), cwd=folder / "repository")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The folder that the wheel was installed to."""
    (wheel,) = built.glob("*.whl")
    target = built / "site"
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--target", str(target)]
    done = python("-m", "pip", "install", *options, str(wheel), cwd=built)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def unpacked(built: Path) -> Path:
    """The folder that the source distribution was unpacked to."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(built / "unpacked", filter="data")
    (folder,) = (built / "unpacked").iterdir()
    return folder


def test_the_installed_package_is_whole_and_carries_its_configurations(installed: Path, tmp_path: Path) -> None:
    program = """
import json, studiogan_gsr, studiogan_gsr.shipped as shipped
names = shipped.shipped_configurations()
print(json.dumps({
    "package": studiogan_gsr.__file__,
    "names": names,
    "files": [str(shipped.shipped_configuration(name)) for name in names],
    "patches": str(shipped.shipped_folder("patches")),
}))
"""
    done = python("-c", program, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert Path(printed["package"]) == installed / "studiogan_gsr" / "__init__.py"
    assert [name for name in printed["names"] if name.startswith("CIFAR10_LT/")] == sorted(MODELS)
    for name, file in zip(printed["names"], printed["files"], strict=True):
        assert Path(file) == installed / "studiogan_gsr" / "configs" / f"{name}.yaml"
        assert Path(file).read_bytes() == (REPOSITORY / "configs" / f"{name}.yaml").read_bytes()
    assert Path(printed["patches"]) == installed / "studiogan_gsr" / "patches"
    assert (Path(printed["patches"]) / "LEDGER.md").is_file()
    assert sorted(p.name for p in Path(printed["patches"]).glob("*.patch")) == sorted(
        p.name for p in (REPOSITORY / "patches").glob("*.patch")
    )


def test_the_installed_package_holds_every_source_file_template_and_its_type_marker(installed: Path) -> None:
    source = REPOSITORY / "plugins" / "studiogan_gsr"
    files = [*source.rglob("*.py"), *source.glob("templates/*"), source / "py.typed"]
    wanted = {str(path.relative_to(source)) for path in files}
    assert "templates/page.html" in wanted
    package = installed / "studiogan_gsr"
    assert wanted <= {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}


def test_the_installed_package_makes_a_page(installed: Path, tmp_path: Path) -> None:
    program = "from studiogan_gsr.pages import page, paragraph; print(page('a', [('', paragraph('b'))]))"
    done = python("-W", "error", "-c", program, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert "<p>b</p>" in done.stdout
    assert "color-scheme: light dark" in done.stdout


def test_the_installed_command_finds_its_plugins(installed: Path, tmp_path: Path) -> None:
    done = python("-W", "error", "-m", "studiogan_gsr", "plugins", cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("gsr", "CIFAR10_LT", "CIFAR100_LT", "Digits_LT", "Folder_LT"):
        assert f" {name} " in done.stdout


def test_the_metadata_is_complete_and_its_description_renders(built: Path, unpacked: Path) -> None:
    distributions = [str(path) for path in (*built.glob("*.whl"), *built.glob("*.tar.gz"))]
    done = python("-m", "twine", "check", "--strict", *distributions, cwd=built)
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = (unpacked / "PKG-INFO").read_text(encoding="utf-8").split("\n\n")[0]
    for field in ("Author", "Keywords", "License-Expression", "Requires-Python", "Summary"):
        assert re.search(rf"^{field}: .", metadata, flags=re.MULTILINE), field
    assert "Project-URL: Paper, https://arxiv.org/abs/2208.09932" in metadata
    assert "Classifier: Typing :: Typed" in metadata


def test_the_source_distribution_is_the_repository(unpacked: Path) -> None:
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in files if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert files - made == repository_files()


@pytest.mark.slow
def test_tests_pass_in_the_unpacked_source_distribution(unpacked: Path) -> None:
    files = ("test_registry.py", "test_workflow.py", "datasets/test_counts.py", "hosts/test_what_programs_compute.py")
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not host", *(f"tests/{name}" for name in files)]
    done = python("-m", "pytest", *options, cwd=unpacked, path=unpacked / "plugins")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_strict_type_checker_accepts_every_public_name_outside_of_the_repository(
    installed: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """mypy finds the wheel as it finds installed packages, so py.typed is needed."""
    text = CONSUMER.read_text(encoding="utf-8")
    assert [name for name in studiogan_gsr.__all__ if not re.search(rf"^    {name},$", text, re.MULTILINE)] == []
    shutil.copy(CONSUMER, tmp_path)
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")  # torch is not read again in the next run
    done = python("-m", "mypy", "--strict", "--cache-dir", str(cache), CONSUMER.name, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stdout + done.stderr
