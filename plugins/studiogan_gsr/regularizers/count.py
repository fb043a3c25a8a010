"""Count what happens on a device, also when a CUDA graph repeats it without running any Python."""

from __future__ import annotations

import torch
from torch import Tensor


class Count:
    """The number of calls, counted twice: in Python, which costs no waiting, and on the device, which is the proof.

    A replayed CUDA graph counts on the device only, so whoever replays it adds its calls with `repeat`.  If both
    numbers are equal, the graph contains the calls.

    number: counted in Python.  on_device: the same number, scalar int64; None before the first call.
    """

    def __init__(self) -> None:
        self.number = 0
        self.on_device: Tensor | None = None

    def add(self, device: torch.device) -> None:
        """Count a call whose results are on `device`."""
        if self.on_device is None:
            self.on_device = torch.zeros((), dtype=torch.int64, device=device)
        self.on_device.add_(1)
        self.number += 1

    def repeat(self, number: int) -> None:
        """Count calls that a replayed CUDA graph makes."""
        self.number += number
