"""Draw latent vectors and labels, as StudioGAN does, from a given random generator or by class and number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from studiogan_gsr.seeds import IMAGES, mixed

_BLOCK = 64  # latent vectors of a class that are drawn together; another number would change every image


def sample_latents(
    prior: str,
    number: int,
    dimensions: int,
    classes: int,
    stream: torch.Generator,
    truncation: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return z (number, dimensions) float32 and labels (number,), uniform over the classes, on the stream's device.

    prior and truncation: as in `draw`.
    """
    label = torch.randint(classes, (number,), generator=stream, device=stream.device)
    return draw(prior, number, dimensions, stream, truncation), label


def draw(
    prior: str, number: int, dimensions: int, stream: torch.Generator, truncation: float | None = None
) -> Tensor:
    """Return z (number, dimensions) float32 on the stream's device.

    prior: "gaussian", or "uniform" on [-1, 1].
    truncation: of a gaussian; values are within ± truncation, distributed as if those outside were drawn again
    (Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019).  None: unlimited.
    """
    if prior == "gaussian" and truncation is None:
        return torch.randn(number, dimensions, generator=stream, device=stream.device)
    z = torch.empty(number, dimensions, device=stream.device)
    if prior != "gaussian":
        return z.uniform_(-1, 1, generator=stream)
    assert truncation is not None
    # The inverse of the distribution function, in float64: in float32 the tails would be coarse.
    z = z.double().uniform_(-1, 1, generator=stream)
    return (
        (math.sqrt(2) * torch.erfinv(z * math.erf(truncation / math.sqrt(2)))).clamp(-truncation, truncation).float()
    )


def latents_of(
    wanted: Sequence[tuple[int, int]], prior: str, dimensions: int, seed: int, truncation: float | None = None
) -> Tensor:
    """Return the latent vectors (N, dimensions) float32, on the CPU, of images given by (label, number).

    Each depends on seed, label and number alone.  prior and truncation: as in `draw`.
    """
    blocks: dict[tuple[int, int], Tensor] = {}
    rows = []
    for label, number in wanted:
        key = label, number // _BLOCK
        if key not in blocks:
            stream = torch.Generator().manual_seed(mixed(seed, IMAGES, *key))
            blocks[key] = draw(prior, _BLOCK, dimensions, stream, truncation)
        rows.append(blocks[key][number % _BLOCK])
    return torch.stack(rows)
