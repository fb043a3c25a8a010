"""Export a trained generator: weights, configuration, records and a model card, as a model hub takes them."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from studiogan_gsr.errors import DataError, RequestError, reason
from studiogan_gsr.evaluation.samples import save_grid
from studiogan_gsr.machine import versions
from studiogan_gsr.progress import console
from studiogan_gsr.regularizers.affines import unwrapped
from studiogan_gsr.runs.exported import CARD, CONFIGURATION, FORMAT, RECORD, SAMPLES, WEIGHTS, is_exported
from studiogan_gsr.runs.generator import check_conditional
from studiogan_gsr.runs.model_card import model_card
from studiogan_gsr.runs.options import ExportOptions
from studiogan_gsr.runs.reported import results_of
from studiogan_gsr.runs.staging import staged
from studiogan_gsr.runs.trained import Trained, load_trained
from studiogan_gsr.seeds import SAMPLES as OF_SAMPLES
from studiogan_gsr.seeds import mixed

_BATCH_NORM = (
    "the weights hold the running statistics of training; load_generator and samples.png use them, evaluate uses "
    "those of each batch unless --batch-norm says otherwise"
)
# Without folders of this machine, which a record has, too.
_OF_DATA = ("name", "plugin", "class_counts", "classes", "head_class", "tail_class", "images_sha256", "preprocessing")
_OF_START = ("step", "time", "seconds", "device", "versions", "ranks", "threads", "speed", "checkpoint_step")


def export(path: Path, options: ExportOptions) -> Path:
    """Write a generator to the folder `options.out`, whole or not at all; return the folder.

    Raises RequestError, ConfigurationError, CheckpointError or HostError if the generator cannot be loaded, has no
    classes, or if the folder has files; DataError if it cannot be written.
    """
    out = options.out
    if is_exported(path):
        raise RequestError(f"{path}: found an exported generator; copy the folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"--out {out}: found {'files there' if out.is_dir() else 'a file'}; name a new folder")
    trained = load_trained(path, options.config, options.averaged, options.checkpoint)
    check_conditional(trained)
    weights = save(_state(trained), metadata={"format": "pt"})
    record = _record(trained, weights)
    evaluations = [result for result in results_of(trained, "evaluations") if _is_of(trained, result["protocol"])]
    model, data = trained.configuration.MODEL, trained.configuration.DATA
    try:
        with staged(out, {"exported": record["weights_sha256"]}) as folder:
            (folder / WEIGHTS).write_bytes(weights)
            sections = yaml.safe_dump(trained.configuration.sections(), sort_keys=False)
            (folder / CONFIGURATION).write_text(sections, encoding="utf-8")
            (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            (folder / CARD).write_text(model_card(trained, record, evaluations), "utf-8", "backslashreplace")
            save_grid(
                trained.generator,
                trained.data.get("class_counts") or [0] * data.num_classes,
                model.z_prior,
                model.z_dim,
                mixed(trained.seed or 0, OF_SAMPLES),
                folder / SAMPLES,
            )
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {reason(error)}") from error
    console().print(
        f"written to {out}: the {'averaged ' if trained.averaged else ''}generator of step {trained.step} "
        f"({len(weights) / 1e6:.1f} MB), and its model card; evaluations in it: {len(evaluations)}; "
        f"choose a license in {out / CARD} before you publish it"
    )
    return out


def _state(trained: Trained) -> dict[str, Tensor]:
    """Return the generator's tensors, each contiguous and in memory of its own, as safetensors needs them."""
    state = unwrapped(trained.generator).state_dict()
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _record(trained: Trained, weights: bytes) -> dict[str, Any]:
    """Return the content of export.json."""
    known = trained.record
    return {
        "format": FORMAT,
        "step": trained.step,
        "averaged": trained.averaged,
        "checkpoint_rule": trained.rule,
        "chosen": trained.chosen,
        "checkpoint_sha256": trained.sha256,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "batch_norm": _BATCH_NORM,
        "host": known.get("host"),
        "seed": trained.seed,
        "data": {"name": trained.configuration.DATA.name, **_only(trained.data, _OF_DATA)},
        "regularizers": known.get("regularizers", []),
        "starts": [_start(start) for start in known.get("starts", [])],
        "versions": versions(),
        "time": datetime.now(timezone.utc).isoformat(),
    }


def _start(start: dict[str, Any]) -> dict[str, Any]:
    origin = {"checkpoint": "/".join(Path(start["checkpoint"]).parts[-3:])} if "checkpoint" in start else {}
    return {**_only(start, _OF_START), **origin}


def _only(record: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: record[key] for key in keys if key in record}


def _is_of(trained: Trained, protocol: dict[str, Any]) -> bool:
    """Return whether an evaluation is of this generator; evaluations of older versions have no digest."""
    same = (protocol["step"], protocol["averaged_generator"]) == (trained.step, trained.averaged)
    return same and protocol.get("checkpoint_sha256") in (None, trained.sha256)
