"""What the penalty costs, and what a step of either host takes.

    python benchmarks/speed.py penalty            ours, a loop over layers, and exact SVD, by shape and classes
    python benchmarks/speed.py step CONFIG ARGS   the hook's share of a whole step of the real StudioGAN
    python benchmarks/speed.py hosts --data DIR CONFIG [CONFIG ...]
                                                  steps of StudioGAN and of the native host
    python benchmarks/speed.py packing --data DIR packing the image folder DIR/train into an HDF5 file
    python benchmarks/speed.py evaluation         where an evaluation's time goes, and PRDC beside the package prdc

All that is compared is measured in one run, in turns, and reported as a ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer
from studiogan_gsr.attachment import Attachment
from studiogan_gsr.hosts.native.training import Speed
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


def timed_studiogan(configuration: str, arguments: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of every step of a run of the real StudioGAN, and of the hook in it."""
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
    return spent


def step_share(configuration: str, arguments: Sequence[str]) -> None:
    """The hook's time in a run of the real StudioGAN; its first step, which warms up, is left out."""
    spent = timed_studiogan(configuration, arguments)
    hook, step = (statistics.median(spent[key][1:]) for key in ("hook", "step"))
    print(f"{Path(configuration).name}: hook {1e3 * hook:.2f} ms of a step of {step:.2f} s: {hook / step:.3%}")


# Ways to train a configuration: the native host's speed switches, or the real StudioGAN's arguments.
CONTESTANTS: dict[str, Speed | list[str]] = {
    "StudioGAN": [],
    "native, all switches off": Speed(channels_last=False, folded=False, fused=False),
    "native": Speed(),
    "native, bfloat16": Speed(precision="bfloat16"),
}
_CUDA_ONLY: dict[str, list[str]] = {"StudioGAN -mpc": ["-mpc"]}


def hosts(configurations: Sequence[str], data: str, steps: int, turns: int) -> None:
    """Seconds a step of both hosts on the same configuration and data, in turns, each in a process of its own."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    names = [*CONTESTANTS, *(_CUDA_ONLY if cuda else {})]
    print(f"device: {device}; median of {turns} x {steps} steps, the first of each turn left out")
    print("| configuration | " + " | ".join(f"{name}, s" if name == "StudioGAN" else name for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for configuration in configurations:
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                command = [sys.executable, __file__, "contestant", name, configuration, data, str(steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr[-2000:]}")
                times[name] += json.loads(done.stdout.splitlines()[-1])
        base = statistics.median(times["StudioGAN"])
        cells = [f"{base:.4g}"]
        cells += [f"{base / statistics.median(times[name]):.2f}x" for name in names if name != "StudioGAN"]
        print(f"| {Path(configuration).stem} | {' | '.join(cells)} |", flush=True)


def contestant(name: str, configuration: str, data: str, steps: int) -> list[float]:
    """Seconds of each step but the first."""
    from studiogan_gsr.hosts.native.run import Options, train
    from studiogan_gsr.settings import load_configuration
    from studiogan_gsr.shipped import shipped_configuration

    path = configuration if Path(configuration).is_file() else str(shipped_configuration(configuration))
    sections = load_configuration(path)
    if (Path(data) / "train").is_dir():  # CIFAR as an image folder, where the archive is not at hand
        sections["DATA"]["name"] = sections["DATA"]["name"].replace("CIFAR10_LT", "Folder_LT")
    sections["OPTIMIZATION"]["total_steps"] = steps
    with tempfile.TemporaryDirectory() as folder:
        speed = {**CONTESTANTS, **_CUDA_ONLY}[name]
        if isinstance(speed, Speed):
            options = Options(data, Path(folder) / "run", print_freq=1, save_freq=10 * steps, speed=speed)
            train(sections, options)
            lines = (Path(folder) / "run" / "log.jsonl").read_text().splitlines()
            return [1 / json.loads(line)["steps_per_second"] for line in lines][1:]
        file = Path(folder) / "configuration.yaml"
        # StudioGAN's loop takes one step more than it is told.
        sections["OPTIMIZATION"]["total_steps"] = steps - 1
        file.write_text(yaml.safe_dump(sections))
        os.environ["WANDB_MODE"] = "disabled"
        return timed_studiogan(str(file), ["-data", data, "-save", folder, "--num_workers", "2", *speed])["step"][1:]


def packing(data: str, size: int, resizer: str, workers: int, turns: int) -> None:
    """Seconds to pack the image folder data/train, by StudioGAN's packer and ours, in turns; equal files."""
    results: dict[str, list[dict[str, Any]]] = {"StudioGAN": [], "ours": []}
    for _ in range(turns):
        for name in results:
            with tempfile.TemporaryDirectory(dir=Path(data)) as folder:
                (Path(folder) / "train").symlink_to((Path(data) / "train").resolve())
                command = [sys.executable, __file__, "packer", name, folder, str(size), resizer, str(workers)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr[-2000:]}")
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    if len({found["pixels"] for runs in results.values() for found in runs}) != 1:
        sys.exit("the packers' files differ")
    print(f"{results['ours'][0]['images']} images to {size} pixels ({resizer}), {workers} workers, {turns} turns")
    print(
        "| packer | seconds (median) | images/s | main process, peak MB | a worker, peak MB |\n|---|---|---|---|---|"
    )
    medians = {name: statistics.median(found["seconds"] for found in runs) for name, runs in results.items()}
    for name, runs in results.items():
        main_mb, worker_mb = (max(found[key] for found in runs) for key in ("main_mb", "worker_mb"))
        rate = runs[0]["images"] / medians[name]
        print(f"| {name} | {medians[name]:.2f} | {rate:,.0f} | {main_mb:.0f} | {worker_mb:.0f} |")
    print(
        f"ours is {medians['StudioGAN'] / medians['ours']:.2f} times as fast; the files' images and labels are equal"
    )


