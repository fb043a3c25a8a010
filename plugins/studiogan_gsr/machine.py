"""What this machine has, and what records say of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

_PACKAGES = ("studiogan-gsr", "torch", "torchvision", "numpy", "pillow")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name(kind: str) -> str:
    """Of the device that this process uses, a CPU with the threads that PyTorch uses; kind: "cuda" or "cpu"."""
    import torch  # slow to import, and not needed to prepare data

    if kind == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Python's and those of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
