"""Time the penalty: ours, a loop over layers, and exact SVD, by generator and number of classes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.speed.part import Part
from studiogan_gsr import GroupSpectralRegularizer
from studiogan_gsr.machine import device_name
from studiogan_gsr.regularizers.spectral import group_shape

# Conditional layers' channels, and whether the generator shares a class embedding (BigGAN).
SHAPES = {
    "SNGAN, CIFAR": ([256] * 6, False),
    "BigGAN, CIFAR": ([384] * 6, True),
    "BigGAN, iNaturalist 64": ([1280, 640, 640, 320, 320, 160, 160, 80], True),
}
SHARED, NOISE = 128, 20  # dimensions of the shared embedding and of a block's part of z


class Layer(nn.Module):
    def __init__(self, inputs: int, channels: int, spectral: bool) -> None:
        super().__init__()
        for side in ("gain", "bias"):
            linear = nn.Linear(inputs, channels, bias=False)
            self.add_module(side, nn.utils.spectral_norm(linear) if spectral else linear)


class Generator(nn.Module):
    def __init__(self, channels: Sequence[int], classes: int, shared: bool) -> None:
        super().__init__()
        inputs = SHARED + NOISE if shared else classes
        self.layers = nn.ModuleList([Layer(inputs, c, shared) for c in channels])
        if shared:
            self.shared = nn.Embedding(classes, SHARED)


class LayerByLayer:
    """gSR as one would write it: layer by layer, each side with its own power iteration."""

    def __init__(self, generator: Generator, classes: int) -> None:
        self.generator, self.classes = generator, classes
        self.vectors: dict[tuple[int, str], Tensor] = {}

    def penalty(self) -> Tensor:
        total = torch.zeros((), device=next(self.generator.parameters()).device)
        for i, layer in enumerate(self.generator.layers):
            for side in ("gain", "bias"):
                total = total + 0.5 * self._norms(i, side, getattr(layer, side)).square().sum()
        return total / (len(self.generator.layers) * self.classes)

    def _norms(self, i: int, side: str, linear: nn.Linear) -> Tensor:
        if hasattr(self.generator, "shared"):
            stored = linear.get_parameter("weight_orig")
            u, v = linear.get_buffer("weight_u"), linear.get_buffer("weight_v")
            weight = stored / (u @ stored @ v)
            vectors = self.generator.shared.weight @ weight[:, :SHARED].T
        else:
            vectors = linear.weight.T
        n_g, n_c = group_shape(vectors.shape[1])
        matrix = vectors.reshape(-1, n_g, n_c)
        with torch.no_grad():
            u = self.vectors.get((i, side), torch.ones(len(matrix), n_g, 1, device=matrix.device))
            for _ in range(4):
                v = nn.functional.normalize(matrix.mT @ u, dim=1)
                u = nn.functional.normalize(matrix @ v, dim=1)
            self.vectors[i, side] = u
        return (u * (matrix @ v)).sum((1, 2))


def medians(functions: Sequence[Callable[[], object]], device: str, rounds: int) -> list[float]:
    """Return the median milliseconds of each function, called alternately, after two rounds of warm-up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 2):
        for function, taken in zip(functions, times, strict=True):
            wait_for(device)
            start = time.perf_counter()
            function()
            wait_for(device)
            if turn >= 2:
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def penalty_costs(
    device: str, rounds: int, generators: Sequence[str] = tuple(SHAPES), numbers: Sequence[int] = (10, 100, 1010)
) -> Part:
    """Time penalty and gradient (forward and backward), by generator of SHAPES and number of classes."""
    part = Part(f"The penalty and its gradient, {device_name(device)}")
    part.columns(
        "generator", "classes", "ours, ms", "loop over layers", "exact SVD", "state, share of class parameters"
    )
    for name in generators:
        channels, shared = SHAPES[name]
        for classes in numbers:
            generator = Generator(channels, classes, shared).to(device)
            parameters = list(generator.parameters())
            counts = [5] * classes
            ours = GroupSpectralRegularizer(generator, counts, beta=None)
            exact = GroupSpectralRegularizer(generator, counts, beta=None, power_iterations=0)
            loop = LayerByLayer(generator, classes)

            def step(penalty: Callable[[], Tensor], parameters: Sequence[Tensor] = parameters) -> object:
                return torch.autograd.grad(penalty(), parameters)

            a, b, c = medians(
                [lambda r=r, s=step: s(r.penalty) for r in (ours, loop, exact)],  # type: ignore[misc]
                device,
                rounds if classes < 1000 else max(3, rounds // 5),
            )
            state = sum(t.numel() for t in ours.buffers()) / sum(p.numel() for p in parameters)
            part.row(name, classes, f"{a:.2f}", f"{b / a:.1f}x", f"{c / a:.1f}x", f"{state:.0%}")
            part.ratios[f"{name}, {classes} classes: loop over layers"] = b / a
            part.ratios[f"{name}, {classes} classes: exact SVD"] = c / a
    return part
