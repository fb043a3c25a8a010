"""Checkpoints in StudioGAN's files: one folder a step, which is whole or not there.

    checkpoints/step=2000/model=G-current-weights-step=2000.pth    generator, its optimizer, the regularizer
                          model=D-...                              discriminator, its optimizer, step, LeCam, ADA
                          model=G_ema-...                          averaged generator, where there is one
                          native.pth                               what this host needs beside, to go on exactly

StudioGAN resumes from such a folder (`-ckpt`), and this host from StudioGAN's.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from studiogan_gsr.errors import CheckpointError, TrainingError, reason
from studiogan_gsr.hosts.native.losses import LeCam, ReleasedLeCam
from studiogan_gsr.hosts.native.training import Trainer

STATE_KEY = "regularizer"
_NATIVE = "native.pth"
_KEPT = 2
_PARTIAL = ".partial"
_FOREIGN = "not a checkpoint of this host or of StudioGAN"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in `folder`, oldest first."""
    found = [(re.fullmatch(r"step=(\d+)", path.name), path) for path in folder.glob("step=*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def save_checkpoint(
    trainer: Trainer, folder: Path, run_name: str, seed: int, elapsed: float, drawn: int, best: int | None = None
) -> Path:
    """Write all files, then give the folder its name; older ones but one, and that of step `best`, are removed.

    In data-parallel training every rank calls this, and rank 0 writes.  TrainingError where it cannot
    be written; what was there before is then untouched.
    """
    noise = _of_all_ranks(trainer.noise.get_state(), trainer.ranks)
    signs = None if trainer.ada is None else _of_all_ranks(trainer.ada.signs.cpu(), trainer.ranks)
    released = trainer.lecam.averages.cpu() if isinstance(trainer.lecam, ReleasedLeCam) else None
    slots = None if released is None else _of_all_ranks(released, trainer.ranks)
    target = folder / f"step={trainer.steps}"
    if dist.is_initialized() and dist.get_rank() != 0:
        return target
    partial = folder / f"{_PARTIAL}-step={trainer.steps}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, state in _states(trainer, run_name, seed).items():
            _write(state, partial / f"model={name}-current-weights-step={trainer.steps}.pth")
        native = {"step": trainer.steps, "drawn": drawn, "noise": noise, "ada_signs": signs, "elapsed": elapsed}
        native["lecam_slots"] = slots
        _write(native, partial / _NATIVE)
        _flush_folder(partial)
        if target.exists():  # written by a run that was resumed from an earlier step
            shutil.rmtree(target)
        partial.rename(target)
        _flush_folder(folder)
    except (OSError, RuntimeError) as error:
        # Where space runs out, torch.save says RuntimeError, of something else, while it handles the OSError.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        shutil.rmtree(partial, ignore_errors=True)
        older = checkpoints(folder)
        last = f"the last good one is {older[-1][1]}" if older else "there is no older one"
        raise TrainingError(
            f"the checkpoint of step {trainer.steps} cannot be written to {folder}: {reason(cause)}; {last}"
        ) from error
    remove_old(folder, best)
    return target


def remove_old(folder: Path, best: int | None) -> None:
    """All but the newest two, and that of step `best`."""
    for step, path in checkpoints(folder)[:-_KEPT]:
        if step != best:
            shutil.rmtree(path, ignore_errors=True)


def _states(trainer: Trainer, run_name: str, seed: int) -> dict[str, dict[str, Any]]:
    generator: dict[str, Any] = {
        "state_dict": trainer.generator.state_dict(),
        "optimizer": _plain(trainer.g_optimizer),
    }
    if trainer.regularization is not None:
        generator[STATE_KEY] = trainer.regularization.state()
    unseen = [LeCam.UNSEEN, LeCam.UNSEEN]
    real, fake = trainer.lecam.averages.tolist() if isinstance(trainer.lecam, LeCam) else unseen
    loss = trainer.configuration.LOSS
    discriminator = {
        "state_dict": trainer.discriminator.state_dict(),
        "optimizer": _plain(trainer.d_optimizer),
        "seed": seed,
        "run_name": run_name,
        "step": trainer.steps,
        "epoch": 0,
        "topk": trainer.configuration.OPTIMIZATION.batch_size,
        "aa_p": "N/A" if trainer.ada is None else float(trainer.ada.p),
        "best_step": 0,
        "best_fid": None,
        "best_fid_ckpt": None,
        "lecam_emas": {
            **dict.fromkeys(("G_loss", "D_loss_real", "D_loss_fake"), LeCam.UNSEEN),
            "D_real": real,
            "D_fake": fake,
            "decay": loss.lecam_ema_decay,
            "start_itr": loss.lecam_ema_start_iter,
        },
    }
    states = {"G": generator, "D": discriminator}
    if trainer.averaged is not None:
        states["G_ema"] = {"state_dict": trainer.averaged.state_dict()}
    return states


@dataclass(frozen=True)
class Restored:
    """Where a run goes on: step, batches drawn, seconds trained; and what there is to say about it."""

    step: int
    drawn: int
    elapsed: float
    messages: tuple[str, ...]
    folder: Path | None


def load_checkpoint(trainer: Trainer, folder: Path) -> Restored:
    """Restore everything from a checkpoint of this host or of StudioGAN, on every rank.

    CheckpointError for a missing or damaged file and for networks of another architecture; nothing is
    changed then.
    """
    names = ["G", "D", *(["G_ema"] if trainer.averaged is not None else [])]
    files = {name: read_file(network_file(folder, name)) for name in names}
    native = read_file(folder / _NATIVE) if (folder / _NATIVE).is_file() else None
    if native is not None and not {"noise", "drawn", "elapsed", "ada_signs"} <= set(native):
        raise CheckpointError(f"{folder / _NATIVE}: {_FOREIGN}")
    networks = {"G": trainer.generator, "D": trainer.discriminator, "G_ema": trainer.averaged}
    for name in names:
        network = networks[name]
        assert network is not None
        if not isinstance(files[name].get("state_dict"), dict) or (name == "D" and "step" not in files[name]):
            raise CheckpointError(f"{network_file(folder, name)}: {_FOREIGN}")
        check_architecture(network, files[name]["state_dict"], network_file(folder, name))
    g_file, d_file = files["G"], files["D"]
    g_state = _optimizer_state(trainer.g_optimizer, g_file.get("optimizer"), network_file(folder, "G"))
    d_state = _optimizer_state(trainer.d_optimizer, d_file.get("optimizer"), network_file(folder, "D"))
    for name in names:
        networks[name].load_state_dict(files[name]["state_dict"])  # type: ignore[union-attr]
    trainer.g_optimizer.load_state_dict(g_state)
    trainer.d_optimizer.load_state_dict(d_state)
    if trainer.ada is not None and d_file.get("aa_p", "N/A") != "N/A":
        trainer.ada.p.copy_(torch.as_tensor(d_file["aa_p"]))
    trainer.steps = int(d_file["step"])
    messages = []
    if isinstance(trainer.lecam, LeCam):
        averages = d_file.get("lecam_emas") or {}
        values = [averages.get(key, LeCam.UNSEEN) for key in ("D_real", "D_fake")]
        trainer.lecam.averages.copy_(torch.tensor(values, dtype=torch.float64))
        if LeCam.UNSEEN in values:
            trainer.lecam.begins = True
            messages.append("the checkpoint holds no LeCam averages: they begin with the next logits")
    saved = g_file.get(STATE_KEY)
    if trainer.regularization is not None:
        messages.append(trainer.regularization.restore(saved, str(folder)))
    elif saved is not None:
        messages.append(f"the checkpoint holds the state of {saved['name']}, and this run has no regularizer")
    optimization = trainer.configuration.OPTIMIZATION
    drawn = trainer.steps * optimization.d_updates_per_step * optimization.acml_steps
    rank = dist.get_rank() if dist.is_initialized() else 0
    if isinstance(trainer.lecam, ReleasedLeCam):
        slots = (native or {}).get("lecam_slots") or []
        if len(slots) == trainer.ranks and slots[rank].shape == trainer.lecam.averages.shape:
            trainer.lecam.averages.copy_(slots[rank])
        else:
            messages.append("the checkpoint holds no averages of the released LeCam for this batch: they start at 0")
    if native is None:
        messages.append("a checkpoint of StudioGAN: noise and the order of images start anew")
        trainer.noise.manual_seed(trainer.noise.initial_seed() + trainer.steps)
        return Restored(trainer.steps, drawn, 0.0, tuple(messages), folder)
    if len(native["noise"]) == trainer.ranks:
        trainer.noise.set_state(native["noise"][rank])
        if trainer.ada is not None and native["ada_signs"] is not None:
            trainer.ada.signs.copy_(native["ada_signs"][rank])
    else:
        messages.append(f"saved by {len(native['noise'])} ranks, resumed by {trainer.ranks}: their noise starts anew")
        trainer.noise.manual_seed(trainer.noise.initial_seed() + trainer.steps)
    return Restored(trainer.steps, native["drawn"], native["elapsed"], tuple(messages), folder)


def network_file(folder: Path, name: str) -> Path:
    """The file of a network ("G", "D", "G_ema") in a checkpoint's folder, StudioGAN's or ours."""
    for when in ("current", "best"):
        found = {step_of(path): path for path in folder.glob(f"model={name}-{when}-weights-step=*.pth")}
        if found:
            return found[max(found)]
    there = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else "no such folder"
    raise CheckpointError(f"{folder}: no file model={name}-current-weights-step=*.pth; found {there or 'nothing'}")


def step_of(path: Path) -> int:
    """The step in the name of a network's file; -1 where there is none."""
    number = path.stem.rpartition("=")[2]
    return int(number) if number.isdecimal() else -1


def read_file(path: Path) -> dict[str, Any]:
    """A checkpoint's file, tensors on the CPU; loaded safely.  CheckpointError where it is damaged."""
    # StudioGAN's files hold numpy numbers (the best FID).
    core: Any = np._core if hasattr(np, "_core") else np.core
    numpy_numbers = [core.multiarray.scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    try:
        with torch.serialization.safe_globals(numpy_numbers):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint: {reason(error)[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {type(content).__name__}, not a checkpoint's mapping")
    return content


def check_architecture(network: nn.Module, state: dict[str, Any], path: Path) -> None:
    """CheckpointError where a state dict's names or shapes are not the network's."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differ = [name for name in [*wanted, *found] if wanted.get(name) != found.get(name)]
    if not differ:
        return
    name = differ[0]
    here, there = (str(shapes.get(name, "missing")) for shapes in (wanted, found))
    raise CheckpointError(
        f"{path}: another architecture: {name} is {there} there and {here} in this configuration "
        f"({len(set(differ))} of {len(wanted)} tensors differ)"
    )


def _optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    """What the optimizer is to load: moments from the file; rates and switches from the configuration."""
    if state is None:
        raise CheckpointError(f"{path}: holds no optimizer; it can be sampled from, not trained on")
    theirs, ours = state["param_groups"], optimizer.param_groups
    if [_kind(group) for group in theirs] != [_kind(group) for group in ours]:
        raise CheckpointError(f"{path}: another kind of optimizer than {type(optimizer).__name__}")
    groups = [{**t, **o, "params": t["params"]} for t, o in zip(theirs, ours, strict=True)]
    return {**state, "param_groups": groups}


def _kind(group: dict[str, Any]) -> tuple[int, list[str]]:
    """How many parameters there are, and what tells Adam, SGD and RMSprop apart."""
    return len(group["params"]), [key for key in ("betas", "nesterov", "alpha") if key in group]


def _plain(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state without the switches that are this machine's, as StudioGAN writes it."""
    state = optimizer.state_dict()
    switches = dict.fromkeys(("fused", "foreach"), None)
    state["param_groups"] = [{**g, **{k: v for k, v in switches.items() if k in g}} for g in state["param_groups"]]
    return state


def _of_all_ranks(state: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    if ranks == 1:
        return [state]
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, state)
    return gathered


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a new name last through a loss of power."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
