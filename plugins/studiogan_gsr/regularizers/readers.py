"""Check registered readers: run a copy of each layer, and compare what it computes with what its reader returns.

A wrong reader is otherwise silent: gSR then penalises numbers that the layer does not use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError, reason
from studiogan_gsr.regularizers.affines import find_conditional_layers, unwrapped
from studiogan_gsr.regularizers.copies import copied
from studiogan_gsr.regularizers.stacks import ConditionalLayer
from studiogan_gsr.regularizers.trials import Trial, run_trial, shake

_SIGNATURE = "it is called as layer(x, label), and as layer(x, vector) with one-hot or embedded labels"
_FORMULA = "norm(x) * (1 + gain) + bias"


def check_readers(generator: nn.Module, layers: Sequence[ConditionalLayer], classes: int) -> list[str]:
    """Raise GeneratorError for a layer whose registered reader returns something else than the layer computes.

    layers: of the generator; those without a registered reader are skipped.  classes: of the data.
    Returns one line for each layer that cannot be checked.  Works on a copy of the generator.
    """
    own = [layer for layer in layers if layer.custom is not None and layer.module is not None]
    for layer in own:
        _check_shape(layer, classes)
    if not own:
        return []
    try:
        copy = copied(unwrapped(generator)).float().cpu().eval().requires_grad_(True)
        copies = [layer for layer in find_conditional_layers(copy) if layer.custom is not None]
        before = [_Claim.of(layer).kept() for layer in copies]
        stream = torch.Generator().manual_seed(0)
        for layer in copies:
            assert layer.module is not None
            shake(layer.module, stream)
    except FOREIGN as error:
        why = f"its reader is not checked: no copy of the generator can be read ({reason(error)})"
        return [f"{layer.where}: {why}" for layer in own]
    notes = [_check(layer, claim, copy) for layer, claim in zip(copies, before, strict=True)]
    return [note for note in notes if note]


@dataclass(frozen=True)
class _Claim:
    """What a reader returns, (classes, channels) each."""

    gain: Tensor
    bias: Tensor

    @staticmethod
    def of(layer: ConditionalLayer) -> _Claim:
        assert layer.custom is not None
        with torch.enable_grad():
            return _Claim(**layer.custom())

    def kept(self) -> _Claim:
        """Return a float32 copy on the CPU, without gradient, which stays as it is when parameters change."""
        gain, bias = (side.detach().to("cpu", torch.float32, copy=True) for side in (self.gain, self.bias))
        return _Claim(gain, bias)

    def mistakes(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield what may be wrong, with the layer's scales and shifts if it is."""
        gain, bias = self.gain, self.bias
        yield (
            "its reader's gain is 1 more than the layer's, in every class: return gain - 1, the deviation from one",
            gain,
            bias,
        )
        yield (
            "its reader's gain is 1 less than the layer's, in every class: the layer adds 1 by itself, so do not "
            "subtract 1",
            gain + 2,
            bias,
        )
        swapped = "its reader's gain and bias look swapped: return gain, bias, with gain the deviation from one"
        for scales, shifts in ((1 + bias, gain), (bias, gain), (bias, gain + 1)):
            yield swapped, scales, shifts
        if gain.shape[0] == gain.shape[1]:
            yield "its reader's gain and bias look transposed: return (classes, channels)", 1 + gain.mT, bias.mT


def _check_shape(layer: ConditionalLayer, classes: int) -> None:
    shape = tuple(_Claim.of(layer).gain.shape)
    if shape[0] != classes and shape[1] == classes:
        raise GeneratorError(
            f"{layer.where}: its reader returned tensors of shape {shape}, which look transposed; expected: "
            f"({classes}, {shape[0]}), (classes, channels): return gain.T, bias.T"
        )


def _check(layer: ConditionalLayer, before: _Claim, generator: nn.Module) -> str:
    """Return why a layer of a copy, changed since `before` was read, cannot be checked; "" if its reader is right."""
    assert layer.module is not None
    unchecked = f"{layer.where}: its reader is not checked: "
    classes, channels = before.gain.shape
    labels = torch.tensor(sorted({0, 1 % classes, classes // 2, classes - 1}))
    one_hot = nn.functional.one_hot(labels, classes).float()
    tables = [m.weight for m in generator.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == classes]
    runs: list[Trial | None] = []
    for conditions in (labels, one_hot, *(table[labels] for table in tables)):
        runs.append(trial := run_trial(layer.module, list(conditions), channels))
        after = _Claim.of(layer)  # after a run, which brings weights up to date that hooks compute
        claim = after.kept()
        gains, biases = claim.gain[labels], claim.bias[labels]
        if right := trial is not None and trial.fits(1 + gains, biases):
            break
    moved = {side for side in ("gain", "bias") if not torch.equal(getattr(before, side), getattr(claim, side))}
    if not moved:
        return f"{unchecked}what it returns does not depend on the parameters of the layer that it is given"
    if cut := [side for side in sorted(moved) if not getattr(after, side).requires_grad]:
        raise GeneratorError(
            f"{layer.where}: its reader's {cut[0]} has no gradient: return it without .data, detach() or no_grad()"
        )
    if right:
        return ""
    by_label, trials = runs[0], [trial for trial in runs if trial is not None]
    for text, scales, shifts in claim.mistakes():
        if any(trial.fits(scales[labels], shifts[labels]) for trial in trials):
            raise GeneratorError(f"{layer.where}: {text}")
    if by_label is not None:
        next_rows = run_trial(layer.module, list(labels + 1), channels)
        if next_rows is not None and next_rows.fits(1 + gains, biases):
            return f"{layer.where}: its reader is right if the generator adds 1 to the labels before this layer"
        raise GeneratorError(f"{layer.where}: {_difference(by_label, 1 + gains, labels)}")
    # A vector that fits the layer by its size alone may not be what the generator gives it.
    first = float(before.gain[0, 0])
    new = first and bool((before.gain == first).all())
    hint = f"; the gain of every class is {first:.4g}, where a new layer has 0: is a - 1 missing?" if new else ""
    return f"{unchecked}the layer does not run alone ({_SIGNATURE}), or does more than {_FORMULA}{hint}"


def _difference(trial: Trial, scales: Tensor, labels: Tensor) -> str:
    """Return how a layer differs from what its reader returns."""
    if trial.fits_scales(scales):
        return f"its reader's bias is not the layer's, its gain is: the layer must compute {_FORMULA}"
    errors = trial.scale_errors(scales)
    row, channel = divmod(int(errors.argmax()), errors.shape[1])
    reference = int(trial.reference[channel])
    claimed = float(scales[row, channel] / scales[reference, channel])
    return (
        f"its reader's gain is not the layer's: class {int(labels[row])} over class {int(labels[reference])} is "
        f"{float(trial.ratios[row, channel]):.3g} in what channel {channel} is multiplied by, and {claimed:.3g} in "
        "1 + gain"
    )
