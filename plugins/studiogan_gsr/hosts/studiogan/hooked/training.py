"""Hooks on StudioGAN's training: they attach the regularizers, check them after every step, and log them."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from studiogan_gsr.class_groups import listed
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import ConfigurationError, HostError, RegularizerError, place, reason
from studiogan_gsr.files import claim
from studiogan_gsr.hosts.class_norms import record
from studiogan_gsr.hosts.readings import read
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.gradient_share import read_gradient_share
from studiogan_gsr.hosts.regularization.method import TrainingFacts
from studiogan_gsr.hosts.regularization.ranks import check_ranks, states_of_ranks, synchronise_ranks
from studiogan_gsr.hosts.studiogan.checkout import UNSUPPORTED
from studiogan_gsr.hosts.studiogan.hooked.adversarial import adversarial_loss
from studiogan_gsr.hosts.studiogan.hooked.batches import check_losses
from studiogan_gsr.hosts.studiogan.hooked.data import check_data, class_names
from studiogan_gsr.hosts.studiogan.hooked.records import watch_norms
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun, number_of_ranks, own_rank, say, settings_of
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.rules import check_size
from studiogan_gsr.hosts.studiogan.types import Configurations, Original, Worker
from studiogan_gsr.settings import RegularizerSettings

# After this many training steps in a row without a regularized optimizer step the run is stopped.  With mixed
# precision, GradScaler skips the first steps until it has found its scale.
_SKIPPED_MIXED_PRECISION, _SKIPPED = 50, 1
_LOG = ("self", "current_step", "real_cond_loss", "gen_acml_loss", "dis_acml_loss")


class LogLine(str):
    """StudioGAN's format of a log line, which adds the regularizers' scalars at the end.

    scalars: numbers by name; set them before each line.
    """

    scalars: dict[str, float]

    def format(self, *args: object, **numbers: object) -> str:
        """Return the line."""
        return super().format(*args, **numbers) + "".join(f"{key}: {x:<.4} " for key, x in self.scalars.items())


class TrainingHooks:
    """Hooks on the networks, the optimizer, the updates of both networks and the log."""

    def __init__(self, run: HookedRun) -> None:
        self.run = run
        worker: Any = import_module("worker")
        if not isinstance(getattr(worker, "LOG_FORMAT", None), str):
            raise HostError(f"StudioGAN's worker.LOG_FORMAT is missing: {UNSUPPORTED}")
        self.log_line = LogLine(worker.LOG_FORMAT)
        self.log_line.scalars = {}

    def surfaces(self) -> list[Surface]:
        """Return the functions to wrap, with their hooks."""
        return [
            Surface("models.model", "load_generator_discriminator", ("DATA", "MODEL"), self.build_networks),
            Surface("config", "Configurations.define_optimizer", ("self", "Gen", "Dis"), self.attach),
            Surface(
                "models.model", "prepare_parallel_training", ("Gen", "distributed_data_parallel"), self.prepare_ranks
            ),
            Surface("worker", "WORKER.train_discriminator", ("self", "current_step"), self.train_discriminator),
            Surface("worker", "WORKER.train_generator", ("self", "current_step"), self.train_generator),
            Surface("worker", "WORKER.log_train_statistics", _LOG, self.log),
        ]

    def install_log_line(self) -> None:
        """Replace StudioGAN's format of log lines by one that adds the regularizers' scalars."""
        worker: Any = import_module("worker")
        worker.LOG_FORMAT = self.log_line

    def build_networks(self, original: Original, **arguments: Any) -> Any:
        """Build the networks; raise ConfigurationError if StudioGAN cannot."""
        try:
            return original(**arguments)
        except (torch.cuda.OutOfMemoryError, MemoryError, OSError, ImportError):
            raise
        except Exception as error:
            raise ConfigurationError(
                "DATA and MODEL", "networks that cannot be built", f"{reason(error)} (at {place(error)})"
            ) from error

    def attach(self, original: Original, cfgs: Configurations, Gen: nn.Module, Dis: nn.Module) -> None:
        """Make the regularizers; attach penalties to the generator's optimizer."""
        run = self.run
        original(cfgs, Gen, Dis)
        run.optimizer = cfgs.OPTIMIZATION.g_optimizer
        settings, name = settings_of(cfgs), str(cfgs.DATA.name)
        run.adaptive = bool(cfgs.RUN.train and (cfgs.AUG.apply_ada or cfgs.AUG.apply_apa))
        if not cfgs.RUN.train:
            if settings:
                say(f"no training in this run; not attached: {_names(settings)}")
            return
        run.generator = Gen
        run.own_methods = {"lecam"} if cfgs.LOSS.apply_lecam else set()
        if not settings and find_dataset(name) is None:
            return
        counts = check_data(run.training_set, name, cfgs.DATA)
        divided = bool(cfgs.RUN.distributed_data_parallel)
        check_size(sum(counts), cfgs.OPTIMIZATION, number_of_ranks(), divided=divided)
        say(f"{name}: class counts {listed(counts, class_names(run.training_set))}")
        if not settings:
            say("no regularizer")
            return
        run.regularization = Regularization(settings, _facts(cfgs, Gen, Dis, counts))
        check_losses(cfgs, run.regularization)
        for method in run.regularization.methods:
            say(method.summary)

    def prepare_ranks(
        self, original: Original, Gen: nn.Module, distributed_data_parallel: bool, **others: Any
    ) -> Any:
        """Before DDP wraps the generator, compare the ranks' regularizers and copy rank 0's buffers to all ranks."""
        if distributed_data_parallel:
            synchronise_ranks(self.run.regularization, Gen)
        return original(Gen=Gen, distributed_data_parallel=distributed_data_parallel, **others)

    def train_discriminator(self, original: Original, worker: Worker, current_step: int) -> Any:
        """Check after every step, on every rank, that the regularizers of the discriminator were active."""
        with self.run.updating("discriminator", current_step):
            result = original(worker, current_step)
        if self.run.regularization is not None:
            self.run.regularization.check_active(current_step + 1, ("discriminator",))
            self._gather_states(worker, current_step + 1)
        return result

    def train_generator(self, original: Original, worker: Worker, current_step: int) -> Any:
        """Check after every step, on every rank, that the regularizers of the generator were active."""
        run = self.run
        if run.regularization is None and (settings := settings_of(worker.cfgs)):
            raise RegularizerError(
                f"not attached: {_names(settings)}; StudioGAN made its optimizers without the hooks"
            )
        if run.began is None:
            self._begin(worker, current_step)
        if run.regularization is not None:
            run.regularization.cancel_skip()
        with run.updating("generator", current_step):
            result = original(worker, current_step)
        if run.norms is None and run.generator is not None and own_rank() == 0:
            if run.regularization is not None:
                # A term that is not finite breaks the norms.
                terms = read(run.regularization.pending_terms())
                run.regularization.check_terms(terms, current_step + 1)
            norms = watch_norms(run, run.generator)
            norms.check(read(norms.pending()))  # later norms are compared with these
        self._check_regularizers(worker, current_step + 1)
        self._gather_states(worker, current_step + 1)
        return result

    def _gather_states(self, worker: Worker, step: int) -> None:
        """Keep all ranks' states after the updates of a step that is saved: StudioGAN saves on rank 0 alone."""
        if self.run.regularization is not None and step % worker.RUN.save_freq == 0:
            self.run.states_of_ranks = states_of_ranks(self.run.regularization)

    def _begin(self, worker: Worker, step: int) -> None:
        """Prepare the first step of this process."""
        run = self.run
        run.began = step, time.time()
        path_lengths = getattr(worker, "pl_reg", None)
        if run.regularization is not None and path_lengths is not None:
            _skip_path_length_steps(path_lengths, run.regularization)
        if own_rank() == 0:  # rank 0 alone writes checkpoints
            self._claim(Path(worker.RUN.ckpt_dir))

    def _claim(self, folder: Path) -> None:
        """Lock the checkpoint folder, because two runs with the same -ckpt would overwrite each other's files."""
        folder.mkdir(parents=True, exist_ok=True)
        self.run.lock = claim(folder)
        if self.run.lock is None:
            raise HostError(f"{folder}: another process trains there; wait until it ends, or give -ckpt a copy of it")

    def _check_regularizers(self, worker: Worker, step: int) -> None:
        """Check that the regularizers were active in a step, and at intervals that all ranks agree."""
        run, regularization, first = self.run, self.run.regularization, not self.run.ranks_checked
        if regularization is not None:
            scaled = worker.RUN.mixed_precision and not worker.is_stylegan  # when StudioGAN uses GradScaler
            regularization.check_active(step, ("generator",), _SKIPPED_MIXED_PRECISION if scaled else _SKIPPED)
        if first or step % worker.RUN.print_freq == 0:
            ranks = check_ranks(regularization, step)
            # Mixed precision may skip the first steps, on all ranks; the message waits for the first active step.
            begun = regularization is None or regularization.begun
            if first and begun and regularization is not None:
                for message in regularization.first_step_messages(step, ranks):
                    say(message)
                self._say_share(worker, regularization)
            run.ranks_checked = begun

    def _say_share(self, worker: Worker, regularization: Regularization) -> None:
        """At the start of a new run, print how strong gSR is, on rank 0."""
        run, cfgs = self.run, worker.cfgs
        if own_rank() != 0 or run.began is None or run.began[0] != 0:
            return
        share = read_gradient_share(
            regularization,
            adversarial_loss(cfgs),
            z_prior=cfgs.MODEL.z_prior,
            ranks=number_of_ranks(),
            classes=class_names(run.training_set),
        )
        if share is not None:
            say(share.line)
            run.first_numbers = share.numbers

    def log(
        self,
        original: Original,
        worker: Worker,
        current_step: int,
        real_cond_loss: Any,
        gen_acml_loss: torch.Tensor | float,
        dis_acml_loss: torch.Tensor | float,
    ) -> None:
        """Add the regularizers' scalars to StudioGAN's log line and to wandb; write all numbers to log.jsonl."""
        step, regularization = current_step + 1, self.run.regularization
        tracker = self.run.norms
        values = read(
            {
                "regularizers": [] if regularization is None else regularization.pending(),
                "norms": None if tracker is None else tracker.pending(),
                "losses": {"g_loss": gen_acml_loss, "d_loss": dis_acml_loss},  # the keys of the native host's log
            }
        )
        logged: dict[str, float] = {}
        self.log_line.scalars = {}
        if regularization is not None:
            logged = regularization.check(values["regularizers"], step)
            self.log_line.scalars = {key.replace("/", "_", 1): value for key, value in logged.items()}
        original(worker, current_step, real_cond_loss, gen_acml_loss, dis_acml_loss)
        norms, warning = (None, "") if tracker is None else tracker.check(values["norms"])
        if warning:
            say(f"step {step}: {warning}")
        folder = Path(worker.RUN.save_dir) / "statistics" / worker.run_name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.jsonl").open("a") as file:
            first, self.run.first_numbers = self.run.first_numbers, {}
            file.write(json.dumps({"step": step, **values["losses"], **logged, **record(norms), **first}) + "\n")
        if logged:
            import wandb

            wandb.log(logged, step=step)


