"""All regularizers of a run together: their terms add, so their order does not matter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from studiogan_gsr.contract import Batch
from studiogan_gsr.errors import PluginError, RegularizerError
from studiogan_gsr.hosts.checkpoint_files import RANKS_KEY, STATE_KEY
from studiogan_gsr.hosts.readings import read
from studiogan_gsr.hosts.regularization.method import LOSS_ROLES, NETWORKS, Method, TrainingFacts
from studiogan_gsr.settings import RegularizerSettings, check_names

_ROLE_OF = {network: role for role, network in LOSS_ROLES.items()}


class Regularization:
    """The regularizers of a run; there may be none.

    Raises ConfigurationError if a name is given twice, PluginError if two have the role `draw`, and the errors of
    `Method`.
    """

    def __init__(self, settings: Sequence[RegularizerSettings], training: TrainingFacts) -> None:
        check_names(settings)
        self.training = training
        self.methods = [Method(entry, training) for entry in settings]
        drawing = [method for method in self.methods if method.drawing is not None]
        if len(drawing) > 1:
            names = " and ".join(str(method.plugin) for method in drawing)
            raise PluginError(names, "both change what the generator gets (draw); remove one of them")
        self._drawing = drawing[0].drawing if drawing else None
        # For each network and method: the calls of each role at the last check.
        self._calls = {network: [method.calls(network) for method in self.methods] for network in NETWORKS}

    @property
    def names(self) -> list[str]:
        return [method.name for method in self.methods]

    def draw(self, z: Tensor, labels: Tensor, update: str) -> tuple[Tensor, Tensor]:
        """Return what the generator gets for a batch that updates the network `update`."""
        return (z, labels) if self._drawing is None else self._drawing(z, labels, update)

    def sees(self, network: str) -> bool:
        """Return whether a regularizer adds a term to the loss of a network."""
        return any(_ROLE_OF[network] in method.terms for method in self.methods)

    def terms(self, network: str, batch: Batch) -> list[Tensor]:
        """Return the terms to add to the loss of a network, for one batch."""
        role = _ROLE_OF[network]
        return [method.terms[role](batch) for method in self.methods if role in method.terms]

    def check_active(self, step: int, networks: Sequence[str] = NETWORKS, patience: int = 1) -> None:
        """Raise RegularizerError if an update did not call a role, or called the role of a term too often.

        Call it on every rank, after these networks' updates of step `step` (from 1).  It does not wait for the
        device.
        patience: raise the error after this many training steps in a row without a regularized optimizer step.
        """
        for network in networks:
            expected = self.training.updates[network] * self.training.accumulation
            for i, method in enumerate(self.methods):
                calls, before = method.calls(network), self._calls[network][i]
                self._calls[network][i] = calls
                for role, number in calls.items():
                    made = number - before[role]
                    if made < expected or (made > expected and role != "draw"):
                        raise RegularizerError(
                            f"{method.plugin}: {role}() was called {made} times in the {network}'s updates of step "
                            f"{step}; expected: {expected}; the run is stopped"
                        )
        if "generator" in networks:
            for method in self.methods:
                method.check_penalty(step, patience)

    def phase(self, step: int) -> Hashable:
        """Return what the regularizers' Python code depends on in step `step`; needs phases of all of them."""
        return tuple(method.phase(step) for method in self.methods)

    def replayed(self, network: str) -> None:
        """Count the calls of an update that was made without running its Python code."""
        for method in self.methods:
            for count in method.counts(network).values():
                count.repeat(self.training.accumulation)
            if network == "generator" and method.attachment is not None:
                method.attachment.count.repeat(1)

    def first_step_messages(self, step: int, ranks: int) -> list[str]:
        """Return the lines to print after the first step: that each regularizer is active."""
        return [method.first_step_message(step, ranks) for method in self.methods]

    @property
    def begun(self) -> bool:
        """Whether every penalty has been part of an optimizer step in this process; waits for the device."""
        attached = [method.attachment for method in self.methods if method.attachment is not None]
        return all(attachment.steps for attachment in attached)

    def pending_terms(self) -> list[dict[str, Any]]:
        """Return what `check_terms` needs, to be read; does not wait for the device."""
        return [method.pending_terms() for method in self.methods]

    def pending(self) -> list[dict[str, Any]]:
        """Return what to read from the device at a print interval, `Method.pending` of each; does not wait for it."""
        return [method.pending() for method in self.methods]

    def check_terms(self, values: Sequence[Mapping[str, Any]], step: int) -> None:
        """Raise RegularizerError if a term was not finite although the logits were moderate.

        values: what `pending_terms` or `pending` returned, read.
        """
        for method, found in zip(self.methods, values, strict=True):
            method.check_terms(found, step)

    def check(self, values: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
        """Return all scalars after step `step` as name/key; raise RegularizerError if a number is not finite.

        values: what `pending` returned, read.
        """
        self.check_terms(values, step)  # before any scalars, which may be not finite because of such a term
        found = {m.name: m.check(read_of, step) for m, read_of in zip(self.methods, values, strict=True)}
        return {f"{name}/{key}": value for name, scalars in found.items() for key, value in scalars.items()}

    def report(self, step: int) -> dict[str, float]:
        """Read what is pending and check it; waits for the device once."""
        return self.check(read(self.pending()), step)

    @property
    def read_norms(self) -> Callable[[], Tensor] | None:
        """The `read_norms` of the first regularizer with `class_norms()`; None if there is none."""
        found = [method.read_norms for method in self.methods if method.read_norms is not None]
        return found[0] if found else None

    def skip_next(self) -> None:
        """Leave the penalties out of the next optimizer step, which a host makes for a term of its own."""
        for method in self.methods:
            if method.attachment is not None:
                method.attachment.skip_next()

    def cancel_skip(self) -> None:
        """Undo `skip_next` if no optimizer step has been made since."""
        for method in self.methods:
            if method.attachment is not None:
                method.attachment.cancel_skip()

    def state(self) -> list[dict[str, Any]]:
        """Return what a checkpoint holds: the state of every regularizer."""
        return [method.state() for method in self.methods]

    def restore(self, saved: Sequence[Mapping[str, Any]], source: str) -> list[str]:
        """Restore the states that a checkpoint holds; return messages about all regularizers of run and checkpoint.

        source: the checkpoint's name, for errors.
        """
        by_name = {str(state["name"]): state for state in saved}
        others = [name for name in by_name if name not in self.names]
        found = f"found: {', '.join(by_name) or 'none'}"
        messages = [
            method.restore(by_name[method.name], source)
            if method.name in by_name
            else f"{method.name}: the checkpoint holds no state of it ({found}); it starts over"
            for method in self.methods
        ]
        if others and not self.methods:
            return [f"the checkpoint holds the state of {', '.join(others)}, and this run has no regularizer"]
        return messages + [
            f"the checkpoint's state of {name} is ignored: this run does not have it" for name in others
        ]

    def records(self) -> list[dict[str, Any]]:
        """Return the entries about the regularizers for a run's record."""
        return [
            {
                "name": method.name,
                "options": method.options,
                "plugin": str(method.plugin),
                "roles": list(method.roles),
                "summary": method.summary,
            }
            for method in self.methods
        ]


def saved_states(file: Mapping[str, Any], rank: int = 0, ranks: int = 1) -> list[dict[str, Any]]:
    """Return the regularizers' states in a generator's file: this rank's own, or rank 0's; empty without any.

    A rank reads its own if `ranks` ranks have saved the file.  Older versions wrote one mapping, not a list.
    """
    of_ranks = file.get(RANKS_KEY) or []
    saved = of_ranks[rank] if len(of_ranks) == ranks > 1 else file.get(STATE_KEY)
    states = [saved] if isinstance(saved, dict) else saved
    return [s for s in states if isinstance(s, dict) and "name" in s] if isinstance(states, list) else []
