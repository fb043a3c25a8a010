"""Train a planned run in StudioGAN, and select its best checkpoint in the same way as the native host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.tables.plan import PlannedRun
from benchmarks.tables.records import RecordError
from benchmarks.tables.training import Training, penalties_of, without_paths
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import TrainingError
from studiogan_gsr.evaluation.reference import open_reference
from studiogan_gsr.evaluation.selection import FILE as SELECTION
from studiogan_gsr.evaluation.selection import Selection, best, evaluations, noise_of
from studiogan_gsr.files import forget_after, lines_by_step
from studiogan_gsr.hosts.checkpoint_files import KEEP_VARIABLE, checkpoints
from studiogan_gsr.hosts.native.checkpoint import remove_old
from studiogan_gsr.machine import choose_device
from studiogan_gsr.runs.trained import load_trained
from studiogan_gsr.settings import SECTION, load_configuration, regularizer_settings


def train_studiogan(run: PlannedRun) -> Training:
    """Train in StudioGAN, in its own process, and select the best among the generators of all saved steps.

    Selection uses our backbones and our reference: checkpoints of both hosts are selected and measured the same way.
    """
    out = Path(run.out)
    save = out.with_name(f"{out.name}-studiogan")
    if max((step for step, _ in _kept(run)), default=0) < run.steps:
        _run_studiogan(run, save)
    _check_configuration(run)
    _select(run)
    record = json.loads((out / "run.json").read_text())
    (saved,) = {path.parent for path in save.glob("checkpoints/*/model=D-current-*")}
    log = lines_by_step(save / "statistics" / saved.name / "log.jsonl")
    regularizers, starts = record["regularizers"], without_paths(record["starts"])
    return Training(
        host={**record["checkout"], "starts": starts},
        steps=_kept(run)[-1][0],
        device=starts[-1]["device"],
        regularizers=regularizers,
        penalties=penalties_of(regularizers, log),
        hours=sum(start["seconds"] for start in starts) / 3600,
    )


def _run_studiogan(run: PlannedRun, save: Path) -> None:
    """Run StudioGAN, resuming a complete checkpoint if there is one; raise TrainingError if StudioGAN fails."""
    model, aug = run.sections["MODEL"], run.sections.get("AUG", {})
    last_written = "G_ema" if model.get("apply_g_ema") else "D"
    begun = [path.parent for path in save.glob(f"checkpoints/*/model={last_written}-current-*")]
    if begun and aug.get("apply_ada"):
        print("starting over: on resume, StudioGAN would use a different AUG.ada_kimg than at the start", flush=True)
        begun = []
    if not begun:  # remove files of an interrupted start, or they would count as this run's
        for folder in (save, Path(run.out)):
            shutil.rmtree(folder, ignore_errors=True)
    save.mkdir(parents=True, exist_ok=True)
    # StudioGAN trains for total_steps + 1 steps.
    optimization = {**run.sections["OPTIMIZATION"], "total_steps": run.steps - 1}
    configuration = save / "configuration.yaml"
    sections = {**run.sections, "OPTIMIZATION": optimization}
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


def _kept(run: PlannedRun) -> list[tuple[int, Path]]:
    """Return the steps and folders of the saved generators; one without its averaged generator is left out."""
    names = ["G", "G_ema"] if run.sections["MODEL"].get("apply_g_ema") else ["G"]
    found = checkpoints(Path(run.out) / "checkpoints")
    return [(step, path) for step, path in found if all(list(path.glob(f"model={n}-*")) for n in names)]


def _check_configuration(run: PlannedRun) -> None:
    """Raise RecordError if StudioGAN trained with a value that differs from the planned run's."""
    expected, found = _values(run.sections), _values(load_configuration(Path(run.out) / "config.yaml"))
    for key, value in expected.items():
        if found.get(key, value) != value and key != "OPTIMIZATION.total_steps":
            raise RecordError(f"{run.key}: StudioGAN trained with {key} {found[key]}, not {value}")


def _values(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values by section and key, and those of regularizers by name and option."""
    regularizers = regularizer_settings(sections)
    values = {
        f"{section}.{key}": value
        for section, keys in sections.items()
        if section != SECTION
        for key, value in keys.items()
    }
    for settings in regularizers:
        values |= {f"{SECTION} {settings.name}.{key}": value for key, value in settings.options.items()}
    return {**values, SECTION: ", ".join(sorted(settings.name for settings in regularizers)) or "none"}


def _select(run: PlannedRun) -> None:
    """Measure each saved generator that has not been measured yet; keep only the last two and the best."""
    out = Path(run.out)
    forget_after(out / SELECTION, run.steps)  # drops a line that a killed process left incomplete
    measured = {line["step"] for line in evaluations(out)}
    owed = [(step, folder) for step, folder in _kept(run) if step not in measured]
    if owed:
        _measure(run, owed)
    chosen = best(out)
    assert chosen is not None
    remove_old(out / "checkpoints", int(chosen["step"]))


def _measure(run: PlannedRun, owed: list[tuple[int, Path]]) -> None:
    """Measure saved generators, and record the results."""
    out, protocol = Path(run.out), run.protocol
    trained = load_trained(out, averaged=False)
    data = trained.configuration.DATA
    images = Prepared(open_images(data.name, run.data, "train"), data.name, data.img_size, protocol.resizer)
    selection = Selection(
        out,
        trained.configuration,
        images.class_counts,
        open_reference(images, run.data, protocol.resizer, run.reference_images),
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
        print(selection.describe(line), flush=True)