def _names(settings: Sequence[RegularizerSettings]) -> str:
    return " and ".join(entry.name for entry in settings)


def _facts(cfgs: Configurations, generator: nn.Module, discriminator: nn.Module, counts: list[int]) -> TrainingFacts:
    optimization = cfgs.OPTIMIZATION
    batch_size = int(optimization.batch_size)  # of this rank
    sizes = dict.fromkeys(("generator", "discriminator"), batch_size)
    if cfgs.STYLEGAN.apply_pl_reg:
        sizes["path_length"] = batch_size // 2
    return TrainingFacts(
        generator=generator,
        discriminator=discriminator,
        optimizer=optimization.g_optimizer,
        class_counts=counts,
        updates={
            "generator": optimization.g_updates_per_step,
            "discriminator": optimization.d_updates_per_step,
        },
        accumulation=optimization.acml_steps,
        sizes=sizes,
        z_dim=cfgs.MODEL.z_dim,
        has_w=cfgs.MODEL.backbone in ("stylegan2", "stylegan3"),
    )


def _skip_path_length_steps(path_lengths: Any, regularization: Regularization) -> None:
    """Leave the penalties out of the optimizer step that path-length regularization makes for itself.

    So they are added once per update of the generator.  path_lengths: StudioGAN's `PathLengthRegularizer`.
    """
    original = path_lengths.cal_pl_reg

    @functools.wraps(original)
    def cal_pl_reg(*args: Any, **kwargs: Any) -> Any:
        regularization.skip_next()
        return original(*args, **kwargs)

    path_lengths.cal_pl_reg = cal_pl_reg
