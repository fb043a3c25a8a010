"""Spectral norms of a generator's class parameters, exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studiogan_gsr.regularizers.affines import class_conditional_affines
from studiogan_gsr.regularizers.spectral import group_shape, group_spectral_norms


@torch.no_grad()
def largest_class_norms(generator: nn.Module, groups: int | str = "square") -> Tensor:
    """The largest spectral norm of each class over all layers, gain and bias: (classes,) float32, by SVD.

    groups: as in `group_shape`.  The generator is only read.
    Raises GeneratorError where it has no class-conditional layer that can be read.
    """
    norms = []
    for affine in class_conditional_affines(generator):
        for side in (affine.gain, affine.bias):
            norms.append(group_spectral_norms(side.float().reshape(len(side), *group_shape(side.shape[1], groups))))
    return torch.stack(norms).amax(0)
