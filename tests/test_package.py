"""The wheel, built from a copy of the repository and installed elsewhere: it carries all that it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "plugins", "configs", "patches")
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


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed to."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "repository"
    copy.mkdir()
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, copy / name, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    # A source distribution, and the wheel from it: both must hold everything.
    built = python("-m", "build", "--no-isolation", "--outdir", str(folder), cwd=copy)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--target", str(target)]
    done = python("-m", "pip", "install", *options, str(wheel), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


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
