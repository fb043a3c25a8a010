"""Resuming from a checkpoint of this host or of StudioGAN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from studiogan_gsr.errors import CheckpointError
from studiogan_gsr.hosts.checkpoint_files import (
    STATE_KEY,
    check_architecture,
    checkpoint_files,
    networks_of,
    read_file,
)
from studiogan_gsr.hosts.native.checkpoint import NATIVE
from studiogan_gsr.hosts.native.losses import LeCam, ReleasedLeCam
from studiogan_gsr.hosts.native.training import Trainer

_FOREIGN = "not a checkpoint of this host or of StudioGAN"


@dataclass(frozen=True)
class Saved:
    """A checkpoint's files as they were read; nothing has been restored from them.

    paths, files: of "G", "D" and, where it was asked for, "G_ema".
    native: what this host writes beside them; None for a checkpoint of StudioGAN.
    """

    paths: dict[str, Path]
    files: dict[str, dict[str, Any]]
    native: dict[str, Any] | None

    @property
    def folder(self) -> Path:
        return self.paths["G"].parent

    @property
    def step(self) -> int:
        return int(self.files["D"]["step"])

    @property
    def seed(self) -> int | None:
        """The seed of the run that saved it; None where it is not known."""
        seed = self.files["D"].get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else None


@dataclass(frozen=True)
class Restored:
    """Where a run resumes: step, batches drawn, seconds trained; and messages about what could not be restored."""

    step: int
    drawn: int
    elapsed: float
    messages: tuple[str, ...]
    folder: Path | None


def load_checkpoint(trainer: Trainer, path: Path) -> Restored:
    """`read_checkpoint` and `restore` in one."""
    return restore(trainer, read_checkpoint(path, averaged=trainer.averaged is not None))


def read_checkpoint(path: Path, averaged: bool) -> Saved:
    """Read the files of a checkpoint of this host or of StudioGAN, as `checkpoint_files` finds it.

    averaged: whether the averaged generator belongs to it.  Raises CheckpointError for a missing or damaged file.
    """
    paths = checkpoint_files(path, networks_of(averaged))
    files = {name: read_file(path) for name, path in paths.items()}
    own = paths["G"].with_name(NATIVE)
    native = read_file(own) if own.is_file() else None
    if native is not None and not {"noise", "drawn", "elapsed", "ada_signs"} <= set(native):
        raise CheckpointError(f"{own}: {_FOREIGN}")
    for name, file in files.items():
        if not isinstance(file.get("state_dict"), dict) or (name == "D" and not isinstance(file.get("step"), int)):
            raise CheckpointError(f"{paths[name]}: {_FOREIGN}")
    if native is not None and native.get("step") != files["D"]["step"]:  # another program has saved there since
        native = None
    return Saved(paths, files, native)


def restore(trainer: Trainer, saved: Saved, new_noise: bool = False) -> Restored:
    """Restore everything, on every rank.

    new_noise: where the run has another seed than the checkpoint's.
    CheckpointError for networks of another architecture; PluginError where the regularizer refuses its state.  The
    networks, their optimizers and all that moves with them are untouched then.
    """
    networks = {"G": trainer.generator, "D": trainer.discriminator, "G_ema": trainer.averaged}
    restored = {name: network for name, network in networks.items() if network is not None}
    classes = trainer.configuration.DATA.num_classes
    for name, network in restored.items():
        check_architecture(network, saved.files[name]["state_dict"], saved.paths[name], classes)
    optimizers = {"G": trainer.g_optimizer, "D": trainer.d_optimizer}
    moments = {
        name: _optimizer_state(optimizer, saved.files[name].get("optimizer"), saved.paths[name])
        for name, optimizer in optimizers.items()
    }
    d_file, native, rank = saved.files["D"], saved.native, dist.get_rank() if dist.is_initialized() else 0
    averages, messages = _lecam_averages(trainer, d_file, native, rank, saved.paths["D"])
    noise, noise_message = _noise(trainer, native, rank, new_noise)
    strength = None
    if trainer.ada is not None and d_file.get("aa_p", "N/A") != "N/A":
        strength = _number(d_file["aa_p"], "aa_p", saved.paths["D"])
    held = saved.files["G"].get(STATE_KEY)
    if trainer.regularization is not None:
        messages.append(trainer.regularization.restore(held, str(saved.folder)))
    elif held is not None:
        messages.append(f"the checkpoint holds the state of {held['name']}, and this run has no regularizer")
    # From here on nothing is refused.
    for name, network in restored.items():
        network.load_state_dict(saved.files[name]["state_dict"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(moments[name])
    trainer.norms.restore(saved.files["G"])
    trainer.steps = saved.step
    if trainer.lecam is not None and averages is not None:
        trainer.lecam.averages.copy_(averages)
        if isinstance(trainer.lecam, LeCam):
            trainer.lecam.begins = LeCam.UNSEEN in averages.tolist()
    if trainer.ada is not None and strength is not None:
        trainer.ada.p.fill_(strength)
    if noise is None:
        trainer.noise.manual_seed(trainer.noise.initial_seed() + trainer.steps)
    else:
        trainer.noise.set_state(noise)
    if trainer.ada is not None and native is not None and len(native["ada_signs"] or ()) == trainer.ranks:
        trainer.ada.signs.copy_(native["ada_signs"][rank])
    optimization = trainer.configuration.OPTIMIZATION
    drawn = trainer.steps * optimization.d_updates_per_step * optimization.acml_steps
    drawn, elapsed = (drawn, 0.0) if native is None else (native["drawn"], native["elapsed"])
    messages += [noise_message] if noise_message else []
    return Restored(trainer.steps, drawn, elapsed, tuple(messages), saved.folder)


def _noise(
    trainer: Trainer, native: dict[str, Any] | None, rank: int, new_noise: bool
) -> tuple[torch.Tensor | None, str]:
    """The state of the noise generator, or None where noise has to start anew, and the message that says so."""
    if native is None:
        return None, "a checkpoint of StudioGAN: noise and the order of images start anew"
    if new_noise:
        return None, "another seed than the checkpoint's: noise and the order of images start anew"
    if len(native["noise"]) != trainer.ranks:
        ranks = f"saved by {len(native['noise'])} ranks, resumed by {trainer.ranks}"
        return None, f"{ranks}: their noise starts anew"
    state = native["noise"][rank]
    here = trainer.device.type
    there = native.get("device", here)
    if there != here or state.shape != trainer.noise.get_state().shape:  # checkpoints of old do not say their device
        there = there if there != here else "another device"
        return None, f"saved on {there}, resumed on {here}: noise starts anew, as their generators differ"
    return state, ""


def _lecam_averages(
    trainer: Trainer, d_file: dict[str, Any], native: dict[str, Any] | None, rank: int, path: Path
) -> tuple[torch.Tensor | None, list[str]]:
    """LeCam's averages, where the run has LeCam and the checkpoint its averages; and what is missing, in words."""
    if isinstance(trainer.lecam, ReleasedLeCam):
        slots = (native or {}).get("lecam_slots") or []
        if len(slots) == trainer.ranks and slots[rank].shape == trainer.lecam.averages.shape:
            return slots[rank], []
        return None, ["the checkpoint holds no averages of the released LeCam for this batch: they start at 0"]
    if trainer.lecam is None:
        return None, []
    saved = d_file.get("lecam_emas") or {}
    values = [_number(saved.get(key, LeCam.UNSEEN), f"LeCam's average {key}", path) for key in ("D_real", "D_fake")]
    unseen = LeCam.UNSEEN in values
    message = ["the checkpoint holds no LeCam averages: they begin with the next logits"] if unseen else []
    return torch.tensor(values, dtype=torch.float64), message


