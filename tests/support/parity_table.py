"""Print tables of the differences between the native host and a checkout of StudioGAN.

Usage: PYTHONPATH=tests python tests/support/parity_table.py [ROOT]
"""

from __future__ import annotations

import sys
from collections import defaultdict

import torch

import support.parity as parity
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.native.training import Speed
from studiogan_gsr.hosts.studiogan.checkout import find_checkout
from support.parity import Distance, Reference, distance

NOTHING = Distance(0.0, 0.0)
DTYPES = (torch.float64, torch.float32)
LOSSES = ("d_loss", "g_loss", "class_loss", "ada_p")


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.1e}" if isinstance(c, float) else str(c) for c in cells) + " |")


def head(title: str, *cells: str) -> None:
    print(f"\n{title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def main() -> None:
    torch.set_num_threads(1)
    checkout = find_checkout(sys.argv[1] if len(sys.argv) > 1 else None)
    networks, augmentations = parity.network_cases(), parity.augmentation_cases()
    losses, shipped, trainings = parity.loss_cases(), parity.shipped_cases(), parity.training_cases()
    many = Reference(checkout, {**shipped, **trainings})
    results = Reference(checkout, {**networks, **augmentations, **losses}).results()

    groups: dict[tuple[str, int, str], list[float]] = defaultdict(lambda: [0.0] * 9)
    for name, case in networks.items():
        theirs, model = results[name], case["sections"]["MODEL"]
        first = make_networks(parity.native_configuration(case), case["seed"])
        key = (model["backbone"], case["sections"]["DATA"]["img_size"], model["d_cond_mtd"])
        cells = [0.0] * 9
        for network, states in zip(first, theirs["initial"].values(), strict=True):
            cells[0] = max(cells[0], distance(network.state_dict(), states).difference)
        for place, dtype in enumerate(DTYPES):
            for folded in (True, False):
                mine = parity.native_network(case, theirs["moved"], dtype, folded)
                far = {k: distance(v, theirs[str(dtype)][k]) for k, v in mine.items()}
                parts = (
                    far["images"] | far["images, evaluating"],
                    far["heads"] | far["heads, evaluating"],
                    far["losses"],
                    Distance(max(far[f"{n}'s gradients"].relative for n in ("generator", "discriminator")), 1.0),
                )
                for i, part in enumerate(parts):
                    at = 1 + 4 * place + i
                    cells[at] = max(cells[at], part.difference)
        groups[key] = [max(pair) for pair in zip(groups[key], cells, strict=True)]
    columns = [f"{part}, {d}" for d in ("float64", "float32") for part in ("images", "heads", "losses", "gradients")]
    head(
        f"Networks ({len(networks)} cases, folded and not): largest absolute difference; gradients: relative",
        "backbone", "size", "discriminator", "initial", *columns,
    )  # fmt: skip
    for key in sorted(groups):
        row(*key, *groups[key])

    head("Losses alone, float64: largest absolute difference", "conditioning", "value", "gradient")
    for how in parity.CONDITIONINGS:
        value = gradient = NOTHING
        for name, case in losses.items():
            if case["sections"]["MODEL"]["d_cond_mtd"] == how:
                mine = parity.native_losses(case)
                value |= distance(mine["losses"], results[name]["losses"])
                gradient |= distance(mine["gradients"], results[name]["gradients"])
        row(how, value.difference, gradient.difference)

    head("Augmentation: largest absolute difference", "kind", *(f"{p}, {d}" for d in ("float64", "float32")
                                                             for p in ("images", "gradient")))  # fmt: skip
    for kind in ("diffaug", *parity.KINDS):
        far = dict.fromkeys([(d, p) for d in DTYPES for p in ("images", "gradient")], NOTHING)
        for name, case in augmentations.items():
            if name.split("-")[0] == kind:
                mine = parity.native_augmentation(case)
                for part in ("images", "gradient"):
                    far[case["dtype"], part] |= distance(mine[part], results[name][part])
        row(kind, *(d.difference for d in far.values()))

    found = many.results()
    for title, cases in (
        ("Ten steps of the shipped models, narrow: largest absolute difference", shipped),
        ("Ten steps of every combination, float64: largest absolute difference", trainings),
    ):
        head(title, "case", "initial", *LOSSES, "generator", "discriminator", "averaged generator")
        for name, case in cases.items():
            mine, theirs = parity.native_training(case, Speed()), found[name]
            start = max(distance(v, theirs["initial"][k]).difference for k, v in mine["initial"].items())
            by_loss = (mine["losses"] - theirs["losses"]).abs().amax(0).tolist()
            ends = [distance(mine[k], theirs[k]).difference if k in mine else "" for k in
                    ("generator", "discriminator", "averaged")]  # fmt: skip
            row(name, start, *by_loss, *ends)


if __name__ == "__main__":
    main()
