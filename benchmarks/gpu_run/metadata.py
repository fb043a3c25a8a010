"""Entry points of this repository for a machine where it is not installed."""

from __future__ import annotations

import ast
from pathlib import Path


def write_metadata(setup: Path, folder: Path) -> None:
    """Write the metadata that an installation would make, by which the plug-ins are found, into a folder.

    setup: the package's setup.py, which is read and not run: setuptools may be missing.
    folder: to be put on the import path.
    """
    calls = [node for node in ast.walk(ast.parse(setup.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    (call,) = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "setup")
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    name, version, groups = (ast.literal_eval(values[key]) for key in ("name", "version", "entry_points"))
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [line for group, entries in groups.items() for line in (f"[{group}]", *entries)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
