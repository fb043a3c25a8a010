"""Short names of runs, for headings and charts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# What StudioGAN calls a run: data set, configuration, phase and time.
_STUDIOGAN = re.compile(r"(.+)-train-(\d{4}(?:_\d\d){5})")


def short_names(runs: Sequence[tuple[Path, str]]) -> list[str]:
    """Return a name for each run, as short as tells it from the others.

    runs: (folder, DATA.name).
    A run is called by its folder, a run of StudioGAN by its configuration.  Runs that would have the same name are
    also called by their time, or by the folders above.
    """
    forms = [_forms(folder.resolve(), data) for folder, data in runs]
    places = [0] * len(forms)
    while True:
        names = [form[place] for form, place in zip(forms, places, strict=True)]
        longer = [
            min(place + (names.count(name) > 1), len(form) - 1)
            for form, place, name in zip(forms, places, names, strict=True)
        ]
        if longer == places:
            return names
        places = longer


def _forms(folder: Path, data: str) -> list[str]:
    """Return the names that a run may have, the shortest first."""
    parts = folder.parts[1:]
    above = ["/".join(parts[-number:]) for number in range(2, len(parts) + 1)]
    match = _STUDIOGAN.fullmatch(folder.name)
    if match is None:
        return [folder.name, *above]
    configuration = match[1].removeprefix(f"{data}-")
    return [configuration, f"{configuration}-{match[2]}", *above]
