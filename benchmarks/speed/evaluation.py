"""Time the parts of an evaluation, and compare PRDC with the package prdc."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import inception_v3

from benchmarks.speed.hosts import in_a_process
from benchmarks.speed.part import Part
from studiogan_gsr.evaluation.features import Sample, extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.manifold import precision_recall_density_coverage
from studiogan_gsr.evaluation.measure import METRICS, Reference, measure, metrics
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.machine import device_name
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration


def evaluation(images: int, measured: int, real: int, classes: int, device: str, against_prdc: bool = True) -> Part:
    """Time the parts of an evaluation of a full-width SNGAN at 32 pixels, in seconds.

    The backbone is Inception with random weights, which do not change its speed.  Generating images and extracting
    features is timed for `measured` images and extrapolated to `images`; metrics are timed on random features of
    `images` generated and `real` real images.
    against_prdc: whether to compare PRDC with the package prdc on the CPU, too.
    """
    configuration = read_configuration(load_configuration(shipped_configuration("CIFAR10_LT/SNGAN-gSR")))
    network = inception_v3(weights=None, init_weights=False, aux_logits=False).to(device).eval()
    pooled: list[Tensor] = []
    network.avgpool.register_forward_hook(lambda module, given, maps: pooled.append(maps.flatten(1)))

    def backbone(images: Tensor) -> tuple[Tensor, Tensor]:
        larger = nn.functional.interpolate(images.float() / 127.5 - 1, (299, 299), mode="bilinear")
        logits = network(larger)
        return pooled.pop(), logits

    generator, _ = make_networks(configuration, 0)
    for number in (min(128, measured), measured):  # the first pass warms up the device, and its time is dropped
        made = generated(generator, configuration, number, 64, 0, "batch", torch.device(device))
        inside, whole = extract(backbone, made, number, "images").seconds  # type: ignore[arg-type]
    scale = images / measured
    part = Part(f"An evaluation of {images:,} images, {device_name(device)}")
    part.columns("part", "seconds")
    part.row(f"network ({measured / inside:.1f} images/s)", f"{inside * scale:.1f}")
    part.row("generating, quantising, copying", f"{(whole - inside) * scale:.1f}")

    def features(number: int, seed: int) -> Sample:
        stream = torch.Generator().manual_seed(seed)
        values = torch.randn(number, 2048, generator=stream) * torch.linspace(1, 0.01, 2048)
        return Sample(values, torch.randn(number, 1008, generator=stream), torch.arange(number) % classes)

    where = torch.device(device)
    reference, fake = Reference(features(real, 0).to(where)), features(images, 1).to(where)
    for metric in METRICS:
        if metric not in ("recall", "density", "coverage"):  # computed together with precision
            start = time.perf_counter()
            metrics(reference, fake, None, [metric])
            called = "precision, recall, density, coverage" if metric == "precision" else metric.replace("_", " ")
            part.row(f"{called}, all images", f"{time.perf_counter() - start:.1f}")
    start = time.perf_counter()
    reference = Reference(features(real, 0).to(where))  # a new one, without cached results
    measure(reference, fake, [5000 >> y * 10 // classes for y in range(classes)])
    everything = time.perf_counter() - start
    part.row("all metrics: all images, groups, every class", f"{everything:.1f}")
    share, both = (seconds * scale / (whole * scale + everything) for seconds in (inside, whole))
    part.note(f"{measured:,} generated images timed; {real:,} real images; {classes} classes.")
    part.note(f"Share of the network: {share:.1%}; of network and generation: {both:.1%}.")
    if against_prdc:
        _compare_prdc(part, min(images, real, 10_000))
    return part


def _compare_prdc(part: Part, images: int) -> None:
    """Add notes and the ratio of ours and the package prdc, each timed on the CPU in its own process."""
    title = f"PRDC of {images:,} x {images:,} on the CPU"
    found = {name: in_a_process("prdc", name, str(images), device="cpu") for name in ("ours", "prdc")}
    for name, of in found.items():
        part.note(f"{title}, {name}: {of['seconds']:.1f} s, {of['mb']:.0f} MB more.")
    part.ratios[f"{title}: the package prdc"] = found["prdc"]["seconds"] / found["ours"]["seconds"]


def prdc_of(name: str, number: int) -> dict[str, float]:
    """Compute PRDC once in this process; return its seconds and by how many MB the peak memory grew."""
    real, fake = (torch.randn(number, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    def peak() -> float:
        status = Path("/proc/self/status").read_text()  # getrusage would include the parent's peak
        return float(status.partition("VmHWM:")[2].split()[0]) / 1e3

    before = peak()
    start = time.perf_counter()
    if name == "ours":
        precision_recall_density_coverage(real, fake)
    else:
        from prdc import compute_prdc

        compute_prdc(real.numpy(), fake.numpy(), 5)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": peak() - before}
