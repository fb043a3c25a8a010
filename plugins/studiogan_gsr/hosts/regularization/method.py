"""One regularizer of a run, made by its plug-in; every error names the plug-in."""

from __future__ import annotations

import copy
import io
import math
import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.class_groups import listed
from studiogan_gsr.contract import Batch, roles_of
from studiogan_gsr.errors import FOREIGN, PluginError, RegularizerError, reason
from studiogan_gsr.hosts.class_norms import largest
from studiogan_gsr.hosts.regularization.plugins import all_options, find_regularizer, make_regularizer
from studiogan_gsr.hosts.regularization.term import Drawing, Term
from studiogan_gsr.registry import Plugin
from studiogan_gsr.regularizers.attachment import Attachment, attach
from studiogan_gsr.regularizers.count import Count
from studiogan_gsr.settings import RegularizerSettings

NETWORKS = ("generator", "discriminator")
# The roles that add to a network's loss, and that network.
LOSS_ROLES = {"generator_loss": "generator", "discriminator_loss": "discriminator"}


@dataclass(frozen=True)
class TrainingFacts:
    """The facts about a host's training that regularizers need.

    optimizer: the generator's.  updates: per training step, by network.  accumulation: batches per update.
    sizes: images in a generated batch of this rank, by what it updates: "generator", "discriminator" and, where
    StyleGAN's path-length regularization makes steps, "path_length".  z_dim: of the noise.
    has_w: whether the generator has StyleGAN's intermediate latents.
    """

    generator: nn.Module
    discriminator: nn.Module
    optimizer: torch.optim.Optimizer
    class_counts: list[int]
    updates: Mapping[str, int]
    accumulation: int
    sizes: Mapping[str, int]
    z_dim: int
    has_w: bool = False

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}


