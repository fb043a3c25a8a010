"""What the ranks of a run check together: that all of them are regularized in the same way."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.method import NETWORKS, Method

# Relative tolerance between the penalties of two ranks: with equal weights they differ only by the devices' rounding.
_SAME_PENALTY = 1e-5
_T = TypeVar("_T")


class _Report(NamedTuple):
    """What a rank tells the others about one regularizer.

    identity: plug-in, options and class counts.  active: updates in which it was active, over restarts.
    calls: of its roles in this process.  penalty: the last one; 0 before its first optimizer step.
    """

    identity: str
    active: int
    calls: tuple[int, ...]
    penalty: float


def check_ranks(regularization: Regularization | None, step: int) -> int:
    """Check that all ranks are regularized in the same way; return the number of ranks.

    Every rank calls this after the same step; step 0 means before the first.
    Raises RegularizerError, on every rank, if a rank has other regularizers than rank 0, if one was active in another
    number of updates, or if its penalty differs: weights are equal on all ranks, so penalties must be.
    """
    if not _several_ranks():
        return 1
    reports = _gathered([] if regularization is None else [_report(method) for method in regularization.methods])
    when = f"step {step}" if step else "before the first step"
    for rank, theirs in enumerate(reports):
        _compare(reports[0], theirs, rank, when)
    return len(reports)


def states_of_ranks(regularization: Regularization) -> list[list[dict[str, Any]]]:
    """Return the states of every rank, for a checkpoint; empty in a run of one rank.  Every rank calls this."""
    return _gathered(regularization.state()) if regularization.methods and _several_ranks() else []


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gathered(mine: list[_T]) -> list[list[_T]]:
    """Return the lists of all ranks; every rank calls this."""
    everyone: list[list[_T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return everyone


def _report(method: Method) -> _Report:
    return _Report(
        identity=method.identity,
        active=method.active,
        calls=tuple(number for network in NETWORKS for number in method.calls(network).values()),
        # Before the first optimizer step, the penalty is that of the trial, in which the ranks may have had
        # different weights.
        penalty=method.penalty if method.active_here else 0.0,
    )


def _compare(first: list[_Report], other: list[_Report], rank: int, when: str) -> None:
    """Raise RegularizerError if a rank is regularized differently from rank 0."""
    if len(first) != len(other):
        counts = f"rank 0 has {_counted(first)}, rank {rank} has {_counted(other)}"
        raise RegularizerError(
            f"{when}: {counts}; the run is stopped: compare package, patch and configuration of the two"
        )
    for ours, theirs in zip(first, other, strict=True):
        if not _agree(ours, theirs):
            parts = zip(("", "active updates ", "calls ", "penalty "), ours, theirs, strict=True)
            found = "; ".join(f"{what}{a} and {b}" for what, a, b in parts if a != b)
            raise RegularizerError(
                f"{when}: rank 0 and rank {rank} are regularized differently: {found}; the run is stopped"
            )


def _agree(one: _Report, other: _Report) -> bool:
    """Return whether two ranks report the same, but for the rounding of penalties."""
    # `Regularization.report` raises the error for a penalty that is not finite.
    finite = math.isfinite(one.penalty + other.penalty)
    same = math.isclose(one.penalty, other.penalty, rel_tol=_SAME_PENALTY)
    return one[:3] == other[:3] and (same or not finite)


def _counted(reports: list[_Report]) -> str:
    """Return the number of regularizers in words."""
    return {0: "no regularizer", 1: "one regularizer"}.get(len(reports), f"{len(reports)} regularizers")


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
