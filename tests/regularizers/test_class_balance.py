"""Class balance: exact shares, labels that follow them, and labels that follow from z alone."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.contract import roles_of
from studiogan_gsr.datasets.counts import long_tailed_counts
from studiogan_gsr.errors import OptionError
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers.class_balance import ClassBalance, class_shares, classes_of, uniform_from_noise
from support.host import Host, configure
from support.plugins import MakePackage
from support.runs import PLAIN, changed

COUNTS = [int(count) for count in long_tailed_counts(5000, 10, 100)]
GENERATOR = nn.Linear(2, 2)


def labels_of(z: Tensor, counts: list[int] = COUNTS, power: float = 1.0) -> Tensor:
    given = torch.zeros(len(z), dtype=torch.long)
    drawn, labels = ClassBalance(GENERATOR, counts, power).draw(z, given)
    assert drawn is z
    assert labels.dtype == given.dtype
    return labels


def chi_squared(observed: Tensor, shares: Tensor) -> float:
    """Return how many standard deviations Pearson's statistic lies above what it is expected to be."""
    expected = shares.double() * observed.sum()
    assert expected.min() > 5
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    freedom = len(shares) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


# ------------------------------------------------------------------ shares


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_shares_are_exact(power: int) -> None:
    found = class_shares(COUNTS, power).tolist()
    total = sum(Fraction(count) ** power for count in COUNTS)
    assert found == pytest.approx([float(Fraction(count) ** power / total) for count in COUNTS], rel=1e-15)
    assert sum(found) == pytest.approx(1, rel=1e-15)


def test_a_power_of_one_half_takes_square_roots() -> None:
    """Counts that are squares: shares 9 : 4 : 1 without a computer."""
    assert class_shares([81, 16, 1], 0.5).tolist() == pytest.approx([9 / 14, 4 / 14, 1 / 14], rel=1e-15)


@pytest.mark.parametrize("power", [0.5, 1.0, 10])
def test_no_counts_overflow(power: float) -> None:
    shares = class_shares([10**12, 10**6, 1], power)
    assert shares.isfinite().all()
    assert shares.sum().item() == pytest.approx(1)
    assert (shares[0] / shares[1]).item() == pytest.approx(10 ** (6 * power), rel=1e-9)


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("prior", ["gaussian", "uniform"])
def test_the_frequencies_of_the_labels_are_the_shares(power: float, prior: str) -> None:
    z = torch.randn(200_000, 16) if prior == "gaussian" else torch.rand(200_000, 16) * 2 - 1
    observed = torch.bincount(labels_of(z, power=power), minlength=10)
    assert chi_squared(observed, class_shares(COUNTS, power)) < 4
    assert chi_squared(observed, class_shares(COUNTS, power + 0.1)) > 20  # a bound that other shares do not keep


def test_power_0_leaves_the_hosts_labels_to_the_bit() -> None:
    z, labels = torch.randn(8, 4), torch.randint(10, (8,))
    drawn = ClassBalance(GENERATOR, COUNTS, power=0).draw(z, labels)
    assert drawn[0] is z
    assert drawn[1] is labels


def test_one_class_is_always_that_class() -> None:
    assert not labels_of(torch.randn(100, 3), [7]).any()


def test_a_class_of_one_image_in_ten_million_has_its_own_part() -> None:
    """And no other numbers than those: the last of 2^24 steps would be too wide."""
    balance = ClassBalance(GENERATOR, [10**10, 1])
    end = balance._ends.item()
    assert end < 1
    assert (1 - end) == pytest.approx(1e-10, rel=1e-5)
    uniform = torch.tensor([0.0, 1 - 2e-10, end, 1 - 2**-53], dtype=torch.float64)
    assert classes_of(uniform, balance._ends).tolist() == [0, 0, 1, 1]


def test_a_rare_class_appears_as_often_as_it_should() -> None:
    """200 are expected of a share of 1 in 10,000; the standard deviation is 14."""
    rare = labels_of(torch.randn(2_000_000, 2), [9999, 1]).sum().item()
    assert 140 < rare < 260


# ------------------------------------------------------------------ uniform numbers

# So few z differ in one or two numbers of 16 bits that their labels cannot be uniform.
FORMS = [
    (dtype, dimensions)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for dimensions in (1, 2, 3, 8, 64, 128, 512)
    if dtype.itemsize > 2 or dimensions > 2
]


