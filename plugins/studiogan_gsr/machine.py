"""What this machine has, what it cannot do, and how records describe it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from studiogan_gsr.errors import RequestError

if TYPE_CHECKING:
    import torch

_PACKAGES = ("studiogan-gsr", "torch", "torchvision", "numpy", "pillow")
# Linux lists control groups, CPU instructions and free memory here.
_MEMBERSHIP, _CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_CPU, _MEMORY = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # the last one is ARM's
# A control group's memory limit, use and reclaimable page cache, for control groups of version 2 and version 1.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cores() -> int:
    """Return how many processor cores this process may use, by its affinity and its container's quota."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        try:
            if (folder / "cpu.max").is_file():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                number = min(number, max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
    return number


def most_threads() -> int:
    """Return PyTorch's number of threads, but at most one per core unless OMP_NUM_THREADS is set."""
    import torch  # slow to import, and not needed to prepare data

    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, cores())


def share_of_cores(processes: int) -> int:
    """Return how many threads each of several processes side by side should use; OMP_NUM_THREADS overrides it."""
    return most_threads() if "OMP_NUM_THREADS" in os.environ else max(1, cores() // processes)


def free_memory() -> int:
    """Return the bytes of memory that this process may still use, within its container's limit."""
    try:
        lines = (line.split() for line in _MEMORY.read_text().splitlines())
        free = next(1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:")
    except (OSError, StopIteration):
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    for folder in _control_groups("memory"):
        for limit, use, cache in _MEMORY_FILES:
            try:
                most, used = (int((folder / name).read_text()) for name in (limit, use))
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, max(0, most - used + int(statistics[cache])))
            except (OSError, ValueError, KeyError):  # not there, or "max": no limit
                continue
    return free


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups, version 1 or 2, that limit this process, innermost first.

    controller: "cpu" or "memory".
    """
    for line in _MEMBERSHIP.read_text().splitlines() if _MEMBERSHIP.is_file() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mount = _CONTROL_GROUPS
        elif controller in controllers.split(","):
            mount = _CONTROL_GROUPS / controller
        else:
            continue
        inner = mount / path.lstrip("/")  # missing in containers where the mount itself is this process's group
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(mount))


def bfloat16_instructions() -> bool:
    """Return whether this CPU has bfloat16 instructions that PyTorch uses.

    Without them PyTorch converts at every operation, which is slower than float32.
    """
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return False
    # PyTorch reports bfloat16 support for any CPU with AVX-512, so check the CPU's own list of instructions.
    return not _CPU.is_file() or not _BFLOAT16.isdisjoint(_CPU.read_text().split())


def instruction_set() -> str:
    """Return the CPU's vector instructions that PyTorch uses, such as "AVX2, no bfloat16" or "AVX512, bfloat16"."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability}, {'' if bfloat16_instructions() else 'no '}bfloat16"


def device_name(kind: str) -> str:
    """Return the name of the GPU, or the number of threads, architecture and instruction set of the CPU.

    kind: "cuda" or "cpu".
    """
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''} ({platform.machine()}, {instruction_set()})"


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def arithmetic(device: torch.device) -> dict[str, str]:
    """Return what float32 rounding depends on: the kind of device and, on CUDA, whether TF32 is used."""
    import torch

    if device.type != "cuda":
        return {"device": device.type}
    convolutions = "tf32" if torch.backends.cudnn.allow_tf32 else "float32"
    return {"device": "cuda", "convolutions": convolutions, "products": torch.get_float32_matmul_precision()}


def choose_device(given: str | None) -> str:
    """Return the given device, "cuda" or "cpu"; for None, CUDA if it is available.

    Raises RequestError for "cuda" if there is no CUDA device, or if torchrun started more ranks than devices.
    """
    import torch

    if given is None:
        given = "cuda" if torch.cuda.is_available() else "cpu"
    if given == "cuda":
        if not torch.cuda.is_available():
            raise RequestError("--device cuda: found no CUDA device; --device cpu runs on the CPU")
        ranks, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if ranks > devices:
            raise RequestError(
                f"torchrun --nproc-per-node: found {ranks} ranks for {devices} CUDA devices; allowed: up to "
                f"{devices}; OPTIMIZATION.acml_steps trains a larger batch on fewer devices"
            )
    return given


def _gpu_has_bfloat16() -> bool:
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)


def shortcomings(precision: str, workers: int | None, device: torch.device, threads: int | None = None) -> list[str]:
    """Return one warning for each option that this machine runs slowly or cannot follow.

    precision: "float32" or "bfloat16".  workers, threads: from the command line, None if not given.
    """
    lines = []
    remedy = "--precision float32 is faster here"
    if precision == "bfloat16" and device.type == "cpu" and not bfloat16_instructions():
        lines.append(
            f"--precision bfloat16: this CPU ({instruction_set()}) has no instructions for it, and steps take longer "
            f"than in float32 (in one measurement 11 times as long): {remedy}"
        )
    if precision == "bfloat16" and device.type == "cuda" and not _gpu_has_bfloat16():
        lines.append(f"--precision bfloat16: {device_name('cuda')} has no instructions for it: {remedy}")
    if workers is not None and workers > cores():
        lines.append(f"--workers {workers}: this process may use {cores()} cores, so at most {cores()} are started")
    if threads is not None and threads > cores():
        lines.append(f"--threads {threads}: this process may use {cores()} cores; more threads than cores are slower")
    return lines
