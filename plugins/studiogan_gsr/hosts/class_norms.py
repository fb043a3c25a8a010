"""The spectral norms of the classes while a run trains, with a regularizer or without: what both hosts log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.regularizers.norms import exploding, largest_class_norms

STATE_KEY = "class_norms"  # in the generator's checkpoint


class ClassNorms:
    """Watches each class's largest exact norm, and says once when one begins to explode.  Reads weights alone.

    generator: one without class-conditional layers has nothing to watch.
    read: a regularizer's own norms (classes,), in place of those of the generator.
    classes: names in label order, for messages.
    """

    def __init__(
        self, generator: nn.Module, classes: Sequence[str], read: Callable[[], Tensor] | None = None
    ) -> None:
        self._read, self._classes = read, classes
        # The norms at the first look, after the first step; and the classes that are known to explode.
        self._start: list[float] | None = None
        self._exploding: set[int] = set()
        if read is None:
            try:
                largest_class_norms(generator)
                self._read = lambda: largest_class_norms(generator)
            except GeneratorError:
                pass

    def look(self) -> tuple[list[float] | None, str]:
        """The norms now, None where there is nothing to watch; and a line where a class has begun to explode.

        To be called after the first step and at every print interval; waits for the device.
        """
        if self._read is None:
            return None, ""
        norms: list[float] = self._read().tolist()
        self._start = norms if self._start is None else self._start
        new = [label for label in exploding(norms, self._start) if label not in self._exploding]
        self._exploding |= set(new)
        told = ", ".join(
            class_title(label, self._classes, f"{norms[label]:.3g}", f"at first {self._start[label]:.3g}")
            for label in new[:10]
        )
        more = f" and {len(new) - 10} more" if len(new) > 10 else ""
        return norms, f"spectral norms explode: class {told}{more}" if new else ""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what later norms are compared with."""
        return {"start": self._start, "exploding": sorted(self._exploding)}

    def restore(self, file: Mapping[str, Any]) -> None:
        """Take the state back from a generator's checkpoint; older ones keep it with the regularizer's."""
        saved = file.get(STATE_KEY) or (file.get("regularizer") or {}).get("watched") or {}
        start = saved.get("start")
        if start is None or len(start) == len(self._classes):
            self._start, self._exploding = start, set(saved.get("exploding", ()))


def record(norms: list[float] | None) -> dict[str, list[float]]:
    """The norms as a log's line has them; nothing where there are none."""
    return {} if norms is None else {"class_norms": [round(norm, 5) for norm in norms]}


def largest(norms: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """The largest norm of each class of {layer: {side: (classes,)}}, as `class_norms()` gives them."""
    return torch.stack([side for layer in norms.values() for side in layer.values()]).amax(0)
