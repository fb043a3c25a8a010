"""The package that docs/plugins.md tells to write: its files, installed by pip as a stranger would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
# What its methods do, by name; the page shows one of each kind.
ROLES = {
    "weight_decay": "penalty",
    "total_variation": "generator_loss",
    "drift": "discriminator_loss",
    "half_tail": "draw",
}
# What they log at every print interval.
SCALARS = {"weight_decay/penalty", "total_variation/variation", "drift/real_logits"}


def blocks(language: str) -> list[str]:
    """The page's snippets in one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def section_of_the_page() -> list[Any]:
    """The REGULARIZER that the page shows: ours and the package's, stacked."""
    text = blocks("yaml")[-1]
    return yaml.safe_load(text)["REGULARIZER"]


def pattern(line: str) -> str:
    """A regular expression for a line of output that the page shows; "..." and measured numbers may be anything."""
    return "^" + ".*".join(map(re.escape, re.split(r"\.\.\.|-?\d+\.\d+(?!:)", line)))


def install(folder: Path, smallest: bool = False) -> Path:
    """Write the package in a folder, install it, and return the folder of installed packages.

    smallest: only the page's first method, as its first section has it.
    """
    shown = slice(1) if smallest else slice(None)
    source, site = folder / "my-methods", folder / "site"
    source.mkdir(parents=True)
    (source / "my_methods.py").write_text("\n\n".join(blocks("python")[shown]))
    (source / "pyproject.toml").write_text("".join(blocks("toml")[shown]))  # the second adds lines to the first
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return site
