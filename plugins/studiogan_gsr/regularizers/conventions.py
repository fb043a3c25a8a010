"""Find out whether a layer multiplies by its stored gain or by one plus it.

Libraries differ: StudioGAN computes norm(x) * (1 + gain(y)) + bias(y), others norm(x) * gain(y) + bias(y).  A layer
that is read by the wrong convention has a penalty from the start, which pulls its scale away from one.  So a copy
of each layer is run, and its outputs for two classes show which convention it follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError
from studiogan_gsr.regularizers.affines import DEVIATION, FACTOR, is_registered
from studiogan_gsr.regularizers.copies import copied
from studiogan_gsr.regularizers.stacks import ClassWeight, ConditionalLayer, Side, StackReader
from studiogan_gsr.regularizers.trials import run_trial, shake


def check_conventions(layers: Sequence[ConditionalLayer]) -> None:
    """Raise GeneratorError for layers that are read by the wrong convention.

    A layer that cannot be run is refused if all its gains are the same nonzero number, as in a new layer that is read
    by the wrong convention, unless its convention was registered.  Layers with a registered reader are skipped.
    The message names the remedy.
    """
    for layer in layers:
        module = layer.module
        if module is None or layer.custom is not None:
            continue
        weight, side = _gain_of(layer)
        read, found = FACTOR if side.shift else DEVIATION, _measured_convention(module, weight, side)
        other = DEVIATION if side.shift else FACTOR
        remedy = f'register_affine_reader({type(module).__name__}, gain="{other}") corrects this'
        if found is not None and found != read:
            raise GeneratorError(
                f"{layer.name} computes {_FORMULA[found]}, and is read as {_FORMULA[read]}: {remedy}"
            )
        if found is None and not is_registered(type(module)) and (constant := _constant_gain(layer)) is not None:
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
    for by_label in sorted({isinstance(weight.module, nn.Embedding), True}):
        try:
            trial = copied(module).float().cpu().eval()
        except FOREIGN:
            return None
        if found := _run_convention(trial, child, side, by_label):
            return found
    return None


def _run_convention(module: nn.Module, child: str, side: Side, by_label: bool) -> str | None:
    """Return the convention of a layer from its outputs for two classes; None if neither or both fit.

    Changes the module, which must be a copy.
    by_label: call the layer with labels; otherwise with the vectors that its gain is linear in.
    """
    stream = torch.Generator().manual_seed(0)
    inner = module.get_submodule(child)
    assert isinstance(inner, nn.Embedding | nn.Linear)
    shake(inner, stream)
    stored: list[Tensor] = []
    inner.register_forward_hook(lambda _module, _inputs, output: stored.append(output))
    channels = side.stop - side.start if isinstance(inner, nn.Embedding) else inner.out_features
    if by_label:
        classes = torch.arange(2)
    else:
        assert isinstance(inner, nn.Linear)
        classes = torch.randn(2, inner.in_features, generator=stream)
    trial = run_trial(module, list(classes), channels)
    if trial is None:
        return None
    gains = torch.stack(
        [g[0, side.start : side.stop] if isinstance(inner, nn.Embedding) else g[0] for g in stored[-2:]]
    )
    fits = [name for name, scales in ((FACTOR, gains), (DEVIATION, 1 + gains)) if trial.fits_scales(scales)]
    return fits[0] if len(fits) == 1 else None
