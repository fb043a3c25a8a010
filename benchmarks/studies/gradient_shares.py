"""Compare gSR's gradient with the adversarial gradient, in the gains and biases of each class.

    python -m benchmarks.studies.gradient_shares TABLE ROW       before training
    python -m benchmarks.studies.gradient_shares TABLE ROW --checkpoint DIR
                                                                 at a checkpoint of any run with these networks
    python -m benchmarks.studies.gradient_shares TABLE ROW --times 1 2 4 --sizes 16 32
                                                                 of the rarest class alone, at other widths and sizes

Where the penalty's gradient is many times larger, a class's gains and biases shrink to zero whatever the loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables.rows import must_be, overlaid, read_tables
from studiogan_gsr import long_tailed_counts
from studiogan_gsr.commandline import positive
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.losses import adversarial_loss
from studiogan_gsr.hosts.native.restore import load_checkpoint
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization.adversarial_gradient import AdversarialGradient
from studiogan_gsr.hosts.regularization.gradient_share import penalty_gradient_norms
from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer

# Images in the most frequent class.  Folder_LT is CIFAR-10 as an image folder here.
HEAD = {"CIFAR10_LT": 5000, "Folder_LT": 5000, "LSUN_LT": 50_000}


def shares(trainer: Trainer, batches: int) -> list[tuple[float, float]]:
    """Return the Euclidean norms of the adversarial gradient and of gSR's, a pair per class.

    The adversarial one is the root mean square over batches; it is 0 for a class that no batch contains.
    """
    configuration, classes = trainer.configuration, len(trainer.class_counts)
    loss = adversarial_loss(configuration.LOSS.adv_loss)
    gradient = AdversarialGradient(trainer.generator, trainer.discriminator, loss, classes)
    model, size = configuration.MODEL, configuration.OPTIMIZATION.batch_size
    squares = []
    for _ in range(batches):
        z, labels = sample_latents(model.z_prior, size, model.z_dim, classes, trainer.noise)
        z, labels = trainer.regularization.draw(z, labels, "generator")
        squares.append(gradient.of_classes(z, labels).square().sum(1))
    adversarial = torch.stack(squares).mean(0)
    penalty = penalty_gradient_norms(_gsr(trainer), gradient.generator)
    return list(zip(adversarial.sqrt().tolist(), penalty.tolist(), strict=True))


def share_of_rarest(sections: Mapping[str, Any], batches: int, seed: int = 0) -> float:
    """Return the penalty's gradient over the adversarial one in the rarest class, before training."""
    trainer = _trainer(sections, seed)
    rarest = min(range(len(trainer.class_counts)), key=trainer.class_counts.__getitem__)
    adversarial, penalty = shares(trainer, batches)[rarest]
    return penalty / adversarial if adversarial else float("inf")


def _at(sections: Mapping[str, Any], times: int, size: int) -> Mapping[str, Any]:
    """Return the sections with networks so many times as wide, for images of so many pixels."""
    widths = {key: sections["MODEL"][key] * times for key in ("g_conv_dim", "d_conv_dim")}
    return overlaid(sections, {"MODEL": widths, "DATA": {"img_size": size}})


def _trainer(sections: Mapping[str, Any], seed: int) -> Trainer:
    configuration = read_configuration(sections)
    counts = _class_counts(configuration.DATA.name, configuration.DATA.num_classes)
    trainer = Trainer(configuration, counts, iter(()), torch.device("cpu"), seed, Speed(folded=False))
    _gsr(trainer)
    return trainer


def _class_counts(name: str, classes: int) -> list[int]:
    """Return the number of training images per class, computed from HEAD and the variant's name."""
    found = find_dataset(name)
    base, options = (name, {}) if found is None else (found[0].plugin.name, found[1])
    must_be("DATA.name without its ratio", base, HEAD)
    counts = long_tailed_counts(HEAD[base], classes, options.get("ratio", 1), options.get("profile", "exp"))
    return counts[::-1] if options.get("reversed") else counts


def _gsr(trainer: Trainer) -> GroupSpectralRegularizer:
    found = [method.regularizer for method in trainer.regularization.methods]
    gsr = next((regularizer for regularizer in found if isinstance(regularizer, GroupSpectralRegularizer)), None)
    if gsr is None:
        raise RequestError("ROW: it has no gsr; choose a row with it")
    return gsr


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("row", help="a row with gSR")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a checkpoint's folder, checkpoints/step=N")
    parser.add_argument("--batches", type=positive, default=20)
    parser.add_argument("--times", type=positive, nargs="+", metavar="N", help="widths, as multiples of the row's")
    parser.add_argument("--sizes", type=positive, nargs="+", metavar="PIXELS", help="image sizes; default: the row's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="with --times; default: 0 1 2")
    options = parser.parse_args(argv)
    try:
        tables = read_tables().tables
        must_be("TABLE", options.table, tables)
        must_be("ROW", options.row, rows := tables[options.table].rows)
        sections = rows[options.row].sections
        if sections is None:
            raise RequestError(f"ROW: found {options.row}, which has published values alone; choose a row with gSR")
        if options.times is not None or options.sizes is not None:
            _print_grid(sections, options)
            return 0
        trainer = _trainer(sections, 0)
        if options.checkpoint is not None:
            load_checkpoint(trainer, options.checkpoint)
        print("| images | adversarial | penalty | penalty / adversarial |\n|---|---|---|---|")
        for count, (adversarial, penalty) in zip(trainer.class_counts, shares(trainer, options.batches), strict=True):
            times = f"{penalty / adversarial:.2f}" if adversarial else "-"
            print(f"| {count:,} | {adversarial:.2e} | {penalty:.2e} | {times} |")
    except GSRError as error:
        print(f"gradient_shares.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status
    return 0


def _print_grid(sections: Mapping[str, Any], options: argparse.Namespace) -> None:
    sizes = options.sizes or [sections["DATA"]["img_size"]]
    print(f"| channels of G, D | {' | '.join(f'{size} pixels' for size in sizes)} |\n|{'---|' * (len(sizes) + 1)}")
    for times in options.times or [1]:
        model = _at(sections, times, sizes[0])["MODEL"]
        cells = []
        for size in sizes:
            found = [share_of_rarest(_at(sections, times, size), options.batches, seed) for seed in options.seeds]
            cells.append(", ".join(f"{share:.2f}" for share in found))
        print(f"| {model['g_conv_dim']}, {model['d_conv_dim']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
