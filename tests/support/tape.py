"""CUDA graphs without a GPU: record the operations of a function on the CPU, and repeat them on the same memory.

Like a CUDA graph, a tape repeats what reached the device and runs no Python code of the function again: Python values
are frozen, and tensors stay where they were.  What cannot be part of a graph, such as reading a value, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# Operations that read values, themselves or on a GPU.
_READS = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::_linalg_svd", "aten::_linalg_eigh"}
# Arguments that an operation writes to although its schema does not say so: the running statistics.
_WRITES = {"aten::native_batch_norm": (3, 4)}


class Tapes:
    """Does on the CPU what `CudaGraphs` does on a GPU.  captured: the number of captures."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self.generators = [*generators, torch.default_generator]
        self.captured = 0

    def warm_up(self, function: Callable[[], None]) -> None:
        function()

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        states = [generator.get_state() for generator in self.generators]
        with _Recording() as recording:
            function()
        recording.undo()
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return recording.replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._own: set[int] = set()  # storages that were made while recording
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in _READS:
            raise RuntimeError(f"{func} in a capture")
        hidden = [args[i] for i in _WRITES.get(func._schema.name, ()) if args[i] is not None]
        for tensor in [*_written(func, args, kwargs), *hidden]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own and id(tensor) not in self._before:
                self._before[id(tensor)] = (tensor, tensor.detach().clone())
        made = func(*args, **kwargs)
        if func._schema.name.startswith("profiler::"):
            return made
        if not func.is_view:
            given = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)}
            self._own |= {t.untyped_storage().data_ptr() for t in _tensors(made)} - given
            self._operations.append((func, args, kwargs, made))
        return made

    def undo(self) -> None:
        """Give all tensors the values that they had before the recording."""
        with torch.no_grad():
            for tensor, value in reversed(self._before.values()):  # views of one tensor overlap
                tensor.copy_(value)

    def leave_out(self, written: Tensor) -> None:
        """Forget the operations on a tensor."""
        self._operations = [entry for entry in self._operations if not any(t is written for t in entry[1])]

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._operations:
            again = func(*args, **kwargs)
            if not _written(func, args, kwargs):
                for old, new in zip(_tensors(made), _tensors(again), strict=True):
                    old.copy_(new)


def _tensors(value: Any) -> list[Tensor]:
    return [part for part in tree_flatten(value)[0] if isinstance(part, Tensor)]


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that an operation writes to."""
    written = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            written += _tensors(value)
    return written
