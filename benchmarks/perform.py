"""One run, in this process: train in its host, measure the last and the best checkpoint, write the record.

A run's folder is one that `studiogan-gsr evaluate`, `spectrum` and `report` read, whichever host trained.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import records
import torch
import yaml
from filelock import FileLock, Timeout
from paper_tables import Protocol
from records import Record, RecordError

from runs import Run
from studiogan_gsr.datasets.by_name import find_dataset, open_images
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import TrainingError, in_one_line
from studiogan_gsr.evaluation.reference import open_reference
from studiogan_gsr.evaluation.selection import FILE as SELECTION
from studiogan_gsr.evaluation.selection import Selection, best, evaluations, noise_of
from studiogan_gsr.files import forget_after, lines_by_step
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native.checkpoint import remove_old
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.starts import Options
from studiogan_gsr.hosts.studiogan.hooks import KEEP_VARIABLE
from studiogan_gsr.machine import choose_device
from studiogan_gsr.regularizers.norms import largest_class_norms
from studiogan_gsr.runs import evaluate as evaluation
from studiogan_gsr.runs.spectrum import start_norms
from studiogan_gsr.runs.trained import load_trained
from studiogan_gsr.settings import load_configuration

PACKAGES = ("studiogan-gsr", "torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Training:
    """What a host tells of a run that it has trained to its end."""

    host: dict[str, Any]
    steps: int
    device: str
    plugin: str | None  # of the regularizer
    regularizer: str | None
    acted: int
    penalties: list[tuple[int, float]]
    hours: float


def perform(run: Run) -> Path:
    """Gives the record's path.  Goes on with what is there.

    Raises what training and evaluation raise, and RecordError where the run does not prove what its record says.
    """
    out, protocol = Path(run.out), run.protocol
    training = TRAIN[run.host](run)
    began = time.perf_counter()
    results = {"best": _measured(run, "best")}
    if results["best"]["protocol"]["step"] == training.steps:  # the same weights and noise, by another rule
        results["last"] = copy.deepcopy(results["best"])
        results["last"]["protocol"] |= {"checkpoint_rule": "last", "selection": None}
    else:
        results["last"] = _measured(run, "last")
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
                "plugins": [plugin for plugin in (found and str(found[0].plugin), training.plugin) if plugin],
                "regularizer": training.regularizer,
                "acted": training.acted,
            }
        ],
        penalties=training.penalties,
        course=[_course(line) for line in evaluations(out)],
        norms=_norms(out, run.seed),
        hours={
            "training": training.hours,
            "evaluation while training": sum(line["seconds"] for line in evaluations(out)) / 3600,
            "evaluation": (time.perf_counter() - began) / 3600,
        },
        results=results,
        git=records.git_state(Path(__file__).parent),
        time=datetime.now(timezone.utc).isoformat(),
    )
    return records.write(record, Path(run.records))


def one(specification: Path) -> int:
    """The run that a file describes; the exit status for its process."""
    content = json.loads(specification.read_text())
    run = Run(**{**content, "protocol": Protocol(**content["protocol"])})
    try:
        Path(run.out).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{run.out}.lock", timeout=0):
            if run.done()[0] is None:  # another process may have made it since
                perform(run)
    except Timeout:
        print(f"run.py: {run.title}: another process is at it", file=sys.stderr)
        return 1
    except Exception as error:
        told = in_one_line(error)
        if not told.ours:  # after hours of training; the log is all that is left of it
            traceback.print_exc()
        print(f"run.py: {run.title}: {told.text}", file=sys.stderr)
        return told.exit_status
    return 0


# ------------------------------------------------------------------ native


def _train_native(run: Run) -> Training:
    out, protocol = Path(run.out), run.protocol
    trainer = train(
        run.sections,
        Options(
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
            label=run.title,
        ),
    )
    starts, log = json.loads((out / "run.json").read_text())["starts"], lines_by_step(out / "log.jsonl")
    regularization = trainer.regularization
    device = starts[-1]["device"]
    starts = _without_paths(starts)
    return Training(
        host={"starts": starts},
        steps=trainer.steps,
        device=device,
        plugin=None if regularization is None else str(regularization.plugin),
        regularizer=None if regularization is None else regularization.summary,
        acted=0 if regularization is None else regularization.acted,
        penalties=_penalties(run, log),
        hours=log[-1]["seconds"] / 3600,
    )


def _without_paths(starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The starts of a run, without this machine's paths of the checkpoints that they resumed from."""
    return [{**start, "checkpoint": None} if "checkpoint" in start else start for start in starts]


