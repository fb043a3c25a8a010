"""Find out whether a layer multiplies by its stored gain or by one plus it.

Libraries differ: StudioGAN computes norm(x) * (1 + gain(y)) + bias(y), others norm(x) * gain(y) + bias(y).  A layer
that is read by the wrong convention has a penalty from the start, which pulls its scale away from one.  So a copy
of each layer is run, and its outputs for two classes show which convention it follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError
from studiogan_gsr.regularizers.affines import DEVIATION, FACTOR, is_registered
from studiogan_gsr.regularizers.copies import copied
from studiogan_gsr.regularizers.stacks import ClassWeight, ConditionalLayer, Side, StackReader

_SPATIAL = ((3, 3), (), (5,))  # trial sizes after (batch, channels): images, vectors, sequences
_TOLERANCE = 1e-3


def check_conventions(layers: Sequence[ConditionalLayer]) -> None:
    """Raise GeneratorError for layers that are read by the wrong convention.

    A layer that cannot be run is refused if all its gains are the same nonzero number, as in a new layer that is read
    by the wrong convention.  Layers with a registered reader or convention are not checked.
    The message names the remedy.
    """
    for layer in layers:
        module = layer.module
        if module is None or layer.custom is not None or is_registered(type(module)):
            continue
        weight, side = _gain_of(layer)
        read, found = FACTOR if side.shift else DEVIATION, _measured_convention(module, weight, side)
        other = DEVIATION if side.shift else FACTOR
        remedy = f'register_affine_reader({type(module).__name__}, gain="{other}") corrects this'
        if found is not None and found != read:
            raise GeneratorError(
                f"{layer.name} computes {_FORMULA[found]}, and is read as {_FORMULA[read]}: {remedy}"
            )
        if found is None and (constant := _constant_gain(layer)) is not None:
            raise GeneratorError(
                f"{layer.name}: the gain of every class is {constant:.4g}, read as {_FORMULA[read]}, where a new "
                f'layer has 0: if it computes {_FORMULA[other]}, {remedy}; otherwise register gain="{read}"'
            )


_FORMULA = {DEVIATION: "norm(x) * (1 + gain)", FACTOR: "norm(x) * gain"}


def _gain_of(layer: ConditionalLayer) -> tuple[ClassWeight, Side]:
    return next((weight, side) for weight in layer.weights for side in weight.sides if side.name == "gain")


def _constant_gain(layer: ConditionalLayer) -> float | None:
    """Return the number that all gains of a layer equal; None if they differ or are zero."""
    with torch.no_grad():
        ((_, gains),) = StackReader([layer], ("gain",)).read()
    first = gains.flatten()[0]
    return float(first) if gains.numel() > 1 and first != 0 and bool((gains == first).all()) else None


def _measured_convention(module: nn.Module, weight: ClassWeight, side: Side) -> str | None:
    """Return the convention of a layer, by running a copy; None if it cannot be run or computes something else."""
    child = next(name for name, inner in module.named_modules() if inner is weight.module)
    for by_label, spatial in product(sorted({isinstance(weight.module, nn.Embedding), True}), _SPATIAL):
        try:
            with torch.no_grad(), torch.random.fork_rng([]):
                # On the CPU, a label out of range raises an ordinary exception; on CUDA it breaks the context.
                trial = copied(module).float().cpu().eval()
                return _run_convention(trial, child, side, spatial, by_label)
        except FOREIGN:  # the layer has another signature, or expects another shape
            continue
    return None


def _run_convention(
    module: nn.Module, child: str, side: Side, spatial: tuple[int, ...], by_label: bool
) -> str | None:
    """Return the convention of a layer from its outputs for two classes; None if neither or both fit.

    Changes the module, which must be a copy.
    spatial: sizes of the trial input after batch and channels.
    by_label: call the layer with labels; otherwise with the vectors that its gain is linear in.
    """
    stream = torch.Generator().manual_seed(0)
    inner = module.get_submodule(child)
    for parameter in inner.parameters():  # so that the gains of two classes differ, even in a new layer
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=stream))
    stored: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: stored.append(output))
    assert isinstance(inner, nn.Embedding | nn.Linear)
    channels = side.stop - side.start if isinstance(inner, nn.Embedding) else inner.out_features
    if by_label:
        classes = [torch.full((4,), label) for label in (0, 1)]
    else:
        assert isinstance(inner, nn.Linear)
        classes = [vector.expand(4, -1) for vector in torch.randn(2, inner.in_features, generator=stream)]
    x = torch.randn(4, channels, *spatial, generator=stream)
    outputs = [module(x, y) for y in classes]
    one, other = (output[:2] - output[2:] for output in outputs)  # without the bias
    over = [dim for dim in range(one.ndim) if dim != 1]
    ratio = (one * other).sum(over) / other.square().sum(over)
    gains = [(g[0, side.start : side.stop] if isinstance(inner, nn.Embedding) else g[0]) for g in stored[:2]]
    expected = {FACTOR: gains[0] / gains[1], DEVIATION: (1 + gains[0]) / (1 + gains[1])}
    fits = [name for name, value in expected.items() if float(_error(ratio, value)) < _TOLERANCE]
    return fits[0] if len(fits) == 1 else None


def _error(found: Tensor, expected: Tensor) -> Tensor:
    """Return the median relative error over channels; in a few channels the divisor may be almost zero."""
    return ((found - expected).abs() / expected.abs().clamp(min=1e-6)).median()