def packer(name: str, folder: str, size: int, resizer: str, workers: int) -> dict[str, Any]:
    """One packing in this process, without its imports."""
    import hashlib
    import resource

    import h5py

    from studiogan_gsr.datasets.folder import class_folders
    from studiogan_gsr.datasets.long_tailed import Whole
    from studiogan_gsr.datasets.pack import pack
    from studiogan_gsr.datasets.packed import packed_path
    from studiogan_gsr.datasets.preprocessing import Prepared
    from studiogan_gsr.hosts.studiogan.checkout import find_checkout

    path = packed_path(folder, "Any", size, resizer)
    sys.path.insert(0, str(find_checkout(None).source))
    from utils.hdf5 import make_hdf5

    start = time.perf_counter()
    if name == "StudioGAN":
        settings = SimpleNamespace(name="Any", num_workers=workers, data_dir=folder)
        make_hdf5("Any", size, True, size, folder, resizer, settings, settings)
    else:
        source = class_folders(Path(folder), "train", "an image folder")
        prepared = Prepared(Whole(source, source.classes), "Any", size, resizer)
        pack(prepared, path, workers=workers)
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    digest = hashlib.sha256()
    with h5py.File(path) as file:
        images = len(file["imgs"])
        for begin in range(0, images, 1000):
            digest.update(file["imgs"][begin : begin + 1000].tobytes())
        digest.update(file["labels"][:].tobytes())
    found = {"seconds": seconds, "images": images, "main_mb": peaks[0], "worker_mb": peaks[1]}
    return found | {"pixels": digest.hexdigest()}


