"""A run's log: log.jsonl, and its scalars and sample grids for TensorBoard or Weights & Biases."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from studiogan_gsr.errors import RequestError
from studiogan_gsr.files import forget_after
from studiogan_gsr.hosts.native.wandb_log import WandbLog

FILE = "log.jsonl"


class Viewer(Protocol):
    """A program that shows a run: gets its scalars and its sample grids."""

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def picture(self, step: int, path: Path) -> None: ...

    def close(self, failed: bool) -> None: ...


def check_installed(name: str) -> None:
    """Raise RequestError if the package for `--log NAME` is missing."""
    if name == "wandb" and find_spec("wandb") is None:
        raise RequestError(
            '--log wandb: found no package wandb; pip install "studiogan-gsr[wandb]", or use --log tensorboard'
        )


class RunLog:
    """Context manager that appends to a run's log.jsonl, and passes scalars and sample grids on to a viewer.

    folder: the run's folder.  step: the step that the run starts or resumes from; later lines are removed, and
        TensorBoard hides later events.
    viewer: "tensorboard", "wandb" or "none".  configuration: plain data about the run, which Weights & Biases shows.
    active: True on rank 0; on other ranks nothing is written.
    """

    def __init__(self, folder: Path, step: int, viewer: str, configuration: Mapping[str, Any], active: bool) -> None:
        self._folder, self._step, self._active = folder, step, active
        self._name, self._configuration = viewer, configuration
        self._viewer: Viewer | None = None
        self._open = ExitStack()

    def __enter__(self) -> RunLog:
        if self._active:
            path = self._folder / FILE
            forget_after(path, self._step)
            self._file = self._open.enter_context(path.open("a"))
            if self._name == "tensorboard":
                self._viewer = TensorBoard(self._folder / "tensorboard", self._step)
            elif self._name == "wandb":
                self._viewer = WandbLog(self._folder, self._configuration)
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._open.close()
        if self._viewer is not None:
            # On a full disk the last events cannot be written either; that must not hide the run's own error.
            with nullcontext() if kind is None else suppress(OSError):
                self._viewer.close(failed=kind is not None)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Add a line to log.jsonl, and show its scalars."""
        if self._active:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
            self.plot(step, numbers)

    def plot(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Show the scalars among `numbers`, without a line in log.jsonl."""
        if self._viewer is not None:
            self._viewer.scalars(step, {k: v for k, v in numbers.items() if isinstance(v, int | float)})

    def picture(self, step: int, path: Path) -> None:
        """Show the sample grid in a PNG file."""
        if self._viewer is not None:
            self._viewer.picture(step, path)


class TensorBoard:
    """Writes TensorBoard's events to a folder; those of later steps than `step` are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._events = SummaryWriter(str(folder), purge_step=step + 1)
        self._hook, threading.excepthook = threading.excepthook, self._show

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add an event per number."""
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, path: Path) -> None:
        """Add the picture in a PNG file as "samples"."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._events.add_image("samples", np.asarray(image), step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        """Write the last events."""
        try:
            self._events.close()
        finally:
            threading.excepthook = self._hook

    def _show(self, error: threading.ExceptHookArgs) -> None:
        """Print an error of a thread, unless it is of the one that writes events: the next event raises that here."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._hook(error)
