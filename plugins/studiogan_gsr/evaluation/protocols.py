"""How others measured, by name: `evaluate --protocol NAME`.

What nobody here has read in a project is None, and a result says that it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from studiogan_gsr.errors import RequestError, near_miss

# Fields of `Preset` that are options of `evaluate`.
OPTIONS = ("split", "images", "repeats", "backbone", "batch_norm", "neighbours")


@dataclass(frozen=True)
class Preset:
    """A protocol.

    source: where it was read.  generator: the networks that were measured by it.
    split, images, repeats, backbone, batch_norm, neighbours: as options of `evaluate`; None: unknown.
    ranks: {data set: {group: ranks}}, the groups of classes by number of training images; rank 0 has the most.
    differs: in what our numbers are not theirs even with equal options, as sentences.
    """

    source: str
    generator: str
    split: str | None = None
    images: int | None = None
    repeats: int | None = None
    backbone: str | None = None
    batch_norm: str | None = None
    neighbours: int | None = None
    ranks: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    @property
    def unknown(self) -> list[str]:
        """Names of the options that are unknown."""
        return [f.name for f in fields(self) if f.name in OPTIONS and getattr(self, f.name) is None]

    def groups(self, dataset: str, class_counts: Sequence[int]) -> dict[str, list[int]]:
        """Return {name: labels} of its groups in a data set (its name without `_rho...`); {} if it has none there."""
        order = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
        found = self.ranks.get(dataset, {})
        return {name: sorted(order[rank] for rank in ranks) for name, ranks in found.items()}


_UTLO = Preset(
    source="Khorram et al., CVPR 2024: the program khorrams/utlo at d596154",
    generator="StyleGAN2-ADA",
    split="full",
    images=50_000,
    backbone="inception",
    # The program sorts the classes of AnimalFace and Flowers by size, and numbers those of CIFAR and LSUN from the
    # last to the first: its labels are ranks.  Our sets keep the labels of their sources.
    ranks={
        "AnimalFaces_LT": {"few": range(10, 20)},
        "CIFAR10_LT": {"few": range(6, 10)},
        "CIFAR100_LT": {"few": range(70, 100)},
        "Flowers102_LT": {"few": range(50, 102)},
        "LSUN_LT": {"few": range(4, 5)},
    },
    differs=(
        "Its network is StyleGAN2-ADA's copy of FID's, ours is torch-fidelity's.",
        "For the few-shot classes it generates 50,000 images of them alone; ours are those among all images, fewer, "
        "and so of a larger Fréchet distance.",
        "Its KID is a mean over 100 subsets of 1,000 images.",
        "In its CIFAR10-LT and CIFAR100-LT the last class has most images, as in our `_reversed`, and a shuffle "
        "without a seed chose them. It numbers classes by frequency: its few-shot classes 6 to 9 of CIFAR-10 are "
        "labels 3 to 0 (cat, bird, automobile, airplane) of `_reversed`; without `_reversed` those of equal "
        "frequency are 6 to 9 (frog, horse, ship, truck).",
    ),
)

PRESETS: Mapping[str, Preset] = {
    "paper": Preset(
        source="Rangwani et al., ECCV 2022 (gSR): the authors' program val-iisc/gSRGAN",
        generator="SNGAN, BigGAN and StyleGAN2",
        split="reference",
        images=50_000,
        repeats=3,
        backbone="inception",
        batch_norm="batch",
        neighbours=5,
        differs=(
            "Its network has pytorch-fid's weights and resizes bilinearly to 299 pixels; ours is torch-fidelity's.",
            "It reports the checkpoint that is best on these images: `train --evaluate --select-on reference`, then "
            "`evaluate --best`.",
            "Its reference of LSUN is that of our `_released`.",
        ),
    ),
    "utlo": _UTLO,
    "timilsina": replace(
        _UTLO,
        source="Timilsina et al. 2026: the program subashtimilsina/Content-Style-Long-Tail-Class-Generation at "
        "ed10a8f, which measures as UTLO's does",
    ),
    "noisytwins": Preset(
        source="Rangwani et al., CVPR 2023: the program val-iisc/NoisyTwins at 3f686b3 (final evaluation)",
        generator="StyleGAN2",
        split="reference",
        images=50_000,
        repeats=1,
        backbone="inception",
        neighbours=5,
        differs=(
            "Its network is StudioGAN's InceptionV3, ours is torch-fidelity's.",
            "Its FID_CLIP and iFID_CLIP (of each class alone) resize bicubically: `--backbone clip` resizes "
            "bilinearly.",
            "It reports the checkpoint that was best while it trained, on these images.",
        ),
    ),
    "cbdm": Preset(
        source="Qin et al., CVPR 2023: the program qym7/CBDM-pytorch at 94e201e",
        generator="a diffusion model",
        images=50_000,
        backbone="inception",
        differs=(
            "Its reference is a stored file, cifar10.train.npz or cifar100.train.npz; of which images is unknown.",
            "Its network has pytorch-fid's weights, ours is torch-fidelity's.",
        ),
    ),
}


def find_preset(name: str) -> Preset:
    """Return the protocol of that name; raise RequestError, with a near miss, if there is none."""
    if name not in PRESETS:
        raise RequestError(f"--protocol: found {name}; allowed: {', '.join(PRESETS)}{near_miss(name, PRESETS)}")
    return PRESETS[name]
