"""StudioGAN on a machine without CUDA.

StudioGAN passes its rank (an integer) or the string "cuda" as a device.  This module makes both mean the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _DevicesAreCPU(TorchFunctionMode):
    """Replaces CUDA devices with the CPU in the arguments of torch functions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = (args[0], *map(_on_cpu, args[1:]))
        if kwargs and "device" in kwargs:
            kwargs = {**kwargs, "device": _on_cpu(kwargs["device"])}
        return func(*args, **(kwargs or {}))


def redirect_devices_to_cpu(processes: int = 1) -> None:
    """Make every CUDA device mean the CPU, until this process ends.  Call it in the thread that runs StudioGAN.

    processes: what torch.cuda.device_count() returns; `-DDP` starts one process per device.
    """
    _DevicesAreCPU().__enter__()  # type: ignore[no-untyped-call]
    torch.cuda.current_device = lambda: 0
    torch.cuda.device_count = lambda: processes
    torch.cuda.set_device = lambda device: None
    torch.cuda.get_device_name = lambda device=None: "CPU"
    module_to = nn.Module.to
    nn.Module.to = lambda self, *args, **kwargs: module_to(  # type: ignore[method-assign]
        self, *map(_on_cpu, args), **{k: _on_cpu(v) if k == "device" else v for k, v in kwargs.items()}
    )
    nn.Module.cuda = lambda self, device=None: self  # type: ignore[method-assign]
    ddp_init = nn.parallel.DistributedDataParallel.__init__

    def init_without_devices(self: Any, module: nn.Module, *_: Any, **kwargs: Any) -> None:
        ddp_init(self, module, **{k: v for k, v in kwargs.items() if k not in ("device_ids", "output_device")})

    nn.parallel.DistributedDataParallel.__init__ = init_without_devices  # type: ignore[method-assign]


def _on_cpu(device: Any) -> Any:
    """Return the CPU for anything that names a CUDA device, and anything else unchanged."""
    if isinstance(device, torch.device):
        is_cuda = device.type == "cuda"
    elif isinstance(device, str):
        is_cuda = device.startswith("cuda")
    else:
        is_cuda = isinstance(device, int) and not isinstance(device, bool)
    return torch.device("cpu") if is_cuda else device
