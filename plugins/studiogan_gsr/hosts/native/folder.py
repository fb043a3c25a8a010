"""A run's folder: its configuration and records, and the lock that lets only one process train it at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from studiogan_gsr.errors import RequestError, reason
from studiogan_gsr.files import LOCK, claim, write_atomically
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.regularization.plugins import with_all_options
from studiogan_gsr.settings import SECTION, load_configuration, regularizer_settings

RECORD, CONFIGURATION = "run.json", "config.yaml"
_EXPORTED = "export.json"  # of `studiogan-gsr export`, whose folder has a config.yaml, too


class RunFolder:
    """The folder of a run that is about to start or to resume.

    sections: the whole configuration, as config.yaml will hold it.
    Nothing is written before `write`, so a refused run leaves no trace.
    """

    def __init__(self, path: Path, sections: Mapping[str, Any]) -> None:
        self.path, self.sections = path, sections
        self._lock: FileLock | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def last_good(self) -> str:
        """Return a phrase for messages that names the newest checkpoint, or says that there is none."""
        found = checkpoints(self.checkpoints)
        return f"the last good checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"

    @contextmanager
    def claimed(self, resume: bool) -> Iterator[None]:
        """Check the folder and lock it inside the block, so that no other process trains in it.

        A new folder is locked by `write`.

        Raises RequestError if the folder holds other files, a run while `resume` is False, a run of another
        configuration, or a run that another process trains.
        """
        self._check(resume)
        if (self.path / CONFIGURATION).is_file():
            self._claim()
            self._check(resume)  # another process may have changed it before the lock was taken
        try:
            yield
        finally:
            if self._lock is not None:
                self._lock.release()

    def starts(self) -> list[dict[str, Any]]:
        """Return the records of the run's starts so far, oldest first."""
        try:
            return read_starts(self.path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            record = self.path / RECORD
            raise RequestError(
                f"{record}: found no record of a run: {reason(error)}; start a new run in another --out"
            ) from error

    def check_images(self, now: Mapping[str, Any], allow_changed: bool) -> str:
        """Compare the images with those of the run's last start; return a message about changes, "" for none.

        Raises RequestError if the preprocessing differs, or if names or labels do and `allow_changed` is False.
        """
        starts = self.starts()
        if not starts:
            return ""
        last = starts[-1]
        if last["preprocessing"] != now["preprocessing"]:
            raise RequestError(
                f"--resume: the run in {self.path} has preprocessing {last['preprocessing']}, these images have "
                f"{now['preprocessing']}; another preprocessing needs another --out"
            )
        if last["images_sha256"] == now["images_sha256"]:
            return ""
        change = f"images_sha256 {last['images_sha256'][:12]} before, {now['images_sha256'][:12]} now"
        if not allow_changed:
            raise RequestError(
                f"--resume: the run in {self.path} has other images ({change}); --allow-changed-images resumes on "
                "these, and run.json records it; or start a new run in another --out"
            )
        return f"other images than before ({change}): their order starts over; recorded in {RECORD}"

    def write(self, record: Mapping[str, Any], start: Mapping[str, Any], resume: bool) -> None:
        """Write run.json, with one more start, and then config.yaml, before the first step.

        Raises RequestError if the folder cannot be made, or if another process has taken it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"--out {self.path}: cannot be made: {reason(error)}") from error
        if self._lock is None:
            self._claim()
            self._check(resume)
        for folder in (self.path, self.path / "samples"):
            for half in folder.glob(".*.partial"):  # of a run that was killed
                half.unlink()
        starts = [*(self.starts() if resume else []), {**start, "time": datetime.now(timezone.utc).isoformat()}]
        write_atomically(self.path / RECORD, json.dumps({**record, "starts": starts}, indent=2) + "\n")
        # config.yaml comes last, because it marks the folder as a run's folder.
        write_atomically(self.path / CONFIGURATION, yaml.safe_dump(dict(self.sections), sort_keys=False))

    def origin(self) -> Path | None:
        """Return the checkpoint that the run in this folder started from; None if there was none."""
        found = [start["checkpoint"] for start in self.starts()[:1] if "checkpoint" in start]
        return Path(found[0]) if found else None

    def _claim(self) -> None:
        try:
            self._lock = claim(self.path)
        except OSError as error:
            raise RequestError(f"--out {self.path}: cannot be written to: {reason(error)}") from error
        if self._lock is None:
            raise RequestError(
                f"--out {self.path}: another process trains there; wait until it ends, or name another --out"
            )

    def _check(self, resume: bool) -> None:
        """Raise RequestError unless the folder is free, or holds the run to resume."""
        if (self.path / _EXPORTED).is_file():
            raise RequestError(f"--out {self.path}: found an exported generator, which is not trained on; name a run")
        old = self.path / CONFIGURATION
        if self.path.exists() and not self.path.is_dir():
            raise RequestError(f"--out {self.path}: found a file; name an empty or new folder")
        if not old.is_file():
            there = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
            # A run that was killed while it started leaves its lock, and its first record or half of it.
            if any(name not in (RECORD, LOCK) and not name.endswith(".partial") for name in there):
                raise RequestError(f"--out {self.path}: found other files there; name an empty or new folder")
            return
        if not resume:
            found = checkpoints(self.checkpoints)
            where = f"at step {found[-1][0]}" if found else "without a checkpoint"
            raise RequestError(
                f"--out {self.path}: found a run {where}; --resume resumes it, another --out starts a new one"
            )
        self._check_configuration(old)

    def _check_configuration(self, old: Path) -> None:
        """Raise RequestError if a key other than OPTIMIZATION.total_steps differs from the run's configuration."""
        before: Mapping[str, Any] = load_configuration(old)
        remedy = "another configuration needs another --out"
        now: Mapping[str, Any] = self.sections
        if SECTION in before and SECTION in now:
            before, now = _with_comparable_regularizers(before, now)
        for section in {**before, **now}:
            if section not in before or section not in now:
                with_it, without = ("this", "the run's") if section in now else ("the run's", "this")
                raise RequestError(
                    f"--resume: {with_it} configuration has a section {section}, {without} has none ({old}); {remedy}"
                )
            theirs, ours = before[section], now[section]
            for key in {**theirs, **ours}:
                if theirs.get(key) != ours.get(key) and (section, key) != ("OPTIMIZATION", "total_steps"):
                    raise RequestError(
                        f"--resume: {section}.{key} is {_shown(ours, key)}, the run in {self.path} has "
                        f"{_shown(theirs, key)}; {remedy}"
                    )


def _with_comparable_regularizers(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return both configurations with a mapping under REGULARIZER, so that the order of a list does not matter."""
    names = [sorted(settings.name for settings in regularizer_settings(sections)) for sections in (before, now)]
    if names[0] == names[1]:
        before = with_all_options(before)  # older versions wrote only the given options
    if len(names[0]) == len(names[1]) == 1:
        return before, now
    return _with_flat_regularizers(before), _with_flat_regularizers(now)


def _with_flat_regularizers(sections: Mapping[str, Any]) -> dict[str, Any]:
    found = regularizer_settings(sections)
    options = {f"{settings.name}.{key}": value for settings in found for key, value in settings.options.items()}
    return {**sections, SECTION: {"names": sorted(settings.name for settings in found), **options}}


def read_starts(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's starts, oldest first; empty for a folder without run.json."""
    path = run / RECORD
    if not path.is_file():
        return []
    record = json.loads(path.read_text())
    # Older versions wrote these keys once per run, with the values of the last start.
    common = {key: record[key] for key in ("seed", "ranks", "threads", "speed") if key in record}
    digests = {key: record["data"][key] for key in ("images_sha256", "preprocessing") if key in record["data"]}
    starts = [{**common, **digests, **start} for start in record["starts"]]
    for start in starts:  # "device" is "CPU, 2 threads (x86_64)", or the name of a GPU
        start.setdefault("device_type", "cpu" if str(start.get("device")).startswith("CPU") else "cuda")
    return starts


def _shown(section: Mapping[str, Any], key: str) -> str:
    return str(section[key]) if key in section else "no value"
