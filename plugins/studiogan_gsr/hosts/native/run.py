"""A training run: from a configuration to a folder that holds everything about it.

config.yaml      the configuration, StudioGAN's defaults filled in, and all options of REGULARIZER
run.json         seed, plug-ins, data and its class counts; of every start its device, versions and options
log.jsonl        one line a print interval
tensorboard/     the same numbers as events
samples/         grids, one row a class
selection.jsonl  one line an evaluation while training, if the run evaluates: see evaluation/selection.py
checkpoints/     see checkpoint.py
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
from studiogan_gsr.hosts.native.loop import Loop, OnInterval
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.process import Ranks, joined_ranks, number_of_ranks, own_rank
from studiogan_gsr.hosts.native.progress_line import TrainingProgress
from studiogan_gsr.hosts.native.records import write_records
from studiogan_gsr.hosts.native.restore import Restored, Saved, read_checkpoint, restore
from studiogan_gsr.hosts.native.starts import Start, settle
from studiogan_gsr.hosts.native.stream import ImageStream
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.native.training_set import TrainingSet, open_training_set
from studiogan_gsr.hosts.regularization import with_all_options
from studiogan_gsr.machine import shortcomings
from studiogan_gsr.seeds import ORDER, mixed
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import configuration_file


def train(name: str | Path | dict[str, Any], options: TrainOptions, on_interval: OnInterval | None = None) -> Trainer:
    """Train until the last step; return the trainer as it then is.

    name: a file, a shipped configuration's name, or the sections themselves.
    on_interval: gives more numbers to log at each print interval.
    Raises ConfigurationError, DataError, PluginError, CheckpointError or RequestError before the first
    step; TrainingError for losses that are not finite, no memory, no space, and after SIGINT or SIGTERM
    (with a checkpoint written).
    """
    sections = name if isinstance(name, dict) else load_configuration(configuration_file(name))
    configuration = read_configuration(sections)
    folder = RunFolder(options.out, with_all_options(configuration.sections()))
    # Rank 0 writes there; if it refuses, the others are ended.
    with folder.claimed(options.resumes) if own_rank() == 0 else nullcontext():
        # Before the ranks meet, and so before rank 0 adds the start that is about to come.
        saved = _find_checkpoint(folder, options, configuration)
        start = settle(options, _last_start(folder, options, saved), number_of_ranks())
        configuration = _with_steps(configuration, folder, start.steps)
        _check_steps(options, saved, configuration.OPTIMIZATION.total_steps)
        with (
            joined_ranks(start.device_type, configuration.OPTIMIZATION) as ranks,
            memory_explained(configuration, ranks.device),
        ):
            return _train(configuration, options, start, folder, saved, ranks, on_interval)


def _train(
    configuration: Configuration,
    options: TrainOptions,
    start: Start,
    folder: RunFolder,
    saved: Saved | None,
    ranks: Ranks,
    on_interval: OnInterval | None,
) -> Trainer:
    """Open the data, build the networks, restore them, and train; the order is that of what may be refused."""
    for line in shortcomings(start.speed.precision, options.workers, ranks.device):
        ranks.say(line)
    data = _open_data(configuration, options, start, folder, ranks)
    stop = threading.Event()
    images = load_images(data.pixels, ranks.device, start.workers, start.in_memory, stop.is_set)
    data.record["notes"] += images.notes
    for note in images.notes:
        ranks.say(f"{configuration.DATA.name}: {note}")
    trainer = _build(configuration, start, data, ranks)
    restored = _restore(trainer, saved, options, start, ranks)
    selection = None
    if start.evaluate:
        ranks.wait_for_evaluations()
        selection = _open_selection(configuration, options, start, data, ranks) if ranks.first else None
    trainer.batches = stream = _open_stream(configuration, start, data, images, restored, ranks)
    total = configuration.OPTIMIZATION.total_steps
    loop = Loop(
        trainer,
        stream,
        folder,
        start,
        ranks,
        selection,
        TrainingProgress(options.label, total, trainer.steps, options.lines if ranks.first else 0),
        restored.elapsed,
        stop,
        on_interval,
    )
    if loop.done():
        found = f"the checkpoint is of step {trainer.steps}, the run ends at {total}"
        ranks.say(f"nothing to do: {found} (--steps N trains to step N)")
        return trainer
    if ranks.first:
        with failures_explained(folder, trainer):
            write_records(folder, trainer, data, options, start, restored, ranks)
    loop.run()
    return trainer


# Where a run begins.


def _find_checkpoint(folder: RunFolder, options: TrainOptions, configuration: Configuration) -> Saved | None:
    """Return the checkpoint that the run resumes or begins from; None where there is none."""
    path = options.checkpoint
    if path is None and options.resumes:
        own = checkpoints(folder.checkpoints)
        path = own[-1][1] if own else folder.origin()
    return None if path is None else read_checkpoint(path, configuration.MODEL.apply_g_ema)


def _last_start(folder: RunFolder, options: TrainOptions, saved: Saved | None) -> Mapping[str, Any]:
    """Return the record of the run's last start; without one, the checkpoint's seed, unless another is given."""
    starts = folder.starts() if options.resumes else []
    if starts:
        return starts[-1]
    return {} if saved is None or saved.seed is None or options.seed is not None else {"seed": saved.seed}


def _with_steps(configuration: Configuration, folder: RunFolder, steps: int | None) -> Configuration:
    """Return the configuration with another last step, which config.yaml will hold, too; None changes nothing."""
    if steps is None:
        return configuration
    folder.sections["OPTIMIZATION"]["total_steps"] = steps
    optimization = dataclasses.replace(configuration.OPTIMIZATION, total_steps=steps)
    return dataclasses.replace(configuration, OPTIMIZATION=optimization)


def _check_steps(options: TrainOptions, saved: Saved | None, total: int) -> None:
    """Refuse a new run that would end before its first step."""
    if options.checkpoint is not None and saved is not None and saved.step >= total:
        what = "OPTIMIZATION.total_steps" if options.steps is None else "--steps"
        raise RequestError(
            f"{what}: found {total}, the step to train to; the checkpoint {saved.folder} is of step {saved.step}: "
            f"--steps {saved.step + total} trains {total} more"
        )


def _restore(trainer: Trainer, saved: Saved | None, options: TrainOptions, start: Start, ranks: Ranks) -> Restored:
    if saved is None:
        if options.resumes:
            ranks.say(f"no checkpoint in {options.out}: starting from the beginning")
        return Restored(0, 0, 0.0, (), None)
    restored = restore(trainer, saved, new_noise=saved.seed not in (None, start.seed))
    ranks.say(f"resuming from step {restored.step}, {saved.folder}")
    for message in restored.messages:
        ranks.say(message)
    return restored


# What a run is made of.


def _open_data(
    configuration: Configuration, options: TrainOptions, start: Start, folder: RunFolder, ranks: Ranks
) -> TrainingSet:
    """Open the training images, and compare them with those of the run's earlier starts."""
    section = configuration.DATA
    data = open_training_set(section.name, options.data, section.num_classes, section.img_size, start.resizer)
    ranks.say(data.summary)
    _check_place(options, data)
    if options.resumes and (change := folder.check_images(data.record, options.allow_changed_images)):
        ranks.say(change)
    return data


