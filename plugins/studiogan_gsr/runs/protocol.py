"""How a generator is measured: what the user gave, then a preset, then the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.choices import BATCH_NORM
from studiogan_gsr.evaluation.protocols import OPTIONS, find_preset
from studiogan_gsr.runs.options import EvaluateOptions
from studiogan_gsr.settings import Configured

NEIGHBOURS = 5  # k of precision, recall, density and coverage, by default
# Of a class; with fewer real or generated images for each of the k neighbours, these metrics say little about it.
IMAGES_PER_NEIGHBOUR = 10
_DEFAULTS: dict[str, Any] = {"images": 50_000, "repeats": 3, "batch_norm": "batch", "neighbours": NEIGHBOURS}


@dataclass(frozen=True)
class Protocol:
    """Options of an evaluation; a split or backbone that is None is chosen when the run is known."""

    split: str | None
    images: int
    repeats: int
    backbone: str | None
    batch_norm: str
    neighbours: int


def protocol_of(options: EvaluateOptions) -> Protocol:
    """Return the options that are in force; RequestError for an unknown preset or batch norm."""
    preset = None if options.protocol is None else find_preset(options.protocol)
    chosen: dict[str, Any] = {}
    for name in OPTIONS:
        candidates = (getattr(options, name), getattr(preset, name, None), _DEFAULTS.get(name))
        chosen[name] = next((value for value in candidates if value is not None), None)
    protocol = Protocol(**chosen)
    if protocol.batch_norm not in BATCH_NORM:
        raise RequestError(f"--batch-norm: found {protocol.batch_norm}; allowed: {', '.join(BATCH_NORM)}")
    return protocol


def preset_groups(options: EvaluateOptions, dataset: str, class_counts: list[int]) -> dict[str, list[int]]:
    """Return {name: labels} of the preset's groups in a data set; {} without a preset, or if none are known there."""
    if options.protocol is None:
        return {}
    found = find_dataset(dataset)
    return find_preset(options.protocol).groups(dataset if found is None else found[0].plugin.name, class_counts)


def preset_record(
    options: EvaluateOptions, protocol: dict[str, Any], groups: dict[str, list[int]], configuration: Configured
) -> dict[str, Any] | None:
    """Return the preset, and in what an evaluation still differs from it; None without a preset.

    protocol: the evaluation's, as in its record.  groups: the preset's.
    """
    if options.protocol is None:
        return None
    preset = find_preset(options.protocol)
    ours = {**{name: protocol[name] for name in OPTIONS if name != "split"}, "split": protocol["reference"]["split"]}
    differs = [
        f"{name} {ours[name]}, not {theirs}"
        for name in OPTIONS
        if (theirs := getattr(preset, name)) is not None and theirs != ours[name]
    ]
    differs += [f"other classes in the group {name}" for name in groups if protocol["groups"][name] != groups[name]]
    unknown = [f"{name} (here {ours[name]})" for name in preset.unknown]
    if not groups:
        unknown.append(
            f"groups of {protocol['data']} (here {'those given' if protocol['groups'] else 'the standard ones'})"
        )
    return {
        "name": options.protocol,
        "source": preset.source,
        "generator": f"{preset.generator}; here {configuration.MODEL.backbone}",
        "options": differs,
        "unknown": unknown,
        "differs": list(preset.differs),
    }
