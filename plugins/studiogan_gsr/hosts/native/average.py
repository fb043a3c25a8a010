"""The averaged generator: an exponential moving average of the generator, which StudioGAN calls G_ema."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn


class AveragedGenerator:
    """Parameters and float buffers are averaged; integer buffers are copied.

    network: the average, at first a copy of `generator`.  The tensors of both networks must stay the same objects.
    start: the first step, counted from 0, in which `decay` is used; before it the average is the generator itself.
    """

    def __init__(self, generator: nn.Module, decay: float, start: int) -> None:
        self.network = copy.deepcopy(generator)
        self._decay, self._start = decay, start
        current, average = _tensors(generator), _tensors(self.network)
        self._floats = [[t for t in tensors if t.is_floating_point()] for tensors in (average, current)]
        self._integers = [[t for t in tensors if not t.is_floating_point()] for tensors in (average, current)]

    def decay(self, step: int) -> float:
        """Return the decay in a step: 0 before `start`."""
        return self._decay if step >= self._start else 0.0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the generator, in place."""
        average, current = self._floats
        # Round the decay to the tensors' precision before the subtraction, as lerp(current, average, decay) does.
        rounded = np.array(self.decay(step), dtype=str(average[0].dtype).removeprefix("torch.")).item()
        torch._foreach_lerp_(average, current, 1 - rounded)
        if self._integers[0]:
            average, current = self._integers
            torch._foreach_copy_(average, current)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
