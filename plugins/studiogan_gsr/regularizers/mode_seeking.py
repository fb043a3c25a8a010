"""Mode seeking regularization (MSGAN; Mao et al., CVPR 2019): images of one class differ as their noise differs.

For pairs of generated images of one class y with noise z1 and z2:

    weight / ( mean |G(z1, y) - G(z2, y)| / mean |z1 - z2| + 1e-5 )

The authors' program (HelenMao/MSGAN, DCGAN-Mode-Seeking) generates two images for each label of a real batch, and
both networks see both.  Here the two halves of a generated batch share their labels, in the updates of both networks.
Their adversarial loss is the sum of the two halves' losses, and the hosts' is the mean over the batch.  So weight 0.5
here corresponds to lambda 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from studiogan_gsr.contract import Batch
from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.regularizers.options import check_amount
from studiogan_gsr.regularizers.precision import at_least_float32

_EPSILON = 1e-5
# Smallest divisor, so that pairs with equal z give a finite loss; far below the mean difference of any two draws.
_SMALLEST_DIFFERENCE = 1e-12


def mode_seeking_loss(images: Tensor, other_images: Tensor, z: Tensor, other_z: Tensor) -> Tensor:
    """Return the mode seeking loss of pairs, a scalar; all means are over the whole batch.

    images, other_images: (N, ...), generated from z and other_z (N, d) with the same N labels.
    """
    difference = _mean_difference(images, other_images)
    ratio = difference / _mean_difference(z, other_z).clamp_min(_SMALLEST_DIFFERENCE)
    return 1 / (ratio + _EPSILON)


def _mean_difference(tensor: Tensor, other: Tensor) -> Tensor:
    return (at_least_float32(other) - at_least_float32(tensor)).abs().mean()


def paired(labels: Tensor) -> Tensor:
    """Return labels (N,) of which the second half repeats the first; raise RegularizerError if N is odd."""
    if len(labels) < 2 or len(labels) % 2:
        raise RegularizerError(f"found a batch of {len(labels)}; allowed: an even number of images, for pairs")
    return labels[: len(labels) // 2].repeat(2)


@dataclass(frozen=True)
class ModeSeekingOptions:
    """Options of `ModeSeeking`; OptionError for impossible values."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_amount("weight", self.weight)


class ModeSeeking(nn.Module):
    """Mode seeking, a `studiogan.regularizers` plug-in with the roles `draw` and `generator_loss`.

    weight: lambda; 1 in the paper.  generator and class_counts are not used.
    It has no state.
    """

    also_called: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("lambda", "lambda_", "lambd", "lam", "lambda_ms", "ms_lambda", "lz"), "weight"
    )

    def __init__(self, generator: nn.Module, class_counts: Sequence[int], weight: float = 1.0) -> None:
        super().__init__()
        self.options = ModeSeekingOptions(weight)
        self._last: Tensor | None = None

    @staticmethod
    def check_options(options: Mapping[str, Any]) -> None:
        """Raise OptionError for impossible values."""
        ModeSeekingOptions(**options)

    def draw(self, z: Tensor, labels: Tensor, update: str) -> tuple[Tensor, Tensor]:
        """Return z unchanged, and labels whose second half repeats the first; unchanged for path lengths."""
        return z, labels if update == "path_length" else paired(labels)

    def generator_loss(self, batch: Batch) -> Tensor:
        """Return the weighted loss of the batch's two halves."""
        images, other_images = torch.chunk(batch.images, 2)
        z, other_z = torch.chunk(batch.z, 2)
        loss = mode_seeking_loss(images, other_images, z, other_z)
        self._last = loss.detach()
        return self.options.weight * loss

    def phase(self, step: int) -> None:
        """Return nothing: the code does not depend on the step."""

    def scalars(self) -> dict[str, Tensor]:
        """Return the last loss without its weight, a scalar on the device."""
        return {} if self._last is None else {"loss": self._last}

    def __str__(self) -> str:
        return f"weight {self.options.weight}, pairs of one class"
