"""Load a trained generator from the folder of a run or a checkpoint, of either host."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import Any

from torch import nn

from studiogan_gsr.errors import CheckpointError, RequestError, reason
from studiogan_gsr.evaluation.selection import best as best_evaluation
from studiogan_gsr.files import lines_by_step, sha256
from studiogan_gsr.hosts.checkpoint_files import (
    check_architecture,
    checkpoints,
    file_name,
    read_file,
    removed,
    step_of,
    studiogan_checkpoint,
    whole_steps,
)
from studiogan_gsr.hosts.native.configuration import only_in_studiogan, read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.studiogan.generators import read_studiogan_configuration, studiogan_generator
from studiogan_gsr.regularizers.affines import unwrapped
from studiogan_gsr.runs.exported import CONFIGURATION, WEIGHTS, is_exported, read_exported
from studiogan_gsr.settings import Configured, load_configuration
from studiogan_gsr.shipped import configuration_file

_COUNTS = "data.class_counts"
_EXAMPLE = 0  # seed of an untrained generator that serves as an example


@dataclass(frozen=True)
class Start:
    """The generator before a run's first step.

    source: where it comes from, as text.  known: False for an example, an untrained generator of another seed.
    """

    generator: nn.Module
    source: str
    known: bool


@dataclass(frozen=True)
class Trained:
    """A saved generator, on the CPU, and what is known about its run.

    folder: of the checkpoint.  file: the one that holds the generator.
    record: the content of run.json; empty without one.
    averaged: whether it is the averaged generator (EMA).  run: the folder with config.yaml and run.json, if any.
    untrained: takes a seed, and returns a new generator of the same configuration.
    rule: "last", "best", or "named" for any other checkpoint, which the user named by its folder.
    chosen: the evaluation during training that selected it as the best; native host only.
    """

    generator: nn.Module
    configuration: Configured
    step: int
    folder: Path
    file: Path
    averaged: bool
    record: dict[str, Any]
    run: Path | None
    untrained: Callable[[int], nn.Module]
    rule: str
    chosen: dict[str, Any] | None

    @property
    def data(self) -> dict[str, Any]:
        """The record of the training images in run.json; empty for runs of StudioGAN without our hooks."""
        return dict(self.record.get("data", {}))

    @property
    def classes(self) -> list[str]:
        """Names of the classes in label order; their numbers if the record has no names."""
        number, names = self.configuration.DATA.num_classes, self.data.get("classes") or []
        return [str(name) for name in (names if len(names) == number else range(number))]

    @cached_property
    def sha256(self) -> str:
        """The digest of the file; CheckpointError if it was removed since.

        Long commands ask for it at the start, because a run that still trains removes its old checkpoints.
        """
        try:
            return sha256(self.file)
        except FileNotFoundError as error:
            raise CheckpointError(removed(self.file)) from error

    @property
    def seed(self) -> int | None:
        """The run's seed, from run.json or the discriminator's checkpoint file; None if neither has one."""
        found = self.record.get("seed")
        if found is None:
            files = self.folder.glob(f"model=D-*-weights-step={self.step}.pth")
            found = next((read_file(file).get("seed") for file in files), None)
        return found if isinstance(found, int) else None

    def start(self) -> Start:
        """Return the generator that the run began with.

        It is loaded from the checkpoint that the run was started from, or built from the run's seed.  If that
        checkpoint is gone or the seed is not recorded, it is an untrained generator of another seed, as an example.
        """
        first = (self.record.get("starts") or [{}])[0]
        origin = Path(first["checkpoint"]) if "checkpoint" in first else None
        if origin is not None and origin != self.folder.resolve():
            step = first.get("checkpoint_step", first["step"])
            files = sorted(origin.glob(f"model=G-*-weights-step={step}.pth"))
            if files:
                generator = _load(self.untrained(_EXAMPLE), files[-1], self.configuration.DATA.num_classes)
                return Start(generator, f"the checkpoint that the run was started from, {origin}, step {step}.", True)
            why = f"the checkpoint that the run was started from, {origin}, step {step}, is not there any more"
        elif (seed := self.seed) is not None:
            return Start(self.untrained(seed), f"the run's generator before training, of seed {seed}.", True)
        else:
            why = "the run's seed is not recorded"
        source = f"an example, an untrained generator of seed {_EXAMPLE}, because {why}."
        return Start(self.untrained(_EXAMPLE), source, False)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the run's log up to this step, for runs of either host."""
        path = self.folder.parent.parent / "statistics" / self.folder.name / "log.jsonl"
        if self.run is not None and (self.run / "log.jsonl").is_file():
            path = self.run / "log.jsonl"
        return [line for line in lines_by_step(path) if line["step"] <= self.step]


