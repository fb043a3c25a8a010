"""The classifier, the four ways to train it, and what they mean: real images help a tail, noise does not."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.grad import conv2d_weight
from torchvision.models import resnet18

from studiogan_gsr.evaluation.classifier import (
    Classifier,
    Recipe,
    as_they_are,
    cropped,
    equally_often,
    recognised,
    small_resnet18,
    statistics,
    train,
)
from studiogan_gsr.evaluation.filled import WAYS, Way, four_ways, interval, summary, wanted_images
from support.runs import one_thread

COUNTS = [100, 65, 42, 27, 17, 11, 7, 5, 3, 2]
FILL = 60


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ the network and its training


def test_the_network_is_torchvisions_with_another_stem() -> None:
    ours, theirs = small_resnet18(10), resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    weights = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    images = torch.rand(2, 3, 16, 16, generator=stream())
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(images), theirs.train(mode)(images))


def test_width_scales_every_stage_and_weights_are_drawn_as_torchvision_draws_them() -> None:
    state = torch.get_rng_state()
    network = small_resnet18(7, width=8, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert Counter(m.out_channels for m in convolutions) == {8: 5, 16: 5, 32: 5, 64: 5}
    first, last = convolutions[0].weight, convolutions[-1].weight
    for weight in (first, last):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (len(weight) * 9)), rel=0.15)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    again, other = (small_resnet18(7, width=8, seed=seed) for seed in (3, 4))
    assert torch.equal(last, [m for m in again.modules() if isinstance(m, nn.Conv2d)][-1].weight)
    assert not torch.equal(last, [m for m in other.modules() if isinstance(m, nn.Conv2d)][-1].weight)


def test_the_learning_rate_rises_then_falls_as_a_cosine() -> None:
    rates = [Recipe(100).rate(update) for update in range(101)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1
    assert rates[5 + 95 // 2] == pytest.approx(0.5, abs=0.01)
    assert rates[100] == pytest.approx(0)
    assert all(rate > 0 for rate in rates[:100])


def test_crops_move_images_within_a_black_border_and_flips_mirror_them() -> None:
    images = torch.arange(1, 2 * 3 * 5 * 5 + 1, dtype=torch.uint8).view(2, 3, 5, 5).repeat(200, 1, 1, 1)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for flip in (False, True):
        found = Counter[tuple[int, int, bool]]()
        for image, whole in zip(cropped(images, 2, flip, stream()), padded, strict=True):
            places = [
                (down, right, mirrored)
                for down in range(5)
                for right in range(5)
                for mirrored in (False, True)
                if torch.equal(image.flip(2) if mirrored else image, whole[:, down : down + 5, right : right + 5])
            ]
            (place,) = places
            found[place] += 1
        assert len(found) == (50 if flip else 25)
        assert any(mirrored for _, _, mirrored in found) == flip


@pytest.mark.parametrize("width", [1, 2, 7, 8, 15, 16, 17])
def test_every_convolution_has_its_gradient_at_every_width(width: int) -> None:
    network = small_resnet18(4, width)
    images = torch.randint(0, 256, (32, 3, 16, 16), generator=stream(), dtype=torch.uint8)
    classifier = Classifier(network, *statistics(images), Recipe(1, width=width).memory_format)
    expected: list[tuple[nn.Conv2d, Tensor]] = []

    def watch(convolution: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        """Note the weight's gradient in float64, of the same inputs and the same gradient of the output."""

        def note(gradient: Tensor) -> None:
            shape, stride, padding = convolution.weight.shape, convolution.stride, convolution.padding
            exact = conv2d_weight(inputs[0].double(), shape, gradient.double(), stride, padding)  # type: ignore[no-untyped-call]
            expected.append((convolution, exact))

        output.register_hook(note)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch)
    cross_entropy(classifier(images), torch.arange(32) % 4).backward()
    assert len(expected) == 20
    for convolution, exact in expected:
        assert convolution.weight.grad is not None
        assert (convolution.weight.grad - exact).norm() <= 1e-4 * exact.norm(), convolution


