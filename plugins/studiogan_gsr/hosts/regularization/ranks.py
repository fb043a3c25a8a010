"""What the ranks of a run check together: that all of them are regularized in the same way."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.method import NETWORKS, Method

# Relative tolerance between the penalties of two ranks: with equal weights they differ only by the devices' rounding.
_SAME_PENALTY = 1e-5
# What ranks compare for each regularizer: plug-in with options and class counts, active updates, calls, penalty.
_Told = tuple[str, int, tuple[int, ...], float]


def check_ranks(regularization: Regularization | None, step: int) -> int:
    """Check that all ranks are regularized in the same way; return the number of ranks.

    Every rank calls this after the same step; step 0 means before the first.
    Raises RegularizerError, on every rank, if a rank has other regularizers than rank 0, if one was active in another
    number of updates, or if its penalty differs: weights are equal on all ranks, so penalties must be.
    """
    if not dist.is_available() or not dist.is_initialized():
        return 1
    mine = [] if regularization is None else [_told(method) for method in regularization.methods]
    when = f"step {step}" if step else "before the first step"
    everyone: list[list[_Told]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        _compare(everyone[0], theirs, rank, when)
    return len(everyone)


def states_of_ranks(regularization: Regularization) -> list[list[dict[str, Any]]]:
    """Return the states of every rank, for a checkpoint; empty in a run of one rank.  Every rank calls this."""
    if not regularization.methods or not dist.is_available() or not dist.is_initialized():
        return []
    states: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(states, regularization.state())
    return states


def _told(method: Method) -> _Told:
    calls = tuple(number for network in NETWORKS for number in method.calls(network).values())
    # Until the first optimizer step, the penalty may be that of the trial, when ranks may have had different weights.
    return method.terms_of_use, method.active, calls, method.penalty if method.active_here else 0.0


def _compare(first: list[_Told], other: list[_Told], rank: int, when: str) -> None:
    """Raise RegularizerError if a rank is regularized differently from rank 0."""
    if len(first) != len(other):
        counts = f"rank 0 has {_number(first)}, rank {rank} has {_number(other)}"
        raise RegularizerError(
            f"{when}: {counts}; the run is stopped: compare package, patch and configuration of the two"
        )
    for ours, theirs in zip(first, other, strict=True):
        # `report` raises the error for a penalty that is not finite.
        same = math.isclose(ours[3], theirs[3], rel_tol=_SAME_PENALTY) or not math.isfinite(ours[3] + theirs[3])
        if ours[:3] != theirs[:3] or not same:
            parts = zip(("", "active updates ", "calls ", "penalty "), ours, theirs, strict=True)
            found = "; ".join(f"{what}{a} and {b}" for what, a, b in parts if a != b)
            raise RegularizerError(
                f"{when}: rank 0 and rank {rank} are regularized differently: {found}; the run is stopped"
            )


def _number(told: list[_Told]) -> str:
    return {0: "no regularizer", 1: "one regularizer"}.get(len(told), f"{len(told)} regularizers")


@torch.no_grad()
def synchronise_ranks(regularization: Regularization | None, generator: nn.Module) -> None:
    """Check that all ranks are regularized in the same way, and copy rank 0's buffers to all ranks.

    Every rank calls this before the first step.
    DDP averages the gradients of the loss, but not those of the penalty, which each rank computes itself.  They are
    equal if the penalty reads equal parameters and buffers.  Parameters are equal, but each rank draws its own
    vectors for spectral norm.  Once copied, the vectors stay equal, because they depend on the weights alone.
    """
    if check_ranks(regularization, 0) == 1 or regularization is None or not regularization.methods:
        return
    for buffer in generator.buffers():
        shared = buffer.contiguous()
        dist.broadcast(shared, 0)
        buffer.copy_(shared)
