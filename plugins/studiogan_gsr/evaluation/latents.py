"""Draw latent vectors and labels as StudioGAN does, from a given random generator."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_latents(
    prior: str, number: int, dimensions: int, classes: int, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return z (number, dimensions) float32 and labels (number,), uniform over the classes, on the stream's device.

    prior: "gaussian", or "uniform" on [-1, 1].
    """
    label = torch.randint(classes, (number,), generator=stream, device=stream.device)
    if prior == "gaussian":
        z = torch.randn(number, dimensions, generator=stream, device=stream.device)
    else:
        z = torch.empty(number, dimensions, device=stream.device).uniform_(-1, 1, generator=stream)
    return z, label
