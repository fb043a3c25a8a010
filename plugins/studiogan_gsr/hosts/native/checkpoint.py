"""Checkpoints in StudioGAN's file format: one folder per step, written completely or not at all.

    checkpoints/step=2000/model=G-current-weights-step=2000.pth    generator, its optimizer, the regularizer
                          model=D-...                              discriminator, its optimizer, step, LeCam, ADA
                          model=G_ema-...                          averaged generator, where there is one
                          native.pth                               all else that this host needs to resume exactly

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
from studiogan_gsr.hosts.checkpoint_files import STATE_KEY, checkpoints, file_name
from studiogan_gsr.hosts.class_norms import STATE_KEY as NORMS_KEY
from studiogan_gsr.hosts.native.losses import LeCam, ReleasedLeCam
from studiogan_gsr.hosts.native.training import Trainer

NATIVE = "native.pth"
_NUMBER_KEPT = 2
_PARTIAL = ".partial"


def save_checkpoint(
    trainer: Trainer, folder: Path, run_name: str, seed: int, elapsed: float, drawn: int, best: int | None = None
) -> Path:
    """Write a checkpoint, remove old ones, and return its folder.

    The folder gets its final name once all files are in it.  The newest two checkpoints and that of
    step `best` are kept.
    Every rank calls this, and rank 0 writes.
    Raises TrainingError if the checkpoint cannot be written; in that case older ones are unchanged.

    elapsed: seconds trained.  drawn: batches drawn.
    """
    native = _native_state(trainer, elapsed, drawn)
    target = folder / f"step={trainer.steps}"
    if dist.is_initialized() and dist.get_rank() != 0:
        return target
    partial = folder / f"{_PARTIAL}-step={trainer.steps}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, state in _states(trainer, run_name, seed).items():
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
    """Return what native.pth holds; every rank has to call this."""
    released = trainer.lecam.averages.cpu() if isinstance(trainer.lecam, ReleasedLeCam) else None
    return {
        "step": trainer.steps,
        "drawn": drawn,
        "noise": _of_all_ranks(trainer.noise.get_state(), trainer.ranks),
        "ada_signs": None if trainer.ada is None else _of_all_ranks(trainer.ada.signs.cpu(), trainer.ranks),
        "elapsed": elapsed,
        "lecam_slots": None if released is None else _of_all_ranks(released, trainer.ranks),
        "device": trainer.device.type,
    }


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


def _plain(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state as StudioGAN writes it: `fused` and `foreach`, which vary by machine, are None."""
    state = optimizer.state_dict()
    switches = dict.fromkeys(("fused", "foreach"), None)
    state["param_groups"] = [{**g, **{k: v for k, v in switches.items() if k in g}} for g in state["param_groups"]]
    return state


def _of_all_ranks(state: torch.Tensor, ranks: int) -> list[torch.Tensor]:
    if ranks == 1:
        return [state]
    gathered: list[torch.Tensor | None] = [None] * ranks
    dist.all_gather_object(gathered, state)
    return [tensor for tensor in gathered if tensor is not None]


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
    flush(path)
