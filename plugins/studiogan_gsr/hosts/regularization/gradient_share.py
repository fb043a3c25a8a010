"""How strong gSR is beside the adversarial loss: what both hosts print after the first step of a new run.

The share is |the penalty's gradient| / |the adversarial gradient| with respect to the gains and biases of the rarest
class, all conditional layers together.  It shows whether a weight is far too strong or has no effect.  It depends on
the initial weights, and so on the seed: the line has one significant digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studiogan_gsr.datasets.labels import class_title
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.hosts.regularization.adversarial_gradient import AdversarialGradient, AdversarialLoss
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.method import Method
from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer
from studiogan_gsr.regularizers.mapping import MAPPING

# Over other noise, a run's share then has a standard deviation of 4 to 12 % (with 4 batches, 7 to 26 %).  In a small
# network 16 take as long as 5 training steps (benchmarks/results/gradient-shares.md).
_BATCHES = 16
# From benchmarks/results/gradient-shares.md and docs/evidence.md, in the rarest class at ratio 100, before training.
# Seen to work: 0.12 (weight 0.05 at 16 pixels) and 0.15 to 0.33 (weight 0.5 at 32 pixels, the authors' networks among
# them).  At 1.2 (weight 0.5 at 16 pixels) norms collapsed and the tail became worse; at 0.01 (weight 0.005) the norms
# alone differed.  Nothing in between was tried: the limits leave room for the noise of the measurement.
_LEAST, _MOST = 0.1, 0.3
_TOO_WEAK, _TOO_STRONG = 0.02, 0.7
_PAGE = "docs/methods/gsr.md"


@dataclass(frozen=True)
class GradientShare:
    """line: to be printed.  numbers: for the log, by name; empty if the share could not be measured."""

    line: str
    numbers: dict[str, float]


def read_gradient_share(
    regularization: Regularization,
    loss: AdversarialLoss,
    z_prior: str,
    ranks: int = 1,
    classes: Sequence[str] | None = None,
) -> GradientShare | None:
    """Return gSR's share in the rarest class, or a line that says why it is not measured; None without gSR.

    It changes nothing of the run and uses no collective operation, so one rank can call it.
    loss: without augmentation and in full precision.  ranks: how many ranks train together.
    classes: names in label order, for the line.
    """
    gsr = next((m for m in regularization.methods if isinstance(m.regularizer, GroupSpectralRegularizer)), None)
    if gsr is None:
        return None
    counts = regularization.training.class_counts
    rarest = counts.index(min(counts))
    try:
        _check(regularization, gsr)
        share = _share(regularization, gsr.regularizer, loss, rarest, z_prior, ranks)
    except GeneratorError as error:
        cause = str(error)
    except torch.OutOfMemoryError:
        cause = "the device has too little memory left"
    else:
        rank = "the rarest" if counts.count(counts[rarest]) == 1 else "one of the rarest"
        title = class_title(rarest, classes, f"{counts[rarest]:,} images", rank)
        line = f"in class {title} the penalty's gradient is about {_digit(share)} times the adversarial one"
        note = _note(share, gsr.regularizer.options.weight)
        return GradientShare(f"{gsr.name}: {line}{note}", {f"{gsr.name}/gradient_share": share})
    return GradientShare(f"{gsr.name}: its gradient is not compared with the adversarial one: {cause}", {})


def penalty_gradient_norms(gsr: GroupSpectralRegularizer, generator: nn.Module) -> Tensor:
    """Return the norm of the penalty's gradient per class, (classes,), for a copy of its generator."""
    of_copy = GroupSpectralRegularizer(generator, gsr.class_counts, **vars(gsr.options))
    return of_copy.class_gradient_norms()


def _check(regularization: Regularization, gsr: Method) -> None:
    """Raise GeneratorError if the share would say nothing."""
    options = gsr.regularizer.options
    if type(gsr.regularizer) is not GroupSpectralRegularizer:
        raise GeneratorError(f"{type(gsr.regularizer).__name__} may have another penalty")
    if not options.weight:
        raise GeneratorError("weight is 0")
    if MAPPING in options.apply_to:
        raise GeneratorError(f"apply_to is {MAPPING}")
    for method in regularization.methods:
        if method.drawing is not None:
            raise GeneratorError(f"{method.name} changes what the generator gets")


def _share(
    regularization: Regularization,
    gsr: GroupSpectralRegularizer,
    loss: AdversarialLoss,
    label: int,
    z_prior: str,
    ranks: int,
) -> float:
    """Return the penalty's gradient over the adversarial one in a class.

    The adversarial one is the root mean square over updates of the generator; an update is the mean over the batches
    of all ranks and accumulation steps.  Its square has the same expectation as with uniform labels, among which the
    class may be missing, so that it has no gradient: only updates with the class are drawn, and their mean square is
    multiplied by the probability of such an update.
    """
    training, number = regularization.training, len(regularization.training.class_counts)
    gradient = AdversarialGradient(training.generator, training.discriminator, loss, number)
    device = next(training.generator.parameters()).device
    random = torch.Generator().manual_seed(0)
    size, batches = training.sizes["generator"], training.accumulation * ranks
    updates = math.ceil(_BATCHES / ranks)  # every rank makes its batches at the same time; here they take turns
    square = 0.0
    for _ in range(updates):
        while True:
            z, labels = sample_latents(z_prior, size * batches, training.z_dim, number, random)
            if label in labels:
                break
        parts = zip(torch.split(z, size), torch.split(labels, size), strict=True)
        found = [
            gradient.of_classes(z_of_batch.to(device), labels_of_batch.to(device))[label]
            for z_of_batch, labels_of_batch in parts
            if label in labels_of_batch
        ]
        square += float(torch.stack(found).sum(0).div(batches).square().sum())
    probability = 1 - (1 - 1 / number) ** (size * batches)
    adversarial = math.sqrt(probability * square / updates)
    penalty = float(penalty_gradient_norms(gsr, gradient.generator)[label])
    if not (adversarial > 0 and math.isfinite(penalty / adversarial)):
        raise GeneratorError(f"their norms are {penalty:.3g} and {adversarial:.3g}")
    return penalty / adversarial


def _note(share: float, weight: float) -> str:
    """Return what has been seen to work and, if the share is far from it, a remedy."""
    seen = f"seen to work: {_LEAST} to {_MOST}"
    if _TOO_WEAK <= share <= _TOO_STRONG:
        return f" ({seen})"
    effect = (
        "at 1.2, rare classes' norms fell to almost 0 in 5,000 steps"
        if share > _TOO_STRONG
        else "at 0.01, gsr changed little"
    )
    middle = math.sqrt(_LEAST * _MOST)
    advice = f"; weight {_digit(weight * middle / share)} would begin at about {_digit(middle)}" if share else ""
    return f"; {seen}; {effect}{advice} ({_PAGE})"


def _digit(value: float) -> str:
    """Return text: the value with one significant digit, without an exponent if it is moderate."""
    return f"{float(f'{value:.1g}'):g}"
