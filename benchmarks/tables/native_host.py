"""Train a planned run in the native host."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.tables.plan import PlannedRun
from benchmarks.tables.training import Training, penalties_of, without_paths
from studiogan_gsr.files import lines_by_step
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train


def train_native(run: PlannedRun) -> Training:
    """Train a run, resuming it if its folder holds one; return what the record needs."""
    out, protocol = Path(run.out), run.protocol
    trainer = train(
        run.sections,
        TrainOptions(
            data=run.data,
            out=out,
            steps=run.steps,
            device=run.device,
            seed=run.seed,
            resume=(out / "config.yaml").is_file(),
            print_freq=run.print_freq,
            save_freq=protocol.every,
            evaluate=protocol.images_while_training,
            select_on=protocol.select_on,
            backbone=protocol.backbone,
            resizer=protocol.resizer,
            reference_images=run.reference_images,
            label=run.title,
        ),
    )
    starts, log = json.loads((out / "run.json").read_text())["starts"], lines_by_step(out / "log.jsonl")
    regularization = trainer.regularization
    regularizers = [
        {**record, "acted": method.active}
        for record, method in zip(regularization.records(), regularization.methods, strict=True)
    ]
    device = starts[-1]["device"]
    starts = without_paths(starts)
    return Training(
        host={"starts": starts},
        steps=trainer.steps,
        device=device,
        regularizers=regularizers,
        penalties=penalties_of(regularizers, log),
        hours=log[-1]["seconds"] / 3600,
    )
