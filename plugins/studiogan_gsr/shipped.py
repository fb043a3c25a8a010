"""Files that the package carries: configurations and patches."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from studiogan_gsr.errors import ConfigurationError, near_miss

EXAMPLE = "CIFAR10_LT/SNGAN-gSR"  # the configuration that help texts and messages name


def shipped_folder(name: str) -> Path:
    """Return the folder `configs` or `patches`, of an installed package or of the repository."""
    package = Path(str(files("studiogan_gsr")))
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name


def shipped_configurations() -> list[str]:
    """Return the names of the shipped configurations, <data set>/<model>."""
    folder = shipped_folder("configs")
    return sorted(str(path.relative_to(folder).with_suffix("").as_posix()) for path in folder.glob("*/*.yaml"))


def configuration_file(name: str | Path) -> Path:
    """Return a path unchanged if it is a file, else the file of the shipped configuration of that name."""
    return Path(name) if Path(name).is_file() else shipped_configuration(str(name))


def shipped_configuration(name: str) -> Path:
    """Return the file of a shipped configuration; ConfigurationError for an unknown name."""
    names = shipped_configurations()
    if name.removesuffix(".yaml") not in names:
        raise ConfigurationError(
            name,
            "neither a file nor a shipped configuration",
            f"name a file or one of {', '.join(names)}{near_miss(name, names)}",
        )
    return shipped_folder("configs") / f"{name.removesuffix('.yaml')}.yaml"