def _number(value: Any, what: str, path: Path) -> float:
    """A checkpoint's number, plain or a tensor; CheckpointError where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {_FOREIGN}: {what} is {type(value).__name__}") from error
    if not math.isfinite(number):
        raise CheckpointError(f"{path}: {what} is {number}")
    return number


def _optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    """What the optimizer is to load: moments from the file; rates and switches from the configuration."""
    if state is None:
        raise CheckpointError(f"{path}: holds no optimizer; it can be sampled from, not trained on")
    theirs, ours = state["param_groups"], optimizer.param_groups
    if [_kind(group) for group in theirs] != [_kind(group) for group in ours]:
        raise CheckpointError(f"{path}: another kind of optimizer than {type(optimizer).__name__}")
    parameters = [p for group in ours for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for key, value in state["state"].get(number, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                there, here = tuple(value.shape), tuple(parameter.shape)
                raise CheckpointError(f"{path}: {key} of parameter {number} is {there} there and {here} here")
    groups = [{**t, **o, "params": t["params"]} for t, o in zip(theirs, ours, strict=True)]
    return {**state, "param_groups": groups}


def _kind(group: dict[str, Any]) -> tuple[int, list[str]]:
    """How many parameters there are, and what tells Adam, SGD and RMSprop apart."""
    return len(group["params"]), [key for key in ("betas", "nesterov", "alpha") if key in group]