@pytest.mark.parametrize(("dtype", "dimensions"), FORMS, ids=str)
@pytest.mark.parametrize("prior", ["gaussian", "uniform"])
def test_the_numbers_are_uniform(dtype: torch.dtype, dimensions: int, prior: str) -> None:
    number = 40_000
    z = (torch.randn(number, dimensions) if prior == "gaussian" else torch.rand(number, dimensions) * 2 - 1).to(dtype)
    uniform = uniform_from_noise(z)
    assert uniform.dtype == torch.float64
    assert uniform.min() >= 0
    assert uniform.max() < 1
    parts = 64
    for scale in (1, parts, parts**3):  # the leading digits, and those that follow
        digits = (uniform * scale % 1 * parts).long()
        assert abs(chi_squared(torch.bincount(digits, minlength=parts), torch.full((parts,), 1 / parts))) < 4.5
    # Pairs of neighbours in the batch are uniform on the square.
    square = (uniform[:-1] * 8).long() * 8 + (uniform[1:] * 8).long()
    assert abs(chi_squared(torch.bincount(square, minlength=64), torch.full((64,), 1 / 64))) < 4.5


def test_they_do_not_depend_on_where_z_lies() -> None:
    """Neither on its entries, nor on their signs, sizes or length: 4 standard errors of a correlation of 0."""
    z = torch.randn(100_000, 24)
    uniform = uniform_from_noise(z)
    features = torch.cat([z, z.abs(), z > 0, z.square().sum(1, keepdim=True), z.mean(1, keepdim=True)], 1)
    table = torch.cat([features.double(), uniform[:, None]], 1)
    assert torch.corrcoef(table.T)[-1, :-1].abs().max().item() < 4.2 / math.sqrt(len(z))


def test_z_of_each_class_is_distributed_as_the_prior() -> None:
    z = torch.randn(200_000, 4)
    labels = labels_of(z)
    for label in (0, 5, 9):
        mine = z[labels == label]
        error = 1 / math.sqrt(len(mine))
        assert mine.mean(0).abs().max() < 4.5 * error
        assert (mine.std(0) - 1).abs().max() < 4.5 * error


def test_one_bit_of_z_changes_the_number() -> None:
    """Half of the leading 32 bits change, whichever entry moves to its neighbour in float32."""
    z = torch.randn(2000, 16)
    before = uniform_from_noise(z)
    for entry in (0, 7, 15):
        moved = z.clone()
        moved[:, entry] = torch.nextafter(moved[:, entry], torch.tensor(9.0))
        differ = (before * 2**32).long() ^ (uniform_from_noise(moved) * 2**32).long()
        bits = torch.stack([(differ >> bit & 1).double().mean() for bit in range(32)])
        assert (bits - 0.5).abs().max() < 0.1


def test_swapped_shifted_or_balanced_changes_of_entries_give_other_numbers() -> None:
    """Neither the sum of the bits nor their sum by position may be all that counts."""
    z = torch.randn(1000, 6)
    before = uniform_from_noise(z)
    balanced = z.view(torch.int32) + torch.tensor([1, -2, 1, 0, 0, 0], dtype=torch.int32)
    swapped = z[:, [1, 0, 2, 3, 4, 5]]
    for other in (balanced.view(torch.float32), swapped, z.flip(1), z.roll(1, 1), -z, z[:, 1:]):
        assert (before != uniform_from_noise(other)).double().mean() > 0.999


def test_equal_z_give_equal_numbers_in_any_batch_and_process() -> None:
    """No state, no random generator: so ranks and resumed runs agree.  The numbers are pinned."""
    z = torch.linspace(-2, 2, 12).reshape(3, 4)
    whole, state = uniform_from_noise(z), torch.get_rng_state()
    assert torch.equal(torch.cat([uniform_from_noise(row[None]) for row in z]), whole)
    assert torch.equal(uniform_from_noise(z.T.contiguous().T), whole)  # other strides
    assert torch.equal(uniform_from_noise(z.requires_grad_()), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.tolist() == pytest.approx(PINNED, abs=1e-12)
    first, second = ClassBalance(GENERATOR, COUNTS), ClassBalance(GENERATOR, COUNTS)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.draw(z, torch.arange(3))[1], second.draw(z, torch.arange(3))[1])


PINNED = [0.9911903951679112, 0.9478566214487604, 0.8055760159594806]


@pytest.mark.parametrize("power", [-0.1, 10.5, math.nan, math.inf, True, "1", None])
def test_impossible_powers_are_refused(power: Any) -> None:
    with pytest.raises(OptionError, match=r"power.*a number from 0"):
        ClassBalance.check_options({"power": power})