class Method:
    """A regularizer, with the guards around its roles.

    plugin: its entry point.  options: all options, defaults included.  roles: the roles that the object has.
    summary: one line with name, version, options and class counts.  identity: what all ranks must agree on.
    attachment: attaches its penalty to the optimizer; None without one.  terms: its loss terms, by role.
    drawing: calls its draw; None without one.

    Raises PluginError if the plug-in refuses the networks, if its penalty has no effect, if it needs something that
    the run does not have, or if its state or its scalars cannot be used.
    """

    def __init__(self, settings: RegularizerSettings, training: TrainingFacts) -> None:
        loaded = find_regularizer(settings)
        self.plugin: Plugin = loaded.plugin
        self.options = all_options(loaded, settings.options)
        self._training = training
        before = {name: tensor.clone() for name, tensor in _weights(training).items()}
        self.regularizer: Any = make_regularizer(
            loaded, training.generator, training.discriminator, training.class_counts, settings.options
        )
        after = _weights(training)
        if changed := [n for n in {**before, **after} if not _same(before.get(n), after.get(n))]:
            raise PluginError(str(self.plugin), f"changes the {changed[0]}")
        self.roles = roles_of(self.regularizer)
        self._check_needs()
        parameters = [p for network in training.networks.values() for p in network.parameters()]
        self.terms = {
            role: Term(str(self.plugin), self.regularizer, role, training.networks[network], parameters)
            for role, network in LOSS_ROLES.items()
            if role in self.roles
        }
        self._try_state()
        self.attachment = self._attach() if "penalty" in self.roles else None
        self.drawing = self._try_draw() if "draw" in self.roles else None
        self.scalars()
        if self.read_norms is not None:
            self.read_norms()
        # Remove addresses of objects, which differ on every rank.
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(self.regularizer).split()))
        counts = listed(training.class_counts)
        self.summary = f"{self.name} of {self.plugin.package} {self.plugin.version}: {text}; class counts {counts}"
        self.identity = f"{self.plugin} with {dict(settings.options)}, class counts {counts}"
        # Updates in which it was active before this process, from the checkpoint.
        self._active_before = 0
        # `attachment.attempts` at the last check, and the number of training steps in a row without a new one.
        self._attempts, self._inactive = 0, 0

    @property
    def name(self) -> str:
        return self.plugin.name

    @property
    def active(self) -> int:
        """The number of generator updates in which it was active, since step 1 and over restarts.

        For a regularizer with `discriminator_loss` alone: the number of discriminator updates.
        """
        return self._active_before + self.active_here

    @property
    def active_here(self) -> int:
        """The same number of this process alone."""
        if self.attachment is not None:
            return self.attachment.steps
        calls = [next(iter(found.values())) for network in NETWORKS if (found := self.calls(network))]
        return calls[0] // self._training.accumulation

    @property
    def has_phases(self) -> bool:
        """Whether the regularizer says what its Python code depends on, so that CUDA graphs can repeat it."""
        return callable(getattr(self.regularizer, "phase", None))

    def phase(self, step: int) -> Hashable:
        """Return what the regularizer's Python code depends on in step `step`; it needs to have phases."""
        try:
            phase: Hashable = self.regularizer.phase(step)
            hash(phase)
        except FOREIGN as error:
            raise RegularizerError(f"{self.plugin}: phase() failed: {reason(error)}") from error
        return phase

    def scalars(self) -> dict[str, float | Tensor]:
        """Return the numbers to log, by name; raise PluginError if scalars() fails or returns anything else.

        Tensors of one number stay on their device, as scalars.
        """
        try:
            return {str(key): _number(value) for key, value in self.regularizer.scalars().items()}
        except FOREIGN as error:
            raise PluginError(str(self.plugin), f"scalars() failed: {reason(error)}") from error

    @property
    def penalty(self) -> float:
        """The last penalty, 0 without one; waits for the device."""
        return 0.0 if self.attachment is None else float(self.attachment.last)

    def counts(self, network: str) -> dict[str, Count]:
        """Return the counts of the roles that see a network's batches, by role."""
        found = {role: term.count for role, term in self.terms.items() if LOSS_ROLES[role] == network}
        return found | ({} if self.drawing is None else {"draw": self.drawing.counts[network]})

    def calls(self, network: str) -> dict[str, int]:
        """Return how often each role was called for a network's batches in this process: {role: calls}."""
        return {role: count.number for role, count in self.counts(network).items()}

    def first_step_message(self, step: int, ranks: int) -> str:
        """Return the line to print after the first step, that it is active; waits for the device."""
        values = {role: float(term.last) for role, term in self.terms.items() if term.last is not None}
        # Some terms begin later, as LeCam's.
        found = [f"{role} {value:.4g}{'' if value else ' so far'}" for role, value in values.items()]
        if self.attachment is not None:
            same = f", the same on all {ranks} ranks" if ranks > 1 else ""
            found.insert(0, f"penalty {self.penalty:.4g}{same}")
        if self.drawing is not None:
            found.append(
                f"draw called for {sum(count.number for count in self.drawing.counts.values())} generated batches"
            )
        return f"{self.name}: active in step {step}, {'; '.join(found)}"

    def check_penalty(self, step: int, patience: int) -> None:
        """Raise RegularizerError if the last `patience` training steps had no optimizer step with the penalty."""
        if self.attachment is None:
            return
        attempts = self.attachment.attempts
        made, updates = attempts - self._attempts, self._training.updates["generator"]
        self._inactive = 0 if made else self._inactive + 1
        self._attempts = attempts
        if 0 < made < updates and patience == 1:
            raise RegularizerError(
                f"{self.plugin}: was active in {made} of the {updates} updates of step {step}; the run is stopped"
            )
        if self._inactive < patience:
            return
        span = f"steps {step - self._inactive + 1} to {step}" if self._inactive > 1 else f"step {step}"
        cause = ": the optimizer made no step, or mixed precision found no finite gradient" if patience > 1 else ""
        raise RegularizerError(f"{self.plugin}: was not active in {span}{cause}; the run is stopped")

    def pending_terms(self) -> dict[str, Any]:
        """Return what `check_terms` needs, to be read; does not wait for the device."""
        return {"terms": {role: term.finite for role, term in self.terms.items() if term.finite is not None}}

    def pending(self) -> dict[str, Any]:
        """Return everything that a host reads from the device at a print interval, for `check_terms` and `check`.

        Does not wait for the device.  A check that needs another tensor of this regularizer gets it from here.
        "terms": {role: whether its values were finite}.  "penalties": the last one, if there is a penalty.
        "counts": {role: its calls}.
        "scalars": by name, or the error of scalars(), which may fail because of a term that is not finite.
        """
        penalties = {} if self.attachment is None else {"the penalty": self.attachment.last.reshape(())}
        scalars: dict[str, float | Tensor] | PluginError
        try:
            scalars = self.scalars()
        except PluginError as error:
            scalars = error
        counts = {role: count.on_device for role, count in self._counts().items() if count.on_device is not None}
        return {**self.pending_terms(), "penalties": penalties, "scalars": scalars, "counts": counts}

    def _counts(self) -> dict[str, Count]:
        """Return the counts of all roles; those of `draw` by network."""
        found = {role: term.count for role, term in self.terms.items()}
        if self.attachment is not None:
            found["penalty"] = self.attachment.count
        draws = {} if self.drawing is None else self.drawing.counts
        return found | {f"draw of the {update}": count for update, count in draws.items()}

    def check_terms(self, values: Mapping[str, Any], step: int) -> None:
        """Raise RegularizerError if a term was not finite although the logits were moderate.

        values: what `pending_terms` or `pending` returned, read.
        """
        for role, finite in values["terms"].items():
            if not finite:
                raise RegularizerError(f"{self.plugin}: {role}() was not finite by step {step}; the run is stopped")

    def check(self, values: Mapping[str, Any], step: int) -> dict[str, float]:
        """Return the scalars after step `step`.

        Raises RegularizerError if they or the penalty are not finite, or if the device made more or fewer calls than
        were counted: then a CUDA graph that replays an update does not contain the regularizer.

        values: what `pending` returned, read.
        """
        counts = self._counts()
        for role, made in values["counts"].items():
            if made != counts[role].number:
                raise RegularizerError(
                    f"{self.plugin}: {role} was active {made:.0f} times on the device by step {step}; expected: "
                    f"{counts[role].number}; the run is stopped"
                )
        scalars = values["scalars"]
        if isinstance(scalars, PluginError):
            raise scalars
        for key, value in {**values["penalties"], **scalars}.items():
            if not math.isfinite(value):
                raise RegularizerError(f"{self.plugin}: {key} is {value} at step {step}; the run is stopped")
        return dict(scalars)

    @property
    def read_norms(self) -> Callable[[], Tensor] | None:
        """A function that returns each class's largest norm; None if the regularizer has no `class_norms()`."""
        return self._read_norms if callable(getattr(self.regularizer, "class_norms", None)) else None

    def _read_norms(self) -> Tensor:
        try:
            return largest(self.regularizer.class_norms())
        except FOREIGN as error:
            raise PluginError(str(self.plugin), f"class_norms() failed: {reason(error)}") from error

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the plug-in's name, its state, and in how many updates it was active."""
        try:
            state = self.regularizer.state_dict()
        except FOREIGN as error:
            raise RegularizerError(f"{self.plugin}: state_dict() failed: {reason(error)}") from error
        return {"name": self.name, "state": state, "acted": self.active}

    def restore(self, saved: Mapping[str, Any], source: str) -> str:
        """Restore the state from a checkpoint; return a message about it.

        source: the checkpoint's name, for errors.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.regularizer.load_state_dict(saved["state"])
            except FOREIGN as error:
                raise PluginError(
                    str(self.plugin), f"load_state_dict() failed on {source}: {reason(error)}"
                ) from error
        self._active_before = int(saved.get("acted", 0)) - self.active_here
        warned = "; ".join(" ".join(str(warning.message).split()) for warning in caught)
        return f"{self.name}: {warned or 'state restored from the checkpoint'}"

    # Trials before the first step.

    def _check_needs(self) -> None:
        known = [field.name for field in fields(Batch)]
        needs = getattr(self.regularizer, "needs", ())
        for name in (needs,) if isinstance(needs, str) else needs:
            if name not in known:
                raise PluginError(str(self.plugin), f"needs {name!r}; a batch has {', '.join(known)}")
            if name == "w" and not self._training.has_w:
                raise PluginError(
                    str(self.plugin),
                    f"needs batch.w, the latents of a StyleGAN; {type(self._training.generator).__name__} has none",
                )

    def _attach(self) -> Attachment:
        generator = self._training.generator
        watched = [*generator.parameters(), *generator.buffers()]
        try:
            return attach(self.regularizer, self._training.optimizer, str(self.plugin), watched)
        except RegularizerError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: RegularizerError) -> PluginError:
        return PluginError(str(self.plugin), str(error).removeprefix(f"{self.plugin}: "))

    def _try_draw(self) -> Drawing:
        """Call `draw` for each kind of batch that the run has, and restore the regularizer's state."""
        training = self._training
        classes = len(training.class_counts)
        drawing = Drawing(str(self.plugin), self.regularizer, classes, training.sizes)
        state = copy.deepcopy(self.regularizer.state_dict())
        device = next(training.generator.parameters()).device
        stream = torch.Generator().manual_seed(0)
        try:
            for update, size in training.sizes.items():
                z = torch.randn(size, training.z_dim, generator=stream).to(device)
                labels = torch.linspace(classes - 1, 0, size).long().to(device)  # includes the last class
                drawing.try_draw(z, labels, update)
        except RegularizerError as error:
            raise self._refusal(error) from error
        self._load(state)
        return drawing

    def _try_state(self) -> None:
        """Raise PluginError if the regularizer's state cannot be saved and loaded again."""
        buffer = io.BytesIO()
        try:
            torch.save(self.regularizer.state_dict(), buffer)
            buffer.seek(0)
            state = torch.load(buffer, weights_only=True)
        except FOREIGN as error:
            raise PluginError(
                str(self.plugin),
                f"state_dict() cannot be saved and loaded (tensors and plain data can): {reason(error)}",
            ) from error
        self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        """Load a state that the regularizer itself has returned."""
        try:
            self.regularizer.load_state_dict(state)
        except FOREIGN as error:
            raise PluginError(
                str(self.plugin), f"load_state_dict() failed on its own state_dict(): {reason(error)}"
            ) from error


def _number(value: Any) -> float | Tensor:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach().reshape(())
    return float(value)


def _weights(training: TrainingFacts) -> dict[str, Tensor]:
    """Return both networks' parameters and buffers, by network and name."""
    return {
        f"{network}: {name}": tensor
        for network, module in training.networks.items()
        for name, tensor in module.state_dict().items()
    }


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