# ------------------------------------------------------------------ StudioGAN


def _train_studiogan(run: Run) -> Training:
    """StudioGAN in a process of its own keeps the generator of every `every` steps, and we choose among them.

    By our backbones and on our reference, so that both hosts' checkpoints are chosen and measured in one way.
    """
    out = Path(run.out)
    save = out.with_name(f"{out.name}-studiogan")
    if max((step for step, _ in _kept(run)), default=0) < run.steps:
        _run_studiogan(run, save)
    _check_configuration(run)
    _select(run)
    told = json.loads((out / "run.json").read_text())
    (saved,) = {path.parent for path in save.glob("checkpoints/*/model=D-current-*")}
    log = lines_by_step(save / "statistics" / saved.name / "log.jsonl")
    regularizer, starts = told["regularizer"] or {}, _without_paths(told["starts"])
    return Training(
        host={**told["checkout"], "starts": starts},
        steps=_kept(run)[-1][0],
        device=starts[-1]["device"],
        plugin=regularizer.get("plugin"),
        regularizer=regularizer.get("summary"),
        acted=regularizer.get("acted", 0),
        penalties=_penalties(run, log),
        hours=sum(start["seconds"] for start in starts) / 3600,
    )


def _run_studiogan(run: Run, save: Path) -> None:
    """Goes on from a checkpoint that is whole; raises TrainingError where it does not end well."""
    model, aug = run.sections["MODEL"], run.sections.get("AUG", {})
    last_written = "G_ema" if model.get("apply_g_ema") else "D"
    begun = [path.parent for path in save.glob(f"checkpoints/*/model={last_written}-current-*")]
    if begun and aug.get("apply_ada"):
        print("begun anew: StudioGAN would go on with another AUG.ada_kimg than it began with", flush=True)
        begun = []
    if not begun:  # what is left of a start that was ended early would be taken for this one's
        for folder in (save, Path(run.out)):
            shutil.rmtree(folder, ignore_errors=True)
    save.mkdir(parents=True, exist_ok=True)
    # StudioGAN trains one step more than it is told to.
    optimization = {**run.sections["OPTIMIZATION"], "total_steps": run.steps - 1}
    loss = {key: value for key, value in run.sections.get("LOSS", {}).items() if key != "lecam_released"}
    configuration = save / "configuration.yaml"
    sections = {**run.sections, "OPTIMIZATION": optimization, "LOSS": loss}
    configuration.write_text(yaml.safe_dump(sections, sort_keys=False))
    command = [sys.executable, "-m", "studiogan_gsr", "studiogan", "run"]
    for flag, value in (("--root", run.root), ("--device", run.device)):
        command += [flag, value] if value is not None else []
    command += ["--", "-t", "-metrics", "none", "-cfg", str(configuration), "-data", run.data, "-save", str(save)]
    command += ["--seed", str(run.seed), "--print_freq", str(run.print_freq), "--save_freq", str(run.protocol.every)]
    command += ["--pre_resizer", run.protocol.resizer, "--num_workers", "4"]
    command += ["-ckpt", str(begun[0])] if begun else []
    environment = {**os.environ, "WANDB_MODE": "disabled", KEEP_VARIABLE: run.out}
    last = "no output"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode:
        raise TrainingError(f"StudioGAN ended with status {process.returncode}: {last}")


def _kept(run: Run) -> list[tuple[int, Path]]:
    """Steps and folders of the generators that were kept, averaged ones with them where there are any."""
    names = ["G", "G_ema"] if run.sections["MODEL"].get("apply_g_ema") else ["G"]
    found = checkpoints(Path(run.out) / "checkpoints")
    return [(step, path) for step, path in found if all(list(path.glob(f"model={n}-*")) for n in names)]


