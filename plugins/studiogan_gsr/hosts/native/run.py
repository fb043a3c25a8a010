"""A training run: from a configuration to a folder that holds everything about it.

config.yaml      the configuration, StudioGAN's defaults filled in, REGULARIZER as it was given
run.json         versions, seed, device, speed switches, plug-ins, data and its class counts
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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import yaml

from studiogan_gsr.errors import FOREIGN, GSRError, RequestError, TrainingError, reason
from studiogan_gsr.files import forget_after, write_atomically
from studiogan_gsr.hosts.native.checkpoint import Restored, checkpoints, load_checkpoint, remove_old, save_checkpoint
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.data import ImageStream, load_images, mixed, open_training_set
from studiogan_gsr.hosts.native.progress import TrainingProgress
from studiogan_gsr.hosts.native.reference import open_reference
from studiogan_gsr.hosts.native.samples import save_grid
from studiogan_gsr.hosts.native.selection import FILE as SELECTION
from studiogan_gsr.hosts.native.selection import Selection, best, evaluations, noise_of
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization import check_ranks
from studiogan_gsr.machine import device_name, versions
from studiogan_gsr.progress import console
from studiogan_gsr.registry import find_regularizer
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import configuration_file

OnInterval = Callable[[Trainer], dict[str, Any]]
# Streams of random numbers of a run beside the networks' and the noise: each its own.  3 is the evaluations'.
_ORDER, _SAMPLES = 1, 2
_EVALUATION = timedelta(days=7)  # at most


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run is, beside its configuration.

    steps: in place of OPTIMIZATION.total_steps.  resume: from the newest checkpoint in `out`, or from
    `checkpoint`.  in_memory: None: where the images fit.  print_freq, save_freq: in steps.
    lines: at most so many lines of progress off a terminal; None: one a print interval.
    evaluate: generate so many images wherever a checkpoint is saved, measure them with `backbone` (None: inception,
    or effnetlite0 where that cannot be had) on `select_on`, and keep the best checkpoint, too.
    """

    data: str
    out: Path
    steps: int | None = None
    device: str | None = None
    seed: int = 0
    resume: bool = False
    checkpoint: Path | None = None
    resizer: str = "wo_resize"
    workers: int = 4
    in_memory: bool | None = None
    print_freq: int = 100
    save_freq: int = 2000
    speed: Speed = dataclasses.field(default_factory=Speed)
    label: str = "training"
    lines: int | None = None
    evaluate: int | None = None
    select_on: str = "validation"
    backbone: str | None = None


def train(name: str | Path | dict[str, Any], options: Options, on_interval: OnInterval | None = None) -> Trainer:
    """Train until the last step; gives the trainer as it then is.

    name: a file, a shipped configuration's name, or the sections themselves.
    on_interval: more to log at each print interval.
    Raises ConfigurationError, DataError, PluginError, CheckpointError or RequestError before the first
    step; TrainingError for losses that are not finite, no memory, no space, and after SIGINT or SIGTERM
    (with a checkpoint written).
    """
    sections = name if isinstance(name, dict) else load_configuration(configuration_file(name))
    configuration = read_configuration(sections)
    if options.steps is not None:
        optimization = dataclasses.replace(configuration.OPTIMIZATION, total_steps=options.steps)
        configuration = dataclasses.replace(configuration, OPTIMIZATION=optimization)
    if configuration.regularizer is not None:
        find_regularizer(configuration.regularizer.name, configuration.regularizer.options)
    with _ranks(options.device) as (rank, ranks, device):
        if configuration.OPTIMIZATION.batch_size % ranks:
            size = configuration.OPTIMIZATION.batch_size
            raise RequestError(f"OPTIMIZATION.batch_size: found {size}; allowed: a multiple of the {ranks} ranks")
        with _memory_explained(configuration, device):
            return _Run(configuration, options, rank, ranks, device, on_interval).train()


