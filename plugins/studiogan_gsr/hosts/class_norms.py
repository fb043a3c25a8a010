"""The spectral norms per class, which both hosts log during training, with or without a regularizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.errors import GeneratorError, GSRError
from studiogan_gsr.regularizers.norms import exploding, largest_class_norms

STATE_KEY = "class_norms"  # in the generator's checkpoint


class ClassNorms:
    """Computes the largest exact spectral norm of each class, and warns when one begins to explode.

    It only reads the weights.
    generator: without class-conditional layers there are no norms.
    classes: names in label order, for messages.
    read: returns a regularizer's own norms (classes,), which replace those of the generator.
    """

    def __init__(
        self, generator: nn.Module, classes: Sequence[str], read: Callable[[], Tensor] | None = None
    ) -> None:
        self._read, self._classes = read, classes
        # The norms at the first check, after the first step; and the classes that were already warned about.
        self._start: list[float] | None = None
        self._exploding: set[int] = set()
        if read is None:
            try:
                largest_class_norms(generator)
                self._read = lambda: largest_class_norms(generator)
            except GeneratorError:
                pass

    def pending(self) -> Tensor | GSRError | None:
        """Return the norms (classes,), to be read; None if there are none, or the error for `check` to raise.

        On a GPU, the eigenvalues wait once for each shape of matrices, however many there are: torch looks whether
        they converged.
        """
        try:
            return None if self._read is None else self._read()
        except GSRError as error:
            return error

    def check(self, norms: list[float] | GSRError | None) -> tuple[list[float] | None, str]:
        """Return the norms, or None if there are none, and a warning about classes that begin to explode, or "".

        norms: what `pending` returned, read.  Call it after the first step and at every print interval.
        """
        if isinstance(norms, GSRError):
            raise norms
        if norms is None:
            return None, ""
        self._start = norms if self._start is None else self._start
        new = [label for label in exploding(norms, self._start) if label not in self._exploding]
        self._exploding |= set(new)
        named = ", ".join(
            class_title(label, self._classes, f"{norms[label]:.3g}", f"at first {self._start[label]:.3g}")
            for label in new[:10]
        )
        more = f" and {len(new) - 10} more" if len(new) > 10 else ""
        return norms, f"spectral norms explode: class {named}{more}" if new else ""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the norms at the first check, and the classes that explode."""
        return {"start": self._start, "exploding": sorted(self._exploding)}

    def restore(self, file: Mapping[str, Any]) -> None:
        """Restore the state from a generator's checkpoint; older checkpoints keep it in the regularizer's state.

        A state with another number of classes is ignored.
        """
        older = file.get("regularizer")
        saved = file.get(STATE_KEY) or (older.get("watched") if isinstance(older, dict) else None) or {}
        start = saved.get("start")
        if start is None or len(start) == len(self._classes):
            self._start, self._exploding = start, set(saved.get("exploding", ()))


def record(norms: list[float] | None) -> dict[str, list[float]]:
    """Return the norms as an entry of a log line, rounded; an empty dict if there are none."""
    return {} if norms is None else {"class_norms": [round(norm, 5) for norm in norms]}


def largest(norms: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """Return the largest norm of each class, from {layer: {side: (classes,)}} as `class_norms()` returns it."""
    return torch.stack([side for layer in norms.values() for side in layer.values()]).amax(0)
