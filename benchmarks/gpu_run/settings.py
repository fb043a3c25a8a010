"""The settings of a call that every task is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Skipped(Exception):
    """A task cannot be measured on this machine; the message says why.  It is not tried again."""


class Partial(Exception):
    """A task has ended in another state than done; `result` is what it has nevertheless, plain data or None.

    state: FAILED, or LEFT_OUT, which the next call performs again.
    """

    def __init__(self, state: str, why: str, result: Any = None) -> None:
        super().__init__(why)
        self.state, self.result = state, result


@dataclass(frozen=True)
class Settings:
    """What a task is given.

    device: "cuda" or "cpu".  small: whether networks, images and repetitions are tiny, to test the command itself.
    data: a folder with train/<class>/ and valid/<class>/.  out: the folder of results.
    until: when the part has to end, in seconds since 1970.
    """

    device: str
    small: bool
    data: str
    out: str
    until: float

    @property
    def runs(self) -> Path:
        """The folder of the training runs."""
        return Path(self.out) / "runs"
