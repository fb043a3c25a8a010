"""Labels of generated images in training, drawn by the frequencies of the classes to a power.

StudioGAN draws the labels of generated images uniformly, and so do the paper's runs.  With power 1 they are drawn as
the classes are in the training data; powers in between are a compromise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import OptionError
from studiogan_gsr.settings import is_number

_LARGEST_POWER = 10
# Odd numbers, because multiplication by an odd number modulo 2^64 loses no information.
_FIRST, _STEP, _LAST = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
_BITS = 53  # random bits of a uniform number: the precision of float64


def class_shares(class_counts: Sequence[int], power: float) -> Tensor:
    """Return the probability of each class, (classes,) float64: n_y^power / sum of n^power."""
    shares = torch.tensor(class_counts, dtype=torch.float64)
    # Divided by the largest first, so that no power overflows.
    shares = (shares / shares.max()).pow(power)
    return torch.div(shares, shares.sum())


def uniform_from_noise(z: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1), (N,) float64, from the bits of noise z (N, d); equal z, equal numbers.

    The numbers come from a hash of the bits, so they are independent of where z lies in its distribution.  Labels
    made of them follow the host's seed, on every rank and after a restart, without another random generator.
    """
    bits = z.detach().float().view(torch.int32).long()
    odd = torch.arange(z.shape[1], device=z.device) * (2 * _STEP) + _FIRST  # modulo 2^64
    mixed = _mixed(bits * odd).sum(1)
    mixed = _mixed(_mixed(mixed) * _LAST)
    uniform: Tensor = (mixed & (2**_BITS - 1)).double() / 2**_BITS
    return uniform


def _mixed(bits: Tensor) -> Tensor:
    """Return int64 numbers whose lower halves depend on all bits; different numbers stay different."""
    return bits ^ ((bits >> 32) & 0xFFFFFFFF)


def classes_of(uniform: Tensor, ends: Tensor) -> Tensor:
    """Return the class of each number in [0, 1), (N,) int64; the classes divide [0, 1) into intervals.

    ends: (classes - 1,), the exclusive upper end of each interval but the last, which ends at 1.
    """
    return torch.bucketize(uniform, ends, right=True)


@dataclass(frozen=True)
class ClassBalanceOptions:
    """Options of `ClassBalance`; OptionError for impossible values."""

    power: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.power) or not 0 <= self.power <= _LARGEST_POWER:
            raise OptionError(
                "power", self.power, f"a number from 0 (uniform) to {_LARGEST_POWER}; 1: as in the data"
            )


class ClassBalance(nn.Module):
    """The labels of generated images, a `studiogan.regularizers` plug-in with the role `draw`.

    class_counts: training images per class, in label order.
    power: of the class frequencies; 0 leaves the host's uniform labels as they are, 1 is as in the data.
    It has no state.
    """

    also_called: ClassVar[Mapping[str, str]] = dict.fromkeys(("gamma", "exponent", "alpha", "temperature"), "power")

    def __init__(self, generator: nn.Module, class_counts: Sequence[int], power: float = 1.0) -> None:
        super().__init__()
        self.options = ClassBalanceOptions(power)
        self._shares = class_shares(class_counts, power)
        device = next(generator.parameters()).device
        self._ends = self._shares.cumsum(0)[:-1].to(device)

    @staticmethod
    def check_options(options: Mapping[str, Any]) -> None:
        """Raise OptionError for impossible values."""
        ClassBalanceOptions(**options)

    def draw(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return z unchanged, and labels that are drawn by the classes' shares from the bits of z."""
        if self.options.power == 0:
            return z, labels
        self._ends = self._ends.to(z.device)
        return z, classes_of(uniform_from_noise(z), self._ends).to(labels.dtype)

    def phase(self, step: int) -> None:
        """Return nothing: the code does not depend on the step."""

    def scalars(self) -> dict[str, float]:
        """Return nothing: there is nothing to log."""
        return {}

    def __str__(self) -> str:
        low, high = float(self._shares.min()), float(self._shares.max())
        return f"power {self.options.power}, shares of the classes {low:.3g} to {high:.3g}"
