"""LeCam's averages in the discriminator's file, where StudioGAN's own LeCam and this package's both find them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from studiogan_gsr.errors import CheckpointError
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.regularizers.lecam import UNSEEN, LeCam

FILE_KEY = "lecam_emas"
_NAMES = ("D_real", "D_fake")  # StudioGAN's


def averages_of(regularization: Regularization | None) -> dict[str, float]:
    """Return the averages of a run's LeCam, {StudioGAN's name: average}; {} without LeCam or with `released`."""
    for method in [] if regularization is None else regularization.methods:
        if isinstance(method.regularizer, LeCam) and not method.regularizer.options.released:
            return dict(zip(_NAMES, method.regularizer.averages.tolist(), strict=True))
    return {}


def states_of(discriminator: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the state of `lecam` with the averages in a discriminator's file, as a list; empty if it has none.

    Raises CheckpointError, which names `path`, for averages that are not finite numbers.
    """
    averages = discriminator.get(FILE_KEY) or {}
    values = [_number(averages.get(name, UNSEEN), name, path) for name in _NAMES]
    if UNSEEN in values:
        return []
    return [{"name": "lecam", "state": {"averages": torch.tensor(values, dtype=torch.float64)}}]


def _number(value: Any, name: str, path: Path) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of this host or of StudioGAN: LeCam's average {name} is {type(value).__name__}"
        ) from error
    if not math.isfinite(number):
        raise CheckpointError(f"{path}: LeCam's average {name} is {number}")
    return number
