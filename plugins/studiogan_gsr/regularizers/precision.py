"""The precision in which losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or float64: squares and sums of half precision overflow."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
