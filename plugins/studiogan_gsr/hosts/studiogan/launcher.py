"""Run an unchanged StudioGAN with the plug-ins, in this process and in every rank that it spawns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.studiogan import process, shims
from studiogan_gsr.hosts.studiogan.checkout import find_checkout, find_function, missing_module
from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu
from studiogan_gsr.machine import choose_device
from studiogan_gsr.progress import console
from studiogan_gsr.shipped import shipped_configuration

_CONFIG_FLAGS = ("-cfg", "--cfg_file")
_CONFIG_EQUALS = tuple(f"{flag}=" for flag in _CONFIG_FLAGS)
_LOAD_WORKER = ["local_rank", "cfgs", "gpus_per_node", "run_name", "hdf5_path"]


@dataclass(frozen=True)
class Setup:
    """The settings that prepare a process for StudioGAN; plain data, which is pickled for spawned ranks.

    source: the folder of StudioGAN's modules.  device: "cpu" or "cuda".
    processes: number of processes that a -DDP run starts on the CPU.  skipped_shims: names of shims to leave out.
    """

    source: Path
    device: str
    processes: int
    skipped_shims: tuple[str, ...]

    def prepare(self) -> Callable[..., Any]:
        """Set up import path, devices, shims and hooks; return StudioGAN's own `load_worker`."""
        # No __pycache__ in the checkout, from this process or its children.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        if str(self.source) not in sys.path:
            sys.path.insert(0, str(self.source))
        if self.device == "cpu":
            redirect_devices_to_cpu(self.processes)
        process.prepare(self.skipped_shims)
        _, _, load_worker = find_function("loader", "load_worker", _LOAD_WORKER)
        return load_worker


class RankEntry:
    """A function that StudioGAN calls or spawns in place of its own `load_worker`.

    Unpickling a RankEntry prepares the process.  In the pickle it must come before the arguments, because they refer
    to StudioGAN's modules, which need the import path and the shims.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.load_worker = setup.prepare()

    def __reduce__(self) -> tuple[type[RankEntry], tuple[Setup]]:
        return RankEntry, (self.setup,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load_worker(*args, **kwargs)


def run(
    root: str | None,
    arguments: Sequence[str],
    device: str | None = None,
    processes: int = 1,
    skipped_shims: Sequence[str] = (),
) -> None:
    """Run StudioGAN's `main.py` with these arguments.

    `-cfg` also takes the name of a shipped configuration, such as CIFAR10_LT/SNGAN-gSR.

    root: the checkout; None means `default_root()`.  device: "cpu", "cuda", or None for CUDA if it is available.
    processes: number of processes that a -DDP run starts on the CPU.  skipped_shims: names of shims to leave out.
    """
    checkout = find_checkout(root)
    shims.check_names(skipped_shims)
    arguments = _with_shipped_configurations(arguments)
    device = choose_device(device)
    if device == "cpu":
        _check_without_cuda(arguments)
    if processes > 1 and device != "cpu":
        raise RequestError("--ranks is for --device cpu; with CUDA, a -DDP run has one rank per device")
    if isinstance(getattr(sys.modules.get("loader"), "load_worker", None), RankEntry):
        raise RequestError("StudioGAN has already run in this process; start a new process")
    setup = Setup(source=checkout.source, device=device, processes=processes, skipped_shims=tuple(skipped_shims))
    entry = RankEntry(setup)
    import_module("loader").load_worker = entry  # type: ignore[attr-defined]
    sys.argv = [str(checkout.main), *arguments]
    # Not runpy: spawned ranks would import the file that __main__ names, but they need only the entry above.
    code = compile(checkout.main.read_bytes(), str(checkout.main), "exec")
    try:
        exec(code, {"__name__": "__main__", "__file__": str(checkout.main)})
    except ModuleNotFoundError as error:
        raise missing_module("StudioGAN", error) from error


def _check_without_cuda(arguments: Sequence[str]) -> None:
    """Print which of StudioGAN's arguments have no effect on the CPU; raise RequestError for one that fails there."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    if not {"-mpc", "--mixed_precision"}.isdisjoint(words):
        console().print("-mpc: StudioGAN's mixed precision needs CUDA; on the CPU the run computes in float32")
    ranked = not {"-DDP", "--distributed_data_parallel"}.isdisjoint(words)
    backend = next((value for flag, value in pairwise(words) if flag == "--backend"), "nccl")
    if ranked and backend == "nccl":
        raise RequestError("--backend: found nccl, StudioGAN's default, which needs CUDA; on the CPU: --backend gloo")


def _with_shipped_configurations(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the names of shipped configurations replaced by their paths."""
    replaced = [part for a in arguments for part in (a.split("=", 1) if a.startswith(_CONFIG_EQUALS) else [a])]
    for i, (flag, value) in enumerate(pairwise(list(replaced)), start=1):
        if flag in _CONFIG_FLAGS and not Path(value).is_file():
            replaced[i] = str(shipped_configuration(value))
    return replaced
