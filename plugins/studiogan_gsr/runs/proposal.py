"""The settings for a folder of images: those of a shipped configuration, changed where the images ask for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from studiogan_gsr.regularizers.weights import effective_number_weights, images_of_equal_weight
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

STUDIOGANS_SMALLEST = 32  # pixels; the native host also has 16
FEWEST_IMAGES = 8  # StudioGAN's smallest batch
_MANY = 100  # classes; from 101 on BigGAN
_SNGAN = {
    16: "CIFAR10_LT/SNGAN-DiffAug-LeCam",
    32: "CIFAR10_LT/SNGAN-DiffAug-LeCam",
    64: "LSUN_LT/SNGAN-DiffAug-LeCam",
    128: "LSUN_LT/SNGAN128-DiffAug-LeCam",
}
_BIGGAN = {
    32: "CIFAR10_LT/BigGAN-DiffAug-LeCam",
    64: "iNaturalist2019/BigGAN-DiffAug-LeCam",
    128: "LSUN_LT/BigGAN128-DiffAug-LeCam",
}
SMALL_SIZE = 16  # pixels of a small proposal, unless the user asks for others
_STUDIES = "the studies' SNGAN (docs/evidence.md)"
_SMALL = {
    "MODEL": {"z_dim": 32, "g_conv_dim": 8, "d_conv_dim": 16},
    "OPTIMIZATION": {"batch_size": 32, "d_updates_per_step": 2, "total_steps": 2000},
}
_SMALL_REASON = (
    "SNGAN, narrow and at few pixels: a first look, which a CPU trains in minutes. Without --small, `studiogan-gsr "
    "init` writes the authors' networks."
)
_SMALL_STEPS_REASON = (
    "2,000: some minutes, after which the norms differ. The studies' runs have 5,000 and 15,000 (docs/evidence.md); "
    "`train --resume --steps 15000` goes on."
)
_PAPERS_PASSES = 120_000 / 12_406  # steps per image of CIFAR-10-LT in the paper
_FEWEST_STEPS = 20_000


@dataclass(frozen=True)
class Proposal:
    """Settings for both hosts.

    base: the shipped configuration that they come from.  model: "SNGAN" or "BigGAN".  networks: whose they are.
    sections: as in a YAML file, without REGULARIZER.  gsr: REGULARIZER.
    reasons: why a key, such as "DATA.img_size", has its value.
    teraflop: operations of one step, about.
    """

    base: str
    model: str
    networks: str
    sections: dict[str, dict[str, Any]]
    gsr: dict[str, Any]
    reasons: dict[str, str]
    teraflop: float


def propose(classes: Sequence[str], counts: Sequence[int], size: int, small: bool = False) -> Proposal:
    """Return settings for classes with these numbers of training images, FEWEST_IMAGES or more, at `size` pixels.

    small: narrow networks and few steps, which a CPU trains in minutes.
    """
    many = len(counts) > _MANY and not small
    base = _BIGGAN[size] if many and size in _BIGGAN else _SNGAN[size]
    model = "BigGAN" if base in _BIGGAN.values() else "SNGAN"
    sections = load_configuration(shipped_configuration(base))
    operations = _shipped_teraflop(base) / _operations(sections)
    source = _STUDIES if small else base
    for section, values in _SMALL.items() if small else ():
        sections[section] |= values
    sections["DATA"] = {"name": "Folder_LT", "img_size": size, "num_classes": len(counts)}
    sections["PRE"] = {"apply_rflip": True}
    optimization = sections["OPTIMIZATION"]
    shipped_steps, shipped_batch = optimization["total_steps"], optimization["batch_size"]
    optimization["total_steps"] = steps = _steps(sum(counts), shipped_steps)
    optimization["batch_size"] = batch = min(shipped_batch, 2 ** (sum(counts).bit_length() - 1))
    gsr, reasons = _gsr(classes, counts, size, model)
    if sections["MODEL"].get("apply_g_ema"):
        reasons["MODEL.g_ema_decay"] = _scale_average(sections["MODEL"], steps / shipped_steps)
    reasons |= {
        "MODEL.backbone": _SMALL_REASON if small else _backbone_reason(model, many),
        "MODEL.g_conv_dim": "Halving g_conv_dim and d_conv_dim leaves about a quarter of the operations.",
        "OPTIMIZATION.batch_size": _batch_reason(batch, source, shipped_batch),
        "OPTIMIZATION.total_steps": (
            _SMALL_STEPS_REASON if small else _steps_reason(steps, sum(counts), source, shipped_steps)
        ),
    }
    networks = f"those of {_STUDIES}" if small else "the authors', too"
    return Proposal(base, model, networks, sections, gsr, reasons, operations * _operations(sections))


def _scale_average(model: dict[str, Any], factor: float) -> str:
    """Fit the generator's average to a run of `factor` times the steps: the same part of it; return why.

    An average over too large a part of a run holds weights of early steps: with decay 0.9999, two BigGANs of the
    studies were far worse after 15,000 steps than their own weights without averaging (docs/evidence.md).
    """
    model["g_ema_start"] = int(model["g_ema_start"] * factor)
    model["g_ema_decay"] = round(1 - (1 - model["g_ema_decay"]) / factor, 6)
    steps = 1 / (1 - model["g_ema_decay"])
    return f"{model['g_ema_decay']:g}: averages over about {steps:,.0f} steps, in proportion to the run's length."


def _operations(sections: dict[str, dict[str, Any]]) -> float:
    """Return what the operations of a step are about proportional to."""
    model, optimization = sections["MODEL"], sections["OPTIMIZATION"]
    images = optimization["batch_size"] * (1 + optimization["d_updates_per_step"])
    return float(images * sections["DATA"]["img_size"] ** 2 * model["g_conv_dim"] * model["d_conv_dim"])


def _steps(images: int, most: int) -> int:
    """Return as many steps per image as in the paper's CIFAR-10-LT, within limits, in whole thousands."""
    return min(max(int(round(images * _PAPERS_PASSES, -3)), _FEWEST_STEPS), most)