def test_it_has_one_role_and_a_line_with_its_shares() -> None:
    balance = ClassBalance(GENERATOR, [3, 1], power=1.0)
    assert roles_of(balance) == ("draw",)
    assert str(balance) == "power 1.0, shares of the classes 0.25 to 0.75"
    assert balance.scalars() == balance.state_dict() == {}


# ------------------------------------------------------------------ native host


def trainer(regularizer: Any) -> Trainer:
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": 40, "acml_steps": 2})
    configuration = read_configuration({**sections, **({"REGULARIZER": regularizer} if regularizer else {})})
    batches = iter([(torch.zeros(40, 3, 32, 32), torch.arange(40) % 10)] * 99)
    return Trainer(configuration, COUNTS, batches, torch.device("cpu"), 3, Speed())


def test_the_native_host_trains_on_these_shares_and_evaluates_on_all_classes_alike() -> None:
    trained = trainer({"name": "class_balance", "power": 1.0})
    seen: list[tuple[Tensor, Tensor]] = []
    trained.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    for step in range(1, 5):
        trained.step()
        trained.regularization.check_active(step)
    assert len(seen) == 4 * 3 * 2
    labels = torch.cat([labels for _, labels in seen])
    for z, drawn in seen:
        assert torch.equal(drawn, labels_of(z))
    shares = class_shares(COUNTS, 1.0)
    head = (labels == 0).double().mean().item()
    assert head == pytest.approx(shares[0].item(), abs=4.5 * 0.5 / math.sqrt(len(labels)))
    images = generated(trained.generator, trained.configuration, 2000, 100, 0, "batch", torch.device("cpu"))
    observed = torch.bincount(torch.cat([labels for _, labels in images]), minlength=10)
    assert chi_squared(observed, torch.full((10,), 0.1)) < 4


def test_with_power_0_a_run_is_the_hosts_own_to_the_bit() -> None:
    plain, without = trainer({"name": "class_balance", "power": 0}), trainer(None)
    for trained in (plain, without):
        for _ in range(2):
            trained.step()
    for one, other in zip(plain.generator.parameters(), without.generator.parameters(), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------ StudioGAN

# Writes what the generator gets to a file; adds nothing to the loss.
WATCH = """
import json, os
class Watch:
    def __init__(self, generator, class_counts):
        generator.register_forward_pre_hook(self.write)
    def write(self, generator, inputs):
        z, labels = inputs[:2]
        line = {"training": generator.training, "z": z.tolist(), "labels": labels.tolist()}
        with open(os.environ["WATCHED"], "a") as file:
            file.write(json.dumps(line) + chr(10))
    def generator_loss(self, batch):
        return 0 * batch.logits.sum()
    def scalars(self):
        return {}
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
"""


@pytest.mark.host
def test_studiogan_trains_on_these_shares_and_evaluates_on_its_own_labels(
    checkout: Checkout, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    site = make_package("watches", "studiogan.regularizers", {"watch": "watch:Watch"}, {"watch": WATCH})
    settings = ["watch", {"name": "class_balance", "power": 2}]
    configuration = configure(tmp_path, steps=6, REGULARIZER=settings)
    environment = {"PYTHONPATH": str(site), "WATCHED": str(tmp_path / "watched.jsonl")}
    outcome = Host(checkout).run(configuration, digits, tmp_path / "out", environment=environment)
    assert outcome.status == 0, outcome.output
    (counts,) = {line.split("class counts ")[1] for line in outcome.lines("class_balance of studiogan-gsr")}
    watched = [json.loads(line) for line in (tmp_path / "watched.jsonl").read_text().splitlines()]
    by_mode = {mode: [line for line in watched if line["training"] is mode] for mode in (True, False)}
    assert len(by_mode[True]) == 3 * len(outcome.lines("Progress:"))
    assert by_mode[False]
    agree = {}
    for mode, lines in by_mode.items():
        found = torch.cat([torch.tensor(line["labels"]) for line in lines])
        z = torch.cat([torch.tensor(line["z"]) for line in lines])
        agree[mode] = (labels_of(z, [int(count) for count in counts.split()], 2) == found).double().mean().item()
    assert agree[True] == 1
    assert agree[False] < 0.9
    head = np.mean([label in (0, 1, 2) for line in by_mode[True] for label in line["labels"]])
    assert head > 0.5  # of uniform labels, 0.3
