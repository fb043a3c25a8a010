"""Read the numbers of a print interval from the device, with one wait for all of them.

Whoever has something to read returns it from `pending()`, as tensors in nested dicts and lists, without waiting.  The
host collects what is pending, calls `read` once, and gives each its own part of the numbers, to be checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def read(pending: Any) -> Any:
    """Return a copy of nested dicts and lists with a float for each scalar tensor, and a list for each vector.

    The tensors of one device are copied together, as float64, in which float32 and bool are exact.  Other values are
    returned as they are: numbers, and errors for a check to raise.
    """
    by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for tensor in _tensors(pending):
        by_device[tensor.device].append(tensor)
    numbers = {device: iter(_joined(tensors).tolist()) for device, tensors in by_device.items()}

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        if not isinstance(value, Tensor):
            return value
        found = [next(numbers[value.device]) for _ in range(value.numel())]
        return found if value.ndim else found[0]

    return replaced(pending)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])