def _batch_reason(batch: int, source: str, shipped: int) -> str:
    if batch == shipped:
        return f"{batch}: that of {source}."
    return f"{batch}: {source} has {shipped}, more than there are images."


def _steps_reason(steps: int, images: int, source: str, most: int) -> str:
    if steps == most:
        return f"{steps:,}: those of {source}."
    if steps > _FEWEST_STEPS:
        return f"{steps:,}: as many per image as the paper's 120,000 for the 12,406 images of CIFAR-10-LT."
    return (
        f"{steps:,}: our choice for few images; as many per image as in the paper would be "
        f"{images * _PAPERS_PASSES:,.0f}. --evaluate keeps the best checkpoint."
    )


def _backbone_reason(model: str, many: bool) -> str:
    if model == "BigGAN":
        return (
            f"BigGAN, for more than {_MANY} classes: its classes share one embedding, and the authors trained their "
            "set of 1,010 classes with it alone."
        )
    small = " At 16 pixels there is no other." if many else ""
    return (
        f"SNGAN, for up to {_MANY} classes: the smaller and faster of the two networks that the authors trained with "
        f"gSR.{small}"
    )


def _gsr(
    classes: Sequence[str], counts: Sequence[int], size: int, model: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return gSR's section, and the reasons for its weight and beta."""
    weight, why = _weight(size, model)
    beta, why_beta = _beta(counts)
    weights = weight * effective_number_weights(counts, beta)
    most, few = counts.index(max(counts)), counts.index(min(counts))
    shown = " to ".join(f"{weights[y]:.3g} for {classes[y]} ({counts[y]:,} images)" for y in (most, few))
    why_beta += f" The weights go from {shown}." if counts[most] > counts[few] else " All classes are equally large."
    return (
        {"name": "gsr", "weight": weight, "beta": beta},
        {"REGULARIZER.weight": why, "REGULARIZER.beta": why_beta},
    )


def _weight(size: int, model: str) -> tuple[float, str]:
    """Return gSR's weight and the reason for it; see docs/evidence.md, "Which weight"."""
    if size < 32:
        return 0.05, (
            "0.05: at 16 pixels the paper's 0.5 is four to seven times as strong as at 32, and was too strong in our "
            "runs of 5,000 steps; 0.05 has helped (docs/evidence.md)."
        )
    if model == "BigGAN":
        return 0.01, "0.01: the authors' for iNaturalist-2019, their one set of so many classes."
    if size == 32:
        return 0.5, (
            "0.5: the paper's. In the rarest class of CIFAR-10 at ratio 100 gSR's gradient began as 0.15 to 0.33 of "
            "the adversarial one, in SNGANs of 8, 16, 32 and 64 channels (benchmarks/results/gradient-shares.md)."
        )
    return 0.5, (
        "0.5: the authors' for LSUN at 64 and 128 pixels. At 64 gSR's gradient begins as 0.5 to 2 times the "
        "adversarial one, against 0.15 to 0.33 on CIFAR-10 at 32 pixels: if images become worse with gSR, try 0.05."
    )


def _beta(counts: Sequence[int]) -> tuple[float, str]:
    """Return the beta of the effective number of samples that tells these classes apart, and the reason for it."""
    low, high = (images_of_equal_weight(beta) for beta in (0.99, 0.999))
    if max(counts) <= low:
        return 0.99, f"0.99: it gives equal weights from {low} images on, and no class has more."
    text = f"0.999: the authors' for SNGAN; 0.99 would give equal weights from {low} images on, this from {high:,} on"
    return 0.999, f"{text}{', as all classes have.' if min(counts) >= high else '.'}"


def _shipped_teraflop(name: str) -> float:
    """Return the operations of a step that the header of a shipped configuration names."""
    found = re.search(r"steps of ([\d.]+) TFLOP", shipped_configuration(name).read_text(encoding="utf-8"))
    assert found is not None, f"{name} names no TFLOP"
    return float(found[1])
