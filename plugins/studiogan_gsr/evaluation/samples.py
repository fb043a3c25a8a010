"""Grids of generated images: one row per class, from fixed noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from studiogan_gsr.class_groups import frequency_thirds
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.files import written_atomically

_ROWS, _COLUMNS = 16, 10


def shown_classes(class_counts: list[int]) -> list[int]:
    """Return the labels to show: all, in label order, or 16 from the most to the least frequent if there are more."""
    if len(class_counts) <= _ROWS:
        return list(range(len(class_counts)))
    order = [label for third in frequency_thirds(class_counts).values() for label in third]
    return [order[i] for i in np.linspace(0, len(order) - 1, _ROWS).round().astype(int)]


@torch.no_grad()
def generate(
    generator: nn.Module, labels: Tensor, prior: str, z_dim: int, seed: int, batch_size: int = 100
) -> Tensor:
    """Generate images (N, 3, H, W) float32 in [-1, 1] for labels (N,), with running batch-norm statistics.

    The generator's weights and mode are unchanged.  Noise comes from a local random generator, seeded by `seed`.
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
    """Quantise images from float [-1, 1] to uint8, as StudioGAN does."""
    return ((images + 1) / 2 * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int) -> Image.Image:
    """Arrange uint8 images (N, 3, H, W) in one picture, row by row, with gaps of one pixel."""
    picture = make_grid(images.cpu(), nrow=columns, padding=1, pad_value=255)
    # Crop the frame that make_grid draws, except around a single image.
    inner = picture[:, 1:-1, 1:-1] if len(images) > 1 else picture
    return Image.fromarray(inner.permute(1, 2, 0).contiguous().numpy())


def save_grid(generator: nn.Module, class_counts: list[int], prior: str, z_dim: int, seed: int, path: Path) -> None:
    """Save a picture of the generator's images, one row per class."""
    device = next(generator.parameters()).device
    labels = torch.tensor(shown_classes(class_counts), device=device).repeat_interleave(_COLUMNS)
    picture = grid(to_pixels(generate(generator, labels, prior, z_dim, seed)), _COLUMNS)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as partial:
        picture.save(partial, "PNG")
