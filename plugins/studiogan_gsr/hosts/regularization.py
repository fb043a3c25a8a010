"""The regularizer of a run.  Both hosts make, attach, check, log and save it with this module."""

from __future__ import annotations

import inspect
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from studiogan_gsr.class_groups import listed
from studiogan_gsr.contract import Regularizer, missing_methods
from studiogan_gsr.errors import (
    FOREIGN,
    ConfigurationError,
    OptionError,
    PluginError,
    RegularizerError,
    near_miss,
    number_hint,
    reason,
)
from studiogan_gsr.hosts.class_norms import largest
from studiogan_gsr.registry import REGULARIZERS, LoadedPlugin, Plugin, load_plugin, signature_of
from studiogan_gsr.regularizers.attachment import Attachment, attach
from studiogan_gsr.settings import SECTION, RegularizerSettings, regularizer_settings

# Relative tolerance between the penalties of two ranks: for equal weights, they differ by rounding between devices.
_SAME_PENALTY = 1e-5


class Regularization:
    """A plug-in's regularizer, attached to the generator's optimizer; every error names the plug-in.

    Raises PluginError if the plug-in refuses the generator, if its penalty has no effect, or if its state or its
    scalars cannot be used.
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
        before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
        self.regularizer: Regularizer = make_regularizer(loaded, generator, class_counts, settings.options)
        after = generator.state_dict()
        if changed := [n for n in {**before, **after} if not _same(before.get(n), after.get(n))]:
            raise PluginError(str(self.plugin), f"changes the generator: {changed[0]}")
        watched = [*generator.parameters(), *generator.buffers()]
        try:
            self.attachment: Attachment = attach(self.regularizer, optimizer, str(self.plugin), watched)
        except RegularizerError as error:
            raise PluginError(*str(error).split(": ", 1)) from error
        self.scalars()
        if self.read_norms is not None:
            self.read_norms()
        self._check_state()
        # Remove addresses of objects, which differ on every rank.
        summary = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(self.regularizer).split()))
        package = f"{self.plugin.package} {self.plugin.version}"
        self.summary = f"{self.name} of {package}: {summary}; class counts {listed(class_counts)}"
        self._terms = f"{self.plugin} with {dict(settings.options)}, class counts {listed(class_counts)}"
        # The number of active steps before this process started; a checkpoint restores it.
        self._acted_before = 0
        # The attachment's `attempts` at the last check, and the number of training steps in a row without a new one.
        self._acted, self._inactive = 0, 0

    @property
    def name(self) -> str:
        return self.plugin.name

    def scalars(self) -> dict[str, float]:
        """Return the numbers to log, by name; raise PluginError if scalars() fails or returns anything else."""
        try:
            return {str(key): float(value) for key, value in self.regularizer.scalars().items()}
        except FOREIGN as error:
            raise PluginError(str(self.plugin), f"scalars() failed: {reason(error)}") from error

    @property
    def acted(self) -> int:
        """The number of optimizer steps in which it was active, including those before a restored checkpoint."""
        return self._acted_before + self.attachment.steps

    @property
    def penalty(self) -> float:
        """The last penalty; waits for the device."""
        return float(self.attachment.last)

    def first_step_message(self, step: int, ranks: int) -> str:
        """Return the line to print after the first step: that the regularizer is active, and its penalty."""
        same = f", the same on all {ranks} ranks" if ranks > 1 else ""
        return f"{self.name}: active in step {step}, penalty {self.penalty:.4g}{same}"

    def check_active(self, step: int, patience: int = 1) -> None:
        """Raise RegularizerError once the regularizer has been inactive for `patience` steps in a row.

        Call it after every training step (from 1), on every rank.  It does not wait for the device.
        """
        steps = self.attachment.attempts
        self._inactive = 0 if steps > self._acted else self._inactive + 1
        self._acted = steps
        if self._inactive < patience:
            return
        span = f"steps {step - self._inactive + 1} to {step}" if self._inactive > 1 else f"step {step}"
        cause = ": the optimizer made no step, or mixed precision found no finite gradient" if patience > 1 else ""
        raise RegularizerError(f"{self.plugin}: was not active in {span}{cause}; the run is stopped")

    def report(self, step: int) -> dict[str, float]:
        """Return the scalars after `step`; raise RegularizerError if one of them or the penalty is not finite."""
        scalars = self.scalars()
        for key, value in {"the penalty": self.penalty, **scalars}.items():
            if not math.isfinite(value):
                raise RegularizerError(f"{self.plugin}: {key} is {value} at step {step}; the run is stopped")
        return scalars

    @property
    def read_norms(self) -> Callable[[], Tensor] | None:
        """A function that returns each class's largest norm; None if the regularizer has no `class_norms()`."""
        return self._read_norms if callable(getattr(self.regularizer, "class_norms", None)) else None

    def _read_norms(self) -> Tensor:
        try:
            return largest(self.regularizer.class_norms())  # type: ignore[attr-defined]
        except FOREIGN as error:
            raise PluginError(str(self.plugin), f"class_norms() failed: {reason(error)}") from error

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint: the plug-in's name, its state, and its number of active steps."""
        return {"name": self.name, "state": self.regularizer.state_dict(), "acted": self.acted}

    def restore(self, saved: dict[str, Any] | None, source: str) -> str:
        """Restore the state from a checkpoint, if it holds one; return a message about it.

        source: the checkpoint's name, for errors.
        """
        if saved is None or saved["name"] != self.name:
            found = f"that of {saved['name']}" if saved else "none"
            return f"{self.name}: the checkpoint holds no state of it (found: {found}); it starts over"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.regularizer.load_state_dict(saved["state"])
            except FOREIGN as error:
                raise PluginError(
                    str(self.plugin), f"load_state_dict() failed on {source}: {reason(error)}"
                ) from error
        self._acted_before = int(saved.get("acted", 0)) - self.attachment.steps
        warned = "; ".join(" ".join(str(warning.message).split()) for warning in caught)
        return f"{self.name}: {warned or 'state restored from the checkpoint'}"

    def _check_state(self) -> None:
        """Raise PluginError if the regularizer's state cannot be saved and loaded again."""
        buffer = io.BytesIO()
        try:
            torch.save(self.regularizer.state_dict(), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except FOREIGN as error:
            raise PluginError(
                str(self.plugin),
                f"state_dict() cannot be saved and loaded (tensors and plain data can): {reason(error)}",
            ) from error


def with_all_options(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's sections with all options of its regularizer, defaults included.

    So a run's record holds every option that it was trained with, even if a later version changes a default.
    """
    settings = regularizer_settings(sections)
    if settings is None:
        return dict(sections)
    options = all_options(find_regularizer(settings.name, settings.options), settings.options)
    return {**sections, SECTION: {"name": settings.name, **options}}


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def check_ranks(regularization: Regularization | None, step: int) -> int:
    """Check that all ranks are regularized in the same way; return the number of ranks.

    Every rank has to call this after the same step; step 0 means before the first.
    Raises RegularizerError, on every rank, if a rank has no regularizer or a different one, if the numbers of active
    steps differ, or if the penalties differ.  Weights are equal on all ranks, so penalties have to be equal, too.
    """
    if not dist.is_available() or not dist.is_initialized():
        return 1
    mine = None
    if regularization is not None:
        steps = regularization.attachment.steps
        # Until the first optimizer step, which a GradScaler may skip, ranks may have different weights.
        mine = regularization._terms, steps, regularization.penalty if steps else 0.0
    when = f"step {step}" if step else "before the first step"
    everyone: list[tuple[str, int, float] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    for rank, other in enumerate(everyone):
        first = everyone[0]
        if other == first:
            continue
        if first is None or other is None:
            without, having = (0, rank) if first is None else (rank, 0)
            raise RegularizerError(
                f"{when}: rank {without} has no regularizer, rank {having} has one; the run is stopped: "
                "compare package, patch and configuration of the two ranks"
            )
        # `report` raises the error for a penalty that is not finite.
        same = math.isclose(first[2], other[2], rel_tol=_SAME_PENALTY) or not math.isfinite(first[2] + other[2])
        if first[:2] != other[:2] or not same:
            raise RegularizerError(
                f"{when}: rank 0 and rank {rank} are regularized differently: {_differences(first, other)}; "
                "the run is stopped"
            )
    return len(everyone)


@torch.no_grad()
def synchronise_ranks(regularization: Regularization | None, generator: nn.Module) -> None:
    """Check that all ranks are regularized in the same way, and copy rank 0's buffers to all ranks.

    Every rank calls this before the first step.
    DDP averages the gradients of the loss, but not those of the penalty, which each rank computes itself.  They are
    equal if the penalty reads equal parameters and buffers.  Parameters are equal, but each rank draws its own
    vectors for spectral norm.  Once copied, the vectors stay equal, because they depend on the weights alone.
    """
    if check_ranks(regularization, 0) == 1 or regularization is None:
        return
    for buffer in generator.buffers():
        shared = buffer.contiguous()
        dist.broadcast(shared, 0)
        buffer.copy_(shared)


def _differences(first: tuple[str, int, float], other: tuple[str, int, float]) -> str:
    parts = zip(("", "active steps ", "penalty "), first, other, strict=True)
    return "; ".join(f"{what}{a} and {b}" for what, a, b in parts if a != b)


def find_regularizer(name: str, options: Mapping[str, Any]) -> LoadedPlugin:
    """Return the regularizer plug-in of that name; check its options as far as possible without a generator.

    Raises ConfigurationError, with the key's path, for options that the factory does not have or refuses.
    """
    loaded = load_plugin(REGULARIZERS, name)
    signature = signature_of(loaded)
    if signature is not None:
        _check_signature(loaded, signature, options)
    check_options = getattr(loaded.factory, "check_options", None)
    if callable(check_options):
        try:
            check_options(dict(options))
        except OptionError as error:
            raise ConfigurationError(
                f"REGULARIZER.{error.option}",
                repr(error.found),
                f"allowed: {error.allowed}{number_hint(error.found)}",
            ) from error
        except FOREIGN as error:
            raise PluginError(str(loaded.plugin), f"check_options failed: {reason(error)}") from error
    return loaded


def all_options(loaded: LoadedPlugin, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regularizer's options: the given ones and the factory's defaults.  Only plain data is included."""
    signature = signature_of(loaded)
    parameters = list(signature.parameters.values())[2:] if signature else []  # after generator and class_counts
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: _plain(value) for name, value in {**defaults, **options}.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Return an option's value as YAML would read it: tuples become lists."""
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def make_regularizer(
    loaded: LoadedPlugin, generator: nn.Module, class_counts: list[int], options: Mapping[str, Any]
) -> Regularizer:
    """Call the plug-in's factory and check what it returns; raise PluginError if it is no regularizer."""
    try:
        regularizer: Regularizer = loaded.factory(generator, class_counts, **options)
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"refused: {reason(error)}") from error
    if missing := missing_methods(regularizer):
        raise PluginError(
            str(loaded.plugin),
            f"returned {type(regularizer).__name__}, no regularizer: {', '.join(missing)} missing",
        )
    return regularizer


def _check_signature(loaded: LoadedPlugin, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    """Check a factory's signature and the options against it.

    Raises PluginError for another signature, ConfigurationError for an unknown or a missing option.
    """
    wrong = PluginError(
        str(loaded.plugin), f"has the signature {signature}; expected: (generator, class_counts, **options)"
    )
    try:
        taken = signature.bind_partial("generator", "class_counts").arguments
    except TypeError as error:
        raise wrong from error
    parameters = [p for p in signature.parameters.values() if p.name not in taken]
    allowed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    synonyms = getattr(loaded.factory, "also_called", {})  # names of options in papers and other programs
    for option, value in options.items():
        if option in taken or (option not in allowed and not takes_any):
            synonym = synonyms.get(option.lower()) if isinstance(synonyms, Mapping) else None
            hint = f"; did you mean {synonym}?" if synonym in allowed else near_miss(option, allowed)
            raise ConfigurationError(
                f"REGULARIZER.{option}",
                repr(value),
                f"{loaded.plugin.name} has the keys {', '.join(allowed) or 'none'}{hint}",
            )
    try:
        signature.bind("generator", "class_counts", **options)
    except TypeError as error:
        raise ConfigurationError("REGULARIZER", f"{error}", f"{loaded.plugin.name} needs this key") from error
