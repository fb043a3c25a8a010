"""Records: one JSON file per completed run; a record without the evidence that a table needs is refused.

A run is a configuration, a seed, a host and a protocol; its `key` is a digest of these, so tables that share a run
find the same record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.tables.rows import split_of
from studiogan_gsr.errors import GSRError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.native.configuration import Optimization, read_configuration
from studiogan_gsr.hosts.regularization.method import LOSS_ROLES
from studiogan_gsr.registry import REGULARIZERS
from studiogan_gsr.regularizers.gsr import GSROptions
from studiogan_gsr.settings import SECTION, RegularizerSettings, regularizer_settings

VERSION = 2
WHICH = ("last", "best")
HOURS = ("training", "evaluation while training", "evaluation")
PENALTIES_EVERY = 100  # the largest gap between recorded penalties, in steps


class RecordError(GSRError):
    """A record is damaged, belongs to another run, or lacks evidence that a table needs."""


@dataclass(frozen=True)
class Record:
    """A completed run.

    version: version of this format.  key: see `key_of`.  title: the run's name in messages.
    host: its name and the run's starts; for StudioGAN, also the commit and changed files of its checkout.
    sections, seed, protocol: these and the host's name determine the key.
    data: digests and class counts.  steps: generator steps trained.
    ranks: for each rank, its device, packages, plug-ins and regularizers.  A regularizer has its name, plug-in,
    summary, options and roles, and the number of updates in which it was active, summed over restarts (`acted`).
    penalties: (step, penalty) at print intervals, by the name of each regularizer that reports one.
    course: evaluations while training, each {step, frechet, tail, class_norms, class_diversity}; older ones have no
        diversity.
    norms: the largest exact spectral norm per class, before the first step and of the last and the best checkpoint.
    hours: duration of each part in HOURS, and of "downstream" if the protocol has it.
    results: output of `studiogan-gsr evaluate` for the last and the best checkpoint.
    git: the commit of this repository, and whether tracked files had changed.
    downstream: output of `studiogan-gsr downstream` for the best checkpoint; None if the protocol has none.
    """

    version: int
    key: str
    title: str
    host: dict[str, Any]
    sections: dict[str, Any]
    seed: int
    protocol: dict[str, Any]
    data: dict[str, Any]
    steps: int
    ranks: list[dict[str, Any]]
    penalties: dict[str, list[tuple[int, float]]]
    course: list[dict[str, Any]]
    norms: dict[str, list[float]]
    hours: dict[str, float]
    results: dict[str, dict[str, Any]]
    git: dict[str, Any]
    time: str
    downstream: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise RecordError if the record is inconsistent, or lacks evidence that a table needs."""
        if self.version != VERSION:
            raise RecordError(f"{self.key}: found format {self.version}; this program reads 1 and {VERSION}")
        made = key_of(str(self.host.get("name")), self.sections, self.seed, self.protocol)
        if made != self.key:
            raise RecordError(f"{self.key}: its configuration, seed and protocol are of another run, {made}")
        total = self.sections["OPTIMIZATION"]["total_steps"]
        if self.steps != total:
            raise RecordError(f"{self.key}: trained {self.steps} of {total} steps")
        classes = self.sections["DATA"]["num_classes"]
        if len(self.data["class_counts"]) != classes or not self.data["images_sha256"]:
            raise RecordError(f"{self.key}: no class counts, or no digest of its images")
        self._check_starts()
        self._check_regularizers()
        for which in WHICH:
            self._check_result(which)
        self._check_course(classes)
        self._check_downstream()
        expected = HOURS if self.downstream is None else (*HOURS, "downstream")
        if set(self.hours) != set(expected) or min(self.hours.values()) < 0:
            raise RecordError(f"{self.key}: hours are {self.hours}; expected hours of {', '.join(expected)}")

    def _check_starts(self) -> None:
        """Raise RecordError if a run was resumed with other speed settings or images than it began with."""
        for key in ("speed", "images_sha256"):
            found = [start[key] for start in self.host.get("starts", []) if start.get(key) is not None]
            if differing := [value for value in found if value != found[0]]:
                raise RecordError(f"{self.key}: it began with {key} {found[0]} and was resumed with {differing[0]}")

    def _check_downstream(self) -> None:
        wanted = self.protocol.get("downstream")
        if (wanted is None) != (self.downstream is None):
            raise RecordError(f"{self.key}: found {'a' if wanted is None else 'no'} result of downstream")
        if wanted is None or self.downstream is None:
            return
        measured = self.downstream["protocol"]
        sizes = {"updates": measured["recipe"]["updates"], "width": measured["recipe"]["width"]}
        sizes |= {"seeds": len(measured["seeds"]), "fill": measured["fill"]}
        if differing := [name for name, value in wanted.items() if sizes[name] != value]:
            name = differing[0]
            raise RecordError(f"{self.key}: downstream had {name} {sizes[name]}, not {wanted[name]}")
        if measured["step"] != self.results["best"]["protocol"]["step"] or measured["data"] != self.data["name"]:
            raise RecordError(f"{self.key}: downstream measured step {measured['step']} on {measured['data']}")

    def _check_course(self, classes: int) -> None:
        every = self.protocol["every"]
        if [line["step"] for line in self.course] != [*range(every, self.steps, every), self.steps]:
            raise RecordError(f"{self.key}: it was not measured every {every} steps while it trained")
        lowest, best = min(line["frechet"] for line in self.course), self.results["best"]["protocol"]["step"]
        if lowest not in [line["frechet"] for line in self.course if line["step"] == best]:
            raise RecordError(f"{self.key}: step {best} is not the best of its evaluations while it trained")
        conditional = self.sections["MODEL"].get("g_cond_mtd", "W/O") != "W/O"
        if set(self.norms) != ({*WHICH, "start"} if conditional else set()):
            raise RecordError(f"{self.key}: found norms of {', '.join(self.norms) or 'nothing'}")
        if any(len(norms) != classes or min(norms) < 0 for norms in self.norms.values()):
            raise RecordError(f"{self.key}: its norms are not those of {classes} classes")

    def _check_regularizers(self) -> None:
        """Raise RecordError if a regularizer is missing, unknown, or was not active in every update."""
        configuration = read_configuration(self.sections)
        allowed = {settings.name: settings for settings in configuration.all_regularizers()}
        if not self.ranks:
            raise RecordError(f"{self.key}: no rank has reported")
        for number, rank in enumerate(self.ranks):
            found = {regularizer["name"]: regularizer for regularizer in rank["regularizers"]}
            if others := [name for name in found if name not in allowed]:
                raise RecordError(
                    f"{self.key}: rank {number} reports {others[0]}, which its configuration does not have"
                )
            for settings in configuration.regularizers:
                if settings.name not in found:
                    raise RecordError(f"{self.key}: rank {number} reports no {settings.name}")
            for name, regularizer in found.items():
                self._check_options(allowed[name], regularizer, number)
                self._check_active(regularizer, configuration.OPTIMIZATION, number)
        if others := [name for name in self.penalties if name not in allowed]:
            raise RecordError(f"{self.key}: it has penalties of {others[0]}, which its configuration does not have")
        for settings in allowed.values():
            self._check_penalties(settings)

    def _check_options(self, settings: RegularizerSettings, found: Mapping[str, Any], number: int) -> None:
        if settings.name == "gsr" and (summary := str(GSROptions(**settings.options))) not in found["summary"]:
            raise RecordError(f"{self.key}: rank {number} reports gsr with other options than {summary}")
        options = found["options"] or {}  # version 1 had none
        for option, value in settings.options.items():
            if option in options and options[option] != value:
                other = f"{settings.name} with {option} {options[option]}, not {value}"
                raise RecordError(f"{self.key}: rank {number} reports {other}")

    def _check_active(self, found: Mapping[str, Any], optimization: Optimization, number: int) -> None:
        roles, acted = set(found["roles"]), found["acted"]
        generator_too = any(LOSS_ROLES.get(role) != "discriminator" for role in roles)
        updates = self.steps * (optimization.g_updates_per_step if generator_too else optimization.d_updates_per_step)
        # Each generated batch counts as a draw, and a host may generate more than one for an update.
        draws = "draw" in roles and not roles & {"penalty", "generator_loss"}
        if acted < updates or (acted > updates and not draws):
            active = f"{found['name']} was active in {acted} of {updates} updates of rank {number}"
            raise RecordError(f"{self.key}: {active}")

    def _check_penalties(self, settings: RegularizerSettings) -> None:
        series, ours = self.penalties.get(settings.name, []), settings.name == "gsr"
        if not ours and not series:
            return
        steps, penalties = [step for step, _ in series], [penalty for _, penalty in series]
        gaps = [after - before for before, after in pairwise([0, *steps])]
        if not steps or steps[-1] != self.steps or min(gaps) < 1 or max(gaps) > PENALTIES_EVERY:
            raise RecordError(f"{self.key}: {settings.name}'s penalties do not cover the whole run")
        wanted = (lambda p: p == 0) if settings.options.get("weight") == 0 else (lambda p: p > 0)
        if ours and not all(map(wanted, penalties)):
            raise RecordError(f"{self.key}: {settings.name}'s penalties contradict its weight")

    def _check_result(self, which: str) -> None:
        result = self.results.get(which)
        if not isinstance(result, dict):
            raise RecordError(f"{self.key}: the {which} checkpoint has not been measured")
        distance = result["all"].get("frechet", {}).get("mean")
        if not isinstance(distance, float) or not {"groups", "classes"} <= set(result):
            raise RecordError(f"{self.key}: the {which} checkpoint has distance {distance}, or no groups or classes")
        measured, selection = result["protocol"], result["protocol"]["selection"]
        for key in ("backbone", "images", "repeats", "batch_norm", "neighbours"):
            if measured[key] != self.protocol[key]:
                found, wanted = measured[key], self.protocol[key]
                raise RecordError(f"{self.key}: the {which} checkpoint was measured with {key} {found}, not {wanted}")
        split, preset = split_of(self.protocol), (measured.get("preset") or {}).get("name")
        if preset != self.protocol.get("preset"):
            raise RecordError(f"{self.key}: the {which} checkpoint was measured by the protocol {preset}")
        if measured["reference"]["split"] != split:
            found = measured["reference"]["split"]
            raise RecordError(f"{self.key}: the {which} checkpoint was measured on {found}, not {split}")
        if which == "last" and measured["step"] != self.steps:
            raise RecordError(f"{self.key}: the last checkpoint is of step {measured['step']}, not {self.steps}")
        chosen = ("select_on", "images") if which == "best" else ()
        wanted = {"select_on": self.protocol["select_on"], "images": self.protocol["images_while_training"]}
        if any(not selection or selection[key] != wanted[key] for key in chosen):
            raise RecordError(f"{self.key}: the best checkpoint was chosen by another protocol")
        prepared = {self.data["preprocessing"]["resizer"], measured["reference"]["preprocessing"]["resizer"]}
        if self.protocol["resizer"] != "wo_resize" and prepared != {self.protocol["resizer"]}:
            raise RecordError(f"{self.key}: images were resized by {', '.join(prepared)}")
        if measured["data"] != self.sections["DATA"]["name"] or self.data.get("name") != measured["data"]:
            raise RecordError(f"{self.key}: the {which} checkpoint was measured on {measured['data']}")
        if not measured["checkpoint_rule"].startswith(which):
            raise RecordError(f"{self.key}: the {which} checkpoint was chosen as {measured['checkpoint_rule']}")


