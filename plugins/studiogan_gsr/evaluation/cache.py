"""Results that take long to compute, kept under a digest of everything that determines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from studiogan_gsr.evaluation.features import Sample
from studiogan_gsr.files import locked, write_atomically, written_atomically

# Features of reference images, and what trained classifiers recognise.
FOLDER = Path.home() / ".cache" / "studiogan-gsr" / "references"
CLASSIFIERS = Path.home() / ".cache" / "studiogan-gsr" / "classifiers"


def cached(terms: Mapping[str, Any], make: Callable[[], Sample], folder: Path | None = None) -> tuple[Sample, str]:
    """Return the sample for these terms, from the cache or newly made, and the digest of the terms.

    terms: everything that determines the sample, as plain data.
    """
    digest = _digest(terms)
    path = (folder or FOLDER) / f"{digest}.pt"
    if (sample := _kept(path)) is not None:
        return sample, digest
    path.parent.mkdir(parents=True, exist_ok=True)
    # Runs that start together need the same features: the first computes them.
    with locked(path.with_suffix(".lock"), "another process that computes the same features"):
        if (sample := _kept(path)) is None:
            sample = make()
            with written_atomically(path) as partial:
                torch.save({name: getattr(sample, name) for name in ("features", "logits", "labels")}, partial)
    return sample, digest


def _kept(path: Path) -> Sample | None:
    """Return the sample in a file; None if the file is missing or damaged."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        return Sample(kept["features"], kept["logits"], kept["labels"])
    except Exception:
        return None


def find_numbers(terms: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what `keep_numbers` kept for these terms; None if there is nothing, or if the file is damaged."""
    try:
        found = json.loads((CLASSIFIERS / f"{_digest(terms)}.json").read_text())
        return dict(found["numbers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_numbers(terms: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Keep numbers, as plain data, for these terms; the terms are in the file, too."""
    CLASSIFIERS.mkdir(parents=True, exist_ok=True)
    content = {"terms": dict(terms), "numbers": dict(numbers)}
    write_atomically(CLASSIFIERS / f"{_digest(terms)}.json", json.dumps(content, indent=1) + "\n")


def _digest(terms: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(terms), sort_keys=True).encode()).hexdigest()
