"""What the penalty and an evaluation cost on the device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.gpu_run.plan import EVALUATION
from benchmarks.gpu_run.settings import Settings
from benchmarks.speed.evaluation import evaluation
from benchmarks.speed.penalty import penalty_costs


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Return the table of an evaluation, or of the penalty for "GENERATOR; N classes", as plain data."""
    if name == EVALUATION:
        images, measured, real = (64, 8, 32) if settings.small else (50_000, 2048, 10_000)
        return asdict(evaluation(images, measured, real, 10, settings.device, against_prdc=False))
    generator, _, classes = name.partition("; ")
    rounds = 1 if settings.small else 30
    return asdict(penalty_costs(settings.device, rounds, [generator], [int(classes.split()[0])]))
