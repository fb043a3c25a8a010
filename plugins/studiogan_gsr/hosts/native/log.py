"""A run's log: log.jsonl, and its scalars as TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from studiogan_gsr.files import forget_after

FILE = "log.jsonl"


class RunLog:
    """Context manager that appends to a run's log.jsonl and to its TensorBoard events.

    folder: the run's folder.  step: the step that the run starts or resumes from; later lines are removed, and
        TensorBoard hides later events.
    active: True on rank 0; on other ranks nothing is written.
    """

    def __init__(self, folder: Path, step: int, active: bool) -> None:
        self._folder, self._step, self._active = folder, step, active
        self._open = ExitStack()

    def __enter__(self) -> RunLog:
        if self._active:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            path = self._folder / FILE
            forget_after(path, self._step)
            events = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._step + 1)
            self._file = self._open.enter_context(path.open("a"))
            self._events = self._open.enter_context(events)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Add a line to log.jsonl, and its scalars to TensorBoard."""
        if self._active:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
            self.plot(step, numbers)

    def plot(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Add the scalars among `numbers` to TensorBoard only."""
        if self._active:
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)
