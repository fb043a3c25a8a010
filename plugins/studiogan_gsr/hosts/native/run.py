"""A training run, from a configuration to a folder with these files:

config.yaml      the configuration with StudioGAN's defaults filled in, and all options of REGULARIZER
run.json         seed, plug-ins, data and class counts; device, versions and options of every start
log.jsonl        one line per print interval
tensorboard/     the scalars of log.jsonl and selection.jsonl, and samples/, as TensorBoard events
wandb/           the same for Weights & Biases, with --log wandb
samples/         grids of images, one row per class
selection.jsonl  one line per evaluation, if the run evaluates while it trains; see evaluation/selection.py
checkpoints/     the newest two checkpoints and the best one; see checkpoint.py
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from studiogan_gsr.datasets.identity import file_of
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.reference import open_reference
from studiogan_gsr.evaluation.selection import Selection, noise_of
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.failures import failures_explained, memory_explained
from studiogan_gsr.hosts.native.folder import RunFolder
from studiogan_gsr.hosts.native.images import Images, load_images
from studiogan_gsr.hosts.native.log import check_installed
from studiogan_gsr.hosts.native.loop import Loop, OnInterval
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.process import Ranks, joined_ranks, number_of_ranks, own_rank
from studiogan_gsr.hosts.native.progress_line import TrainingProgress
from studiogan_gsr.hosts.native.records import write_records
from studiogan_gsr.hosts.native.restore import Restored, Saved, read_checkpoint, restore
from studiogan_gsr.hosts.native.starts import Start, choose_start
from studiogan_gsr.hosts.native.stream import ImageStream
from studiogan_gsr.hosts.native.threads import FEWEST_STEPS, fastest_threads, fixed_threads, using_threads
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.native.training_set import TrainingSet, open_training_set
from studiogan_gsr.hosts.regularization.plugins import with_all_options
from studiogan_gsr.machine import most_threads, shortcomings
from studiogan_gsr.progress import waiting
from studiogan_gsr.seeds import ORDER, mixed
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import configuration_file


def train(name: str | Path | dict[str, Any], options: TrainOptions, on_interval: OnInterval | None = None) -> Trainer:
    """Train until the last step, and return the trainer.

    name: a configuration file, the name of a shipped configuration, or a configuration's sections.
    on_interval: returns more numbers to log at each print interval.
    Raises ConfigurationError, DataError, PluginError, CheckpointError or RequestError before the first step.
    Raises TrainingError if a loss or a weight is not finite, if images cannot be read, if memory or the disk is full,
    or if an evaluation fails.  After SIGINT or SIGTERM it saves a checkpoint and raises TrainingError, too.
    Raises RegularizerError if the regularizer was inactive, is not finite, or differs between ranks.
    """
    sections = name if isinstance(name, dict) else load_configuration(configuration_file(name))
    configuration = read_configuration(sections)
    folder = RunFolder(options.out, with_all_options(configuration.sections()))
    # Only rank 0 writes to the folder.  If it raises an error, torchrun ends the other ranks.
    with folder.claimed(options.resumes) if own_rank() == 0 else nullcontext():
        # Every rank reads the earlier starts before the ranks join.  Rank 0 adds this start only after that.
        saved = _find_checkpoint(folder, options, configuration)
        last = _last_start(folder, options, saved)
        start = choose_start(options, last, number_of_ranks())
        check_installed(start.log)
        evaluation_threads = options.threads or most_threads()
        measures = fixed_threads(options.threads, last, start.device_type, start.ranks) is None
        configuration = _with_steps(configuration, folder, start.steps)
        _check_steps(options, saved, configuration.OPTIMIZATION.total_steps)
        with (
            joined_ranks(start.device_type, configuration.OPTIMIZATION) as ranks,
            memory_explained(configuration, ranks.device),
            using_threads(start.threads),
        ):
            return _train(
                configuration,
                options=options,
                start=start,
                folder=folder,
                saved=saved,
                ranks=ranks,
                on_interval=on_interval,
                measures_threads=measures,
                evaluation_threads=evaluation_threads,
            )


def _train(
    configuration: Configuration,
    options: TrainOptions,
    start: Start,
    folder: RunFolder,
    saved: Saved | None,
    ranks: Ranks,
    on_interval: OnInterval | None,
    measures_threads: bool,
    evaluation_threads: int,
) -> Trainer:
    """Open the data, build the networks, restore the checkpoint, and train.

    All checks that can refuse the run come before the first write to the folder.
    """
    for line in shortcomings(start.speed.precision, options.workers, ranks.device, options.threads):
        ranks.say(line)
    data = _open_data(configuration, options=options, start=start, folder=folder, ranks=ranks)
    stop = threading.Event()
    images = _load_images(data, start=start, stop=stop, ranks=ranks)
    total = configuration.OPTIMIZATION.total_steps
    if measures_threads and total - (saved.step if saved else 0) >= FEWEST_STEPS:
        start = _with_fastest_threads(configuration, start=start, data=data, ranks=ranks)
    trainer = _build(configuration, start=start, data=data, ranks=ranks)
    restored = _restore(trainer, saved=saved, options=options, start=start, ranks=ranks)
    selection = _open_selection(configuration, options=options, start=start, data=data, ranks=ranks)
    trainer.batches = stream = _open_stream(
        configuration, start=start, data=data, images=images, restored=restored, ranks=ranks
    )
    progress = TrainingProgress(
        options.label, total=total, done=trainer.steps, lines=options.lines if ranks.first else 0
    )
    loop = Loop(
        trainer=trainer,
        stream=stream,
        folder=folder,
        start=start,
        ranks=ranks,
        selection=selection,
        progress=progress,
        seconds=restored.elapsed,
        stop=stop,
        on_interval=on_interval,
        evaluation_threads=evaluation_threads,
    )
    if loop.done():
        found = f"the checkpoint is of step {trainer.steps}, the run ends at {total}"
        ranks.say(f"nothing to do: {found} (--steps N trains to step N)")
        return trainer
    if ranks.first:
        with failures_explained(folder, trainer):
            write_records(
                folder,
                trainer=trainer,
                data=data,
                options=options,
                start=start,
                restored=restored,
                ranks=ranks,
            )
    loop.run()
    return trainer


# Where a run begins.


def _find_checkpoint(folder: RunFolder, options: TrainOptions, configuration: Configuration) -> Saved | None:
    """Return the checkpoint that the run resumes or starts from; None if there is none."""
    path = options.checkpoint
    if path is None and options.resumes:
        own = checkpoints(folder.checkpoints)
        path = own[-1][1] if own else folder.origin()
    return None if path is None else read_checkpoint(path, configuration.MODEL.apply_g_ema)


def _last_start(folder: RunFolder, options: TrainOptions, saved: Saved | None) -> Mapping[str, Any]:
    """Return the record of the run's last start.

    For a new run it is empty, or holds only the checkpoint's seed if there is one and `options` gives none.
    """
    starts = folder.starts() if options.resumes else []
    if starts:
        return starts[-1]
    if saved is None or saved.seed is None or options.seed is not None:
        return {}
    return {"seed": saved.seed}


def _with_steps(configuration: Configuration, folder: RunFolder, steps: int | None) -> Configuration:
    """Return the configuration with `steps` as its last step, and set it in the folder's sections, too.

    steps: None changes nothing.
    """
    if steps is None:
        return configuration
    folder.sections["OPTIMIZATION"]["total_steps"] = steps
    optimization = dataclasses.replace(configuration.OPTIMIZATION, total_steps=steps)
    return dataclasses.replace(configuration, OPTIMIZATION=optimization)


def _check_steps(options: TrainOptions, saved: Saved | None, total: int) -> None:
    """Raise RequestError for a new run whose checkpoint is already at or past the last step."""
    if options.checkpoint is not None and saved is not None and saved.step >= total:
        what = "OPTIMIZATION.total_steps" if options.steps is None else "--steps"
        raise RequestError(
            f"{what}: found {total}, the step to train to; the checkpoint {saved.folder} is of step {saved.step}: "
            f"--steps {saved.step + total} trains {total} more"
        )


def _restore(trainer: Trainer, saved: Saved | None, options: TrainOptions, start: Start, ranks: Ranks) -> Restored:
    """Restore the checkpoint, if there is one; print where the run resumes and what could not be restored."""
    if saved is None:
        if options.resumes:
            ranks.say(f"no checkpoint in {options.out}: training starts at step 0")
        return Restored(step=0, drawn=0, elapsed=0.0, messages=(), folder=None)
    restored = restore(trainer, saved, new_noise=saved.seed not in (None, start.seed))
    ranks.say(f"resuming from step {restored.step}, {saved.folder}")
    for message in restored.messages:
        ranks.say(message)
    return restored


# The parts of a run.


def _open_data(
    configuration: Configuration, options: TrainOptions, start: Start, folder: RunFolder, ranks: Ranks
) -> TrainingSet:
    """Open the training images, and compare them with those of the run's earlier starts."""
    section = configuration.DATA
    data = open_training_set(
        section.name,
        options.data,
        num_classes=section.num_classes,
        size=section.img_size,
        resizer=start.resizer,
    )
    ranks.say(data.summary)
    _check_place(options, data)
    if options.resumes and (change := folder.check_images(data.record, options.allow_changed_images)):
        ranks.say(change)
    return data


