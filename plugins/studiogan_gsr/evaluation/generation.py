"""Generate images to measure, from their own stream of noise, with a choice of batch-norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import EvaluationError
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.evaluation.samples import to_pixels
from studiogan_gsr.settings import Configured

_STANDING = 16  # batches for standing statistics


@torch.no_grad()
def generated(
    generator: nn.Module,
    configuration: Configured,
    number: int,
    batch_size: int,
    seed: int,
    batch_norm: str,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of uint8 images (B, 3, H, W) on the device and labels (B,) on the CPU, uniform over the classes.

    The generator itself does not change: a copy makes the images.
    number: the total number of images.
    batch_norm: which statistics to use: "batch" (each batch's own, as in the paper), "running" (those from training)
    or "standing" (recomputed from 16 batches, then fixed).
    Raises EvaluationError if an image is not finite.
    """
    data, model = configuration.DATA, configuration.MODEL
    generator = frozen_copy(generator, device)
    stream = torch.Generator().manual_seed(seed)  # on the CPU: the same images on every device, except for rounding

    def draw() -> tuple[Tensor, Tensor]:
        z, labels = sample_latents(model.z_prior, batch_size, model.z_dim, data.num_classes, stream)
        return generator(z.to(device), labels.to(device)), labels

    prepare_batch_norm(generator, batch_norm, draw)
    for made in range(0, number, batch_size):
        # The last batch is generated in full size, because the batch-norm statistics depend on the size.
        images, labels = draw()
        left = number - made
        yield checked_pixels(images[:left]), labels[:left]


def checked_pixels(images: Tensor) -> Tensor:
    """Return images as uint8; raise EvaluationError if one is not finite."""
    if not bool(images.isfinite().all()):
        raise EvaluationError("the generator gives images that are not finite")
    return to_pixels(images)


def frozen_copy(generator: nn.Module, device: torch.device) -> nn.Module:
    """Return a deep copy of a generator on a device, in evaluation mode.

    Spectral norm keeps the weights of the last forward pass as attributes.  deepcopy refuses tensors with a graph, so
    they are detached.
    """
    left = [value for module in generator.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    copied = copy.deepcopy(generator, {id(value): value.detach() for value in left if not value.is_leaf})
    return copied.to(device).eval()


def prepare_batch_norm(generator: nn.Module, batch_norm: str, draw: Callable[[], object]) -> None:
    """Set up the batch-norm layers; all else stays in evaluation mode, because spectral norm must not change."""
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if batch_norm == "running":
        return
    for norm in norms:
        norm.train()
        if batch_norm == "standing":
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
    if batch_norm == "standing":
        for _ in range(_STANDING):
            draw()
        generator.eval()
