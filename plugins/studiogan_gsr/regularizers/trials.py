"""Run a copy of a class-conditional layer alone, and measure what it computes for each class.

For class c such a layer computes scale_c * n(x) + shift_c, per channel.  Which normalisation n is, if any, need not
be known: for the same x it is the same for all classes, so the outputs of two classes lie on a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN

_BATCH = 4
# Sizes of the trial input around its channels: images, vectors, sequences, and sequences with the channels last.
_SHAPES = (((), (3, 3)), ((), ()), ((), (5,)), ((5,), ()))
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trial:
    """What a layer computes, relative to one class, the reference: output_c = ratio_c * output_reference + offset_c.

    ratios, offsets: (classes, channels).  reference: of each channel, (channels,); the class with the largest scale.
    size: the largest output of each channel, (channels,).  seen: whether a channel's output depends on x enough to
        tell its scales, (channels,); other channels are not compared.
    """

    ratios: Tensor
    offsets: Tensor
    reference: Tensor
    size: Tensor
    seen: Tensor

    def fits_scales(self, scales: Tensor) -> bool:
        """Return whether the layer's scales are these, (classes, channels), up to a factor for each channel."""
        return bool((self.scale_errors(scales) < _TOLERANCE).all())

    def fits(self, scales: Tensor, shifts: Tensor) -> bool:
        """Return whether the layer's scales and shifts are these, each (classes, channels)."""
        errors = (shifts - self.ratios * _of(self.reference, shifts) - self.offsets).abs()
        return self.fits_scales(scales) and bool((errors < _TOLERANCE * self.size)[:, self.seen].all())

    def scale_errors(self, scales: Tensor) -> Tensor:
        """Return how far scales are from the measured ratios, (classes, channels), relative to the largest scale."""
        errors = (self.ratios * _of(self.reference, scales) - scales).abs()
        return torch.where(self.seen, errors / scales.abs().amax(0), 0.0)  # scales that are all 0 are NaN: no fit


def _of(reference: Tensor, values: Tensor) -> Tensor:
    """Return the reference class's values, (1, channels), of (classes, channels)."""
    return values.gather(0, reference.unsqueeze(0))


@torch.no_grad()
def shake(module: nn.Module, stream: torch.Generator) -> None:
    """Change the parameters of a copy, so that its classes differ, even in a new layer."""
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=stream))


@torch.no_grad()
def run_trial(layer: nn.Module, conditions: Sequence[Tensor], channels: int) -> Trial | None:
    """Run a layer, a float32 copy on the CPU in evaluation mode, for two conditions or more.

    On the CPU, a label out of range raises an ordinary exception; on CUDA it breaks the context.
    conditions: of each class, what the layer takes beside x: a label (), or a vector.
    Returns None if the layer cannot be run alone, or is no affine function for each class, or the same for all.
    """
    for before, after in _SHAPES:
        x = torch.randn(_BATCH, *before, channels, *after, generator=torch.Generator().manual_seed(0))
        try:
            with torch.random.fork_rng([]), torch.autocast("cpu", enabled=False):
                # One class at a time: a layer that uses the batch's statistics normalises each class alike.
                outputs = [layer(x, one.expand(_BATCH, *one.shape)).float() for one in conditions]
        except FOREIGN:  # the layer has another signature, or expects another shape
            continue
        axis = 1 + len(before)
        if all(output.ndim == x.ndim and output.shape[axis] == channels for output in outputs):
            return _measured(torch.stack(outputs).movedim(axis + 1, 1).flatten(2))
    return None


def _measured(outputs: Tensor) -> Trial | None:
    """Return the trial of outputs (classes, channels, places); None if two classes' do not lie on a line."""
    means = outputs.mean(2, keepdim=True)
    centred = outputs - means
    spreads = centred.norm(dim=2)
    reference = spreads.argmax(0)
    line = centred.gather(0, reference.view(1, -1, 1).expand(1, *centred.shape[1:]))
    largest = spreads.amax(0)
    ratios = (centred * line).sum(2) / largest.square().clamp(min=1e-12)
    offsets = means.squeeze(2) - ratios * _of(reference, means.squeeze(2))
    size = outputs.abs().amax((0, 2))
    seen = largest > _TOLERANCE * size
    off_line = (centred - ratios.unsqueeze(2) * line).norm(dim=2) > _TOLERANCE * largest
    alike = ((ratios - 1).abs() < _TOLERANCE) & (offsets.abs() < _TOLERANCE * size)
    if not outputs.isfinite().all() or not seen.any() or off_line[:, seen].any() or alike[:, seen].all():
        return None
    return Trial(ratios, offsets, reference, size, seen)