def load_trained(
    path: Path, config: str | None = None, averaged: bool | None = None, checkpoint: str = "last"
) -> Trained:
    """Load a checkpoint of a run, the checkpoint in a folder, or an exported generator.

    config: a file or a shipped name, for a checkpoint without records.
    averaged: whether to load the averaged generator; None: load it if there is one.
    checkpoint: "last", "best", or a step, such as "2000".
    Raises RequestError if there is no checkpoint or no configuration, and CheckpointError if the checkpoint is
    damaged or does not fit its configuration.
    """
    if checkpoint not in ("last", "best") and not checkpoint.isdecimal():
        raise RequestError(f"--checkpoint: found {checkpoint!r}; allowed: last, best, or a step")
    if is_exported(path):
        return _exported(path, config, averaged, checkpoint)
    run, folder = _found(path)
    rule, chosen = "best" if checkpoint == "best" else "last", None
    if run is not None and run != folder:  # a run of the native host
        folder, rule, chosen = _of_run(run, folder, checkpoint, named=folder == Path(os.path.abspath(path)))
    if config is None and run is None:
        raise RequestError(
            f"{path}: found a checkpoint without a config.yaml; copy the run's into this folder, or name it with "
            "--config, which evaluate, generate, export and spectrum have"
        )
    source = run / "config.yaml" if config is None and run is not None else configuration_file(str(config))
    configuration, untrained = _read(load_configuration(source))
    has_average = configuration.MODEL.apply_g_ema
    if averaged and not has_average:
        raise RequestError(f"{path}: MODEL.apply_g_ema is false: there is no averaged generator; leave --ema out")
    averaged = has_average if averaged is None else averaged
    names = ["G", "G_ema"] if has_average else ["G"]
    if checkpoint.isdecimal():
        file = _of_step(folder, names, int(checkpoint))
        newest = max(whole_steps(folder, "current", names), default=-1)
        rule = "named" if rule == "last" and step_of(file) != newest else rule
    else:
        file = _newest(folder, names, "best" if checkpoint == "best" and chosen is None else "current")
    file = file.with_name(file.name.replace("model=G-", "model=G_ema-")) if averaged else file
    generator = _load(untrained(_EXAMPLE), file, configuration.DATA.num_classes)
    record = {} if run is None else _read_record(run / "run.json", configuration.DATA.num_classes)
    return Trained(
        generator, configuration, step_of(file), folder, file, averaged, record, run, untrained, rule, chosen
    )


def _read_record(path: Path, classes: int) -> dict[str, Any]:
    """Return the content of run.json; {} without one.  Raises CheckpointError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
        if wrong := _wrong_in(record, classes):
            raise ValueError(f"its {wrong} is not that of {classes} classes" if wrong == _COUNTS else f"no {wrong}")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not the record of this run: {reason(error)}; restore it, or move it away: the "
            "checkpoint is then read without names and numbers of its classes"
        ) from error
    return dict(record)


def _wrong_in(record: Any, classes: int) -> str:
    """Return what a record lacks or has in another form; "" if nothing.  Records of older versions have less."""
    if not isinstance(record, dict):
        return "mapping"
    data, starts, regularizers = record.get("data", {}), record.get("starts", []), record.get("regularizers", [])
    if not isinstance(data, dict):
        return "mapping data"
    if not isinstance(data.get("classes", []), list | NoneType):
        return "list data.classes"
    for name, entries in (("starts", starts), ("regularizers", regularizers)):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return f"list of mappings {name}"
    if not all("step" in start for start in starts):
        return "step of each start"
    counts = data.get("class_counts")
    known = isinstance(counts, list) and [type(count) for count in counts] == [int] * classes
    return "" if counts is None or known else _COUNTS


def _exported(folder: Path, config: str | None, averaged: bool | None, checkpoint: str) -> Trained:
    """Load an exported generator; raise RequestError for options that choose another one."""
    exported = read_exported(folder)
    record, state = exported.record, exported.state
    other = "--config" if config is not None else "" if checkpoint == "last" else "--checkpoint"
    if averaged not in (None, record["averaged"]):
        other = "--ema" if averaged else "--no-ema"
    if other:
        kind = "the averaged generator" if record["averaged"] else "a generator, not averaged,"
        raise RequestError(
            f"{other}: found an exported folder, {folder}; it has only {kind} of step {record['step']}"
        )
    configuration, untrained = _read(load_configuration(folder / CONFIGURATION))
    return Trained(
        generator=_with_weights(untrained(_EXAMPLE), state, folder / WEIGHTS, configuration.DATA.num_classes),
        configuration=configuration,
        step=record["step"],
        folder=folder,
        file=folder / WEIGHTS,
        averaged=record["averaged"],
        record=record,
        run=folder,
        untrained=untrained,
        rule=record["checkpoint_rule"],
        chosen=record.get("chosen"),
    )


def _read(sections: Mapping[str, Any]) -> tuple[Configured, Callable[[int], nn.Module]]:
    """Return a configuration, and a function that builds its generator from a seed.

    A configuration that the native host does not support is read and built by a checkout of StudioGAN.
    """
    if only_in_studiogan(sections):
        return read_studiogan_configuration(sections), partial(studiogan_generator, sections)
    configuration = read_configuration(sections)
    return configuration, lambda seed: make_networks(configuration, seed)[0]


def _load(generator: nn.Module, file: Path, classes: int) -> nn.Module:
    """Load a checkpoint's weights into a generator; return it frozen, in evaluation mode."""
    state = read_file(file).get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: not a checkpoint of this host or of StudioGAN")
    return _with_weights(generator, state, file, classes)


