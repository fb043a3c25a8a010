"""LeCam regularization of the discriminator's logits (Tseng et al., CVPR 2021), and gSR's authors' variant of it.

The published penalty, where a_real and a_fake are moving averages of the discriminator's mean logits:

    weight * ( mean(relu(D(x) - a_fake)^2) + mean(relu(a_real - D(G(z)))^2) )

in all steps after `start`.  Loss and averages equal those of StudioGAN's LOSS.apply_lecam; means are over all ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from studiogan_gsr.contract import Batch
from studiogan_gsr.regularizers.options import check_amount, check_flag, check_share, check_step
from studiogan_gsr.regularizers.precision import at_least_float32

UNSEEN = 7777.0  # StudioGAN's value of an average before the first logits


def lecam_penalty(real: Tensor, fake: Tensor, real_average: Tensor, fake_average: Tensor) -> Tensor:
    """Return LeCam's penalty, a scalar.  real, fake: logits (N,).  The averages: scalars without gradient."""
    return F.relu(real - fake_average).square().mean() + F.relu(real_average - fake).square().mean()


def released_lecam_penalty(real: Tensor, fake: Tensor, real_average: Tensor, fake_average: Tensor) -> Tensor:
    """Return LeCam's penalty as gSR's authors released it: the second difference has the opposite sign.

    real, fake: logits (N,).  The averages: (N,), one for every position in the batch.
    """
    return F.relu(real - fake_average).square().mean() + F.relu(fake - real_average).square().mean()


@dataclass(frozen=True)
class LeCamOptions:
    """Options of `LeCam`, which explains them; OptionError for impossible values."""

    weight: float = 0.3
    decay: float = 0.99
    start: int = 1000
    released: bool = False

    def __post_init__(self) -> None:
        check_amount("weight", self.weight)
        check_share("decay", self.decay)
        check_step("start", self.start)
        check_flag("released", self.released)


class LeCam(nn.Module):
    """LeCam, a `studiogan.regularizers` plug-in with the role `discriminator_loss`.

    weight: lambda.  decay: of the moving averages.  start: the last training step without penalty, counted from 0.
        In the steps before it the averages are the mean logits of the current batch.
    released: LeCam as gSR's authors released it (val-iisc/gSRGAN), to compare with their numbers.  Its penalty is
        `released_lecam_penalty`, with one average for every position in this rank's batch.  In step 0 the averages
        stay 0.  `start` has no effect.

    generator is used for its device only, class_counts not at all.  The state holds the averages (real, fake):
    (2,) float64, equal on all ranks, or with `released` (2, N) float32, of this rank.
    """

    averages: Tensor
    also_called: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("lambda", "lambda_", "lambd", "lam", "lecam_lambda"), "weight"),
        **dict.fromkeys(("lecam_ema_decay", "ema_decay", "beta"), "decay"),
        **dict.fromkeys(("lecam_ema_start_iter", "start_itr", "start_iter", "start_step"), "start"),
        "lecam_released": "released",
    }

    def __init__(
        self,
        generator: nn.Module,
        class_counts: Sequence[int],
        weight: float = 0.3,
        decay: float = 0.99,
        start: int = 1000,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.options = LeCamOptions(weight, decay, start, released)
        device = next(generator.parameters()).device
        # (real, fake); float64, because StudioGAN's averages are Python floats.
        averages = torch.zeros(2, 0) if released else torch.full((2,), UNSEEN, dtype=torch.float64)
        self.register_buffer("averages", averages.to(device))
        # Whether the next mean logits replace the averages, because there are none yet, or none in the checkpoint
        # that a run resumes from.  StudioGAN would mix in its 7777, which gives a penalty of millions.
        self._replace = True
        self._last: Tensor | None = None

    @staticmethod
    def check_options(options: Mapping[str, Any]) -> None:
        """Raise OptionError for impossible values."""
        LeCamOptions(**options)

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Return the weighted penalty of a batch; update the averages first."""
        assert batch.real_logits is not None
        compute = self._released if self.options.released else self._published
        real, fake = at_least_float32(batch.real_logits), at_least_float32(batch.logits)
        penalty = compute(real, fake, batch.step)
        self._last = penalty.detach()
        return self.options.weight * penalty

    def _published(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        means = torch.stack([real.detach().mean(), fake.detach().mean()])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
        decay = 0.0 if step < self.options.start or self._replace else self.options.decay
        self._replace = False
        self.averages.mul_(decay).add_(means.double(), alpha=1 - decay)
        # Up to `start` the term is zero and has a zero gradient: every call must return a tensor with a graph.
        active = 1.0 if step > self.options.start else 0.0
        return active * lecam_penalty(real, fake, *self.averages.to(real.dtype).unbind())

    def _released(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        slots = self.averages.shape[1]
        if slots != len(real):
            if slots:
                warnings.warn(
                    f"LeCam: averages of {slots} images per rank, now {len(real)}: they start over", stacklevel=2
                )
            self.averages = real.new_zeros(2, len(real), dtype=torch.float32)
        if step > 0:
            logits = torch.stack([real.detach(), fake.detach()]).to(self.averages.dtype)
            self.averages.lerp_(logits, 1 - self.options.decay)
        return released_lecam_penalty(real, fake, *self.averages.unbind())

    def phase(self, step: int) -> tuple[bool, ...]:
        """Return what the code of `discriminator_loss` depends on in a step."""
        if self.options.released:
            return self.averages.shape[1] > 0, step > 0
        return self._replace, step < self.options.start, step > self.options.start

    def scalars(self) -> dict[str, Tensor]:
        """Return the last penalty without its weight, and the averages of the logits, as scalars on the device."""
        if self._last is None:
            return {}
        averages = self.averages.mean(1) if self.options.released else self.averages
        real, fake = averages.clone().unbind()
        return {"penalty": self._last, "real_average": real, "fake_average": fake}

    def extra_repr(self) -> str:
        values = ", ".join(f"{key} {value}" for key, value in vars(self.options).items())
        return f"{values}{'' if self.options.released else ', averages of all ranks'}"

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Restore the averages; those of the other variant are ignored with a warning."""
        saved = state_dict.get(f"{prefix}averages")
        if self.options.released and saved is not None and saved.ndim == 2:
            self.averages = saved.to(self.averages.device, torch.float32).clone()
        elif not self.options.released and saved is not None and saved.shape == (2,):
            super()._load_from_state_dict(state_dict, prefix, *args)
            self._replace = UNSEEN in self.averages.tolist()
        else:
            warnings.warn("LeCam: the checkpoint holds no averages of this variant: they start over", stacklevel=2)
