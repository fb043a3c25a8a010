"""Features of reference images, kept under a digest of everything that determines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from studiogan_gsr.evaluation.features import Sample
from studiogan_gsr.files import written_atomically

FOLDER = Path.home() / ".cache" / "studiogan-gsr" / "references"


def cached(terms: Mapping[str, Any], make: Callable[[], Sample], folder: Path | None = None) -> tuple[Sample, str]:
    """Return the sample for these terms, from the cache or newly made, and the digest of the terms.

    terms: everything that determines the sample, as plain data.
    """
    digest = hashlib.sha256(json.dumps(dict(terms), sort_keys=True).encode()).hexdigest()
    path = (folder or FOLDER) / f"{digest}.pt"
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        return Sample(kept["features"], kept["logits"], kept["labels"]), digest
    except Exception:  # missing or damaged
        sample = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        torch.save({name: getattr(sample, name) for name in ("features", "logits", "labels")}, partial)
    return sample, digest
