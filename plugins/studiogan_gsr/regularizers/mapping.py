"""Where a StyleGAN generator conditions on the class: its mapping network.  Experimental.

StyleGAN2 and StyleGAN3 have no class-conditional normalisation layer.  Their mapping network turns
noise z and class y into the vector w that sets the style of every layer:

    w(z, y) = f([ norm(z), norm(embed(y)) ]),        norm(x) = x / sqrt(mean(x^2) + 1e-8)

The regularizer reads the map y -> w(0, y), with z at zero, as it does with BigGAN's noise.  It is a
function of the parameters alone, as gain and bias are.

It is not known how the authors regularized the paper's StyleGAN2 runs.  A later benchmark of
class-conditional StyleGAN on few images (JTCaldeira/CGANs-limited-data, training/gsr.py) penalises
something else: for each w of the generator's batch, 512 numbers cut into 16 x 32, the class weight
times sigma_max, from one power iteration with a random start.  The penalty here is the class weight
times sigma_max^2 of w(0, y), for every class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.regularizers.affines import unwrapped
from studiogan_gsr.regularizers.stacks import ConditionalLayer

MAPPING = "mapping"
_EPSILON = 1e-8


def find_mapping_networks(generator: nn.Module) -> list[ConditionalLayer]:
    """Return the class-conditional mapping networks of a StyleGAN2 or StyleGAN3 generator, with one side, "mapping".

    Raises GeneratorError if there is none.
    """
    layers = [
        ConditionalLayer(name, (), _reader(module))
        for name, module in unwrapped(generator).named_modules()
        if is_class_mapping(module)
    ]
    if not layers:
        raise GeneratorError(
            f"apply_to: [mapping]: {type(generator).__name__} has no mapping network with a class embedding; "
            "StyleGAN2 and StyleGAN3 have one with MODEL.g_cond_mtd: cAdaIN; for other generators, leave out apply_to"
        )
    return layers


def is_class_mapping(module: nn.Module) -> bool:
    """Return whether a module is a mapping network as in NVIDIA's StyleGAN code, with the class as an input."""
    sizes = [getattr(module, name, None) for name in ("z_dim", "c_dim", "num_layers")]
    if not all(isinstance(size, int) for size in sizes) or not sizes[1]:
        return False
    parts = ["embed", *(f"fc{i}" for i in range(sizes[2] or 0))]
    return all(isinstance(getattr(module, part, None), nn.Module) for part in parts)


def _reader(network: nn.Module) -> Callable[[], dict[str, Tensor]]:
    layers = [network.get_submodule(f"fc{i}") for i in range(network.num_layers)]  # type: ignore[arg-type]
    embed, z_dim, classes = network.get_submodule("embed"), int(network.z_dim), int(network.c_dim)  # type: ignore[arg-type]

    def read() -> dict[str, Tensor]:
        """Return {"mapping": w(0, y) of all classes, (classes, channels)}."""
        y = embed(torch.eye(classes, device=next(embed.parameters()).device))
        w = torch.cat([y.new_zeros(classes, z_dim), y * (y.square().mean(1, keepdim=True) + _EPSILON).rsqrt()], 1)
        for layer in layers:
            w = layer(w)
        return {MAPPING: w}

    return read
