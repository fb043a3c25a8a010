"""A checkout of PyTorch-StudioGAN: where it is, which commit it is at, how to get one."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from studiogan_gsr.errors import HostError, reason

PINNED = "947b35e9835b67860fdce44d337f6d7fee7c8db3"  # 2023-08-06, the last one
SOURCE = "https://github.com/POSTECH-CVLab/PyTorch-StudioGAN"
ROOT_VARIABLE = "STUDIOGAN_ROOT"
OTHER = "this checkout is too old or changed too much"


# Packages that are not called as the module that they bring, and that programs of this field import.
_PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "pkg_resources": "setuptools<81",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}


@dataclass(frozen=True)
class Checkout:
    """A folder that holds StudioGAN's program."""

    root: Path

    @property
    def source(self) -> Path:
        """The folder that its `main.py` puts first on the import path."""
        return self.root / "src"

    @property
    def main(self) -> Path:
        return self.source / "main.py"

    def commit(self) -> str | None:
        """The commit checked out; None where git cannot tell."""
        return _git(self.root, "rev-parse", "HEAD")

    def changed_files(self) -> list[str]:
        """Tracked files that differ from the commit."""
        status = _git(self.root, "status", "--porcelain", "--untracked-files=no") or ""
        return [line.split(maxsplit=1)[1] for line in status.splitlines()]


def default_root() -> Path:
    """$STUDIOGAN_ROOT, else the project's default place."""
    chosen = os.environ.get(ROOT_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "studiogan-gsr" / "PyTorch-StudioGAN"


def find_checkout(root: str | Path | None = None) -> Checkout:
    """The checkout at `root` (default: `default_root()`); HostError where there is none."""
    checkout = Checkout(Path(root) if root is not None else default_root())
    if not checkout.main.is_file():
        raise HostError(
            f"no PyTorch-StudioGAN at {checkout.root} (src/main.py is missing): `studiogan-gsr studiogan fetch` "
            f"clones it, --root or ${ROOT_VARIABLE} names another place"
        )
    return Checkout(checkout.root.resolve())


def fetch(root: str | Path | None = None, source: str = SOURCE) -> Checkout:
    """Clone the pinned commit to `root`; a checkout that is there already is left as it is.

    source: a URL or a local clone.  The clone appears under its name only when it is complete.
    Raises HostError where git fails or the place is taken.
    """
    target = Path(root) if root is not None else default_root()
    if (target / "src" / "main.py").is_file():
        return find_checkout(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise HostError(f"{target} exists and is not a PyTorch-StudioGAN; --root names another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        clone = Path(temporary) / "clone"
        for action, arguments in (
            ("clone", ["clone", "--quiet", "--no-checkout", source, str(clone)]),
            ("checkout", ["-C", str(clone), "checkout", "--quiet", "--detach", PINNED]),
        ):
            try:
                done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
            except FileNotFoundError as error:
                raise HostError("git is not installed, or not on the PATH") from error
            if done.returncode:
                reason = " ".join(done.stderr.split())
                raise HostError(f"git {action} failed: {reason}; --from names another source, such as a clone")
        if target.exists():
            target.rmdir()
        shutil.move(clone, target)
    return find_checkout(target)


def find_function(module: str, path: str, parameters: list[str]) -> tuple[Any, str, Callable[..., Any]]:
    """(owner, attribute, function) of a function of StudioGAN, whose source is on the import path.

    parameters: those that it must have, among others; they are passed by name.
    Raises HostError where the function is not as expected, or where StudioGAN itself cannot be imported.
    """
    try:
        owner: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise HostError(f"StudioGAN's {module} is missing: {OTHER}") from error
        raise missing_module(f"StudioGAN's {module}", error) from error
    except Exception as error:  # old commits compile for CUDA when they are imported
        raise HostError(f"StudioGAN's {module} cannot be imported: {reason(error)}") from error
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent, None)
    function = getattr(owner, name, None)
    if not callable(function):
        raise HostError(f"StudioGAN's {module}.{path} is missing: {OTHER}")
    found = list(inspect.signature(function).parameters)
    if missing := [name for name in parameters if name not in found]:
        raise HostError(
            f"StudioGAN's {module}.{path} has the parameters {', '.join(found)}; the hooks need "
            f"{', '.join(missing)}: {OTHER}"
        )
    return owner, name, function


def missing_module(who: str, error: ModuleNotFoundError) -> HostError:
    """Return the error that says which module is missing, and what brings it: our extra where it really does.

    who: what imports it.
    """
    name = str(error.name)
    top = name.partition(".")[0]
    if top != name and top in sys.modules:
        there = ", ".join(getattr(sys.modules[top], "__path__", []))
        return HostError(
            f"{who} needs the module {name}, which is not in {there or top}: the checkout is not whole, or it "
            "needs another version of that package"
        )
    package = _PACKAGES.get(top, top)
    if canonicalize_name(Requirement(package).name) in _brought():
        remedy = "pip install 'studiogan-gsr[studiogan]' brings all that the pinned commit needs"
    else:
        known = "" if top in _PACKAGES else ", or the package that this checkout's own requirements name for it"
        remedy = f"the pinned commit does not need it, this checkout does: pip install {package}{known}"
    return HostError(f"{who} needs the module {name}, which is not installed: {remedy}")


def _brought() -> set[str]:
    """Names of the packages that come with this one and its extra for StudioGAN."""
    requirements = map(Requirement, metadata.requires("studiogan-gsr") or [])
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": "studiogan"})
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
