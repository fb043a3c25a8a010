"""Complete a planned run in this process: train it, measure its last and best checkpoint, write its record.

`studiogan-gsr evaluate`, `spectrum` and `report` read the run's folder, whichever host trained it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.paths import BENCHMARKS
from benchmarks.tables import records
from benchmarks.tables.native_host import train_native
from benchmarks.tables.plan import PlannedRun, read_run
from benchmarks.tables.records import Record
from benchmarks.tables.rows import split_of
from benchmarks.tables.studiogan_host import train_studiogan
from benchmarks.tables.training import Training
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import in_one_line
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.regularizers.norms import largest_class_norms
from studiogan_gsr.runs.downstream import downstream
from studiogan_gsr.runs.evaluate import evaluate
from studiogan_gsr.runs.options import DownstreamOptions, EvaluateOptions
from studiogan_gsr.runs.spectrum import start_norms
from studiogan_gsr.runs.trained import load_trained

PACKAGES = ("studiogan-gsr", "torch", "torchvision", "numpy")


def complete(run: PlannedRun) -> Path:
    """Complete a run, resuming it if it was interrupted; return the record's path.

    Raises what training and evaluation raise, and RecordError if the record is inconsistent.
    """
    out, protocol = Path(run.out), run.protocol
    training = TRAIN[run.host](run)
    began = time.perf_counter()
    results = {"best": _measured(run, "best")}
    if results["best"]["protocol"]["step"] == training.steps:  # one checkpoint under both rules
        results["last"] = copy.deepcopy(results["best"])
        results["last"]["protocol"] |= {"checkpoint_rule": "last", "selection": None}
    else:
        results["last"] = _measured(run, "last")
    hours = {
        "training": training.hours,
        "evaluation while training": sum(line["seconds"] for line in evaluations(out)) / 3600,
        "evaluation": (time.perf_counter() - began) / 3600,
    }
    of_classifiers = None
    if protocol.downstream is not None:
        began = time.perf_counter()
        of_classifiers = _downstream(run, protocol.downstream)
        hours["downstream"] = (time.perf_counter() - began) / 3600
    data = json.loads((out / "run.json").read_text())["data"]
    found = find_dataset(data["name"])
    record = Record(
        version=records.VERSION,
        key=run.key,
        title=run.title,
        host={"name": run.host, **training.host},
        sections=run.sections,
        seed=run.seed,
        protocol=dataclasses.asdict(protocol),
        data={key: value for key, value in data.items() if key not in ("root", "packed")},
        steps=training.steps,
        ranks=[
            {
                "device": training.device,
                "packages": {name: training.host["starts"][-1]["versions"][name] for name in PACKAGES},
                "plugins": [
                    *([] if found is None else [str(found[0].plugin)]),
                    *(regularizer["plugin"] for regularizer in training.regularizers),
                ],
                "regularizers": training.regularizers,
            }
        ],
        penalties=training.penalties,
        course=[_course(line) for line in evaluations(out)],
        norms=_norms(out, run.seed),
        hours=hours,
        results=results,
        git=records.git_state(BENCHMARKS),
        time=datetime.now(timezone.utc).isoformat(),
        downstream=of_classifiers,
    )
    return records.write(record, Path(run.records))


def complete_described(specification: Path) -> int:
    """Complete the run that a file describes; return the exit status of its process."""
    run = read_run(specification)
    try:
        Path(run.out).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{run.out}.lock", timeout=0):
            if run.done()[0] is None:  # another process may have written the record since
                complete(run)
    except Timeout:
        print(f"run.py: {run.title}: another process is executing this run", file=sys.stderr)
        return 1
    except Exception as error:
        message = in_one_line(error)
        if not message.ours:  # a bug, perhaps after hours of training: keep its traceback in the log
            traceback.print_exc()
        print(f"run.py: {run.title}: {message.text}", file=sys.stderr)
        return message.exit_status
    return 0


TRAIN: dict[str, Callable[[PlannedRun], Training]] = {"native": train_native, "studiogan": train_studiogan}

# ------------------------------------------------------------------ what a record keeps


def _measured(run: PlannedRun, which: str) -> dict[str, Any]:
    """Measure the best or the last checkpoint."""
    protocol = run.protocol
    how = EvaluateOptions(
        data=run.data,
        protocol=protocol.preset,
        backbone=protocol.backbone,
        images=protocol.images,
        repeats=protocol.repeats,
        split=split_of(vars(protocol)),
        batch_norm=protocol.batch_norm,
        best=which == "best",
        neighbours=protocol.neighbours,
        resizer=protocol.resizer,
        lpips=False,  # optional: records must not depend on whether it is installed
        device=run.device,
    )
    result = evaluate(Path(run.out), how)
    result["protocol"]["checkpoint"] = Path(result["protocol"]["checkpoint"]).name
    return result


def _downstream(run: PlannedRun, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Train classifiers with and without images of the best checkpoint."""
    how = DownstreamOptions(data=run.data, checkpoint="best", device=run.device, **dict(sizes))  # type: ignore[arg-type]
    (result,) = downstream([Path(run.out)], how)
    result["protocol"]["checkpoint"] = Path(result["protocol"]["checkpoint"]).name
    return result


def _course(line: dict[str, Any]) -> dict[str, Any]:
    distances = {"frechet": line["all"]["frechet"], "tail": line["groups"].get("tail", {}).get("frechet")}
    diversity = line.get("class_diversity", [None] * len(line["class_norms"]))  # lines of older versions have none
    return {"step": line["step"], **distances, "class_norms": line["class_norms"], "class_diversity": diversity}


def _norms(out: Path, seed: int) -> dict[str, list[float]]:
    """Return the largest exact spectral norms per class, by checkpoint; {} for an unconditional generator."""
    found = {which: load_trained(out, averaged=False, checkpoint=which) for which in records.WHICH}
    configuration = found["last"].configuration
    if configuration.MODEL.g_cond_mtd == "W/O":
        return {}
    norms = {which: largest_class_norms(trained.generator).tolist() for which, trained in found.items()}
    norms["start"] = start_norms(found["last"].untrained(seed), configuration, "square")
    return {which: [round(norm, 5) for norm in of_classes] for which, of_classes in norms.items()}
