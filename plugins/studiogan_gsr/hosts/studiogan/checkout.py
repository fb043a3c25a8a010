"""A checkout of PyTorch-StudioGAN: find it, fetch it, read its commit, and find functions in it."""

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

PINNED = "947b35e9835b67860fdce44d337f6d7fee7c8db3"  # 2023-08-06, StudioGAN's last commit
SOURCE = "https://github.com/POSTECH-CVLab/PyTorch-StudioGAN"
ROOT_VARIABLE = "STUDIOGAN_ROOT"
UNSUPPORTED = "this checkout is too old or changed too much"


# Import names that differ from the package's name on PyPI; only those that are common in this field.
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
        """The folder of StudioGAN's modules; its `main.py` puts it first on the import path."""
        return self.root / "src"

    @property
    def main(self) -> Path:
        return self.source / "main.py"

    @property
    def is_clone(self) -> bool:
        """Whether the folder itself is a git clone; False for an unpacked archive, even inside another repository."""
        return (self.root / ".git").exists()

    def commit(self) -> str | None:
        """Return the hash of the commit; None if the folder is not a git clone, or if git is missing or fails."""
        return _git(self.root, "rev-parse", "HEAD") if self.is_clone else None

    def changed_files(self) -> list[str]:
        """Return the tracked files that differ from the commit; none if the folder is not a git clone."""
        if not self.is_clone:
            return []
        status = _git(self.root, "status", "--porcelain", "--untracked-files=no") or ""
        return [line.split(maxsplit=1)[1] for line in status.splitlines()]


def default_root() -> Path:
    """Return $STUDIOGAN_ROOT if it is set, else the default folder."""
    chosen = os.environ.get(ROOT_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "studiogan-gsr" / "PyTorch-StudioGAN"


def find_checkout(root: str | Path | None = None) -> Checkout:
    """Return the checkout at `root` (default: `default_root()`); raise HostError if there is none."""
    checkout = Checkout(Path(root) if root is not None else default_root())
    if not checkout.main.is_file():
        raise HostError(
            f"no PyTorch-StudioGAN at {checkout.root} (src/main.py is missing): `studiogan-gsr studiogan fetch` "
            f"clones it, --root or ${ROOT_VARIABLE} names another folder"
        )
    return Checkout(checkout.root.resolve())


def fetch(root: str | Path | None = None, source: str = SOURCE) -> Checkout:
    """Clone the pinned commit to `root`, unless a checkout is already there, and return the checkout.

    source: a URL or a local clone.  An interrupted or failed clone leaves nothing in `root`.
    Raises HostError if git fails, or if `root` exists and is neither empty nor a checkout.
    """
    target = Path(root) if root is not None else default_root()
    if (target / "src" / "main.py").is_file():
        return find_checkout(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise HostError(f"{target} exists and is not a PyTorch-StudioGAN checkout; --root chooses another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
        clone = Path(temporary) / "clone"
        _run_git("clone", "--quiet", "--no-checkout", source, str(clone))
        _run_git("checkout", "--quiet", "--detach", PINNED, folder=clone)
        if target.exists():
            target.rmdir()
        shutil.move(clone, target)
    return find_checkout(target)


def find_function(module: str, path: str, parameters: list[str]) -> tuple[Any, str, Callable[..., Any]]:
    """Return a function of StudioGAN as (owner, name, function); its source has to be on the import path.

    path: the function's path in the module, such as "WORKER.save".
    parameters: names that its signature must contain.
    Raises HostError if the function is not as expected, or if StudioGAN cannot be imported.
    """
    try:
        owner: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise HostError(f"StudioGAN's {module} is missing: {UNSUPPORTED}") from error
        raise missing_module(f"StudioGAN's {module}", error) from error
    except Exception as error:  # old commits compile CUDA code when they are imported
        raise HostError(f"StudioGAN's {module} cannot be imported: {reason(error)}") from error
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent, None)
    function = getattr(owner, name, None)
    if not callable(function):
        raise HostError(f"StudioGAN's {module}.{path} is missing: {UNSUPPORTED}")
    found = list(inspect.signature(function).parameters)
    if missing := [name for name in parameters if name not in found]:
        raise HostError(
            f"StudioGAN's {module}.{path} has the parameters {', '.join(found)}; the hooks need "
            f"{', '.join(missing)}: {UNSUPPORTED}"
        )
    return owner, name, function


def missing_module(who: str, error: ModuleNotFoundError) -> HostError:
    """Return an error that names a missing module, and the command that installs it.

    who: the importing program, for the message.
    """
    name = str(error.name)
    top = name.partition(".")[0]
    if top != name and top in sys.modules:
        there = ", ".join(getattr(sys.modules[top], "__path__", []))
        return HostError(
            f"{who} needs the module {name}, which is not in {there or top}: the checkout is incomplete, or "
            f"{who} needs another version of that package"
        )
    package = _PACKAGES.get(top, top)
    if canonicalize_name(Requirement(package).name) in _required_packages():
        remedy = "pip install 'studiogan-gsr[studiogan]' brings all that the pinned commit needs"
    else:
        known = "" if top in _PACKAGES else ", or the package that this checkout's own requirements name for it"
        remedy = f"the pinned commit does not need it, this checkout does: pip install {package}{known}"
    return HostError(f"{who} needs the module {name}, which is not installed: {remedy}")


def _required_packages() -> set[str]:
    """Return the names of the packages that `studiogan-gsr[studiogan]` requires."""
    requirements = map(Requirement, metadata.requires("studiogan-gsr") or [])
    return {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or one.marker.evaluate({"extra": "studiogan"})
    }


def _run_git(action: str, *arguments: str, folder: Path | None = None) -> None:
    """Run a git command for `fetch`; raise HostError if it fails.  folder: the clone to run it in, if any."""
    place = [] if folder is None else ["-C", str(folder)]
    try:
        done = subprocess.run(["git", *place, action, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError("git is not installed, or not on the PATH") from error
    if done.returncode:
        cause = " ".join(done.stderr.split())
        raise HostError(f"git {action} failed: {cause}; --from takes another source, such as a local clone")


def _git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints in a checkout; None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
