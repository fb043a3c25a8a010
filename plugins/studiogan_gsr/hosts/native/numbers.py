"""Read the numbers to log at a print interval, and check that losses, weights and moments are finite."""

from __future__ import annotations

from typing import Any

import torch

from studiogan_gsr.errors import TrainingError
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.readings import read


class NotFinite(TrainingError):
    """A loss, a weight or an optimizer's moment is NaN or Inf."""


def pending_numbers(trainer: Trainer) -> dict[str, Any]:
    """Return what `check_numbers` needs, to be read; does not wait for the device."""
    return {
        "finite": trainer.finite,
        "losses": dict(trainer.losses),
        "augmentation": {} if trainer.ada is None else {"ada_p": trainer.ada.p},
        "regularizers": trainer.regularization.pending(),
    }


def check_numbers(trainer: Trainer, values: dict[str, Any]) -> dict[str, float]:
    """Return the losses and the regularizers' scalars of the last step.

    values: what `pending_numbers` returned, read.
    Raises RegularizerError if a regularizer's term, penalty or scalar is not finite.  Raises NotFinite if a loss of
    any step so far was not finite, unless a term is the reason.
    """
    step, regularization = trainer.steps, trainer.regularization
    regularization.check_terms(values["regularizers"], step)
    if not values["finite"]:
        found = ", ".join(f"{name} {value:.4g}" for name, value in values["losses"].items())
        raise NotFinite(f"a loss was NaN or Inf by step {step} ({found})")
    return {**values["losses"], **values["augmentation"], **regularization.check(values["regularizers"], step)}


def check_weights(trainer: Trainer) -> None:
    """Raise NotFinite if a loss, a weight or an optimizer's moment is not finite.  Call this before a save."""
    saved = [*trainer.generator.state_dict().values(), *trainer.discriminator.state_dict().values()]
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        saved += [moment for state in optimizer.state.values() for moment in state.values()]
    tensors = [t for t in saved if isinstance(t, torch.Tensor) and t.is_floating_point() and t.ndim]
    finite = torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all()
    values = read({"numbers": pending_numbers(trainer), "weights": finite})
    check_numbers(trainer, values["numbers"])
    if not values["weights"]:
        raise NotFinite(f"a weight or its moments are NaN or Inf at step {trainer.steps}")
