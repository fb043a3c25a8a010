"""The regularizer that a configuration names, at work in a run; what both hosts do with it."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import torch
from torch import nn

from studiogan_gsr.attachment import Attachment, attach
from studiogan_gsr.contract import Regularizer
from studiogan_gsr.errors import PluginError, RegularizerError, reason
from studiogan_gsr.registry import Plugin, find_regularizer, make_regularizer
from studiogan_gsr.settings import RegularizerSettings

_LISTED_CLASSES = 20


class Regularization:
    """A plug-in's regularizer, attached to the generator's optimizer; its faults bear its name.

    Raises PluginError where the plug-in refuses the generator, could not act, or gives a state or
    scalars that cannot be used.
    """

    def __init__(
        self,
        settings: RegularizerSettings,
        generator: nn.Module,
        optimizer: torch.optim.Optimizer,
        class_counts: list[int],
    ) -> None:
        loaded = find_regularizer(settings.name, settings.options)
        self.plugin: Plugin = loaded.plugin
        self.regularizer: Regularizer = make_regularizer(loaded, generator, class_counts, settings.options)
        try:
            self.attachment: Attachment = attach(self.regularizer, optimizer, str(self.plugin))
        except RegularizerError as error:
            raise PluginError(*str(error).split(": ", 1)) from error
        self.scalars()
        self._check_state()
        summary = " ".join(str(self.regularizer).split())
        package = f"{self.plugin.package} {self.plugin.version}"
        self.summary = f"{self.name} of {package}: {summary}; class counts {listed(class_counts)}"
        # Optimizer steps in which it has acted, and the training step when that was seen.
        self._acted: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return self.plugin.name

    def scalars(self) -> dict[str, float]:
        """What the regularizer logs; PluginError where that is not numbers by name."""
        try:
            return {str(key): float(value) for key, value in self.regularizer.scalars().items()}
        except Exception as error:  # a stranger's code
            raise PluginError(str(self.plugin), f"scalars() failed: {reason(error)}") from error

    def report(self, step: int, patience: int = 1) -> dict[str, float]:
        """The scalars after training step `step` (from 1); RegularizerError ends a run that it no longer acts in.

        patience: training steps without its acting that are borne.
        """
        steps, (acted, seen) = self.attachment.steps, self._acted or (0, step - 2)
        if self._acted is None or steps > acted:
            if steps == 0 and patience == 1:
                raise RegularizerError(f"{self.plugin}: has not acted before step {step}; the run is stopped")
            self._acted = steps, step - 1
        elif step - 1 - seen >= patience:
            raise RegularizerError(f"{self.plugin}: has not acted since step {seen + 1}; the run is stopped")
        scalars = self.scalars()
        for key, value in scalars.items():
            if not math.isfinite(value):
                raise RegularizerError(f"{self.plugin}: {key} is {value} at step {step}; the run is stopped")
        return scalars

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the plug-in's name and its state."""
        return {"name": self.name, "state": self.regularizer.state_dict()}

    def restore(self, saved: dict[str, Any] | None, source: str) -> str:
        """Take the state back from a checkpoint, if it holds one; says in a line what was done."""
        if saved is None or saved["name"] != self.name:
            held = f"that of {saved['name']}" if saved else "none"
            return f"{self.name}: the checkpoint holds no state of it ({held}); it starts anew"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.regularizer.load_state_dict(saved["state"])
            except Exception as error:
                raise PluginError(
                    str(self.plugin), f"load_state_dict() failed on {source}: {reason(error)}"
                ) from error
        told = "; ".join(" ".join(str(warning.message).split()) for warning in caught)
        return f"{self.name}: {told or 'state restored from the checkpoint'}"

    def _check_state(self) -> None:
        """Refuse at once a state that could be saved but not loaded again."""
        buffer = io.BytesIO()
        try:
            torch.save(self.regularizer.state_dict(), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:
            raise PluginError(
                str(self.plugin),
                f"state_dict() cannot be saved and loaded (tensors and plain data can): {reason(error)}",
            ) from error


def listed(counts: list[int]) -> str:
    """Class counts in a line."""
    if len(counts) <= _LISTED_CLASSES:
        return " ".join(map(str, counts))
    return f"{max(counts)} to {min(counts)} of {len(counts)} classes"