def _check_place(options: TrainOptions, data: TrainingSet) -> None:
    """Refuse to write a run among image files, where it would be a class of the next run."""
    out, root = options.out.resolve(), Path(options.data).resolve()
    file = file_of(data.pixels.images.dataset, 0)
    if file is None or not file.resolve().is_relative_to(root):
        return
    part = file.resolve().relative_to(root).parts[0]
    for images in (root / part, *([root / "valid"] if part == "train" else [])):
        if out.is_relative_to(images):
            raise RequestError(f"--out {options.out}: found a folder of images, {images}; name one outside of it")


def _build(configuration: Configuration, start: Start, data: TrainingSet, ranks: Ranks) -> Trainer:
    """Build networks, optimizers and regularizer."""
    trainer = Trainer(
        configuration,
        data.class_counts,
        iter(()),
        ranks.device,
        start.seed,
        start.speed,
        ranks.rank,
        ranks.number,
        data.record["classes"],
    )
    if trainer.regularization is not None:
        ranks.say(trainer.regularization.summary)
    # A batch that no machine holds ends the run here: a step would first take minutes over it.
    size, batch = configuration.DATA.img_size, configuration.OPTIMIZATION.batch_size // ranks.number
    torch.empty(batch, 3, size, size, device=ranks.device)
    return trainer


def _open_selection(
    configuration: Configuration, options: TrainOptions, start: Start, data: TrainingSet, ranks: Ranks
) -> Selection:
    """Open what evaluations while training need; raises where images or backbone are not available."""
    if start.evaluate < 2:
        raise RequestError(f"--evaluate: found {start.evaluate}; allowed: an integer, 2 or more")
    reference = open_reference(data.pixels.images, options.data, start.resizer)
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
    """Return the batches of this rank, from where the checkpoint stopped."""
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
