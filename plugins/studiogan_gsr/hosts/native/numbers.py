"""Read the numbers to log at a print interval, and check that losses, weights and moments are finite."""

from __future__ import annotations

import torch

from studiogan_gsr.errors import TrainingError
from studiogan_gsr.hosts.native.training import Trainer


class NotFinite(TrainingError):
    """A loss, a weight or an optimizer's moment is NaN or Inf."""


def read_numbers(trainer: Trainer) -> dict[str, float]:
    """Return the losses and the regularizers' scalars of the last step; waits for the device.

    Raises RegularizerError if a regularizer's term, penalty or scalar is not finite.  Raises NotFinite if a loss of
    any step so far was not finite, unless a term is the reason.
    """
    step = trainer.steps
    trainer.regularization.check_terms(step)
    if not bool(trainer.finite):
        found = ", ".join(f"{name} {value.item():.4g}" for name, value in trainer.losses.items())
        raise NotFinite(f"a loss was NaN or Inf by step {step} ({found})")
    numbers = {name: value.item() for name, value in trainer.losses.items()}
    if trainer.ada is not None:
        numbers["ada_p"] = trainer.ada.p.item()
    return numbers | trainer.regularization.report(step)


def check_weights(trainer: Trainer) -> None:
    """Raise NotFinite if a loss, a weight or an optimizer's moment is not finite.  Call this before a save."""
    read_numbers(trainer)
    saved = [*trainer.generator.state_dict().values(), *trainer.discriminator.state_dict().values()]
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        saved += [moment for state in optimizer.state.values() for moment in state.values()]
    tensors = [t for t in saved if isinstance(t, torch.Tensor) and t.is_floating_point() and t.ndim]
    if not bool(torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all()):
        raise NotFinite(f"a weight or its moments are NaN or Inf at step {trainer.steps}")
