"""A training run: from a configuration to a folder that holds everything about it.

config.yaml      the configuration, StudioGAN's defaults filled in, REGULARIZER as it was given
run.json         seed, plug-ins, data and its class counts; of every start its device, versions and options
log.jsonl        one line a print interval
tensorboard/     the same numbers as events
samples/         grids, one row a class
selection.jsonl  one line an evaluation while training, where it was asked for: see selection.py
checkpoints/     see checkpoint.py
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from studiogan_gsr.datasets.identity import file_of
from studiogan_gsr.errors import FOREIGN, DataError, GSRError, RequestError, TrainingError, reason
from studiogan_gsr.evaluation.reference import open_reference
from studiogan_gsr.evaluation.samples import save_grid
from studiogan_gsr.evaluation.selection import FILE as SELECTION
from studiogan_gsr.evaluation.selection import Selection, best, evaluations, noise_of
from studiogan_gsr.files import forget_after
from studiogan_gsr.hosts.class_norms import record
from studiogan_gsr.hosts.native.checkpoint import (
    Restored,
    Saved,
    checkpoints,
    read_checkpoint,
    remove_old,
    restore,
    save_checkpoint,
)
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.folder import RunFolder, read_starts
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.progress_line import TrainingProgress
from studiogan_gsr.hosts.native.reader import ImagesLost
from studiogan_gsr.hosts.native.starts import Start, changes, kept, settle
from studiogan_gsr.hosts.native.stream import ImageStream, load_images, open_training_set
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.regularization import check_ranks, with_all_options
from studiogan_gsr.machine import choose_device, device_name, shortcomings, versions
from studiogan_gsr.progress import console
from studiogan_gsr.seeds import mixed
from studiogan_gsr.settings import SECTION, load_configuration
from studiogan_gsr.shipped import configuration_file

OnInterval = Callable[[Trainer], dict[str, Any]]
# Streams of random numbers of a run beside the networks' and the noise: each its own.  3 is the evaluations'.
_ORDER, _SAMPLES = 1, 2
_EVALUATION = timedelta(days=7)  # at most


def train(name: str | Path | dict[str, Any], options: TrainOptions, on_interval: OnInterval | None = None) -> Trainer:
    """Train until the last step; gives the trainer as it then is.

    name: a file, a shipped configuration's name, or the sections themselves.
    on_interval: more to log at each print interval.
    Raises ConfigurationError, DataError, PluginError, CheckpointError or RequestError before the first
    step; TrainingError for losses that are not finite, no memory, no space, and after SIGINT or SIGTERM
    (with a checkpoint written).
    """
    sections = name if isinstance(name, dict) else load_configuration(configuration_file(name))
    configuration = read_configuration(sections)
    folder = RunFolder(options.out, with_all_options(configuration.sections()))
    # Rank 0 writes there; if it refuses, the others are ended.
    with folder.claimed(options.resumes) if _rank() == 0 else nullcontext():
        # Before the ranks meet, and so before rank 0 adds the start that is about to come.
        saved = _saved(folder, options, configuration)
        start = settle(options, _before(folder, options, saved), int(os.environ.get("WORLD_SIZE", "1")))
        if start.steps is not None:
            optimization = dataclasses.replace(configuration.OPTIMIZATION, total_steps=start.steps)
            configuration = dataclasses.replace(configuration, OPTIMIZATION=optimization)
            folder.sections["OPTIMIZATION"]["total_steps"] = start.steps
        _check_steps(options, saved, configuration.OPTIMIZATION.total_steps)
        with _ranks(start.device_type) as (rank, ranks, device):
            if configuration.OPTIMIZATION.batch_size % ranks:
                size = configuration.OPTIMIZATION.batch_size
                raise RequestError(f"OPTIMIZATION.batch_size: found {size}; allowed: a multiple of the {ranks} ranks")
            with _memory_explained(configuration, device):
                return _Run(configuration, options, start, folder, saved, rank, device, on_interval).train()


def _saved(folder: RunFolder, options: TrainOptions, configuration: Configuration) -> Saved | None:
    """The checkpoint that the run resumes or begins from; None where there is none."""
    path = options.checkpoint
    if path is None and options.resumes:
        own = checkpoints(folder.path / "checkpoints")
        path = own[-1][1] if own else folder.origin()
    return None if path is None else read_checkpoint(path, configuration.MODEL.apply_g_ema)


def _before(folder: RunFolder, options: TrainOptions, saved: Saved | None) -> Mapping[str, Any]:
    """What the run's last start had; without a record of it, the checkpoint's seed, unless another is given."""
    starts = folder.starts() if options.resumes else []
    if starts:
        return starts[-1]
    return {} if saved is None or saved.seed is None or options.seed is not None else {"seed": saved.seed}


def _check_steps(options: TrainOptions, saved: Saved | None, total: int) -> None:
    """Refuse a new run that would end before its first step."""
    if options.checkpoint is not None and saved is not None and saved.step >= total:
        what = "OPTIMIZATION.total_steps" if options.steps is None else "--steps"
        raise RequestError(
            f"{what}: found {total}, the step to train to; the checkpoint {saved.folder} is of step {saved.step}: "
            f"--steps {saved.step + total} trains {total} more"
        )


class _Run:
    def __init__(
        self,
        configuration: Configuration,
        options: TrainOptions,
        start: Start,
        folder: RunFolder,
        saved: Saved | None,
        rank: int,
        device: torch.device,
        on_interval: OnInterval | None,
    ) -> None:
        self.configuration, self.options, self.on_interval = configuration, options, on_interval
        self.start, self.folder, self.out = start, folder, folder.path
        self.rank, self.ranks, self.device = rank, start.ranks, device
        self.console = console()
        self.quiet = rank != 0
        for line in shortcomings(start.speed.precision, options.workers, device):
            self._say(line)
        data, optimization, ranks = configuration.DATA, configuration.OPTIMIZATION, start.ranks
        self.data = open_training_set(data.name, options.data, data.num_classes, data.img_size, start.resizer)
        self.counts, pixels = self.data.class_counts, self.data.pixels
        self._say(self.data.summary)
        self._check_place()
        if options.resumes and (change := folder.check_images(self.data.record, options.allow_changed_images)):
            self._say(change)
        self.stop = threading.Event()  # set by a signal
        images = load_images(pixels, device, start.workers, start.in_memory, self.stop.is_set)
        self.data.record["notes"] += images.notes
        for note in images.notes:
            self._say(f"{data.name}: {note}")
        self.trainer = Trainer(
            configuration,
            self.counts,
            iter(()),
            device,
            start.seed,
            start.speed,
            rank,
            ranks,
            self.data.record["classes"],
        )
        if self.trainer.regularization is not None:
            self._say(self.trainer.regularization.summary)
        # A batch that no machine holds ends the run here: a step would take minutes over it first.
        torch.empty(optimization.batch_size // ranks, 3, data.img_size, data.img_size, device=device)
        self.restored = self._restore(saved)
        # While rank 0 evaluates, the others wait as long as it takes.
        patient = ranks > 1 and start.evaluate > 0
        self.waiting: Any = dist.new_group(backend="gloo", timeout=_EVALUATION) if patient else None
        self.selection = self._selection() if start.evaluate and rank == 0 else None
        order, flip, drawn = mixed(start.seed, _ORDER), configuration.PRE.apply_rflip, self.restored.drawn
        self.stream = ImageStream(images, len(pixels), optimization.batch_size, flip, order, rank, ranks, drawn)
        self.trainer.batches = self.stream

    def train(self) -> Trainer:
        trainer, start, total = self.trainer, self.start, self.configuration.OPTIMIZATION.total_steps
        stop = self.stop
        owes = start.evaluate > 0 and self._agreed(self._owes_evaluation())
        if trainer.steps >= total and not owes:
            found = f"the checkpoint is of step {trainer.steps}, the run ends at {total}"
            self._say(f"nothing to do: {found} (--steps N trains to step N)")
            return trainer
        if self.rank == 0:
            with self._failures_explained():
                self._write_records()
        with (
            _stop_on_signals(stop),
            closing(self.stream),
            self._failures_explained(),
            self._log() as log,
            TrainingProgress(
                self.options.label, total, trainer.steps, 0 if self.quiet else self.options.lines
            ) as bar,
        ):
            if owes:  # of a run that was ended before it had evaluated
                self._evaluate(stop, bar)
                if self._agreed(stop.is_set() and (trainer.steps < total or self._owes_evaluation())):
                    raise self._stopped()
            since, before = time.perf_counter(), trainer.steps
            begun = before
            elapsed = self.restored.elapsed
            while trainer.steps < total:
                trainer.step()
                bar.advance()
                step = trainer.steps
                self._check_regularization(step, first=step == begun + 1)
                if step % start.print_freq == 0 or step == total or step == 1:
                    numbers = self._numbers()
                    now = time.perf_counter()
                    elapsed, rate = elapsed + now - since, (step - before) / (now - since)
                    bar.show(step, rate, numbers, (total - step) / rate)
                    more = self._class_norms() | (self.on_interval(trainer) if self.on_interval is not None else {})
                    log(step, {"seconds": round(elapsed, 3), "steps_per_second": rate, **numbers, **more})
                    since, before = time.perf_counter(), step
                saves = self._saves(step)
                # To ask the other ranks waits for the device.
                asks = self.ranks == 1 or saves or step % start.print_freq == 0
                stopped = asks and self._agreed(stop.is_set())
                if saves or stopped:
                    self._save(elapsed + time.perf_counter() - since)
                if saves and start.evaluate and not stopped:
                    since += self._evaluate(stop, bar)
                    stopped = self._agreed(stop.is_set())
                if stopped and (step < total or self._owes_evaluation()):
                    raise self._stopped()
        return trainer

    def _stopped(self) -> TrainingError:
        step, total = self.trainer.steps, self.configuration.OPTIMIZATION.total_steps
        saved = self.out / "checkpoints" / f"step={step}"
        return TrainingError(f"stopped after step {step} of {total}, saved in {saved}; --resume goes on")

    def _saves(self, step: int) -> bool:
        return step % self.start.save_freq == 0 or step == self.configuration.OPTIMIZATION.total_steps

    # Evaluation while training.

    def _selection(self) -> Selection:
        """Raises before the first step where images or backbone cannot be had."""
        start = self.start
        if start.evaluate < 2:
            raise RequestError(f"--evaluate: found {start.evaluate}; allowed: an integer, 2 or more")
        reference = open_reference(self.data.pixels.images, self.options.data, start.resizer)
        for note in reference.notes:
            self._say(f"reference: {note}")
        how = (start.evaluate, start.select_on, start.backbone, noise_of(start.seed), self.device)
        return Selection(self.out, self.configuration, self.counts, reference, *how)

    def _owes_evaluation(self) -> bool:
        """Whether the checkpoint of this step is one to be measured, and has not been."""
        step = self.trainer.steps
        saved = any(step == there for there, _ in checkpoints(self.out / "checkpoints"))
        measured = any(step == line["step"] for line in evaluations(self.out))
        return self.selection is not None and saved and self._saves(step) and not measured

    def _evaluate(self, stop: threading.Event, bar: TrainingProgress) -> float:
        """Measure the generator that was saved, and keep it if it is the best; gives the seconds that it took."""
        begun, step = time.perf_counter(), self.trainer.steps
        if self.selection is None or stop.is_set():
            return 0.0
        try:
            with bar.paused():
                trainer = self.trainer
                line = self.selection.measure(step, trainer.generator, trainer.averaged, stop.is_set)
        except FOREIGN as error:
            cause = str(error) if isinstance(error, GSRError) else reason(error)
            raise TrainingError(
                f"evaluating step {step} failed: {cause}; {self._last_good()}; --resume tries again, and with "
                "--no-evaluate does without"
            ) from error
        if line is not None:
            self._say(self.selection.told(line))
            remove_old(self.out / "checkpoints", self._best())
            scalars = {f"evaluation/{name}": value for name, value in line["all"].items()}
            scalars |= {f"evaluation/{name}/frechet": of["frechet"] for name, of in line["groups"].items()}
            self._plot(step, scalars)
        return time.perf_counter() - begun

    def _best(self) -> int | None:
        chosen = best(self.out)
        return None if chosen is None else int(chosen["step"])

    def _check_regularization(self, step: int, first: bool) -> None:
        """See after every step that the regularizer has acted, and now and then that all ranks agree."""
        regularization = self.trainer.regularization
        if regularization is not None:
            regularization.check_acted(step)
        if first or step % self.start.print_freq == 0:
            ranks = check_ranks(regularization, step)
            if first and regularization is not None:
                self._say(regularization.proof(step, ranks))

    def _class_norms(self) -> dict[str, Any]:
        """Each class's largest norm, for the log; says so where one has begun to explode."""
        norms, told = self.trainer.norms.look() if self.rank == 0 else (None, "")
        if told:
            self._say(f"step {self.trainer.steps}: {told}")
        return record(norms)

    def _numbers(self) -> dict[str, float]:
        """The numbers of a print interval; here the run waits for the device."""
        trainer, step = self.trainer, self.trainer.steps
        if not bool(trainer.finite):
            found = ", ".join(f"{name} {value.item():.4g}" for name, value in trainer.losses.items())
            raise self._not_finite(f"a loss was NaN or Inf by step {step} ({found})")
        numbers = {name: value.item() for name, value in trainer.losses.items()}
        if trainer.ada is not None:
            numbers["ada_p"] = trainer.ada.p.item()
        if trainer.regularization is not None:
            regularizer = trainer.regularization
            numbers |= {f"{regularizer.name}/{key}": value for key, value in regularizer.report(step).items()}
        return numbers

    def _save(self, elapsed: float) -> None:
        trainer, model = self.trainer, self.configuration.MODEL
        self._check_finite()
        if self.rank == 0:  # before the checkpoint, so that a run that dies between makes it again
            generator = trainer.averaged or trainer.generator
            picture = self.out / "samples" / f"step={trainer.steps:06}.png"
            seed = mixed(self.start.seed, _SAMPLES)
            save_grid(generator, self.counts, model.z_prior, model.z_dim, seed, picture)
        folder, name = self.out / "checkpoints", self.out.resolve().name
        save_checkpoint(trainer, folder, name, self.start.seed, elapsed, self.stream.drawn, self._best())

    def _check_finite(self) -> None:
        """Never save what is not finite."""
        trainer = self.trainer
        self._numbers()
        saved = [*trainer.generator.state_dict().values(), *trainer.discriminator.state_dict().values()]
        for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
            saved += [moment for state in optimizer.state.values() for moment in state.values()]
        moving = [t for t in saved if isinstance(t, torch.Tensor) and t.is_floating_point() and t.ndim]
        if not bool(torch.stack(torch._foreach_norm(moving, float("inf"))).isfinite().all()):
            raise self._not_finite(f"a weight or its moments are NaN or Inf at step {trainer.steps}")

    def _not_finite(self, what: str) -> TrainingError:
        remedy = "a lower learning rate, --precision float32 or another seed may help"
        return TrainingError(f"{what}; {self._last_good()}; {remedy}")

    def _last_good(self) -> str:
        found = checkpoints(self.out / "checkpoints")
        return f"the last good checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"

    def _agreed(self, mine: bool) -> bool:
        """Whether it is so for any rank; all are asked, and wait for one that evaluates."""
        if self.ranks == 1:
            return mine
        told = torch.tensor(float(mine), device="cpu" if self.waiting else self.device)
        dist.all_reduce(told, group=self.waiting)
        return bool(told.item())

    # The folder.

    @contextmanager
    def _failures_explained(self) -> Iterator[None]:
        try:
            yield
        except ImagesLost as error:
            raise TrainingError(f"{error}; {self._last_good()}; --resume resumes it") from error
        except DataError as error:  # an image that a streamed run meets late
            if self.trainer.steps == 0:
                raise
            raise TrainingError(
                f"{error}; {self._last_good()}; mend the images and --resume, with --allow-changed-images where some "
                "were taken out or renamed"
            ) from error
        except OSError as error:
            raise TrainingError(f"the run in {self.out} failed: {reason(error)}; {self._last_good()}") from error

    def _check_place(self) -> None:
        """Refuse to write a run among image files, where it would be a class of the next run."""
        out, root = self.out.resolve(), Path(self.options.data).resolve()
        file = file_of(self.data.pixels.images.dataset, 0)
        if file is None or not file.resolve().is_relative_to(root):
            return
        part = file.resolve().relative_to(root).parts[0]
        for images in (root / part, *([root / "valid"] if part == "train" else [])):
            if out.is_relative_to(images):
                raise RequestError(f"--out {self.out}: found a folder of images, {images}; name one outside of it")

    def _restore(self, saved: Saved | None) -> Restored:
        if saved is None:
            if self.options.resumes:
                self._say(f"no checkpoint in {self.out}: starting from the beginning")
            return Restored(0, 0, 0.0, (), None)
        restored = restore(self.trainer, saved, new_noise=saved.seed not in (None, self.start.seed))
        self._say(f"resuming from step {restored.step}, {saved.folder}")
        for message in restored.messages:
            self._say(message)
        return restored

    def _write_records(self) -> None:
        """Write what the run is, before its first step; say what a resumed run keeps and what has changed."""
        start = {
            "step": self.trainer.steps,
            "device": device_name(self.device.type),
            "versions": versions(),
            **self.start.record(),
            **{key: self.data.record[key] for key in ("images_sha256", "preprocessing")},
        }
        if self.restored.folder is not None:
            start["checkpoint"] = str(self.restored.folder.resolve())
        before = self.folder.starts() if self.options.resumes else []
        if before and (same := kept(self.start, self.options)):
            self._say(f"kept from the run: {same}")
        if not before and self.restored.folder is not None:  # a new run, from a checkpoint of another
            with suppress(OSError, ValueError, KeyError, TypeError):
                before = read_starts(self.restored.folder.parent.parent)
        if before and (different := changes(before[-1], start)):
            self._say(f"from step {self.trainer.steps} on: {different}")
        whole = {
            "host": "native",
            "seed": self.start.seed,
            "regularizer": self._plugin_record(),
            "data": self.data.record,
        }
        self.folder.write(whole, start, self.options.resumes)

    def _plugin_record(self) -> dict[str, Any] | None:
        regularization = self.trainer.regularization
        if regularization is None:
            return None
        options = dict(self.folder.sections[SECTION])
        name = options.pop("name")
        plugin, summary = str(regularization.plugin), regularization.summary
        return {"plugin": plugin, "name": name, "options": options, "summary": summary}

    @contextmanager
    def _log(self) -> Iterator[Callable[[int, dict[str, Any]], None]]:
        """Appends to log.jsonl and TensorBoard; lines after the restored step are taken back first."""
        if self.rank != 0:
            yield lambda step, numbers: None
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path, start = self.out / "log.jsonl", self.trainer.steps
        forget_after(path, start)
        forget_after(self.out / SELECTION, start)
        with path.open("a") as file, SummaryWriter(str(self.out / "tensorboard"), purge_step=start + 1) as events:

            def plot(step: int, numbers: dict[str, Any]) -> None:
                for name, value in numbers.items():
                    if isinstance(value, int | float):
                        events.add_scalar(name, value, step)

            def log(step: int, numbers: dict[str, Any]) -> None:
                file.write(json.dumps({"step": step, **numbers}) + "\n")
                file.flush()
                plot(step, numbers)

            self._plot = plot
            yield log

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line)


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT or SIGTERM set the event; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # type: ignore[index]

    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rank() -> int:
    """The number of this process among those of torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def _ranks(kind: str) -> Iterator[tuple[int, int, torch.device]]:
    """Rank, number of ranks and device of this process; joins the others where torchrun started it."""
    if choose_device(kind) == "cuda":
        torch.backends.cudnn.benchmark = True
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield 0, 1, torch.device(kind)
        return
    local = int(os.environ["LOCAL_RANK"])
    if kind == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield dist.get_rank(), ranks, torch.device(f"cuda:{local}" if kind == "cuda" else kind)
    finally:
        dist.destroy_process_group()


@contextmanager
def _memory_explained(configuration: Configuration, device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
        if not memory:
            raise
        size, accumulation = configuration.OPTIMIZATION.batch_size, configuration.OPTIMIZATION.acml_steps
        what = f" ({text.splitlines()[0][:120]})" if text else ""
        raise TrainingError(
            f"out of memory on {device} at OPTIMIZATION.batch_size {size}{what}; "
            f"lower it to {max(1, size // 2)} with OPTIMIZATION.acml_steps {2 * accumulation} for the same effect, "
            "or lower MODEL.g_conv_dim and d_conv_dim"
        ) from error
