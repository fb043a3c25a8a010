"""Resuming from a checkpoint of this host or of StudioGAN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from studiogan_gsr.errors import CheckpointError
from studiogan_gsr.hosts.checkpoint_files import (
    check_architecture,
    checkpoint_files,
    networks_of,
    read_file,
)
from studiogan_gsr.hosts.native.checkpoint import NATIVE
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.regularization import lecam_averages
from studiogan_gsr.hosts.regularization.combined import saved_states

_FOREIGN = "not a checkpoint of this host or of StudioGAN"


@dataclass(frozen=True)
class Saved:
    """The files of a checkpoint, read but not restored yet.

    paths, files: by network: "G", "D" and, if the run has an averaged generator, "G_ema".
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
        """The seed of the run that saved the checkpoint; None if it is not known."""
        seed = self.files["D"].get("seed")
        return seed if isinstance(seed, int) and seed >= 0 else None


@dataclass(frozen=True)
class Restored:
    """Where a run resumes.

    drawn: batches drawn so far.  elapsed: seconds trained so far.  messages: what could not be restored.
    folder: the checkpoint's; None for a run from the beginning.
    """

    step: int
    drawn: int
    elapsed: float
    messages: tuple[str, ...]
    folder: Path | None


@dataclass(frozen=True)
class _Checked:
    """What remains to be loaded after all checks.

    optimizers: state dicts, by network.  ada_p: ADA's p.  noise: the state of the noise's RNG.
    None: not in the checkpoint, or not needed.
    """

    optimizers: dict[str, dict[str, Any]]
    ada_p: float | None
    noise: torch.Tensor | None
    messages: list[str]


def load_checkpoint(trainer: Trainer, path: Path) -> Restored:
    """Read a checkpoint and restore it."""
    return restore(trainer, read_checkpoint(path, averaged=trainer.averaged is not None))


def read_checkpoint(path: Path, averaged: bool) -> Saved:
    """Read the files of a checkpoint of this host or of StudioGAN; `checkpoint_files` finds them.

    averaged: whether the run has an averaged generator.  Raises CheckpointError for a missing or damaged file.
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
    if native is not None and native.get("step") != files["D"]["step"]:  # another program has since saved here
        native = None
    return Saved(paths, files, native)


def restore(trainer: Trainer, saved: Saved, new_noise: bool = False) -> Restored:
    """Restore everything, on every rank.

    new_noise: whether the seed of the run differs from the checkpoint's.
    Raises CheckpointError for networks of another architecture, another optimizer or malformed values, and
    PluginError if a regularizer refuses its state.  In these cases networks, optimizers and the trainer's other
    state are unchanged.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    checked = _check(trainer, saved, rank, new_noise)
    _load(trainer, saved, checked, rank)
    native = saved.native
    optimization = trainer.configuration.OPTIMIZATION
    batches_per_step = optimization.d_updates_per_step * optimization.acml_steps
    return Restored(
        step=trainer.steps,
        drawn=trainer.steps * batches_per_step if native is None else native["drawn"],
        elapsed=0.0 if native is None else native["elapsed"],
        messages=tuple(checked.messages),
        folder=saved.folder,
    )


def _networks(trainer: Trainer) -> dict[str, nn.Module]:
    networks = {"G": trainer.generator, "D": trainer.discriminator, "G_ema": trainer.averaged}
    return {name: network for name, network in networks.items() if network is not None}


def _optimizers(trainer: Trainer) -> dict[str, torch.optim.Optimizer]:
    return {"G": trainer.g_optimizer, "D": trainer.d_optimizer}


def _check(trainer: Trainer, saved: Saved, rank: int, new_noise: bool) -> _Checked:
    """Check everything before networks and optimizers are loaded; return what remains to be loaded.

    Regularizers come last, because only restoring their states checks them.
    """
    classes = trainer.configuration.DATA.num_classes
    for name, network in _networks(trainer).items():
        check_architecture(network, saved.files[name]["state_dict"], saved.paths[name], classes)
    optimizers = {
        name: _optimizer_state(optimizer, saved.files[name].get("optimizer"), saved.paths[name])
        for name, optimizer in _optimizers(trainer).items()
    }
    noise, noise_message = _noise(trainer, saved.native, rank, new_noise)
    ada_p = None
    if trainer.ada is not None and saved.files["D"].get("aa_p", "N/A") != "N/A":
        ada_p = _number(saved.files["D"]["aa_p"], "aa_p", saved.paths["D"])
    messages = [*_restore_regularizers(trainer, saved, rank), *noise_message]
    return _Checked(optimizers=optimizers, ada_p=ada_p, noise=noise, messages=messages)


