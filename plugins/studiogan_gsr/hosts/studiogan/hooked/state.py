"""The state that the hooks of one process share, and how they print."""

from __future__ import annotations

from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from studiogan_gsr.hosts.class_norms import ClassNorms
from studiogan_gsr.hosts.regularization import Regularization
from studiogan_gsr.hosts.studiogan.types import Configurations, StudioGANDataset
from studiogan_gsr.settings import SECTION, RegularizerSettings, regularizer_settings


class HookedRun:
    """StudioGAN's run in this process; attributes are None or False until a hook sets them.

    training_set: the images to train on.  generator: the one that is trained.  optimizer: the generator's optimizer.
    regularization: attached to the optimizer; None without REGULARIZER.
    norms: the spectral norms of the classes, on rank 0 only.
    adaptive: whether the run trains with ADA or APA.  step_to_load: the step of the checkpoint that is being loaded.
    ranks_checked: whether all ranks have been compared.
    began: the first step of this process, and when it began (seconds since 1970).
    lock: held on the checkpoint folder until the process ends.  origin: folder and step of the resumed checkpoint.
    """

    def __init__(self) -> None:
        self.training_set: StudioGANDataset = None
        self.generator: nn.Module | None = None
        self.norms: ClassNorms | None = None
        self.regularization: Regularization | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.step_to_load: int | None = None
        self.adaptive = False
        self.ranks_checked = False
        self.began: tuple[int, float] | None = None
        self.lock: FileLock | None = None
        self.origin: tuple[Path, int] | None = None


def settings_of(cfgs: Configurations) -> RegularizerSettings | None:
    """Return the settings under REGULARIZER; None if there is no such section."""
    section = cfgs.super_cfgs.get(SECTION)
    return None if section is None else regularizer_settings({SECTION: dict(vars(section))})


def number_of_ranks() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def own_rank() -> int:
    """Return the rank of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def say(message: str) -> None:
    """Print a message with the rank of this process."""
    # Message and newline in one write, because ranks share their output.
    print(f"[studiogan-gsr] rank {own_rank()}: {message}\n", end="", flush=True)