class _Run:
    def __init__(
        self,
        configuration: Configuration,
        options: Options,
        rank: int,
        ranks: int,
        device: torch.device,
        on_interval: OnInterval | None,
    ) -> None:
        self.configuration, self.options, self.on_interval = configuration, options, on_interval
        self.rank, self.ranks, self.device = rank, ranks, device
        self.out = options.out
        self.console = console()
        self.quiet = rank != 0
        if rank == 0:  # rank 0 writes there; if it refuses, the others are ended
            self._check_folder()
        data, optimization = configuration.DATA, configuration.OPTIMIZATION
        self.data = open_training_set(data.name, options.data, data.num_classes, data.img_size, options.resizer)
        self.counts, pixels = self.data.class_counts, self.data.pixels
        self._check_images()
        self._say(self.data.summary)
        images = load_images(pixels, device, options.workers, options.in_memory)
        self.trainer = Trainer(configuration, self.counts, iter(()), device, options.seed, options.speed, rank, ranks)
        if self.trainer.regularization is not None:
            self._say(self.trainer.regularization.summary)
        # A batch that no machine holds ends the run here: a step would take minutes over it first.
        torch.empty(optimization.batch_size // ranks, 3, data.img_size, data.img_size, device=device)
        self.restored = self._restore()
        # While rank 0 evaluates, the others wait as long as it takes.
        patient = ranks > 1 and options.evaluate is not None
        self.waiting: Any = dist.new_group(backend="gloo", timeout=_EVALUATION) if patient else None
        self.selection = self._selection() if options.evaluate is not None and rank == 0 else None
        order, flip, drawn = mixed(options.seed, _ORDER), configuration.PRE.apply_rflip, self.restored.drawn
        self.stream = ImageStream(images, len(pixels), optimization.batch_size, flip, order, rank, ranks, drawn)
        self.trainer.batches = self.stream

    def train(self) -> Trainer:
        trainer, options, total = self.trainer, self.options, self.configuration.OPTIMIZATION.total_steps
        owes = options.evaluate is not None and self._agreed(self._owes_evaluation())
        if trainer.steps >= total and not owes:
            self._say(f"nothing to do: the checkpoint is of step {trainer.steps}, the run ends at {total}")
            return trainer
        if self.rank == 0:
            with self._failures_explained():
                self._write_records()
        with (
            _stop_on_signals() as stop,
            closing(self.stream),
            self._failures_explained(),
            self._log() as log,
            TrainingProgress(options.label, total, trainer.steps, 0 if self.quiet else options.lines) as bar,
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
                if step % options.print_freq == 0 or step == total or step == 1:
                    numbers = self._numbers()
                    now = time.perf_counter()
                    elapsed, rate = elapsed + now - since, (step - before) / (now - since)
                    bar.show(step, rate, numbers, (total - step) / rate)
                    more = self._class_norms() | (self.on_interval(trainer) if self.on_interval is not None else {})
                    log(step, {"seconds": round(elapsed, 3), "steps_per_second": rate, **numbers, **more})
                    since, before = time.perf_counter(), step
                saves = self._saves(step)
                # To ask the other ranks waits for the device.
                asks = self.ranks == 1 or saves or step % options.print_freq == 0
                stopped = asks and self._agreed(stop.is_set())
                if saves or stopped:
                    self._save(elapsed + time.perf_counter() - since)
                if saves and options.evaluate is not None and not stopped:
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
        return step % self.options.save_freq == 0 or step == self.configuration.OPTIMIZATION.total_steps

    # Evaluation while training.

    def _selection(self) -> Selection:
        """Raises before the first step where images or backbone cannot be had."""
        options = self.options
        assert options.evaluate is not None
        if options.evaluate < 2:
            raise RequestError(f"--evaluate: found {options.evaluate}; allowed: an integer, 2 or more")
        reference = open_reference(self.data.pixels.images, options.data, options.resizer)
        seed = noise_of(options.seed)
        how = (options.evaluate, options.select_on, options.backbone, seed, self.device)
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
                f"evaluating step {step} failed: {cause}; {self._last_good()}; --resume tries again, or goes on "
                "without --evaluate"
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
        if first or step % self.options.print_freq == 0:
            ranks = check_ranks(regularization, step)
            if first and regularization is not None:
                self._say(regularization.proof(step, ranks))

    def _class_norms(self) -> dict[str, Any]:
        """Each class's largest norm, for the log; says so where one has begun to explode."""
        regularization = self.trainer.regularization
        norms, told = regularization.watch() if regularization is not None and self.rank == 0 else (None, "")
        if told:
            self._say(f"step {self.trainer.steps}: {told}")
        return {} if norms is None else {"class_norms": [round(norm, 5) for norm in norms]}

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
            seed = mixed(self.options.seed, _SAMPLES)
            save_grid(generator, self.counts, model.z_prior, model.z_dim, seed, picture)
        folder, name = self.out / "checkpoints", self.out.resolve().name
        save_checkpoint(trainer, folder, name, self.options.seed, elapsed, self.stream.drawn, self._best())

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
        except OSError as error:
            raise TrainingError(f"the run in {self.out} failed: {reason(error)}; {self._last_good()}") from error

    def _check_folder(self) -> None:
        """Refuse to mix two runs in one folder."""
        old = self.out / "config.yaml"
        if self.out.exists() and not self.out.is_dir():
            raise RequestError(f"--out {self.out}: found a file; name an empty or new folder")
        if not old.is_file():
            there = [path.name for path in self.out.iterdir()] if self.out.is_dir() else []
            # A run that was killed as it began leaves its first record or half of one.
            if any(name != "run.json" and not name.endswith(".partial") for name in there):
                raise RequestError(f"--out {self.out}: found other files there; name an empty or new folder")
            return
        if not self.options.resume:
            found = checkpoints(self.out / "checkpoints")
            where = f"at step {found[-1][0]}" if found else "without a checkpoint"
            raise RequestError(f"--out {self.out}: found a run {where}; --resume goes on with it")
        before, now = load_configuration(old), self.configuration.sections()
        for section in {**before, **now}:
            theirs, ours = before.get(section, {}), now.get(section, {})
            for key in {**theirs, **ours}:
                if theirs.get(key) != ours.get(key) and (section, key) != ("OPTIMIZATION", "total_steps"):
                    raise RequestError(
                        f"--resume: {section}.{key} is {ours.get(key)}, the run in {self.out} has {theirs.get(key)}; "
                        "another configuration wants another --out"
                    )

    def _check_images(self) -> None:
        """Refuse to go on with a run on images of other names, labels or preprocessing than it began with."""
        path = self.out / "run.json"
        if not self.options.resume or not path.is_file():
            return
        began = json.loads(path.read_text())["data"]
        for key in ("images_sha256", "preprocessing"):
            if began.get(key) != self.data.record[key]:
                raise RequestError(
                    f"--resume: the run in {self.out} began with {key} {began.get(key)}, {self.options.data} has "
                    f"{self.data.record[key]}; other images want another --out"
                )

    def _restore(self) -> Restored:
        folder = self.options.checkpoint
        if folder is None and self.options.resume:
            found = checkpoints(self.out / "checkpoints")
            folder = found[-1][1] if found else self._origin()
            if folder is None:
                self._say(f"no checkpoint in {self.out}: starting from the beginning")
        if folder is None:
            return Restored(0, 0, 0.0, (), None)
        restored = load_checkpoint(self.trainer, folder)
        self._say(f"going on from step {restored.step}, {folder}")
        for message in restored.messages:
            self._say(message)
        return restored

    def _write_records(self) -> None:
        """What the run is, before its first step."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"--out {self.out}: cannot be made: {reason(error)}") from error
        for half in self.out.glob(".*.partial"):  # of a run that was killed
            half.unlink()
        path = self.out / "run.json"
        what = {"device": device_name(self.device.type), "versions": versions()}
        start = {"step": self.trainer.steps, "time": datetime.now(timezone.utc).isoformat(), **what}
        if self.restored.folder is not None:
            start["checkpoint"] = str(self.restored.folder.resolve())
        record = {
            "host": "native",
            "starts": [*self._starts(), start],
            "seed": self.options.seed,
            "ranks": self.ranks,
            **what,
            "threads": torch.get_num_threads(),
            "speed": dataclasses.asdict(self.options.speed),
            "regularizer": _plugin_record(self.trainer),
            "data": self.data.record,
        }
        write_atomically(path, json.dumps(record, indent=2) + "\n")
        # Last: with it the folder is a run's.
        write_atomically(self.out / "config.yaml", yaml.safe_dump(self.configuration.sections(), sort_keys=False))

    def _starts(self) -> list[dict[str, Any]]:
        path = self.out / "run.json"
        starts: list[dict[str, Any]] = json.loads(path.read_text())["starts"] if path.is_file() else []
        return starts

    def _origin(self) -> Path | None:
        """The checkpoint that the run in this folder began from, where it began from one."""
        found = [start["checkpoint"] for start in self._starts()[:1] if "checkpoint" in start]
        return Path(found[0]) if found else None

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


def _plugin_record(trainer: Trainer) -> dict[str, Any] | None:
    regularization, settings = trainer.regularization, trainer.configuration.regularizer
    if regularization is None or settings is None:
        return None
    options, summary = dict(settings.options), regularization.summary
    return {"plugin": str(regularization.plugin), "name": settings.name, "options": options, "summary": summary}


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second one has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # type: ignore[index]

    for number in before:
        signal.signal(number, told)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ranks(device: str | None) -> Iterator[tuple[int, int, torch.device]]:
    """Rank, number of ranks and device of this process; joins the others where torchrun started it."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: found no CUDA device; --device cpu trains on the CPU")
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
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
