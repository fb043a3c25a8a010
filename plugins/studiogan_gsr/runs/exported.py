"""The files of an exported generator, and how they are read back.

generator.safetensors   the state dict
config.yaml             the configuration's sections
export.json             classes, step, seed, regularizers, versions, digests: what run.json and the checkpoint had
README.md, samples.png  the model card and its picture, which nothing reads
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from studiogan_gsr.errors import CheckpointError, reason

WEIGHTS, CONFIGURATION, RECORD, CARD, SAMPLES = (
    "generator.safetensors",
    "config.yaml",
    "export.json",
    "README.md",
    "samples.png",
)
FORMAT = 1
_KEYS = {"step": int, "averaged": bool, "checkpoint_rule": str, "weights_sha256": str, "data": dict}


@dataclass(frozen=True)
class Exported:
    """An exported generator.  state: its state dict, on the CPU.  record: the content of export.json."""

    state: dict[str, Tensor]
    record: dict[str, Any]


def is_exported(path: Path) -> bool:
    """Return whether a folder holds an exported generator, or parts of one."""
    return (path / RECORD).is_file() or (path / WEIGHTS).is_file()


def read_exported(folder: Path) -> Exported:
    """Read an exported generator.

    Raises CheckpointError for missing, damaged or foreign files, and for weights other than those exported.
    """
    if missing := [name for name in (WEIGHTS, CONFIGURATION, RECORD) if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder}: found an exported generator without {', '.join(missing)}; copy all its files"
        )
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged, or not of an exported generator: {reason(error)[:200]}") from error
    if version != FORMAT:
        raise CheckpointError(f"{path}: found format {version!r}; this version of studiogan-gsr reads {FORMAT}")
    if wrong := [key for key, kind in _KEYS.items() if not isinstance(record.get(key), kind)]:
        raise CheckpointError(f"{path}: damaged: {wrong[0]} is {record.get(wrong[0])!r}")
    return Exported(_read_weights(folder / WEIGHTS, record["weights_sha256"]), record)


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: found a pointer of Git LFS, not the file; `git lfs pull` downloads it")
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise CheckpointError(
            f"{path}: damaged, or not the weights that {RECORD} describes: SHA-256 {found[:12]}, expected "
            f"{digest[:12]}"
        )
    try:
        return load(content)
    except Exception as error:
        raise CheckpointError(f"{path}: not a safetensors file: {reason(error)[:200]}") from error