def _check_configuration(run: Run) -> None:
    """RecordError where StudioGAN has trained with another value than the run's."""
    told = load_configuration(Path(run.out) / "config.yaml")
    for section, values in run.sections.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            found = told.get(section, {}).get(key, value)
            if found != value and key not in ("total_steps", "lecam_released"):
                raise RecordError(f"{run.key}: StudioGAN trained with {section}.{key} {found}, not {value}")


def _select(run: Run) -> None:
    """Measure the generators that were kept, each once; the last two and the best stay."""
    out, protocol = Path(run.out), run.protocol
    forget_after(out / SELECTION, run.steps)  # half a line of a process that was killed
    measured = {line["step"] for line in evaluations(out)}
    owed = [(step, folder) for step, folder in _kept(run) if step not in measured]
    if not owed:
        return
    trained = load_trained(out, averaged=False)
    data = trained.configuration.DATA
    images = Prepared(open_images(data.name, run.data, "train"), data.name, data.img_size, protocol.resizer)
    selection = Selection(
        out,
        trained.configuration,
        images.class_counts,
        open_reference(images, run.data, protocol.resizer),
        protocol.images_while_training,
        protocol.select_on,
        protocol.backbone,
        noise_of(run.seed),
        torch.device(choose_device(run.device)),
    )
    for step, folder in owed:
        generator = load_trained(folder, averaged=False).generator
        averaged = load_trained(folder).generator if trained.configuration.MODEL.apply_g_ema else None
        line = selection.measure(step, generator, averaged)
        assert line is not None
        print(selection.told(line), flush=True)
    chosen = best(out)
    assert chosen is not None
    remove_old(out / "checkpoints", int(chosen["step"]))


TRAIN: dict[str, Callable[[Run], Training]] = {"native": _train_native, "studiogan": _train_studiogan}

# ------------------------------------------------------------------ what a record keeps


def _measured(run: Run, which: str) -> dict[str, Any]:
    """The best that was chosen on one half is measured on the other, and the last with it."""
    protocol = run.protocol
    how = evaluation.Options(
        data=run.data,
        backbone=protocol.backbone,
        images=protocol.images,
        repeats=protocol.repeats,
        split="reference" if protocol.select_on == "reference" else "test",
        batch_norm=protocol.batch_norm,
        best=which == "best",
        neighbours=protocol.neighbours,
        resizer=protocol.resizer,
        lpips=False,  # a record does not depend on what else is installed
        device=run.device,
    )
    result = evaluation.evaluate(Path(run.out), how)
    result["protocol"]["checkpoint"] = Path(result["protocol"]["checkpoint"]).name
    return result


def _penalties(run: Run, log: list[dict[str, Any]]) -> list[tuple[int, float]]:
    settings = run.sections.get("REGULARIZER")
    name = settings["name"] if isinstance(settings, dict) else settings
    return [(line["step"], line[f"{name}/penalty"]) for line in log if f"{name}/penalty" in line]


def _course(line: dict[str, Any]) -> dict[str, Any]:
    distances = {"frechet": line["all"]["frechet"], "tail": line["groups"].get("tail", {}).get("frechet")}
    return {"step": line["step"], **distances, "class_norms": line["class_norms"]}


def _norms(out: Path, seed: int) -> dict[str, list[float]]:
    """Of each class the largest exact spectral norm; nothing of an unconditional generator."""
    found = {which: load_trained(out, averaged=False, best=which == "best") for which in records.WHICH}
    configuration = found["last"].configuration
    if configuration.MODEL.g_cond_mtd == "W/O":
        return {}
    norms = {which: largest_class_norms(trained.generator).tolist() for which, trained in found.items()}
    norms["start"] = start_norms(found["last"].untrained(seed), configuration, "square")
    return {which: [round(norm, 5) for norm in of_classes] for which, of_classes in norms.items()}
