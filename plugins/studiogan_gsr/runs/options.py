"""Options of commands about trained generators; the defaults of evaluation are the paper's final protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studiogan_gsr.commandline import count, option, positive, repeatable, several, switch
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.evaluation.choices import BATCH_NORM, FORMATS, SPLITS
from studiogan_gsr.evaluation.protocols import PRESETS

PATH_HELP = "a run of either host, the folder of one of its checkpoints, or an exported generator"
PATHS_HELP = f"{PATH_HELP}; several are compared"


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `studiogan-gsr evaluate`."""

    config: str | None = option(
        None, "configuration of a checkpoint without a run's records; default: the run's", metavar="CONFIG"
    )
    data: str | None = option(None, "folder of the images; default: as in training", metavar="DIR")
    backbone: str | None = option(
        None,
        "network that measures images; default: inception, or effnetlite0 if its weights are not available",
        metavar="NAME",
    )
    protocol: str | None = option(
        None, f"measure as others did: {', '.join(PRESETS)}; other options win over it; default: none", metavar="NAME"
    )
    images: int | None = option(None, "generated images per repeat (default: 50,000)", kind=positive)
    repeats: int | None = option(None, "evaluations, each with its own seed (default: 3)", kind=positive)
    seed: int = option(0, "seed of the first repeat", kind=count)
    split: str | None = option(
        None,
        "real images: the reference, one of its halves (validation, test), the training images (train), or the whole "
        "balanced set that these were chosen from (full); default: reference, or test if the best checkpoint was "
        "selected on validation",
        choices=SPLITS,
    )
    groups: list[str] = repeatable(
        "also measure a group of classes, few=6,7,8,9 or few=70-99 or few=cat,dog; several: separated by ;, or "
        "with the option repeated; default: none, or those of --protocol",
        metavar="NAME=CLASSES",
        flag="--groups",
    )
    batch_size: int | None = option(None, "images per batch; default: OPTIMIZATION.batch_size", kind=positive)
    batch_norm: str | None = option(
        None,
        "batch-norm statistics: of each batch, as in the paper, of training (running), or recomputed (standing) "
        "(default: batch)",
        choices=BATCH_NORM,
    )
    averaged: bool | None = switch(None, "measure the averaged generator; default: if there is one", flag="--ema")
    best: bool = switch(False, "measure the run's best checkpoint instead of the last")
    resizer: str | None = option(None, "how real images are resized; default: as in training", choices=RESIZERS)
    neighbours: int | None = option(None, "k of precision, recall, density and coverage (default: 5)", kind=positive)
    lpips: bool | None = switch(
        None,
        "measure LPIPS within classes with the package lpips; default: if it and its weights are available",
    )
    device: str | None = option(
        None, "device to compute on; default: cuda if it is available", choices=["cpu", "cuda"]
    )
    out: Path | None = option(
        None, "file of the result; default: one in the run's evaluations/", kind=Path, metavar="FILE"
    )


@dataclass(frozen=True)
class GenerateOptions:
    """Options of `studiogan-gsr generate`."""

    out: Path = option(None, "a new folder for the images", kind=Path, metavar="DIR", required=True)
    images: int | None = option(None, "images of each class; default: 100", kind=positive, metavar="N")
    classes: list[str] | None = several("generate only these classes: names or labels; default: all", metavar="NAME")
    fill: int | None = option(
        None,
        "generate the images that each class lacks to be as large as the most frequent one, or to have N; default: "
        "as --images says",
        kind=positive,
        metavar="N",
        value_if_bare=-1,  # the most frequent class
    )
    with_real: bool = switch(
        False, "write the training images of these classes, too, so that DIR is a data set to train on"
    )
    format: str = option(
        "folder",
        "folder: DIR/<class>/000000.png; hdf5: DIR/train.hdf5 in StudioGAN's layout; npz: DIR/images.npz with arr_0 "
        "and labels",
        choices=FORMATS,
    )
    checkpoint: str = option("last", "the run's checkpoint: last, best, or a step", metavar="last|best|STEP")
    seed: int = option(0, "seed of the noise", kind=count)
    batch_norm: str = option(
        "running",
        "batch-norm statistics: of training (running), recomputed once (standing), or of each batch, as `evaluate` "
        "uses them; with the last, an image depends on the others of its batch",
        choices=BATCH_NORM,
    )
    truncation: float | None = option(
        None,
        "redraw noise beyond ± T: likelier, less diverse images; gaussian noise only; default: no truncation",
        kind=float,
        metavar="T",
    )
    batch_size: int | None = option(
        None, "images per batch; default: 32, or OPTIMIZATION.batch_size with --batch-norm batch", kind=positive
    )
    averaged: bool | None = switch(None, "use the averaged generator; default: if there is one", flag="--ema")
    config: str | None = option(
        None, "configuration of a checkpoint without a run's records; default: the run's", metavar="CONFIG"
    )
    data: str | None = option(None, "folder of the training images; default: as in training", metavar="DIR")
    resizer: str | None = option(None, "how training images are resized; default: as in training", choices=RESIZERS)
    device: str | None = option(
        None, "device to compute on; default: cuda if it is available", choices=["cpu", "cuda"]
    )


@dataclass(frozen=True)
class DownstreamOptions:
    """Options of `studiogan-gsr downstream`."""

    data: str | None = option(None, "folder of the images; default: as in training", metavar="DIR")
    updates: int = option(2000, "updates of each classifier", kind=positive)
    seeds: int = option(5, "classifiers of each way, each with its own seed", kind=positive)
    width: int = option(64, "channels of the classifier's first stage; ResNet-18 has 64", kind=positive)
    fill: int | None = option(
        None, "images per class after filling; default: as many as the largest class has", kind=positive, metavar="N"
    )
    flip: bool | None = switch(None, "mirror training images; default: as PRE.apply_rflip of the runs")
    checkpoint: str = option("last", "the run's checkpoint: last, best, or a step", metavar="last|best|STEP")
    batch_norm: str = option(
        "running",
        "batch-norm statistics of the generator: of training (running), recomputed (standing), or of each batch",
        choices=BATCH_NORM,
    )
    seed: int = option(0, "seed of the generated images", kind=count)
    device: str | None = option(
        None, "device to compute on; default: cuda if it is available", choices=["cpu", "cuda"]
    )
    threads: int | None = option(
        None, "PyTorch's threads; default: the fastest of a few updates", kind=positive, metavar="N"
    )
    out: Path | None = option(
        None, "file of the result; default: one in the run's downstream/", kind=Path, metavar="FILE"
    )


@dataclass(frozen=True)
class ExportOptions:
    """Options of `studiogan-gsr export`."""

    out: Path = option(None, "a new folder for the generator", kind=Path, metavar="DIR", required=True)
    checkpoint: str = option("last", "the run's checkpoint: last, best, or a step", metavar="last|best|STEP")
    averaged: bool | None = switch(None, "export the averaged generator; default: if there is one", flag="--ema")
    config: str | None = option(
        None, "configuration of a checkpoint without a run's records; default: the run's", metavar="CONFIG"
    )
