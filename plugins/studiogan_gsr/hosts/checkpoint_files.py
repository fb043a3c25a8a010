"""The files of a checkpoint; both hosts name them as StudioGAN does.

A name such as model=G-current-weights-step=2000.pth gives the network ("G", "D", or "G_ema", the averaged generator),
the kind of checkpoint ("current" or "best"), and the step.  A checkpoint is complete if all its networks have a file
of the same step.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from studiogan_gsr.errors import CheckpointError, reason

# The key of the regularizer's state in the generator's file.
STATE_KEY = "regularizer"
RANKS_KEY = "regularizers_of_ranks"  # each rank's own states, in a run of several ranks
# An environment variable for training in StudioGAN: a folder to keep the generators of all saved steps in.
KEEP_VARIABLE = "STUDIOGAN_KEEP"
_FILE = re.compile(r"model=(G|D|G_ema)-(current|best)-weights-step=(\d+)\.pth")


def file_name(network: str, when: str, step: int) -> str:
    """Return the name of a network's file."""
    return f"model={network}-{when}-weights-step={step}.pth"


def networks_of(averaged: bool) -> list[str]:
    """Return the networks of a complete checkpoint.  averaged: whether there is an averaged generator."""
    return ["G", "D", "G_ema"] if averaged else ["G", "D"]


def network_files(folder: Path) -> dict[tuple[str, str, int], Path]:
    """Return the files of a folder by network, "current" or "best", and step."""
    found = ((_FILE.fullmatch(path.name), path) for path in folder.glob("model=*.pth"))
    return {(match[1], match[2], int(match[3])): path for match, path in found if match}


def saved_steps(folder: Path, when: str, networks: Sequence[str]) -> dict[str, set[int]]:
    """Return the steps of each network's files; when: "current" or "best"."""
    found = [(network, step) for network, saved, step in network_files(folder) if saved == when]
    return {network: {step for model, step in found if model == network} for network in networks}


def whole_steps(folder: Path, when: str, networks: Sequence[str]) -> set[int]:
    """Return the steps for which every network has a file; an interrupted save writes only some of them."""
    return set.intersection(*saved_steps(folder, when, networks).values())


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the checkpoints (`step=N` folders) in `folder`, lowest step first."""
    found = [(re.fullmatch(r"step=(\d+)", path.name), path) for path in folder.glob("step=*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def checkpoint_files(path: Path, networks: Sequence[str]) -> dict[str, Path]:
    """Return the files of these networks, by network, of the newest step for which all have one.

    Files of a "current" checkpoint come before those of a "best" one.
    path: the folder of a run or a checkpoint, or one of a checkpoint's files, written by this package or StudioGAN.
        Of a run, only the newest checkpoint's folder is searched.
    Raises CheckpointError, which says what was found, if there is no such checkpoint.
    """
    folder, only = path, None
    if path.is_file():
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise CheckpointError(
                f"{path}: not a file of a checkpoint; give the folder of a run or a checkpoint, or one of "
                "a checkpoint's files model=G-current-weights-step=*.pth"
            )
        folder, only = path.parent, (match[2], int(match[3]))
    elif not list(path.glob("model=*.pth")):
        folder = _newest(path)
    found = network_files(folder)
    for when in ("current", "best"):
        steps = [step for step in whole_steps(folder, when, networks) if only in (None, (when, step))]
        if steps:
            return {network: found[network, when, max(steps)] for network in networks}
    for network in networks:
        network_file(folder, network)  # raises the error for a network without any file
    there = ", ".join(f"{name} of step {step}" for name, _, step in sorted(found))
    expected = f"{only[0]} checkpoint of step {only[1]}" if only else "step"
    raise CheckpointError(f"{folder}: no {expected} has all of {', '.join(networks)}; found {there}")


def _newest(run: Path) -> Path:
    """Return the folder of a run's newest checkpoint, or `run` itself if it holds none."""
    if saved := checkpoints(run / "checkpoints"):
        return saved[-1][1]
    return studiogan_checkpoint(run) or run


def studiogan_checkpoints(save: Path) -> list[Path]:
    """Return the checkpoint folders of the runs in a folder that StudioGAN's -save names, the newest run last."""
    folders = {file.parent for file in (save / "checkpoints").glob("*/model=G-*.pth")}
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder))


def studiogan_checkpoint(save: Path) -> Path | None:
    """Return the checkpoint folder of the only run in a folder that StudioGAN's -save names; None if there is none.

    Raises CheckpointError, which lists them, if there are several.
    """
    found = studiogan_checkpoints(save)
    if len(found) > 1:
        raise CheckpointError(
            f"{save}: found {len(found)} runs of StudioGAN; name the checkpoints of one of them instead, oldest "
            f"first: {' or '.join(shlex.quote(str(folder)) for folder in found)}"
        )
    return found[0] if found else None


def network_file(folder: Path, name: str) -> Path:
    """Return the file of a network ("G", "D", "G_ema") in a checkpoint's folder."""
    for when in ("current", "best"):
        found = {step_of(path): path for path in folder.glob(f"model={name}-{when}-weights-step=*.pth")}
        if found:
            return found[max(found)]
    there = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else "no such folder"
    raise CheckpointError(f"{folder}: no file model={name}-current-weights-step=*.pth; found {there or 'nothing'}")


def step_of(path: Path) -> int:
    """Return the step in the name of a network's file; -1 if there is none."""
    number = path.stem.rpartition("=")[2]
    return int(number) if number.isdecimal() else -1


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's file, tensors on the CPU; raise CheckpointError if it is damaged.

    Only tensors and plain data are loaded: no code in the file is run.
    """
    # StudioGAN's files hold numpy numbers, such as the best FID.
    core: Any = np._core if hasattr(np, "_core") else np.core
    numpy_numbers = [core.multiarray.scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    try:
        with torch.serialization.safe_globals(numpy_numbers):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(removed(path)) from error
    except Exception as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {reason(error)[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {type(content).__name__}; a checkpoint holds a mapping")
    return content


def removed(path: Path) -> str:
    """Return the message about a file that was there a moment ago."""
    return (
        f"{path}: was removed while it was read; a run that still trains replaces its checkpoints: start the command "
        "again"
    )


def check_architecture(network: nn.Module, state: dict[str, Any], path: Path, num_classes: int | None = None) -> None:
    """Raise CheckpointError if names or shapes in a state dict differ from the network's.

    num_classes: DATA.num_classes; with it, the error says if only the number of classes differs.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    differ = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if not differ:
        return
    # Do all shapes differ in the same dimension size, and is the expected size the number of classes?
    pairs = [zip(found.get(name, ()), expected.get(name, ()), strict=False) for name in differ]
    sizes = {(there, here) for pair in pairs for there, here in pair if there != here}
    if found.keys() == expected.keys() and len(sizes) == 1 and (classes := sizes.copy().pop())[1] == num_classes:
        raise CheckpointError(
            f"{path}: the checkpoint has {classes[0]} classes, but DATA.num_classes is {num_classes}; "
            "class-conditional weights cannot be transferred: train from scratch, or on the checkpoint's classes"
        )
    name = differ[0]
    here, there = (str(shapes.get(name, "missing")) for shapes in (expected, found))
    raise CheckpointError(
        f"{path}: another architecture: {name} is {there} in the checkpoint and {here} in this configuration "
        f"({len(differ)} of {len(expected)} tensors differ)"
    )
