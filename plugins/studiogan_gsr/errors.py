"""The errors of this package, and how a user sees them.

Every message is one line: what was found, where, what is allowed and what to do.
Every exception passes exactly its constructor's arguments to `Exception`, so that it survives
pickling (training ranks and data workers report through pickles).
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

# Exit statuses of the command: done, the run failed, the request was wrong.
DONE, FAILED, WRONG_REQUEST = 0, 1, 2
# What a plug-in's code may raise.  SystemExit too: otherwise a plug-in that exits would end a run with success.
FOREIGN = (Exception, SystemExit)


class GSRError(Exception):
    """Base class of all errors of this package.

    exit_status: the command's exit status if this error ends it.
    """

    exit_status = FAILED


class RequestError(GSRError):
    """The command line asks for something impossible."""

    exit_status = WRONG_REQUEST


class ConfigurationError(GSRError):
    """A key of a configuration is unknown, has the wrong type or an impossible value."""

    exit_status = WRONG_REQUEST

    def __init__(self, path: str, found: str, allowed: str) -> None:
        super().__init__(path, found, allowed)
        self.path, self.found, self.allowed = path, found, allowed

    def __str__(self) -> str:
        text = f"{self.path}: found {self.found}; {self.allowed}"
        # A key may be any text: control characters are shown as escapes.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class OptionError(GSRError, ValueError):
    """A plug-in's option has the wrong type or an impossible value."""

    exit_status = WRONG_REQUEST

    def __init__(self, option: str, found: object, allowed: str) -> None:
        super().__init__(option, found, allowed)
        self.option, self.found, self.allowed = option, found, allowed

    def __str__(self) -> str:
        return f"{self.option}: found {self.found!r}; allowed: {self.allowed}"


class PluginError(GSRError):
    """A plug-in is missing, has the same name as another, does not load or breaks its contract.

    plugin: its package, version and entry point.
    """

    exit_status = WRONG_REQUEST

    def __init__(self, plugin: str, cause: str) -> None:
        super().__init__(plugin, cause)
        self.plugin, self.cause = plugin, cause

    def __str__(self) -> str:
        return f"{self.plugin}: {self.cause}"


class GeneratorError(GSRError):
    """A generator's class-conditional parameters cannot be read, or do not fit the data set's classes."""


class RegularizerError(GSRError):
    """A regularizer cannot be attached, or its penalty fails, is invalid or reaches no parameter of the optimizer."""


class DataError(GSRError):
    """A data set is missing, malformed or contradicts the configuration."""

    exit_status = WRONG_REQUEST


class DamagedImage(DataError):
    """One image of a data set cannot be read."""


class LabelError(DataError):
    """The label of an image differs from the data set's targets."""


class CheckpointError(GSRError):
    """A checkpoint is missing, damaged or of another architecture."""

    exit_status = WRONG_REQUEST


class TrainingError(GSRError):
    """A training run cannot continue: a loss is not finite, memory or disk is full, or it was interrupted."""


class WeightsError(GSRError):
    """A backbone's weights, or the package that it needs, are not available."""

    exit_status = WRONG_REQUEST


class EvaluationError(GSRError):
    """Images cannot be measured: images, features or distances are not finite, or there are too few images."""


class HostError(GSRError):
    """A checkout of the benchmark is missing, or differs from what the hooks expect."""

    exit_status = WRONG_REQUEST


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the known name that is closest to `name`; "" if none is close."""
    known = list(known)
    lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]}?" if close else ""


def number_hint(found: object) -> str:
    """Return a hint for a number that YAML 1.1 reads as text, such as 1e-4: what to write instead."""
    import numpy as np  # slow to import, and rarely needed

    try:
        number = float(found) if isinstance(found, str) else float("nan")
    except ValueError:
        return ""
    if not np.isfinite(number):
        return ""
    text = str(int(number)) if str(found).strip().isdecimal() else np.format_float_scientific(number, trim="0")
    return f"; YAML reads this as text, write {text}"


def reason(error: BaseException) -> str:
    """Return an exception as one line: its type and its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def place(error: BaseException) -> str:
    """Return where an error was raised, as file:line; "" if it was not raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


_TRACEBACK = "Traceback (most recent call last)"


class Message(NamedTuple):
    """An error as the user sees it.

    text: one line.  exit_status: the command's exit status.  ours: whether it is an error of this package.
    """

    text: str
    exit_status: int
    ours: bool


def in_one_line(error: BaseException) -> Message:
    """Return an error as a one-line message for the user.

    Also recognizes errors of this package that a spawned rank or a worker sent as the text of a traceback.
    """
    text = " ".join(str(error).split())
    if _TRACEBACK not in text:
        if isinstance(error, GSRError):
            return Message(text, error.exit_status, True)
        text = reason(error)
    else:  # the error comes after the indented lines of the last traceback
        last = str(error).rpartition(_TRACEBACK)[2].strip().splitlines()[1:]
        start = next((i for i, line in enumerate(last) if line[:1].strip()), 0)
        text = " ".join(" ".join(last[start:]).split())
        name, _, message = text.removeprefix(f"{__name__}.").partition(": ")
        kind = globals().get(name)
        if text.startswith(__name__) and isinstance(kind, type) and issubclass(kind, GSRError):
            return Message(message, kind.exit_status, True)
    where = f"at {place(error)}; " if place(error) else ""
    return Message(f"the run failed: {text} ({where}--traceback shows the rest)", FAILED, False)
