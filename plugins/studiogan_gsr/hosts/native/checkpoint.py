"""Checkpoints in StudioGAN's file format: one folder per step, written completely or not at all.

    checkpoints/step=2000/model=G-current-weights-step=2000.pth    generator, its optimizer, the regularizers
                          model=D-...                              discriminator, its optimizer, step, LeCam, ADA
                          model=G_ema-...                          averaged generator, where there is one
                          native.pth                               whatever else this host needs to resume exactly

StudioGAN can resume from such a folder (`-ckpt`), and this host can resume from StudioGAN's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from studiogan_gsr.errors import TrainingError, reason
from studiogan_gsr.files import flush, publish
from studiogan_gsr.hosts.checkpoint_files import RANKS_KEY, STATE_KEY, checkpoints, file_name
from studiogan_gsr.hosts.class_norms import STATE_KEY as NORMS_KEY
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.regularization import lecam_averages
from studiogan_gsr.hosts.regularization.ranks import states_of_ranks
from studiogan_gsr.regularizers.lecam import UNSEEN

NATIVE = "native.pth"
_NUMBER_KEPT = 2
_PARTIAL = ".partial"


def save_checkpoint(
    trainer: Trainer, folder: Path, run_name: str, seed: int, elapsed: float, drawn: int, best: int | None = None
) -> Path:
    """Write a checkpoint, remove old ones, and return its folder.

    The folder gets its final name once all files are in it.  The newest two checkpoints and the one of
    step `best` are kept.
    Every rank calls this, and rank 0 writes.
    Raises TrainingError if the checkpoint cannot be written; older ones are then unchanged.

    elapsed: seconds trained.  drawn: batches drawn.
    """
    native = _native_state(trainer, elapsed, drawn)
    of_ranks = states_of_ranks(trainer.regularization)
    target = folder / f"step={trainer.steps}"
    if dist.is_initialized() and dist.get_rank() != 0:
        return target
    partial = folder / f"{_PARTIAL}-step={trainer.steps}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, state in _states(trainer, run_name, seed, of_ranks).items():
            _write(state, partial / file_name(name, "current", trainer.steps))
        _write(native, partial / NATIVE)
        if target.exists():  # the run was resumed from an earlier step
            shutil.rmtree(target)
        publish(partial, target)
    except (OSError, RuntimeError) as error:
        # On a full disk, torch.save raises an uninformative RuntimeError while it handles the OSError.
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
    """Remove all checkpoints but the newest two and that of step `best`."""
    for step, path in checkpoints(folder)[:-_NUMBER_KEPT]:
        if step != best:
            shutil.rmtree(path, ignore_errors=True)


def _native_state(trainer: Trainer, elapsed: float, drawn: int) -> dict[str, Any]:
    """Return the content of native.pth; every rank must call this, because it gathers from all ranks."""
    return {
        "step": trainer.steps,
        "drawn": drawn,
        "noise": _of_all_ranks(trainer.noise.get_state(), trainer.ranks),
        "ada_signs": None if trainer.ada is None else _of_all_ranks(trainer.ada.signs.cpu(), trainer.ranks),
        "elapsed": elapsed,
        "device": trainer.device.type,
    }


def _states(
    trainer: Trainer, run_name: str, seed: int, of_ranks: list[list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Return the content of the networks' files.  of_ranks: every rank's regularizer states; empty for one rank."""
    generator: dict[str, Any] = {
        "state_dict": trainer.generator.state_dict(),
        "optimizer": _plain(trainer.g_optimizer),
    }
    if trainer.regularization.methods:
        generator[STATE_KEY] = trainer.regularization.state()
    if of_ranks:
        generator[RANKS_KEY] = of_ranks
    generator[NORMS_KEY] = trainer.norms.state()
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
        lecam_averages.FILE_KEY: {
            **dict.fromkeys(("G_loss", "D_loss_real", "D_loss_fake", "D_real", "D_fake"), UNSEEN),
            **lecam_averages.averages_of(trainer.regularization),
            "decay": loss.lecam_ema_decay,
            "start_itr": loss.lecam_ema_start_iter,
        },
    }
    states = {"G": generator, "D": discriminator}
    if trainer.averaged is not None:
        states["G_ema"] = {"state_dict": trainer.averaged.state_dict()}
    return states


def _plain(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state as StudioGAN writes it, without the switches that vary by machine."""
    state = optimizer.state_dict()
    switches = {"fused": None, "foreach": None, "capturable": False}
    state["param_groups"] = [{**g, **{k: v for k, v in switches.items() if k in g}} for g in state["param_groups"]]
    return state


def _of_all_ranks(state: Any, ranks: int) -> list[Any]:
    if ranks == 1:
        return [state]
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, state)
    return gathered


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
    flush(path)
