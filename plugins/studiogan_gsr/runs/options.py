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

    config: str | None = option(None, "configuration of a checkpoint without a run's records", metavar="CONFIG")
    data: str | None = option(None, "folder of the images; default: as in training", metavar="DIR")
    backbone: str | None = option(
        None, "default: inception, or effnetlite0 if its weights are not available", metavar="NAME"
    )
    images: int = option(50_000, "generated images per repeat (50,000)", kind=positive)
    repeats: int = option(3, "evaluations, each with its own seed (3)", kind=positive)
    seed: int = option(0, "seed of the first repeat (0)", kind=count)
    split: str | None = option(
        None,
        "real images: the reference, one of its halves (validation, test), or the training images; default: "
        "reference, or test if the best checkpoint was selected on validation",
        choices=SPLITS,
    )
    batch_size: int | None = option(None, "images per batch; default: OPTIMIZATION.batch_size", kind=positive)
    batch_norm: str = option(
        "batch",
        "batch-norm statistics: of each batch (as in the paper; the default), of training, or recomputed",
        choices=BATCH_NORM,
    )
    averaged: bool | None = switch(None, "measure the averaged generator; default: if there is one", flag="--ema")
    best: bool = switch(False, "measure the run's best checkpoint instead of the last")
    resizer: str | None = option(None, "how real images are resized; default: as in training", choices=RESIZERS)
    neighbours: int = option(5, "k of precision, recall, density and coverage (5)", kind=positive)
    lpips: bool | None = switch(
        None,
        "measure LPIPS within classes with the package lpips; default: if it and its weights are available",
    )
    device: str | None = option(None, "default: cuda if it is available", choices=["cpu", "cuda"])
    out: Path | None = option(None, "default: a file in the run's evaluations/", kind=Path, metavar="FILE")
