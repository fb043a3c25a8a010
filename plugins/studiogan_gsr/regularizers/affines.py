"""Where a generator keeps its class parameters, and how to read them without running it.

A class-conditional normalisation layer computes, for class y,

    norm(x) * (1 + gain_y) + bias_y

and `class_conditional_affines` returns gain and bias of each layer, for all classes, as functions
of the generator's parameters.  Nothing is run, so nothing changes: no spectral-norm buffer, no
batch-norm statistic, no flag, no random generator.

Recognised layers (the first row that fits):
  any class that was given to `register_affine_reader` with a reader;
  children `gain`, `bias`, or `embed0`, `embed1`:
    linear layers fed by a one-hot label (StudioGAN resnet), or by [shared class embedding, noise]
    with the noise at zero (StudioGAN big_resnet and big_resnet_deep, BigGAN-PyTorch), or
    embeddings indexed by the label (BigGAN-PyTorch without sharing, the authors' SNGAN);
  a child `embed` with twice as many columns as normalised channels, [gamma_y, bias_y] (mimicry and many others).
    Such layers multiply by gamma_y itself; gain_y = gamma_y - 1 makes the penalty mean the same.
`register_affine_reader(layer_class, gain=...)` changes this convention for a class of layers: "factor" if it
multiplies by its stored gain itself, "deviation" if it multiplies by 1 + gain.  conventions.py checks that a layer
computes what it is read as.
Weights may be spectrally normalised, by `torch.nn.utils.spectral_norm`, by
`torch.nn.utils.parametrizations.spectral_norm`, or by BigGAN-PyTorch's own layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError, OptionError, reason
from studiogan_gsr.regularizers.not_found import nothing_found
from studiogan_gsr.regularizers.stacks import ClassWeight, ConditionalLayer, Side, StackReader

AffineReader = Callable[[nn.Module, nn.Module], tuple[Tensor, Tensor]]
_READERS: dict[type[nn.Module], AffineReader] = {}
_SHIFTS: dict[type[nn.Module], float] = {}
# How a layer uses its stored gain: added to one, or as the factor itself.
DEVIATION, FACTOR = "deviation", "factor"

_PAIRS = (("gain", "bias"), ("embed0", "embed1"))
_SINGLE = "embed"
_SHARED = "shared"
# StudioGAN's InfoGAN puts the projected information code before the label.
_INFORMATION = "info_proj_linear"


@dataclass(frozen=True)
class ClassAffine:
    """One conditional layer: its dotted name in the generator, and (classes, channels) tensors."""

    name: str
    gain: Tensor
    bias: Tensor


def register_affine_reader(
    layer_class: type[nn.Module], reader: AffineReader | None = None, *, gain: str | None = None
) -> None:
    """Register how `class_conditional_affines` reads a class of layers: by a function, or by the meaning of its gain.

    reader(layer, generator) -> (gain, bias), each (classes, channels) and differentiable with respect to the
    generator's parameters; gain is the deviation from one.  It is called at every penalty and must change nothing.
    readers.py checks that the layer computes what its reader returns.
    gain: for a layer of a known kind, instead of a reader: "deviation" if it computes norm(x) * (1 + gain) + bias,
    "factor" if it computes norm(x) * gain + bias; its gains are then read as gain - 1.
    Subclasses of `layer_class` are covered too.  Raises OptionError unless exactly one of the two is given.
    """
    if (reader is None) == (gain is None) or gain not in (None, DEVIATION, FACTOR):
        raise OptionError("gain", gain, f"{DEVIATION} or {FACTOR}, or else a reader, not both")
    if reader is not None:
        _READERS[layer_class] = reader
    else:
        _SHIFTS[layer_class] = 1.0 if gain == FACTOR else 0.0


def is_registered(layer_class: type[nn.Module]) -> bool:
    """Return whether `register_affine_reader` was called for this class or a base class."""
    return any(c in _READERS or c in _SHIFTS for c in layer_class.__mro__)


def class_conditional_affines(generator: nn.Module) -> list[ClassAffine]:
    """Return gain and bias of every class-conditional layer, in the order of `named_modules`.

    generator: may be wrapped in DataParallel, DistributedDataParallel or torch.compile.
    Raises GeneratorError if no layer is found (the message lists what was looked for and what was found),
    or if a layer that looks conditional cannot be read.
    """
    layers = find_conditional_layers(generator)
    affines: list[Tensor | None] = [None] * (2 * len(layers))
    for positions, stack in StackReader(layers, ("gain", "bias")).read():
        for position, tensor in zip(positions, stack.unbind(0), strict=True):
            affines[position] = tensor
    return [
        ClassAffine(layer.name, affines[2 * i], affines[2 * i + 1])  # type: ignore[arg-type]
        for i, layer in enumerate(layers)
    ]


def find_conditional_layers(generator: nn.Module) -> list[ConditionalLayer]:
    """Return the conditional layers of a generator; see `class_conditional_affines`."""
    generator = unwrapped(generator)
    layers = []
    for name, module in generator.named_modules():
        reader = next((_READERS[c] for c in type(module).__mro__ if c in _READERS), None)
        if reader is not None:
            layers.append(ConditionalLayer(name, (), _bound(reader, name, module, generator), module))
        elif weights := _class_weights(name, module, generator):
            layers.append(ConditionalLayer(name, _by_convention(weights, type(module)), module=module))
    if not layers:
        raise GeneratorError(nothing_found(generator))
    return layers


def _class_weights(name: str, module: nn.Module, generator: nn.Module) -> tuple[ClassWeight, ...]:
    """Return the weights of a module that looks like a conditional layer; () for any other module."""
    for pair in _PAIRS:
        children = [getattr(module, attribute, None) for attribute in pair]
        if all(isinstance(child, nn.Linear | nn.Embedding) for child in children):
            return tuple(
                _pair_weight(f"{name}.{attribute}", side, child, generator)  # type: ignore[arg-type]
                for side, attribute, child in zip(("gain", "bias"), pair, children, strict=True)
            )
        if all(isinstance(child, nn.Module) for child in children):
            kinds = " and ".join(type(child).__name__ for child in children)
            raise GeneratorError(
                f"{name}.{pair[0]} and .{pair[1]} are {kinds}, not Linear or Embedding: the layer looks conditional "
                "but cannot be read; register_affine_reader(layer_class, reader) adds a reader for it"
            )
    single = getattr(module, _SINGLE, None)
    channels = getattr(module, "num_features", None)
    if isinstance(single, nn.Embedding) and isinstance(channels, int) and single.embedding_dim == 2 * channels:
        sides = Side("gain", 0, channels, shift=1.0), Side("bias", channels, 2 * channels)
        return (ClassWeight(single, True, None, sides),)
    return ()


def _by_convention(weights: tuple[ClassWeight, ...], layer_class: type[nn.Module]) -> tuple[ClassWeight, ...]:
    """Return the weights; if a convention was registered for the class, their gains have its shift."""
    shift = next((_SHIFTS[c] for c in layer_class.__mro__ if c in _SHIFTS), None)
    if shift is None:
        return weights
    return tuple(
        replace(w, sides=tuple(replace(side, shift=shift) if side.name == "gain" else side for side in w.sides))
        for w in weights
    )


def _pair_weight(name: str, side: str, child: nn.Module, generator: nn.Module) -> ClassWeight:
    if isinstance(child, nn.Embedding):
        return ClassWeight(child, True, None, (Side(side, 0, child.embedding_dim),))
    assert isinstance(child, nn.Linear)
    information = getattr(generator, _INFORMATION, None)
    start = information.out_features if isinstance(information, nn.Linear) else 0
    shared = getattr(generator, _SHARED, None)
    if isinstance(shared, nn.Embedding):
        stop = start + shared.embedding_dim
        if stop > child.in_features:
            raise GeneratorError(
                f"{name} takes {child.in_features} inputs; expected: at least {stop}, for the shared class "
                "embedding; a layer of an unknown kind: register_affine_reader(layer_class, reader) adds a reader"
            )
        return ClassWeight(child, False, shared, (Side(side, start, stop),))
    classes = child.in_features - start
    declared = getattr(generator, "num_classes", getattr(generator, "n_classes", classes))
    if classes != declared or getattr(generator, "g_cond_mtd", "cBN") == "W/O":
        raise GeneratorError(
            f"{name} takes {child.in_features} inputs, and the generator has {declared} classes and no "
            f"embedding '{_SHARED}': the layer is not conditional on the class (set MODEL.g_cond_mtd: cBN), or of an "
            "unknown kind (register_affine_reader(layer_class, reader) adds a reader for it)"
        )
    return ClassWeight(child, False, None, (Side(side, start, child.in_features),))


def _bound(
    reader: AffineReader, name: str, layer: nn.Module, generator: nn.Module
) -> Callable[[], dict[str, Tensor]]:
    where = f"the reader of {name or 'the generator'} ({type(layer).__name__})"

    def read() -> dict[str, Tensor]:
        """Return what the reader returns, by side.  Raises GeneratorError if it fails or has another form."""
        try:
            found = reader(layer, generator)
        except torch.OutOfMemoryError:
            raise
        except FOREIGN as error:
            raise GeneratorError(f"{where} failed: {reason(error)}") from error
        pair = found if isinstance(found, tuple | list) else (found,)
        shapes = [tuple(side.shape) if isinstance(side, Tensor) else type(side).__name__ for side in pair]
        if len(pair) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or isinstance(shapes[0], str):
            raise GeneratorError(
                f"{where} returned {' and '.join(map(str, shapes))}; expected: gain and bias, two tensors of shape "
                "(classes, channels)"
            )
        return {"gain": pair[0], "bias": pair[1]}

    return read


def unwrapped(generator: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(generator, "_orig_mod", None)
        if isinstance(generator, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = generator.module
        if not isinstance(inner, nn.Module):
            return generator
        generator = inner
