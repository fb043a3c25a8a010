"""The state that the hooks of one process share, and how they print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from studiogan_gsr.hosts.class_norms import ClassNorms
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.studiogan.types import Configurations, StudioGANDataset
from studiogan_gsr.progress import waiting
from studiogan_gsr.settings import SECTION, RegularizerSettings, regularizer_section, regularizer_settings


@dataclass
class Update:
    """The updates of one network in one training step, while StudioGAN makes them.

    step: training steps completed before this one.
    real: (images, labels) of the real batches whose loss has not been computed yet.
    generating: while a batch is generated, what it will update: a network, or "path_length"; None otherwise.
    z, labels, images, w: of the last generated batch.
    """

    network: str
    step: int
    real: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    generating: str | None = None
    z: Tensor | None = None
    labels: Tensor | None = None
    images: Tensor | None = None
    w: Tensor | None = None


class HookedRun:
    """StudioGAN's run in this process; attributes are None, False or empty until a hook sets them.

    training_set: the images to train on.  generator: the one that is trained.  optimizer: the generator's.
    regularization: the regularizers; None without REGULARIZER.  update: None outside of updates.
    own_methods: names of the regularizers that StudioGAN itself applies in this run: "lecam" or none.
    states_of_ranks: the regularizers' states on every rank, for the next checkpoint; empty in a run of one rank.
    norms: the classes' norms, on rank 0 only.  first_numbers: what the first line of log.jsonl has in addition.
    adaptive: whether the run trains with ADA or APA.  step_to_load: the step of the checkpoint that is being loaded.
    ranks_checked: whether all ranks have been compared.
    began: the first step of this process, and when it began (seconds since 1970).
    lock: held on the checkpoint folder until the process ends.  origin: folder and step of the resumed checkpoint.
    """

    def __init__(self) -> None:
        self.training_set: StudioGANDataset = None
        self.generator: nn.Module | None = None
        self.norms: ClassNorms | None = None
        self.first_numbers: dict[str, float] = {}
        self.regularization: Regularization | None = None
        self.update: Update | None = None
        self.own_methods: set[str] = set()
        self.states_of_ranks: list[list[dict[str, Any]]] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.step_to_load: int | None = None
        self.adaptive = False
        self.ranks_checked = False
        self.began: tuple[int, float] | None = None
        self.lock: FileLock | None = None
        self.origin: tuple[Path, int] | None = None

    @contextmanager
    def updating(self, network: str, step: int) -> Iterator[None]:
        """Set `update` to the updates of a network in a step inside the `with` block.

        In the first step of this process, it prints a line every 20 s until the block ends, on rank 0.
        """
        self.update = Update(network, step)
        first = (self.began is None or self.began[0] == step) and own_rank() == 0
        try:
            with waiting(f"first updates of the {network}", say) if first else nullcontext():
                yield
        finally:
            self.update = None


# The key under which StudioGAN's section REGULARIZER holds a list.
_LIST = "list"


def write_settings(cfgs: Configurations, settings: Sequence[RegularizerSettings]) -> None:
    """Make REGULARIZER a section of StudioGAN: it is printed with the others and reaches spawned ranks."""
    content = regularizer_section(settings)
    section = type(cfgs.DATA)()
    vars(section).update({_LIST: content} if isinstance(content, list) else content)
    cfgs.super_cfgs[SECTION] = section


def settings_of(cfgs: Configurations) -> tuple[RegularizerSettings, ...]:
    """Return the settings under REGULARIZER; () if there is no such section."""
    section = cfgs.super_cfgs.get(SECTION)
    if section is None:
        return ()
    content = dict(vars(section))
    return regularizer_settings({SECTION: content if "name" in content else content[_LIST]})


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