def key_of(host: str, sections: Mapping[str, Any], seed: int, protocol: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that identify a run: a digest of host, full configuration, seed and protocol.

    The name of the protocol does not matter, nor its keys that are None, nor whether a number is written 1 or 1.0,
    nor the order of regularizers.
    """
    whole = read_configuration(sections).sections()
    if isinstance(whole.get(SECTION), list):
        whole[SECTION].sort(key=lambda settings: settings["name"])
    how = {name: value for name, value in protocol.items() if name != "name" and value is not None}
    what = json.dumps(_plain([host, whole, seed, how]), sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def path_of(key: str, folder: Path) -> Path:
    """Return the path of a run's record."""
    return folder / f"{key}.json"


def write(record: Record, folder: Path) -> Path:
    """Check a record, write it atomically, and return its path."""
    record.check()
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(record.key, folder)
    write_atomically(path, json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False) + "\n")
    return path


def read(path: Path, key: str) -> Record:
    """Read a record of this version or of version 1, which is upgraded.

    Raises RecordError if it is damaged, has another key, or fails `Record.check`.
    """
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse, parse_float=_finite)
        names = [field.name for field in dataclasses.fields(Record)]
        content.setdefault("downstream", None)  # older records have none
        if set(content) != set(names):
            odd = ", ".join(sorted(set(content) ^ set(names)))
            raise RecordError(f"missing or unknown fields: {odd}")
        content = _upgraded(content)
        penalties = {
            name: [(int(step), float(p)) for step, p in series] for name, series in content["penalties"].items()
        }
        record = Record(**{**content, "penalties": penalties})
        record.check()
        if record.key != key:
            raise RecordError(f"belongs to run {record.key}, not {key}")
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    except Exception as error:
        raise RecordError(f"{path}: damaged: {reason(error)}") from error
    return record


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's fields in this version's format if it is of version 1; other versions unchanged.

    Version 1 had one regularizer, with a penalty, or none; LeCam from LOSS did not count as one.
    """
    if content["version"] != 1:
        return content
    ranks = [_upgraded_rank(rank) for rank in content["ranks"]]
    names = [settings.name for settings in regularizer_settings(content["sections"])]
    names += [regularizer["name"] for rank in ranks for regularizer in rank["regularizers"]]
    penalties = {next(iter(names), "a regularizer"): content["penalties"]} if content["penalties"] else {}
    return {**content, "version": VERSION, "ranks": ranks, "penalties": penalties}


def _upgraded_rank(rank: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in rank.items() if key not in ("regularizer", "acted")}
    if rank["regularizer"] is None:
        return {**kept, "regularizers": []}
    plugins = [plugin for plugin in rank["plugins"] if f"[{REGULARIZERS}]" in plugin]
    regularizer = {
        "name": rank["regularizer"].partition(" of ")[0],
        "options": None,
        "plugin": next(iter(plugins), None),
        "roles": ["penalty"],
        "summary": rank["regularizer"],
        "acted": rank["acted"],
    }
    return {**kept, "regularizers": [regularizer]}


def _refuse(name: str) -> NoReturn:
    raise RecordError(f"holds {name}, which is not a finite number")


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _refuse(digits)


def git_state(folder: Path) -> dict[str, Any]:
    """Return a folder's commit, and whether tracked files have changed; either is None if git fails."""

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": ask("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}
