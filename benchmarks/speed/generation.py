"""Compare `studiogan-gsr generate` with its generator alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from benchmarks.speed.part import Part
from studiogan_gsr.evaluation.choices import FORMATS
from studiogan_gsr.evaluation.class_images import BATCH
from studiogan_gsr.evaluation.samples import to_pixels
from studiogan_gsr.hosts.checkpoint_files import file_name
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.machine import device_name
from studiogan_gsr.runs.generate import generate
from studiogan_gsr.runs.options import GenerateOptions
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration


def generation(images: int, device: str, turns: int) -> Part:
    """Time `images` images of each class, by the generator alone and stored in every format, in turns.

    The generator is a full-width SNGAN at 32 pixels with random weights.
    """
    sections = load_configuration(shipped_configuration("CIFAR10_LT/SNGAN-gSR"))
    configuration = read_configuration(sections)
    generator = make_networks(configuration, 0)[0]
    number = images * configuration.DATA.num_classes
    seconds: dict[str, list[float]] = {name: [] for name in ("generator alone", *FORMATS)}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump(dict(sections)))
        torch.save({"state_dict": generator.state_dict()}, run / file_name("G", "current", 0))
        generator.to(device).eval()
        for turn in range(turns + 1):  # the first warms up the device, and its times are dropped
            for name, times in seconds.items():
                begun = time.perf_counter()
                if name == "generator alone":
                    _run(generator, number, configuration.MODEL.z_dim, device)
                else:
                    out = Path(folder) / f"{name}-{turn}"
                    generate(run, GenerateOptions(out=out, images=images, format=name, device=device))
                times.append(time.perf_counter() - begun)
    part = Part(f"Generating {number:,} images of 32 pixels, {device_name(device)}")
    part.columns("", "images/s")
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        part.row(name, f"{number / median:,.0f}")
        if name in FORMATS:
            part.ratios[f"`generate --format {name}` to its generator alone"] = medians["generator alone"] / median
    part.note(f"SNGAN of 64 channels with random weights; batches of {BATCH}; median of {turns} turns.")
    part.note("`generate` with everything: loading, checks, latent vectors, storing, the manifest.")
    return part


@torch.no_grad()
def _run(generator: torch.nn.Module, number: int, dimensions: int, device: str) -> None:
    """Generate images and copy them to the CPU as uint8."""
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    for _ in range(-(-number // BATCH)):
        to_pixels(generator(torch.randn(BATCH, dimensions, device=device), labels)).cpu()
