"""What the penalty costs.

    python benchmarks/speed.py penalty            ours, a loop over layers, and exact SVD, by shape and classes
    python benchmarks/speed.py step CONFIG ARGS   the hook's share of a whole step of the real StudioGAN

All that is compared is measured in one run, in turns, and reported as a ratio of medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer
from studiogan_gsr.attachment import Attachment
from studiogan_gsr.regularizers.spectral import group_shape

# Conditional layers' channels, and whether the generator shares a class embedding (BigGAN).
SHAPES = {
    "SNGAN, CIFAR": ([256] * 6, False),
    "BigGAN, CIFAR": ([384] * 6, True),
    "BigGAN, iNaturalist 64": ([1280, 640, 640, 320, 320, 160, 160, 80], True),
}
SHARED, NOISE = 128, 20


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
            weight = linear.weight_orig / (linear.weight_u @ linear.weight_orig @ linear.weight_v)
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
    """Median milliseconds of each function, called in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 2):
        for function, taken in zip(functions, times, strict=True):
            _wait(device)
            start = time.perf_counter()
            function()
            _wait(device)
            if turn >= 2:
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def penalty_costs(device: str, rounds: int) -> None:
    """Penalty and gradient, forward and backward, by shape and number of classes."""
    print(
        f"device: {torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'}"
    )
    print("| generator | classes | ours, ms | loop over layers | exact SVD | state, share of G's class parameters |")
    print("|---|---|---|---|---|---|")
    for name, (channels, shared) in SHAPES.items():
        for classes in (10, 100, 1010):
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
            print(f"| {name} | {classes} | {a:.2f} | {b / a:.1f}x | {c / a:.1f}x | {state:.0%} |", flush=True)


def step_share(configuration: str, arguments: Sequence[str]) -> None:
    """The hook's time in a run of the real StudioGAN; its first step, which warms up, is left out."""
    from importlib import import_module

    from studiogan_gsr.hosts.studiogan import launcher

    spent: dict[str, list[float]] = {"hook": [], "step": []}

    def timed(function: Callable[..., object], key: str, opens: bool = True) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            _wait(device)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            _wait(device)
            taken = time.perf_counter() - start
            if opens:
                spent[key].append(taken)
            else:
                spent[key][-1] += taken
            return result

        return run

    Attachment._add_gradient = timed(Attachment._add_gradient, "hook")  # type: ignore[method-assign, assignment]
    prepare = launcher.Setup.prepare

    def prepare_timed(self: launcher.Setup) -> object:
        load_worker = prepare(self)
        worker = import_module("worker").WORKER
        worker.train_discriminator = timed(worker.train_discriminator, "step")
        worker.train_generator = timed(worker.train_generator, "step", opens=False)
        return load_worker

    launcher.Setup.prepare = prepare_timed  # type: ignore[method-assign]
    launcher.run(None, ["-t", "-metrics", "none", "-cfg", configuration, *arguments])
    hook, step = (statistics.median(spent[key][1:]) for key in ("hook", "step"))
    print(f"{Path(configuration).name}: hook {1e3 * hook:.2f} ms of a step of {step:.2f} s: {hook / step:.3%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    penalty = commands.add_parser("penalty")
    penalty.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    penalty.add_argument("--rounds", type=int, default=50)
    step = commands.add_parser("step")
    step.add_argument("configuration")
    step.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "penalty":
        penalty_costs(options.device, options.rounds)
    else:
        step_share(options.configuration, options.arguments)


if __name__ == "__main__":
    sys.exit(main())
