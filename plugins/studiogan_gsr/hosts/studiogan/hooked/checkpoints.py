"""Hooks on StudioGAN's checkpoints: add the regularizers' states, write whole files, load complete checkpoints."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from studiogan_gsr.errors import CheckpointError, GSRError, reason
from studiogan_gsr.files import publish, written_atomically
from studiogan_gsr.hosts.checkpoint_files import (
    KEEP_VARIABLE,
    RANKS_KEY,
    STATE_KEY,
    file_name,
    network_files,
    networks_of,
    read_file,
    saved_steps,
    whole_steps,
)
from studiogan_gsr.hosts.class_norms import STATE_KEY as NORMS_KEY
from studiogan_gsr.hosts.regularization import lecam_averages
from studiogan_gsr.hosts.regularization.combined import saved_states
from studiogan_gsr.hosts.studiogan.hooked.records import watch_norms, write_records
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun, number_of_ranks, own_rank, say
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.types import Original, Worker

_SAVING = ".saving-"


class CheckpointHooks:
    """Hooks on saving and loading."""

    def __init__(self, run: HookedRun) -> None:
        self.run = run

    def surfaces(self) -> list[Surface]:
        """Return the functions to wrap, with their hooks."""
        return [
            Surface("worker", "WORKER.save", ("self", "step", "is_best"), self.save),
            Surface("utils.misc", "save_model", ("model", "when", "step", "ckpt_dir", "states"), self.save_network),
            Surface("utils.ckpt", "load_StudioGAN_ckpts", ("ckpt_dir", "load_best", "apply_g_ema"), self.load),
            Surface("utils.ckpt", "load_best_model", ("ckpt_dir", "apply_g_ema"), self.load_best),
            Surface("utils.ckpt", "load_ckpt", ("optimizer", "ckpt_path", "load_opt"), self.load_network),
        ]

    def save(self, original: Original, worker: Worker, step: int, is_best: bool) -> None:
        """Write the run's records and the checkpoint, then remove the files of older steps."""
        folder = Path(worker.RUN.ckpt_dir)
        for left in folder.glob(f"{_SAVING}*"):  # left by a killed run
            shutil.rmtree(left, ignore_errors=True)
        if self.run.regularization is not None:
            self.run.regularization.report(step)  # raises an error if numbers are not finite
        write_records(self.run, worker, folder)
        original(worker, step, is_best)
        for (_, when, saved), path in network_files(folder).items():
            if saved != step and (when == "current" or is_best):
                path.unlink()

    def save_network(
        self, original: Original, model: str, when: str, step: int, ckpt_dir: str, states: dict[str, Any]
    ) -> None:
        """Add the regularizers' states to the generator's file, and write each file completely or not at all.

        LeCam's averages are also written to the discriminator's file, where StudioGAN keeps its own.
        StudioGAN itself removes the old file before it writes the new one.
        """
        _keep(model, step, states)
        if model == "G" and self.run.regularization is not None:
            of_ranks = {RANKS_KEY: self.run.states_of_ranks} if self.run.states_of_ranks else {}
            states = {**states, STATE_KEY: self.run.regularization.state(), **of_ranks}
        if model == "G" and self.run.norms is not None:
            states = {**states, NORMS_KEY: self.run.norms.state()}
        if model == "D" and (averages := lecam_averages.averages_of(self.run.regularization)):
            key = lecam_averages.FILE_KEY
            states = {**states, key: {**states.get(key, {}), **averages}}
        with tempfile.TemporaryDirectory(dir=ckpt_dir, prefix=_SAVING) as folder:
            original(model, when, step, folder, states)
            for path in Path(folder).iterdir():
                publish(path, Path(ckpt_dir) / path.name)

    def load(self, original: Original, ckpt_dir: str, load_best: bool, apply_g_ema: bool, **others: Any) -> Any:
        """Load the newest complete checkpoint; raise CheckpointError if there is none or it cannot be loaded."""
        folder, when = Path(ckpt_dir), "best" if load_best else "current"
        networks = networks_of(apply_g_ema)
        steps, whole = saved_steps(folder, when, networks), whole_steps(folder, when, networks)
        if not whole:
            there = ", ".join(f"{network} of {sorted(found) or 'no step'}" for network, found in steps.items())
            raise CheckpointError(f"{folder}: no complete {when} checkpoint: found {there}")
        step = max(whole)
        if ignored := set.union(*steps.values()) - {step}:
            say(f"{folder}: resumes from step {step}; files of steps {sorted(ignored)} are ignored")
        try:
            with self._step_to_load(step), _only_weights():
                loaded = original(ckpt_dir=ckpt_dir, load_best=load_best, apply_g_ema=apply_g_ema, **others)
            augmentation_p = loaded[4]  # StudioGAN returns run name, step, epoch, top-k, augmentation p, ...
            if self.run.adaptive and isinstance(augmentation_p, str | None):
                raise CheckpointError(f"{folder}: the run was trained without ADA or APA, so there is no p to resume")
        except GSRError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{folder}: the {when} checkpoint of step {step} cannot be loaded: {reason(error)[:300]}"
            ) from error
        self.run.origin = folder.resolve(), step
        return loaded

    def load_best(self, original: Original, ckpt_dir: str, apply_g_ema: bool, **others: Any) -> Any:
        """Load the newest complete best checkpoint; if none is complete, keep the last weights.  Return its step."""
        folder, networks = Path(ckpt_dir), networks_of(apply_g_ema)
        whole = whole_steps(folder, "best", networks)
        if not whole and any(saved_steps(folder, "best", networks).values()):
            say(f"{ckpt_dir}: no best checkpoint is complete: the last weights are kept")
            return max(whole_steps(folder, "current", networks), default=0)
        with self._step_to_load(max(whole, default=None)):
            return original(ckpt_dir=ckpt_dir, apply_g_ema=apply_g_ema, **others)

    @contextmanager
    def _step_to_load(self, step: int | None) -> Iterator[None]:
        """Make `load_network` read the files of this step inside the `with` block."""
        self.run.step_to_load = step
        try:
            yield
        finally:
            self.run.step_to_load = None

    def load_network(
        self,
        original: Original,
        optimizer: torch.optim.Optimizer | None,
        ckpt_path: str,
        load_opt: bool,
        **others: Any,
    ) -> Any:
        """Restore the regularizers' states when the generator's optimizer is restored."""
        run = self.run
        if run.step_to_load is not None:
            ckpt_path = re.sub(r"step=\d+\.pth$", f"step={run.step_to_load}.pth", ckpt_path)
        with _only_weights():
            result = original(optimizer=optimizer, ckpt_path=ckpt_path, load_opt=load_opt, **others)
        if optimizer is not run.optimizer:
            return result
        if not load_opt:
            for name in [] if run.regularization is None else run.regularization.names:
                say(f"{name}: fine-tuning starts with a new state; the one in the checkpoint is ignored")
            return result
        content = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        saved = saved_states(content, own_rank(), number_of_ranks())
        states = [state for state in saved if state["name"] not in run.own_methods]
        if run.generator is not None and own_rank() == 0:
            watch_norms(run, run.generator).restore(content)
        if run.regularization is not None:
            if "lecam" in run.regularization.names and "lecam" not in [state["name"] for state in states]:
                path = Path(ckpt_path)  # StudioGAN's own LeCam keeps its averages in the discriminator's file
                path = path.with_name(path.name.replace("model=G-", "model=D-"))
                states += lecam_averages.states_of(read_file(path), path)
            for message in run.regularization.restore(states, ckpt_path):
                say(message)
        elif states:
            names = ", ".join(state["name"] for state in states)
            say(f"the checkpoint holds the state of {names}, and this run has no regularizer")
        return result


def _keep(network: str, step: int, states: dict[str, Any]) -> None:
    """Write a generator's weights to $STUDIOGAN_KEEP, if it is set; `evaluate` reads that folder as a run."""
    folder = os.environ.get(KEEP_VARIABLE)
    if not folder or network == "D":
        return
    path = Path(folder) / "checkpoints" / f"step={step}" / file_name(network, "current", step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        torch.save({"state_dict": states["state_dict"]}, partial)


@contextmanager
def _only_weights() -> Iterator[None]:
    """Let torch.load accept only tensors and plain data, so that no code in a file is run."""
    force, never = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (force, never)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: value for name, value in before.items() if value is not None})