def test_only_narrow_networks_name_their_memory_format() -> None:
    assert Recipe(1, width=15).record()["memory_format"] == "contiguous"
    assert "memory_format" not in Recipe(1, width=16).record()
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=stream(), dtype=torch.uint8)
    for width in (4, 16):
        network = train(images, torch.arange(4), 4, Recipe(1, width=width))
        convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2))
        assert convolution.weight.is_contiguous(memory_format=Recipe(1, width=width).memory_format)


def test_images_are_normalised_by_their_own_mean_and_deviation() -> None:
    images = torch.randint(0, 256, (5000, 3, 4, 4), generator=stream(), dtype=torch.uint8)
    images[:, 1] //= 4
    mean, deviation = statistics(images)
    pixels = images.permute(1, 0, 2, 3).flatten(1).double()
    assert mean.tolist() == pytest.approx(pixels.mean(1).tolist(), rel=1e-5)
    assert deviation.tolist() == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-4)


def test_a_seed_determines_a_classifier_and_nothing_global_does() -> None:
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=stream(), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    recipe = Recipe(3, width=4)
    updates = list[int]()
    with one_thread():
        networks = []
        for seed in (0, 0, 1):
            torch.rand(7)
            state = torch.get_rng_state()
            networks.append(train(images, labels, 2, recipe, seed=seed, advance=updates.append))
            assert torch.equal(torch.get_rng_state(), state)
        first, again, other = (network(images) for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sum(updates) == 9
    for change in ({"flip": False}, {"padding": 8}, {"warm_up": 0.9}, {"width": 5}):
        with one_thread():
            assert not torch.equal(train(images, labels, 2, Recipe(3, **{"width": 4, **change}))(images), first)


def test_updates_follow_the_learning_rate() -> None:
    class Stopped(Recipe):
        def rate(self, update: int) -> float:
            return 1 if update == 0 else 0

    images = torch.randint(0, 256, (40, 3, 8, 8), generator=stream(), dtype=torch.uint8)
    with one_thread():
        one, stopped = (train(images, torch.arange(40) % 2, 2, how) for how in (Recipe(1, 4), Stopped(3, 4)))
    for before, after in zip(one.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(before, after)


def test_recognised_images_are_counted_per_class() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(3)[images[:, 0, 0, 0].long()]

    labels = torch.tensor([0, 0, 1, 1, 1])
    said = torch.tensor([0, 1, 1, 1, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    assert recognised(Fixed(), said, labels, 3) == [1, 2, 0]


# ------------------------------------------------------------------ the four ways


def drawn(way: Way, labels: Tensor, batches: int) -> Counter[int]:
    found = islice(way.sampler(labels[way.places], 50, stream()), batches)
    return Counter(labels[way.places][torch.cat(list(found))].tolist())


def test_classes_are_drawn_as_often_as_each_way_says() -> None:
    counts = [60, 20, 0, 5]
    wanted = wanted_images(counts, 30)
    assert wanted == [(y, k) for y, total in enumerate([60, 30, 30, 30]) for k in range(total)]
    labels = torch.cat(
        [torch.arange(4).repeat_interleave(torch.tensor(counts)), torch.tensor([y for y, _ in wanted])]
    )
    ways = {way.name: way for way in four_ways(counts, 30)}
    assert list(ways) == list(WAYS)
    sizes = {name: torch.bincount(labels[way.places], minlength=4).tolist() for name, way in ways.items()}
    assert sizes["real"] == sizes["balanced"] == counts
    assert sizes["filled"] == sizes["generated"] == [60, 30, 30, 30]
    # Real images first; of generated ones, the first numbers.
    places = ways["filled"].places
    assert places[:85].tolist() == list(range(85))
    assert [wanted[place - 85] for place in places[85:].tolist()] == [
        *((1, k) for k in range(10)),
        *((2, k) for k in range(30)),
        *((3, k) for k in range(25)),
    ]
    assert (ways["generated"].places >= 85).all()
    assert drawn(ways["real"], labels, 17) == {0: 600, 1: 200, 3: 50}  # ten passes
    assert drawn(ways["filled"], labels, 3) == {0: 60, 1: 30, 2: 30, 3: 30}  # one pass
    balanced = drawn(ways["balanced"], labels, 60)
    assert set(balanced) == {0, 1, 3}
    assert all(900 < number < 1100 for number in balanced.values())


def test_a_class_drawn_equally_often_shows_all_of_its_images() -> None:
    labels = torch.tensor([0, 0, 1, 0, 0, 0])
    found = Counter(torch.cat(list(islice(equally_often(labels, 10, stream()), 100))).tolist())
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert 400 < found[2] < 600  # the only one of its class


def test_batches_follow_shuffled_passes_and_may_be_larger_than_the_set() -> None:
    first, second = islice(as_they_are(torch.zeros(3), 6, stream()), 2)
    for part in (first[:3], first[3:], second[:3], second[3:]):
        assert sorted(part.tolist()) == [0, 1, 2]


def test_accuracies_are_shares_of_recognised_images_with_an_interval_over_seeds() -> None:
    counts, references = [200, 50, 10], [10, 20, 0]
    found = summary({"real": [[10, 5, 0], [8, 5, 0]], "filled": [[10, 15, 0], [8, 5, 0]]}, counts, references)
    assert found["real"]["all"]["mean"] == pytest.approx((15 / 30 + 13 / 30) / 2)
    assert found["real"]["groups"]["medium"] == found["real"]["classes"][1]
    assert found["real"]["classes"][2] == found["filled"]["over_real"]["groups"]["few"] == interval([])
    # Student's t of one degree of freedom is 12.706; the differences are 0.5 and 0.
    assert found["filled"]["over_real"]["classes"][1]["mean"] == 0.25
    assert found["filled"]["over_real"]["classes"][1]["half_width"] == pytest.approx(12.706 * 0.25, rel=1e-4)
    assert found["filled"]["over_real"]["classes"][0] == {"mean": 0, "half_width": 0}
    assert interval([0.5]) == {"mean": 0.5, "half_width": None}


# ------------------------------------------------------------------ what it means


def test_filling_with_real_images_helps_the_tail_and_filling_with_noise_does_not() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.tensor(digits.images * 15.9).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    of_class = [(labels == y).nonzero().flatten() for y in range(10)]
    real = torch.cat([places[:count] for places, count in zip(of_class, COUNTS, strict=True)])
    reference = torch.cat([places[-40:] for places in of_class])
    wanted = wanted_images(COUNTS, FILL)
    noise = torch.randint(0, 256, (len(wanted), 3, 8, 8), generator=stream(), dtype=torch.uint8)
    # Beyond what it is filled up to, a class's images are not used: there they may be any.
    held_out = images[torch.stack([of_class[y][min(COUNTS[y] + k, 100)] for y, k in wanted])]
    ways = {way.name: way for way in four_ways(COUNTS, FILL)}
    pool_labels = torch.cat([labels[real], torch.tensor([y for y, _ in wanted])])

    def found(name: str, generated: Tensor) -> list[list[int]]:
        way, pool = ways[name], torch.cat([images[real], generated])
        recipe = Recipe(60, width=8, flip=False, batch_size=64)
        return [
            recognised(
                train(pool[way.places], pool_labels[way.places], 10, recipe, way.sampler, seed),
                images[reference],
                labels[reference],
                10,
            )
            for seed in (0, 1)
        ]

    with one_thread():
        without = found("real", noise)
        by_kind = {kind: found("filled", some) for kind, some in (("real", held_out), ("noise", noise))}
    tail = {
        kind: summary({"real": without, "filled": by_seed}, COUNTS, [40] * 10)["filled"]["over_real"]["groups"][
            "tail"
        ]
        for kind, by_seed in by_kind.items()
    }
    assert tail["real"]["mean"] > 0.4
    assert tail["noise"]["mean"] < 0.1
