"""The machine, and the speed of its matrix products and its memory."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_run.plan import BFLOAT16, COPY, TF32
from benchmarks.gpu_run.settings import Settings
from benchmarks.paths import BENCHMARKS
from benchmarks.speed.penalty import wait_for
from benchmarks.tables.records import git_state
from studiogan_gsr.machine import choose_device, cores, device_name

_SMI = ("driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")
_TIMES = 10


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Return facts by name; for a precision, TFLOP/s of a matrix product; for `COPY`, GB/s read and written."""
    if name == "machine":
        return machine(choose_device(settings.device))
    if name == COPY:
        return {"gigabytes_per_second": bandwidth(settings.device, 2**22 if settings.small else 2**30)}
    size = 256 if settings.small else 8192
    return {"size": size, "teraflops": product(settings.device, name, size)}


def machine(device: str) -> dict[str, Any]:
    """Return what is known of the device and of the software, as text or numbers."""
    found: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__}
    found |= {"Python": platform.python_version(), "cores": cores(), "commit": git_state(BENCHMARKS)["commit"]}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"memory, GB": round(card.total_memory / 1e9, 1), "multiprocessors": card.multi_processor_count}
        found |= {"compute capability": f"{card.major}.{card.minor}", "CUDA": torch.version.cuda}
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"cuDNN": cudnn, "nvidia-smi": nvidia_smi()}
    return found


def nvidia_smi() -> str:
    """Return a line for each card with driver, memory, clocks and power limit; or why there is none."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"not available: {error}"
    return "; ".join(done.stdout.splitlines())


def set_precision(name: str) -> torch.dtype:
    """Let convolutions of float32 use TF32 unless the name is float32; return the dtype.

    As by default in training, matrix products do not use it.
    """
    torch.backends.cudnn.allow_tf32 = name in (TF32, BFLOAT16)
    return torch.bfloat16 if name == BFLOAT16 else torch.float32


def product(device: str, precision: str, size: int) -> float:
    """Return the TFLOP/s of a product of two random square matrices."""
    dtype = set_precision(precision)
    torch.backends.cuda.matmul.allow_tf32 = precision == TF32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(a)
    return 2 * size**3 / _seconds(lambda: torch.mm(a, b, out=result), device) / 1e12


def bandwidth(device: str, size: int) -> float:
    """Return the GB/s of a copy of `size` bytes within the device's memory, read and written bytes together."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device) / 1e9


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the median seconds of `_TIMES` calls, after three."""
    taken = []
    for _ in range(3 + _TIMES):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])