def _restore_regularizers(trainer: Trainer, saved: Saved, rank: int) -> list[str]:
    """Restore the regularizers' states, this rank's own if there are any; return messages about them."""
    states = saved_states(saved.files["G"], rank, trainer.ranks)
    if "lecam" not in [state["name"] for state in states]:
        states += lecam_averages.states_of(saved.files["D"], saved.paths["D"])
    return trainer.regularization.restore(states, str(saved.folder))


def _load(trainer: Trainer, saved: Saved, checked: _Checked, rank: int) -> None:
    """Load all that has been checked; nothing is refused here."""
    for name, network in _networks(trainer).items():
        network.load_state_dict(saved.files[name]["state_dict"])
    for name, optimizer in _optimizers(trainer).items():
        optimizer.load_state_dict(checked.optimizers[name])
    trainer.norms.restore(saved.files["G"])
    trainer.steps = saved.step
    if checked.noise is None:
        trainer.noise.manual_seed(trainer.noise.initial_seed() + trainer.steps)
    else:
        trainer.noise.set_state(checked.noise)
    if trainer.ada is None:
        return
    if checked.ada_p is not None:
        trainer.ada.p.fill_(checked.ada_p)
    signs = (saved.native or {}).get("ada_signs") or ()
    if len(signs) == trainer.ranks:
        trainer.ada.signs.copy_(signs[rank])


def _noise(
    trainer: Trainer, native: dict[str, Any] | None, rank: int, new_noise: bool
) -> tuple[torch.Tensor | None, list[str]]:
    """Return the random generator's state for the noise; or None, with a message, if the noise starts over."""
    if native is None:
        return None, ["a checkpoint of StudioGAN: noise and the order of images start over"]
    if new_noise:
        return None, ["the seed differs from the checkpoint's: noise and the order of images start over"]
    if len(native["noise"]) != trainer.ranks:
        ranks = f"saved by {len(native['noise'])} ranks, resumed by {trainer.ranks}"
        return None, [f"{ranks}: their noise starts over"]
    state = native["noise"][rank]
    here = trainer.device.type
    there = native.get("device", here)
    if there != here or state.shape != trainer.noise.get_state().shape:  # old checkpoints do not name their device
        there = there if there != here else "another device"
        return None, [f"saved on {there}, resumed on {here}: noise starts over, as RNGs differ by device"]
    return state, []


def _number(value: Any, what: str, path: Path) -> float:
    """Return a number of a checkpoint, plain or a tensor; raise CheckpointError for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {_FOREIGN}: {what} is {type(value).__name__}") from error
    if not math.isfinite(number):
        raise CheckpointError(f"{path}: {what} is {number}")
    return number


def _optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    """Return the state to load: moments from the file, learning rates and other options from the configuration."""
    if state is None:
        raise CheckpointError(
            f"{path}: no optimizer in the file; images can be generated with it, but training cannot be resumed"
        )
    theirs, ours = state["param_groups"], optimizer.param_groups
    if [_kind(group) for group in theirs] != [_kind(group) for group in ours]:
        raise CheckpointError(
            f"{path}: its optimizer differs from this run's {type(optimizer).__name__} in kind or in parameters"
        )
    parameters = [p for group in ours for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for key, value in state["state"].get(number, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                there, here = tuple(value.shape), tuple(parameter.shape)
                raise CheckpointError(f"{path}: {key} of parameter {number} has shape {there}, expected {here}")
    groups = [{**t, **o, "params": t["params"]} for t, o in zip(theirs, ours, strict=True)]
    return {**state, "param_groups": groups}


def _kind(group: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the number of parameters, and the options that tell Adam, SGD and RMSprop apart."""
    return len(group["params"]), [key for key in ("betas", "nesterov", "alpha") if key in group]
