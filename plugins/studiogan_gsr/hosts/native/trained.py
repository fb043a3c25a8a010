"""A trained generator, from a run's folder or a checkpoint's: ours, or StudioGAN's of a backbone that is here."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import CheckpointError, EvaluationError, RequestError
from studiogan_gsr.hosts.native.checkpoint import check_architecture, checkpoints, read_file, step_of
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.native.run import configuration_file
from studiogan_gsr.hosts.native.samples import to_pixels
from studiogan_gsr.hosts.native.sampling import sample_latents
from studiogan_gsr.settings import load_configuration

BATCH_NORM = ("batch", "running", "standing")
_STANDING = 16  # batches that standing statistics are made of


@dataclass(frozen=True)
class Trained:
    """A generator as it was saved, on the CPU, and what is known of its run.

    averaged: whether it is the averaged one (EMA).  run: the folder with config.yaml and run.json, if there is one.
    """

    generator: nn.Module
    configuration: Configuration
    step: int
    folder: Path
    averaged: bool
    record: dict[str, Any]
    run: Path | None

    @property
    def data(self) -> dict[str, Any]:
        """What run.json says of the training images; nothing of a run of StudioGAN without our hooks."""
        return dict(self.record.get("data", {}))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the run's log, ours or what the hooks wrote beside StudioGAN's, up to this step."""
        path = self.folder.parent.parent / "statistics" / self.folder.name / "class_norms.jsonl"
        if self.run is not None and (self.run / "log.jsonl").is_file():
            path = self.run / "log.jsonl"
        return [line for line in log_lines(path) if line["step"] <= self.step]


def load_trained(path: Path, config: str | None = None, averaged: bool | None = None, best: bool = False) -> Trained:
    """The newest checkpoint of a run's folder, or the checkpoint in a folder.

    config: a file or shipped name, for a checkpoint without records.  averaged: None: where there is one.
    best: StudioGAN's best checkpoint, by the metrics that it trained with, in place of the last.
    Raises RequestError where there is no checkpoint or no configuration, CheckpointError for a damaged one.
    """
    run, folder = _found(path)
    if config is None and run is None:
        raise RequestError(f"{path}: a checkpoint without config.yaml beside it; --config names its configuration")
    source = run / "config.yaml" if config is None and run is not None else configuration_file(str(config))
    configuration = read_configuration(load_configuration(source))
    has_average = configuration.MODEL.apply_g_ema
    if averaged and not has_average:
        raise RequestError(f"{path}: MODEL.apply_g_ema is false: there is no averaged generator")
    averaged = has_average if averaged is None else averaged
    file = _whole(folder, "G_ema" if averaged else "G", has_average, "best" if best else "current")
    state = read_file(file).get("state_dict")
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: not a checkpoint of this host or of StudioGAN")
    generator, _ = make_networks(configuration, seed=0)
    check_architecture(generator, state, file)
    generator.load_state_dict(state)
    record = json.loads((run / "run.json").read_text()) if run is not None and (run / "run.json").is_file() else {}
    generator.eval().requires_grad_(False)
    return Trained(generator, configuration, step_of(file), folder, averaged, record, run)


def _whole(folder: Path, network: str, has_average: bool, when: str) -> Path:
    """A network's file of the newest step whose generators are all there: a killed save leaves some of them."""
    names = ["G", "G_ema"] if has_average else ["G"]
    files = {n: {step_of(p): p for p in folder.glob(f"model={n}-{when}-weights-step=*.pth")} for n in names}
    steps = set.intersection(*(set(found) for found in files.values()))
    if not steps:
        raise CheckpointError(f"{folder}: no {when} checkpoint has all of {', '.join(names)}")
    return files[network][max(steps)]


def log_lines(path: Path) -> list[dict[str, Any]]:
    """A log's JSON lines by step, the last of each; without one that was cut off when the run was killed."""
    lines: dict[int, dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            lines[int(line["step"])] = line
        except (ValueError, KeyError, TypeError):
            continue
    return [lines[step] for step in sorted(lines)]


def _found(path: Path) -> tuple[Path | None, Path]:
    """The folder with the run's records, if there are any, and the checkpoint's.

    Our runs have them in their own folder, StudioGAN's with our hooks beside the checkpoint.
    """
    if list(path.glob("model=G-*.pth")):
        return next((run for run in (path, path.parent.parent) if (run / "config.yaml").is_file()), None), path
    saved = checkpoints(path / "checkpoints")
    if saved:
        return (path if (path / "config.yaml").is_file() else None), saved[-1][1]
    theirs = sorted((path / "checkpoints").glob("*/model=G-current*.pth"), key=lambda file: file.stat().st_mtime)
    if theirs:
        return _found(theirs[-1].parent)
    found = "a folder without checkpoints" if path.is_dir() else "no such folder"
    inside = [child.parent.name for child in sorted(path.glob("*/checkpoints"))]
    hint = f": {', '.join(inside[:5])} in it" if inside else ""
    raise RequestError(f"{path}: found {found}; name a run's folder or a checkpoint's{hint}")


def images(
    trained: Trained, number: int, batch_size: int, seed: int, batch_norm: str, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of uint8 images (B, 3, H, W) and labels (B,), labels uniform over the classes.

    Noise and labels come from a stream of their own.  batch_norm: "batch" (statistics of each batch, as the paper
    evaluates), "running" (those of training), or "standing" (made anew from 16 batches, then fixed).
    Raises EvaluationError where an image is not finite.
    """
    data, model = trained.configuration.DATA, trained.configuration.MODEL
    generator = copy.deepcopy(trained.generator).to(device)
    stream = torch.Generator(device).manual_seed(seed)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        z, labels = sample_latents(model.z_prior, size, model.z_dim, data.num_classes, stream)
        return generator(z, labels), labels

    _prepare(generator, batch_norm, lambda: draw(batch_size))
    made = 0
    while made < number:
        # The last batch is as large as the others, because batch norm sees all of it.
        floats, labels = draw(batch_size)
        if not bool(floats.isfinite().all()):
            raise EvaluationError(f"{trained.folder}: the generator gives images that are not finite")
        left = number - made
        yield to_pixels(floats[:left]).to(device), labels[:left]
        made += min(left, batch_size)


def _prepare(generator: nn.Module, batch_norm: str, draw: Any) -> None:
    """Set the batch norms; everything else stays as in evaluation (spectral norm must not move)."""
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if batch_norm == "running":
        return
    for norm in norms:
        norm.train()
        if batch_norm == "standing":
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
    if batch_norm == "standing":
        with torch.no_grad():
            for _ in range(_STANDING):
                draw()
        generator.eval()