def _check_place(options: TrainOptions, data: TrainingSet) -> None:
    """Raise RequestError if --out is in a folder of training images: the next run would take it for a class."""
    out, root = options.out.resolve(), Path(options.data).resolve()
    file = file_of(data.pixels.images.dataset, 0)
    if file is None or not file.resolve().is_relative_to(root):
        return
    part = file.resolve().relative_to(root).parts[0]
    for images in (root / part, *([root / "valid"] if part == "train" else [])):
        if out.is_relative_to(images):
            raise RequestError(
                f"--out {options.out}: found a folder of images, {images}; name a folder outside of it"
            )


def _load_images(data: TrainingSet, start: Start, stop: threading.Event, ranks: Ranks) -> Images:
    """Load the images, or prepare to stream them; print notes about them and add them to the run's record."""
    images = load_images(
        data.pixels,
        ranks.device,
        workers=start.workers,
        in_memory=start.in_memory,
        stopped=stop.is_set,
        ranks=ranks,
    )
    data.record["notes"] += images.notes
    for note in images.notes:
        ranks.say(f"{data.pixels.name}: {note}")
    return images


def _with_fastest_threads(configuration: Configuration, start: Start, data: TrainingSet, ranks: Ranks) -> Start:
    """Measure the number of threads and let PyTorch use it; return the start with it."""
    with waiting("threads: measuring which number is the fastest", ranks.say):
        number, line = fastest_threads(configuration, data.class_counts, start.speed)
    ranks.say(line)
    torch.set_num_threads(number)
    return dataclasses.replace(start, threads=number)


