"""Count the operations that one training step of the native host dispatches; on a GPU each is a kernel or more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.hosts import new_trainer
from benchmarks.speed.part import Part
from studiogan_gsr.hosts.native import spectral_norm
from studiogan_gsr.hosts.native.training import Speed
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

RULE = (
    "Counted: the ATen operations of the second step, forward, backward and optimizers. Left out: views, "
    "_unsafe_view and allocations (names with `empty`), which compute nothing."
)
_BATCH = 2  # the number of operations does not depend on it


class OperationCounts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts ATen operations by name in `counts`, without views and allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        operation: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = operation.overloadpacket.__name__
        computes = not (operation.is_view or name == "_unsafe_view" or "empty" in name)
        if operation.namespace == "aten" and computes:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(sections: Mapping[str, Any], fused: bool) -> Counter[str]:
    """Return how often a step dispatches each operation, by RULE, of the configuration's sections.

    The step runs on the CPU, but groups weights as on a GPU.
    fused: use the fused Adam, one operation for all parameters; else the plain one, eight for each.
    """
    optimization = {**sections["OPTIMIZATION"], "batch_size": _BATCH}
    trainer = new_trainer({**sections, "OPTIMIZATION": optimization}, "cpu", Speed(fused=fused))
    counted = OperationCounts()
    with mock.patch.object(spectral_norm, "_groups", spectral_norm._of_one_shape):
        trainer.step()  # the first step also makes trials
        with counted:
            trainer.step()
    return counted.counts


def operations(configurations: Sequence[str]) -> Part:
    """Count the operations of a step of each configuration."""
    part = Part("Operations dispatched in a step of the native host")
    part.columns("configuration", "operations", "with the plain Adam", "the ten most frequent of the former")
    for name in configurations:
        sections = load_configuration(shipped_configuration(name))
        counts, plain = (operations_of_a_step(sections, fused) for fused in (True, False))
        frequent = ", ".join(f"{operation} {number}" for operation, number in counts.most_common(10))
        part.row(name, f"{counts.total():,}", f"{plain.total():,}", frequent)
        part.data[name] = {"fused": dict(counts), "plain": dict(plain)}
    part.note(RULE)
    part.note(
        f"On the CPU, {_BATCH} images a batch; weights of one shape are normalised together, as on a GPU. By "
        "default Adam is fused; the plain one updates one parameter at a time."
    )
    return part
