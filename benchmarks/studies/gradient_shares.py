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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tables.rows import must_be, overlaid, read_tables
from studiogan_gsr import long_tailed_counts
from studiogan_gsr.commandline import positive
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.losses import generator_loss
from studiogan_gsr.hosts.native.restore import load_checkpoint
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.regularizers.affines import find_conditional_layers
from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer

# Images in the most frequent class.  Folder_LT is CIFAR-10 as an image folder here.
HEAD = {"CIFAR10_LT": 5000, "Folder_LT": 5000, "LSUN_LT": 50_000}


def shares(trainer: Trainer, batches: int) -> list[tuple[float, float]]:
    """Return the Euclidean norms of the adversarial gradient and of gSR's, a pair per class.

    They are gradients with respect to the class's gains and biases in all layers, as if these were free parameters;
    in an SNGAN they are.  The adversarial one is the root mean square over batches; it is 0 for a class that no batch
    contains.
    """
    loss, classes = trainer.configuration.LOSS.adv_loss, trainer.configuration.DATA.num_classes
    modules = [weight.module for layer in find_conditional_layers(trainer.generator) for weight in layer.weights]
    trainer.generator.train()
    trainer.discriminator.train().requires_grad_(False)
    squares = []
    for _ in range(batches):
        with _outputs(modules) as outputs:
            _, labels, images = trainer._generate(trainer.configuration.OPTIMIZATION.batch_size, "generator")
        value = generator_loss(loss, trainer._judge(images, labels).logits)
        of_images = torch.cat(torch.autograd.grad(value, outputs), 1)
        of_classes = of_images.new_zeros(classes, of_images.shape[1]).index_add_(0, labels, of_images)
        squares.append(of_classes.square().sum(1))
    adversarial = torch.stack(squares).mean(0)
    return list(zip(adversarial.sqrt().tolist(), _penalty_gradient(_gsr(trainer)).tolist(), strict=True))


def _penalty_gradient(gsr: GroupSpectralRegularizer) -> Tensor:
    """Return the norm of the penalty's gradient per class: that of sigma^2 is 2 sigma u v^T, with unit u and v."""
    norms = torch.stack([side for layer in gsr.class_norms().values() for side in layer.values()])
    sides = len(gsr.options.apply_to)
    sizes: Tensor = 2 * gsr._weights * norms.norm(dim=0) / (norms.shape[0] / sides * norms.shape[1])
    return sizes


@contextmanager
def _outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what the modules return inside."""
    found: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _, given, output: found.append(output)) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


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
    # Folded layers do not call the modules whose outputs are gains and biases.
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