def _with_weights(generator: nn.Module, state: dict[str, Any], file: Path, classes: int) -> nn.Module:
    inner = unwrapped(generator)
    check_architecture(inner, state, file, classes)
    inner.load_state_dict(state)
    return generator.eval().requires_grad_(False)


def _of_run(run: Path, folder: Path, checkpoint: str, named: bool) -> tuple[Path, str, dict[str, Any] | None]:
    """Return the folder, the rule and the selecting evaluation of a checkpoint of the native host; see `Trained`.

    folder: the newest checkpoint's, or the one that the user named.
    """
    saved = dict(checkpoints(run / "checkpoints"))
    # The checkpoint may have been removed by hand; its evaluation remains.
    line = best_evaluation(run, max(saved)) if saved else None
    if checkpoint == "best" and line is not None:
        if named:
            raise RequestError(
                f"the best checkpoint: found the folder of a checkpoint, {folder}; name its run's, {run}"
            )
        if line["step"] not in saved:
            raise CheckpointError(
                f"{run}: the best checkpoint, of step {line['step']}, is not there any more; choose the last one"
            )
        return saved[line["step"]], "best", line
    if checkpoint.isdecimal():
        folder = saved.get(int(checkpoint), folder)  # if there is none, `_of_step` says which there are
    if folder.name == f"step={max(saved, default=0)}":
        return folder, checkpoint if checkpoint == "best" else "last", None
    found_best = line is not None and folder.name == f"step={line['step']}"
    return (folder, "best", line) if found_best else (folder, "named", None)


def _newest(folder: Path, names: Sequence[str], when: str) -> Path:
    """Return the generator's file of the newest step for which all of `names` (G, and G_ema if any) were saved.

    A save that was killed leaves only some of them.  when: "current" or "best".
    """
    steps = whole_steps(folder, when, names)
    if not steps:
        if when == "best" and not list(folder.glob("*-best-*")):
            raise CheckpointError(
                f"{folder}: no best checkpoint was kept: the run was not measured while it trained "
                f"({_measuring(folder)}); choose the last one"
            )
        raise CheckpointError(f"{folder}: no {when} checkpoint has all of {', '.join(names)}")
    return folder / file_name("G", when, max(steps))


def _measuring(folder: Path) -> str:
    """Return the option with which the host of a checkpoint measures while it trains; of both if it is unknown."""
    native, theirs = "`train --evaluate`", "StudioGAN's `-metrics fid`"
    if checkpoints(folder.parent):  # step=N
        return native
    return theirs if folder.parent.name == "checkpoints" else f"{native} or {theirs}"


def _of_step(folder: Path, names: Sequence[str], step: int) -> Path:
    """Return the generator's file of a step; if there is none, raise CheckpointError, which names the steps."""
    kinds = {when: whole_steps(folder, when, names) for when in ("current", "best")}
    for when, steps in kinds.items():
        if step in steps:
            return folder / file_name("G", when, step)
    beside = [found for found, _ in checkpoints(folder.parent)]
    there = sorted(set.union(*kinds.values()).union(beside))
    raise CheckpointError(f"--checkpoint: found {step}; {folder.parent} has the steps {', '.join(map(str, there))}")


def _found(path: Path) -> tuple[Path | None, Path]:
    """Return the folder with the run's records, if any, and the folder of the checkpoint.

    The native host writes the records to the run's folder.  Our hooks in StudioGAN write them beside the checkpoint.
    """
    if list(path.glob("model=G-*.pth")):
        path = Path(os.path.abspath(path))  # "." has no parent; unlike resolve(), abspath keeps links
        return next((run for run in (path, path.parent.parent) if (run / "config.yaml").is_file()), None), path
    saved = checkpoints(path / "checkpoints")
    if saved:
        return (path if (path / "config.yaml").is_file() else None), saved[-1][1]
    if theirs := studiogan_checkpoint(path):
        return _found(theirs)
    if path.is_file():
        raise RequestError(f"{path}: found a file; name the folder that it is in, {path.parent}")
    found = "a folder without checkpoints" if path.is_dir() else "no such folder"
    if (path / "config.yaml").is_file():
        found = "a run that has not saved a checkpoint yet"
    inside = [child.parent.name for child in sorted(path.glob("*/checkpoints"))]
    hint = f"; it contains the runs {', '.join(inside[:5])}" if inside else ""
    raise RequestError(f"{path}: found {found}{hint}; name a run's folder or a checkpoint's")
