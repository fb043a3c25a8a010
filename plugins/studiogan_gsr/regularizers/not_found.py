"""The message for a generator without a known class-conditional layer: what was found, and the line that may help."""

from __future__ import annotations

import inspect
from collections import Counter

from torch import nn

# Names that arguments for the class have in the forward of many layers.
_CLASS_ARGUMENTS = {"y", "c", "cls", "label", "labels", "classes", "class_id", "cond", "condition", "embed"}


def nothing_found(generator: nn.Module) -> str:
    """Return the message for a generator in which no class-conditional layer was recognised."""
    kinds = Counter(
        type(module).__name__
        for module in generator.modules()
        if "norm" in type(module).__name__.lower() or isinstance(module, nn.Embedding)
    )
    found = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "no normalisation layer at all"
    return (
        f"{type(generator).__name__} has no class-conditional normalisation layer; looked for children "
        "gain and bias, embed0 and embed1, or an embed of twice num_features, and for classes given to "
        f"register_affine_reader; found {found}{_hint(generator)}"
    )


def _hint(generator: nn.Module) -> str:
    if getattr(generator, "g_cond_mtd", None) == "W/O":
        return "; MODEL.g_cond_mtd is W/O: set it to cBN to get such layers"
    for name, module in generator.named_modules():
        embed = getattr(module, "embed", None)
        if isinstance(embed, nn.Embedding) and not isinstance(getattr(module, "num_features", None), int):
            return (
                f"; {name or type(module).__name__}.embed ({embed.num_embeddings} x {embed.embedding_dim}) would be "
                "read if its layer had an attribute num_features, the normalised channels"
            )
    if any(hasattr(module, "embed") and hasattr(module, "fc0") for module in generator.modules()):
        return "; a StyleGAN's mapping network can be penalised with apply_to: [mapping] (experimental)"
    if not (layers := _candidates(generator)):
        return ""
    counts = Counter(type(layer).__name__ for layer in layers.values())
    listed = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    name, layer = next(iter(layers.items()))
    return f"; class-conditional by their looks: {listed}, the first is {name}; to add a reader: {_line(layer)}"


def _candidates(generator: nn.Module) -> dict[str, nn.Module]:
    """Return the innermost modules of the user's that hold embeddings or take something like a label, by name."""
    found = {
        name: module
        for name, module in generator.named_modules()
        if name and not type(module).__module__.startswith("torch.") and (_tables(module) or _takes_class(module))
    }
    return {n: m for n, m in found.items() if not any(other.startswith(f"{n}.") for other in found)}


def _tables(module: nn.Module) -> dict[str, nn.Embedding]:
    return {name: child for name, child in module.named_children() if isinstance(child, nn.Embedding)}


def _takes_class(module: nn.Module) -> bool:
    """Return whether a module takes, after its input, an argument of a name that labels often have."""
    return not _CLASS_ARGUMENTS.isdisjoint(list(inspect.signature(type(module).forward).parameters)[2:])


def _line(layer: nn.Module) -> str:
    """Return the line that registers a reader, of the layer's own tables if it has two, or one for both sides."""
    tables = list(_tables(layer).items())
    if len(tables) == 2:
        gain, bias = (f"layer.{name}.weight" for name, _ in tables)
    elif len(tables) == 1 and tables[0][1].embedding_dim % 2 == 0:
        name, table = tables[0]
        half = table.embedding_dim // 2
        gain, bias = f"layer.{name}.weight[:, :{half}]", f"layer.{name}.weight[:, {half}:]"
    else:
        gain, bias = "gain", "bias"
    return (
        f"register_affine_reader({type(layer).__name__}, lambda layer, generator: ({gain} - 1, {bias})), "
        "each (classes, channels), without the - 1 if the layer multiplies by 1 + gain"
    )
