"""Checkpoints in StudioGAN's files: one folder a step, which is whole or not there.

    checkpoints/step=2000/model=G-current-weights-step=2000.pth    generator, its optimizer, the regularizer
                          model=D-...                              discriminator, its optimizer, step, LeCam, ADA
                          model=G_ema-...                          averaged generator, where there is one
                          native.pth                               what this host needs beside, to go on exactly

StudioGAN resumes from such a folder (`-ckpt`), and this host from StudioGAN's.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from studiogan_gsr.errors import CheckpointError, TrainingError, reason
from studiogan_gsr.files import flush
from studiogan_gsr.hosts.class_norms import STATE_KEY as NORMS_KEY
from studiogan_gsr.hosts.native.losses import LeCam, ReleasedLeCam
from studiogan_gsr.hosts.native.training import Trainer

STATE_KEY = "regularizer"
_NATIVE = "native.pth"
_KEPT = 2
_PARTIAL = ".partial"
_FILE = re.compile(r"model=(G|D|G_ema)-(current|best)-weights-step=(\d+)\.pth")
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
        native |= {"lecam_slots": slots, "device": trainer.device.type}
        _write(native, partial / _NATIVE)
        flush(partial)
        if target.exists():  # written by a run that was resumed from an earlier step
            shutil.rmtree(target)
        partial.rename(target)
        flush(folder)
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
    generator[NORMS_KEY] = trainer.norms.state()
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
    paths = checkpoint_files(path, ["G", "D", *(["G_ema"] if averaged else [])])
    files = {name: read_file(path) for name, path in paths.items()}
    own = paths["G"].with_name(_NATIVE)
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


def checkpoint_files(path: Path, networks: Sequence[str]) -> dict[str, Path]:
    """The files of these networks in the newest checkpoint that has them all, at one step.

    path: a run's folder, a checkpoint's, or one of a checkpoint's files; ours or StudioGAN's.
    Raises CheckpointError where there is none, with what was found.
    """
    folder, only = path, None
    if path.is_file():
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise CheckpointError(
                f"{path}: found a file that is no network's; name a run's folder, a checkpoint's, or one of "
                "its files model=G-current-weights-step=*.pth"
            )
        folder, only = path.parent, (match[2], int(match[3]))
    elif not list(path.glob("model=*.pth")):
        folder = _newest(path)
    matches = [(_FILE.fullmatch(file.name), file) for file in folder.glob("model=*.pth")]
    found = {(match[1], match[2], int(match[3])): file for match, file in matches if match}
    for when in ("current", "best"):
        of_each = [{step for name, saved, step in found if (name, saved) == (network, when)} for network in networks]
        steps = [step for step in set.intersection(*of_each) if only in (None, (when, step))]
        if steps:
            return {network: found[network, when, max(steps)] for network in networks}
    for network in networks:
        network_file(folder, network)  # names one that is not there at all
    there = ", ".join(f"{name} of step {step}" for name, _, step in sorted(found))
    wanted = f"{only[0]} checkpoint of step {only[1]}" if only else "step"
    raise CheckpointError(f"{folder}: no {wanted} has all of {', '.join(networks)}; found {there}")


def _newest(run: Path) -> Path:
    """The newest checkpoint's folder in a run's; the folder itself where it holds none."""
    if saved := checkpoints(run / "checkpoints"):
        return saved[-1][1]
    theirs = sorted({file.parent for file in (run / "checkpoints").glob("*/model=G-*.pth")})  # StudioGAN's
    if len(theirs) > 1:
        raise CheckpointError(f"{run}: found several runs of StudioGAN; name one of {', '.join(map(str, theirs))}")
    return theirs[0] if theirs else run


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


def check_architecture(network: nn.Module, state: dict[str, Any], path: Path, num_classes: int | None = None) -> None:
    """CheckpointError where a state dict's names or shapes are not the network's.

    num_classes: of the network's configuration, so that another number of classes can be called that.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    differ = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if not differ:
        return
    # One size in the place of another throughout, and that other one the number of classes.
    pairs = [zip(found.get(name, ()), expected.get(name, ()), strict=False) for name in differ]
    sizes = {(there, here) for pair in pairs for there, here in pair if there != here}
    if len(sizes) == 1 and (classes := sizes.copy().pop())[1] == num_classes:
        raise CheckpointError(
            f"{path}: another number of classes: {classes[0]} there, DATA.num_classes is {num_classes} here; weights "
            "of classes cannot be carried over: train anew, or on the checkpoint's classes"
        )
    name = differ[0]
    here, there = (str(shapes.get(name, "missing")) for shapes in (expected, found))
    raise CheckpointError(
        f"{path}: another architecture: {name} is {there} there and {here} in this configuration "
        f"({len(differ)} of {len(expected)} tensors differ)"
    )


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
    flush(path)
