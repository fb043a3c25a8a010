"""The options of `studiogan-gsr train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.commandline import count, option, positive, switch
from studiogan_gsr.datasets.resizers import RESIZERS
from studiogan_gsr.evaluation.choices import SELECT_ON

_MEASURING = "evaluation while training; the best checkpoint is kept in addition to the newest two"
_SPEED = "speed; none of these changes what is computed, except for rounding"
VIEWERS = ("tensorboard", "wandb", "none")
SWITCHES = ("precision", "channels_last", "folded", "fused", "graphs", "compiled")  # fields of `training.Speed`


@dataclass(frozen=True)
class TrainOptions:
    """Options of `studiogan-gsr train`.

    None means not given: a resumed run keeps its value, and a new run takes the default of `Start`.

    resume: True to resume the run in `out`; a path to start a new run in `out` from another run or checkpoint.
    Not on the command line:
    reference_images: the most reference images to measure against while training; None: all.
    label: the start of every progress line.
    lines: the most progress lines to print when the output is no terminal; None: one per print interval; 0: none.
    """

    data: str = option(None, "folder of the data set; downloads go there, too", metavar="DIR", required=True)
    out: Path = option(None, "folder of the run", kind=Path, metavar="DIR", required=True)
    steps: int | None = option(
        None, "the step to train to, counting those before --resume; default: OPTIMIZATION.total_steps", kind=positive
    )
    device: str | None = option(None, "device to train on; default: cuda if it is available", choices=["cpu", "cuda"])
    seed: int | None = option(
        None, "seed of all random numbers; default: 0, or that of the run or checkpoint to resume from", kind=count
    )
    resume: bool | Path = option(
        False,
        "resume the run in --out with its own options, except for those given here; or start a new run there from "
        "another run's newest checkpoint, a checkpoint's folder or one of its files, this program's or StudioGAN's; "
        "default: a new run from random weights",
        kind=Path,
        metavar="RUN|CHECKPOINT",
        value_if_bare=True,
    )
    allow_changed_images: bool = switch(
        False, "resume although images were added, removed or renamed since the last start; run.json records it"
    )
    print_freq: int | None = option(None, "steps between log lines (default: 100)", kind=positive)
    save_freq: int | None = option(None, "steps between checkpoints (default: 2000)", kind=positive)
    log: str | None = option(
        None,
        "what shows scalars and sample grids, in addition to log.jsonl; wandb is offline without a login (default: "
        "tensorboard)",
        choices=VIEWERS,
    )
    resizer: str | None = option(
        None, "filter that resizes images to DATA.img_size (default: wo_resize, none)", choices=RESIZERS
    )
    workers: int | None = option(None, "processes that read images (default: 4)", kind=count)
    stream: bool | None = switch(
        None, "read images while training; --no-stream: read all before; default: --no-stream if they fit in memory"
    )
    evaluate: int | None = option(
        None,
        "whenever a checkpoint is saved, generate this many images and measure their Frechet distance; default: do "
        "not measure, or 10,000 images if no number is given",
        kind=positive,
        metavar="IMAGES",
        value_if_bare=10_000,
        group=_MEASURING,
    )
    select_on: str | None = option(
        None,
        "real images that the best checkpoint is selected on; validation: half of the reference, so that the other "
        "half can measure it; reference: all of it, as in the paper (default: validation)",
        choices=SELECT_ON,
        group=_MEASURING,
    )
    backbone: str | None = option(
        None,
        "the network that measures images; default: inception if it is available, else effnetlite0",
        metavar="NAME",
        group=_MEASURING,
    )
    precision: str | None = option(
        None,
        "number format of the networks' computations (default: float32)",
        choices=["float32", "bfloat16"],
        group=_SPEED,
    )
    channels_last: bool | None = switch(None, "use channels-last memory format; default: on", group=_SPEED)
    folded: bool | None = switch(
        None, "resample inside convolutions, not before and after them; default: on", flag="--fold", group=_SPEED
    )
    fused: bool | None = switch(None, "use the fused Adam; default: on", group=_SPEED)
    graphs: bool | None = switch(
        None, "replay steps as CUDA graphs, on one GPU; default: off, because no GPU has run them yet", group=_SPEED
    )
    compiled: bool | None = switch(
        None,
        "compile both networks with torch.compile, which takes minutes at every start; default: off",
        flag="--compile",
        group=_SPEED,
    )
    threads: int | None = option(
        None,
        "PyTorch's threads in each process; default: on a CPU, the fastest of a few steps, so two runs may round "
        "differently, or OMP_NUM_THREADS if it is set",
        kind=positive,
        group=_SPEED,
    )
    reference_images: int | None = None
    label: str = "training"
    lines: int | None = None

    @property
    def resumes(self) -> bool:
        """Whether to resume the run in `out`: `resume` is True, or the path of `out` itself."""
        return self.resume is True or (isinstance(self.resume, Path) and self.resume.resolve() == self.out.resolve())

    @property
    def checkpoint(self) -> Path | None:
        """The run or checkpoint that a new run starts from; None if there is none."""
        return self.resume if isinstance(self.resume, Path) and not self.resumes else None

    @property
    def in_memory(self) -> bool | None:
        """Whether to read all images before training; None: not given."""
        return None if self.stream is None else not self.stream

    @property
    def speed(self) -> dict[str, Any]:
        """The given switches of `training.Speed`, by name."""
        return {name: getattr(self, name) for name in SWITCHES if getattr(self, name) is not None}