def _build(configuration: Configuration, start: Start, data: TrainingSet, ranks: Ranks) -> Trainer:
    """Build networks, optimizers and regularizer."""
    trainer = Trainer(
        configuration,
        data.class_counts,
        batches=iter(()),  # a placeholder: _train sets the stream after the checkpoint is restored
        device=ranks.device,
        seed=start.seed,
        speed=start.speed,
        rank=ranks.rank,
        ranks=ranks.number,
        classes=data.record["classes"],
    )
    for method in trainer.regularization.methods:
        ranks.say(method.summary)
    if why := trainer.why_eager():
        ranks.say(f"--graphs: {why}; steps are not captured")
    # A batch of images that does not fit into memory fails here at once, not minutes later in the first step.
    size, batch = configuration.DATA.img_size, configuration.OPTIMIZATION.batch_size // ranks.number
    torch.empty(batch, 3, size, size, device=ranks.device)
    return trainer


def _open_selection(
    configuration: Configuration, options: TrainOptions, start: Start, data: TrainingSet, ranks: Ranks
) -> Selection | None:
    """Open the reference images and the backbone for evaluations, on rank 0; None if this rank measures nothing.

    Every rank has to call this.  Raises DataError or WeightsError if they are not available, and RequestError for
    fewer than 2 images or another rule than in earlier evaluations.
    """
    if not start.evaluate:
        return None
    ranks.wait_for_evaluations()
    if not ranks.first:
        return None
    if start.evaluate < 2:
        raise RequestError(f"--evaluate: found {start.evaluate}; allowed: an integer, 2 or more")
    reference = open_reference(data.pixels.images, options.data, start.resizer, options.reference_images)
    for note in reference.notes:
        ranks.say(f"reference: {note}")
    return Selection(
        options.out,
        configuration,
        data.class_counts,
        reference,
        images=start.evaluate,
        select_on=start.select_on,
        backbone=start.backbone,
        seed=noise_of(start.seed),
        device=ranks.device,
    )


def _open_stream(
    configuration: Configuration, start: Start, data: TrainingSet, images: Images, restored: Restored, ranks: Ranks
) -> ImageStream:
    """Return the stream of this rank's batches, from where the checkpoint stopped."""
    return ImageStream(
        images,
        number=len(data.pixels),
        batch_size=configuration.OPTIMIZATION.batch_size,
        flip=configuration.PRE.apply_rflip,
        seed=mixed(start.seed, ORDER),
        rank=ranks.rank,
        ranks=ranks.number,
        drawn=restored.drawn,
    )
