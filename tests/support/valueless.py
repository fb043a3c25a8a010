"""Devices whose tensors have no values, `meta` and a fake of CUDA: they show what would wait for a GPU.

Such a tensor cannot be read or copied to the CPU, and mixes with tensors of other devices in few operations.
`no_waits` refuses those few, too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from studiogan_gsr.hosts.native import augmentation

META = torch.device("meta")


class WaitError(AssertionError):
    """A step waits for the device, or makes a tensor in the wrong place."""


@contextmanager
def meta_device() -> Iterator[None]:
    """Let code that draws random numbers and uses autocast run on `meta`, which has no generators and no autocast."""
    with pytest.MonkeyPatch.context() as patch, _WithoutGenerators(), _MetaAutocast():
        patch.setattr(torch, "Generator", StandInGenerator)
        patch.setattr(torch, "autocast", _Autocast)
        yield


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let code run on fake tensors of the device `cuda`, without a GPU; autograd's backward pass needs a real one."""
    cached = {name: made for name, made in vars(augmentation).items() if hasattr(made, "cache_clear")}
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(), _WithoutGenerators():
        for name, made in cached.items():  # their caches would keep fake tensors
            patch.setattr(augmentation, name, functools.lru_cache(made.__wrapped__))
        # Without them, autocast finds no GPU and stays off.
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *given: True)
        yield


class StandInGenerator(torch.Generator):
    """A stand-in for the random generator of a device without values; it is left out of every call.

    On the CPU, a real generator.
    """

    device = META  # type: ignore[assignment]

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        return _Generator() if torch.device(device).type == "cpu" else super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self.device = torch.device(device)


_Generator = torch.Generator


class _WithoutGenerators(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = {name: value for name, value in (kwargs or {}).items() if not isinstance(value, StandInGenerator)}
        return function(*args, **named)


class _Autocast(torch.autocast):
    """Autocast that takes `meta` as the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


# What a step computes in bfloat16.
_REDUCED = (F.conv2d, F.conv_transpose2d, F.linear, F.scaled_dot_product_attention)


class _MetaAutocast(TorchFunctionMode):
    """Does autocast's work, which PyTorch does not do on `meta`."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _REDUCED and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            args = tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
        return function(*args, **(kwargs or {}))


class Trials(TorchFunctionMode):
    """Answers code that reads a tensor on `meta`, as if all its numbers were one.

    The trials before the first step and in it read what regularizers return, and wait for that.
    """

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tensor = args[0] if args and isinstance(args[0], Tensor) and args[0].is_meta else None
        if tensor is not None and function in _READ:
            return _READ[function](torch.ones(tensor.shape, dtype=tensor.dtype))
        return function(*args, **(kwargs or {}))


_READ = {
    Tensor.item: Tensor.item,
    Tensor.tolist: Tensor.tolist,
    Tensor.__bool__: bool,
    Tensor.__int__: int,
    Tensor.__float__: float,
    Tensor.cpu: Tensor.clone,
    torch.equal: lambda ones: True,
}


@contextmanager
def no_waits() -> Iterator[None]:
    """Raise WaitError for tensors on the CPU and for numbers that are copied to the device.

    Reading a tensor without values raises PyTorch's own errors.
    """
    with _NoCopies(), _NoTensorsOnCPU():
        yield


# Functions that may use tensors on the CPU: they do not wait for the device.
ALLOWED = {
    "_single_tensor_adam": "counts steps on the CPU, as Adam does unless it is fused or capturable",
    "_single_tensor_rmsprop": "counts steps on the CPU",
}


def _allowed() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in ALLOWED:
        frame = frame.f_back
    return frame is not None


class _NoTensorsOnCPU(TorchDispatchMode):
    """Refuses operations, backward included, that take or return a tensor on the CPU, of any shape."""

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        returned = operation(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, returned)) if isinstance(x, Tensor)]
        if any(tensor.is_cpu for tensor in tensors) and not _allowed():
            raise WaitError(f"{operation} of a tensor on the CPU")
        return returned


_COPIES = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class _NoCopies(TorchFunctionMode):
    """Refuses tensors made of Python numbers and indexing by lists: both copy from the CPU, and wait for that."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _COPIES and not _allowed():
            raise WaitError(f"{function.__name__} copies numbers to the device")
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(one, list | np.ndarray) for one in index):
                raise WaitError("indexing by a list copies it to the device")
        return function(*args, **(kwargs or {}))