def evaluation(images: int, measured: int, real: int, classes: int, device: str) -> None:
    """Seconds of an evaluation of so many images of a full-width SNGAN at 32 pixels.

    The network is of Inception's size with random weights, which its speed does not depend on.  Images are timed on
    `measured` of them and reckoned up; metrics are timed on features of the full number.
    """
    from torchvision.models import inception_v3

    from studiogan_gsr.evaluation.features import Sample, extract
    from studiogan_gsr.evaluation.measure import METRICS, Reference, measure, metrics
    from studiogan_gsr.hosts.native.configuration import read_configuration
    from studiogan_gsr.hosts.native.generation import generated
    from studiogan_gsr.hosts.native.networks import make_networks
    from studiogan_gsr.settings import load_configuration
    from studiogan_gsr.shipped import shipped_configuration

    configuration = read_configuration(load_configuration(shipped_configuration("CIFAR10_LT/SNGAN-gSR")))
    network = inception_v3(weights=None, init_weights=False, aux_logits=False).to(device).eval()
    pooled: list[Tensor] = []
    network.avgpool.register_forward_hook(lambda module, given, maps: pooled.append(maps.flatten(1)))

    def backbone(images: Tensor) -> tuple[Tensor, Tensor]:
        larger = nn.functional.interpolate(images.float() / 127.5 - 1, (299, 299), mode="bilinear")
        logits = network(larger)
        return pooled.pop(), logits

    generator, _ = make_networks(configuration, 0)
    for number in (128, measured):  # first without its time: devices choose their programs
        made = generated(generator, configuration, number, 64, 0, "batch", torch.device(device))
        inside, whole = extract(backbone, made, number, "images").seconds  # type: ignore[arg-type]
    scale = images / measured
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; {images:,} images, {measured:,} of them made and timed; {real:,} real ones; {classes} classes")
    print(f"| part | seconds |\n|---|---|\n| network ({measured / inside:.1f} images/s) | {inside * scale:.1f} |")
    print(f"| generating, quantising, copying | {(whole - inside) * scale:.1f} |", flush=True)

    def features(number: int, seed: int) -> Sample:
        stream = torch.Generator().manual_seed(seed)
        values = torch.randn(number, 2048, generator=stream) * torch.linspace(1, 0.01, 2048)
        return Sample(values, torch.randn(number, 1008, generator=stream), torch.arange(number) % classes)

    where = torch.device(device)
    reference, fake = Reference(features(real, 0).to(where)), features(images, 1).to(where)
    total = 0.0
    for metric in METRICS:
        if metric not in ("recall", "density", "coverage"):  # they come with precision
            start = time.perf_counter()
            metrics(reference, fake, None, [metric])
            total += time.perf_counter() - start
            called = "precision, recall, density, coverage" if metric == "precision" else metric.replace("_", " ")
            print(f"| {called}, all images | {time.perf_counter() - start:.1f} |", flush=True)
    start = time.perf_counter()
    reference = Reference(features(real, 0).to(where))  # that knows nothing yet
    measure(reference, fake, [5000 >> y * 10 // classes for y in range(classes)])
    everything = time.perf_counter() - start
    print(f"| all metrics: all images, groups, every class | {everything:.1f} |")
    share, both = (seconds * scale / (whole * scale + everything) for seconds in (inside, whole))
    print(f"share of the network: {share:.1%}; with the generator's: {both:.1%}", flush=True)
    side = min(images, real, 10_000)
    found = {}
    for name in ("ours", "prdc"):
        command = [sys.executable, __file__, "prdc", name, str(side)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"PRDC of {side:,} x {side:,}, {name}: {found[name]['seconds']:.1f} s, {found[name]['mb']:.0f} MB more")
    print(f"prdc takes {found['prdc']['seconds'] / found['ours']['seconds']:.1f} times as long")


def prdc_of(name: str, number: int) -> dict[str, float]:
    """One PRDC in this process: seconds, and the peak of memory over what was there before."""
    from prdc import compute_prdc

    from studiogan_gsr.evaluation.manifold import precision_recall_density_coverage

    real, fake = (torch.randn(number, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def peak() -> float:
        status = Path("/proc/self/status").read_text()  # getrusage knows the parent's peak, too
        return float(status.partition("VmHWM:")[2].split()[0]) / 1e3

    before = peak()
    start = time.perf_counter()
    if name == "ours":
        precision_recall_density_coverage(real, fake)
    else:
        compute_prdc(real.numpy(), fake.numpy(), 5)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    penalty = commands.add_parser("penalty")
    penalty.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    penalty.add_argument("--rounds", type=int, default=50)
    step = commands.add_parser("step")
    step.add_argument("configuration")
    step.add_argument("arguments", nargs=argparse.REMAINDER)
    both = commands.add_parser("hosts")
    both.add_argument("configurations", nargs="+", metavar="CONFIG")
    both.add_argument("--data", required=True)
    both.add_argument("--steps", type=int, default=4)
    both.add_argument("--turns", type=int, default=2)
    packed = commands.add_parser("packing")
    packed.add_argument("--data", required=True)
    packed.add_argument("--size", type=int, default=32)
    packed.add_argument("--resizer", default="wo_resize")
    packed.add_argument("--workers", type=int, default=os.cpu_count())
    packed.add_argument("--turns", type=int, default=3)
    evaluated = commands.add_parser("evaluation")
    evaluated.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for flag, default in (("--images", 50_000), ("--measured", 512), ("--real", 10_000), ("--classes", 10)):
        evaluated.add_argument(flag, type=int, default=default)
    one_prdc = commands.add_parser("prdc", help="one of them, in this process")
    one_prdc.add_argument("name")
    one_prdc.add_argument("number", type=int)
    one_packer = commands.add_parser("packer", help="one of them, in this process")
    for text in ("name", "folder"):
        one_packer.add_argument(text)
    one_packer.add_argument("size", type=int)
    one_packer.add_argument("resizer")
    one_packer.add_argument("workers", type=int)
    one = commands.add_parser("contestant", help="one of them, in this process")
    for name in ("name", "configuration", "data"):
        one.add_argument(name)
    one.add_argument("steps", type=int)
    options = parser.parse_args()
    if options.command == "penalty":
        penalty_costs(options.device, options.rounds)
    elif options.command == "hosts":
        hosts(options.configurations, options.data, options.steps, options.turns)
    elif options.command == "packing":
        packing(options.data, options.size, options.resizer, options.workers, options.turns)
    elif options.command == "evaluation":
        evaluation(options.images, options.measured, options.real, options.classes, options.device)
    elif options.command == "prdc":
        print(json.dumps(prdc_of(options.name, options.number)))
    elif options.command == "packer":
        print(json.dumps(packer(options.name, options.folder, options.size, options.resizer, options.workers)))
    elif options.command == "contestant":
        print(json.dumps(contestant(options.name, options.configuration, options.data, options.steps)))
    else:
        step_share(options.configuration, options.arguments)


if __name__ == "__main__":
    sys.exit(main())
