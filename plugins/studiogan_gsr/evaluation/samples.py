"""Grids of generated images: one row a class, from fixed noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from studiogan_gsr.class_groups import frequency_thirds
from studiogan_gsr.evaluation.latents import sample_latents

_ROWS, _COLUMNS = 16, 10


def shown_classes(class_counts: list[int]) -> list[int]:
    """All classes by label, or, of many, some from the most to the least frequent."""
    if len(class_counts) <= _ROWS:
        return list(range(len(class_counts)))
    order = [label for third in frequency_thirds(class_counts).values() for label in third]
    return [order[i] for i in np.linspace(0, len(order) - 1, _ROWS).round().astype(int)]


@torch.no_grad()
def generate(
    generator: nn.Module, labels: Tensor, prior: str, z_dim: int, seed: int, batch_size: int = 100
) -> Tensor:
    """Images (N, 3, H, W) float32 in [-1, 1] for labels (N,), with running batch-norm statistics.

    The generator is left as it was; noise comes from a stream of its own, seeded by `seed`.
    """
    stream = torch.Generator(labels.device).manual_seed(seed)
    was_training = generator.training
    generator.eval()
    images = []
    for some in labels.split(batch_size):  # type: ignore[no-untyped-call]
        z, _ = sample_latents(prior, len(some), z_dim, 1, stream)
        images.append(generator(z, some).float())
    generator.train(was_training)
    return torch.cat(images)


def to_pixels(images: Tensor) -> Tensor:
    """Float [-1, 1] -> uint8, as StudioGAN quantises."""
    return ((images + 1) / 2 * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (N, 3, H, W), N a multiple of `columns`, as one picture, row by row, a pixel apart."""
    n, channels, height, width = images.shape
    cells = torch.full((n, channels, height + 1, width + 1), 255, dtype=torch.uint8)
    cells[:, :, :-1, :-1] = images.cpu()
    rows = cells.view(n // columns, columns, channels, height + 1, width + 1)
    picture = rows.permute(0, 3, 1, 4, 2).reshape(n // columns * (height + 1), columns * (width + 1), channels)
    return Image.fromarray(picture[:-1, :-1].contiguous().numpy())


def save_grid(generator: nn.Module, class_counts: list[int], prior: str, z_dim: int, seed: int, path: Path) -> None:
    """A picture of the generator's images, one row a class."""
    device = next(generator.parameters()).device
    labels = torch.tensor(shown_classes(class_counts), device=device).repeat_interleave(_COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(to_pixels(generate(generator, labels, prior, z_dim, seed)), _COLUMNS).save(path)
