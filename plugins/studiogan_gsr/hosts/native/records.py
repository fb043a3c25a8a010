"""Write run.json: the record of a run and of each of its starts."""

from __future__ import annotations

from contextlib import suppress

from studiogan_gsr.hosts.native.folder import RunFolder, read_starts
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.process import Ranks
from studiogan_gsr.hosts.native.restore import Restored
from studiogan_gsr.hosts.native.starts import Start, changes, kept_options
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.native.training_set import TrainingSet
from studiogan_gsr.machine import device_name, versions


def write_records(
    folder: RunFolder,
    trainer: Trainer,
    data: TrainingSet,
    options: TrainOptions,
    start: Start,
    restored: Restored,
    ranks: Ranks,
) -> None:
    """Write config.yaml and run.json before the first step.

    Also prints the options that a resumed run keeps, and what differs from the last start.
    """
    this_start = {
        "step": trainer.steps,
        "device": device_name(ranks.device.type),
        "versions": versions(),
        **start.record(),
        **{key: data.record[key] for key in ("images_sha256", "preprocessing")},
    }
    if restored.folder is not None:
        this_start["checkpoint"] = str(restored.folder.resolve())
    before = folder.starts() if options.resumes else []
    if before and (same := kept_options(start, options)):
        ranks.say(f"kept from the run: {same}")
    if not before and restored.folder is not None:  # a new run from another run's checkpoint
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = read_starts(restored.folder.parent.parent)
    if before and (different := changes(before[-1], this_start)):
        ranks.say(f"from step {trainer.steps} on: {different}")
    run = {
        "host": "native",
        "seed": start.seed,
        "regularizers": trainer.regularization.records(),
        "data": data.record,
    }
    folder.write(run, this_start, options.resumes)
