"""Replay a network's update as a CUDA graph: one launch in place of thousands.

A graph repeats the kernels of one run of the update, on the same memory, without running its Python code:

* Python values are frozen, so the update is captured again whenever one changes (its phase);
* batches are copied to where the graph reads them;
* random numbers go on, because their generators are registered with the graph;
* what counts, counts on the device: the optimizer its steps, and each regularizer its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from studiogan_gsr.errors import GSRError, TrainingError, reason

# Eager updates before the first capture: the optimizer makes its moments, and cuDNN chooses its algorithms.  Before
# each later capture there is one, for what a regularizer makes at the start of a phase.
WARM_UP = 3


class Recorder(Protocol):
    """What `CudaGraphs` does; tests can do the same without a GPU."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run a function as it will be captured."""
        ...

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record what a function does on the device, which does not happen now; return a function that does it."""
        ...


class CudaGraphs:
    """Captures CUDA graphs.  generators: of the random numbers that the captured functions draw."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators
        # Autograd accumulates gradients on the stream of their first use, so warm-up and capture share a stream.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, function: Callable[[], None]) -> None:
        """Run a function on the stream of the capture."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            function()
        torch.cuda.current_stream().wait_stream(self._stream)

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function's kernels; return a function that launches them.

        Raises TrainingError if CUDA cannot capture them.  The process can then not go on: it may still be capturing.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # thread_local: other threads, which read images, may allocate memory meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                function()
        except RuntimeError as error:
            cause = _first(error)
            if isinstance(cause, GSRError | torch.OutOfMemoryError):
                raise cause from error
            raise TrainingError(
                f"--graphs: an update cannot be captured: {reason(cause)}; --resume --no-graphs goes on without"
            ) from error
        return graph.replay


def _first(error: BaseException) -> BaseException:
    """Return the error that came first: ending an invalid capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return error


@dataclass(frozen=True)
class _Captured:
    """A captured update.  inputs: the tensors that it reads."""

    replay: Callable[[], None]
    inputs: list[Tensor]


class CapturedUpdate:
    """An update that is captured after some eager ones, and again whenever its phase changes.

    update: works on input tensors of constant shapes.
    phase: returns what the Python code of the next update depends on, as far as that can change.
    replayed: called when an update was made without running its Python code.
    """

    def __init__(
        self,
        update: Callable[[Sequence[Tensor]], None],
        phase: Callable[[], Hashable],
        replayed: Callable[[], None],
        recorder: Recorder,
    ) -> None:
        self._update, self._phase, self._replayed, self._recorder = update, phase, replayed, recorder
        self._last_phase: Hashable = None
        self._eager = WARM_UP  # eager updates left before the next capture
        self._captured: _Captured | None = None

    def __call__(self, inputs: Sequence[Tensor]) -> None:
        """Make one update."""
        phase = self._phase()
        if phase != self._last_phase:
            self._last_phase, self._eager = phase, max(1, self._eager)
            self._captured = None  # frees the old graph's memory before a new one takes its own
        if self._eager:
            self._eager -= 1
            self._recorder.warm_up(lambda: self._update(inputs))
        elif self._captured is None:
            own = [tensor.clone() for tensor in inputs]
            self._captured = _Captured(self._recorder.capture(lambda: self._update(own)), own)
            self._captured.replay()
        else:
            if inputs:
                torch._foreach_copy_(self._captured.inputs, list(inputs), non_blocking=True)
            self._captured.replay()
            self._replayed()
