"""A proposal as the text of a commented YAML file."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml

from studiogan_gsr.runs.proposal import Proposal

NAMES = ("plain.yaml", "gsr.yaml")  # without gSR and with it, as the runs of `studiogan-gsr demo`
_WIDTH = 110
# What each key means; `Proposal.reasons` says why some have their value.
MEANINGS = {
    "DATA.name": "train/<class>/ and valid/<class>/ in the folder that --data names",
    "DATA.img_size": "pixels; images are cropped to the middle square, and resized by --resizer",
    "DATA.num_classes": "number of folders in train/",
    "MODEL.backbone": "both networks: resnet is SNGAN's, big_resnet BigGAN's",
    "MODEL.g_cond_mtd": "the generator gets the class by conditional batch norm, which gSR needs",
    "MODEL.d_cond_mtd": "the discriminator gets it by projection",
    "MODEL.apply_g_sn": "spectral normalisation in the generator",
    "MODEL.apply_d_sn": "spectral normalisation in the discriminator",
    "MODEL.apply_attn": "self-attention",
    "MODEL.attn_g_loc": "after these blocks of the generator",
    "MODEL.attn_d_loc": "after these blocks of the discriminator",
    "MODEL.z_dim": "dimensions of the noise",
    "MODEL.g_shared_dim": "dimensions of the class embedding",
    "MODEL.g_conv_dim": "the generator's blocks have 4 times as many channels up to 32 pixels, else 16 to 1 times",
    "MODEL.d_conv_dim": "the discriminator's have 2 times as many up to 32 pixels, else 1 to 16 times",
    "MODEL.apply_g_ema": "average the generator's weights over the steps; the average is measured",
    "MODEL.g_ema_decay": "of the average, per step",
    "MODEL.g_ema_start": "step at which the average begins",
    "LOSS.adv_loss": "adversarial loss",
    "LOSS.apply_lecam": "LeCam limits the discriminator's logits: against overfitting to few images",
    "LOSS.lecam_lambda": "its weight",
    "LOSS.lecam_ema_start_iter": "step at which it begins",
    "LOSS.lecam_ema_decay": "of its moving averages",
    "OPTIMIZATION.type_": "optimizer of both networks",
    "OPTIMIZATION.batch_size": "images",
    "OPTIMIZATION.g_lr": "learning rate of the generator",
    "OPTIMIZATION.d_lr": "learning rate of the discriminator",
    "OPTIMIZATION.beta1": "of Adam",
    "OPTIMIZATION.beta2": "of Adam",
    "OPTIMIZATION.d_updates_per_step": "updates of the discriminator for each of the generator",
    "OPTIMIZATION.total_steps": "steps, each with one update of the generator",
    "PRE.apply_rflip": "mirror images at random; false if a mirrored image is wrong, as of letters",
    "AUG.apply_diffaug": "DiffAugment shifts, cuts and recolours images: against overfitting to few images",
    "AUG.diffaug_type": "all of its operations",
    "REGULARIZER.name": "group spectral regularization: limits the norms of each class's parameters",
    "REGULARIZER.weight": "mean of the class weights; 0 only logs the norms",
    "REGULARIZER.beta": "rare classes get larger weights, by the effective number of samples",
}


def proposal_text(proposal: Proposal, images: str, with_gsr: bool) -> str:
    """Return the text of one of the two files.

    images: the data set in one line.
    """
    plain, gsr = NAMES
    optimization = proposal.sections["OPTIMIZATION"]
    header = [
        f"{proposal.model} + DiffAugment + LeCam{' + gSR' if with_gsr else ''}, for {images}",
        f"Written by `studiogan-gsr init`. {plain if with_gsr else gsr} differs in REGULARIZER alone.",
        f"Losses and optimizers are the authors', from the shipped configuration {proposal.base} (`studiogan-gsr "
        f"configs {proposal.base}` prints it); networks are {proposal.networks}.",
        f"Cost: {optimization['total_steps']:,} steps of about {proposal.teraflop:.3g} TFLOP. How long a step takes "
        "on your machine, `studiogan-gsr train` shows: try it with --steps 20 --print-freq 10 and another --out.",
    ]
    sections: dict[str, dict[str, Any]] = dict(proposal.sections)
    if with_gsr:
        sections["REGULARIZER"] = proposal.gsr
    lines = [line for paragraph in header for line in _comment(paragraph, "")]
    for section, values in sections.items():
        lines.append(f"{section}:")
        for key, value in values.items():
            path = f"{section}.{key}"
            lines += _comment(proposal.reasons.get(path, ""), "  ")
            scalar = yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
            lines.append(f"  {key}: {scalar}  # {MEANINGS[path]}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    """Return a text as lines of a comment; control characters, which file names may have, become escapes."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return textwrap.wrap(
        printable,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
