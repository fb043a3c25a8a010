"""Images by class and number: the same whatever else is generated, drawn from the right distribution."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from studiogan_gsr.errors import EvaluationError, OptionError, RequestError
from studiogan_gsr.evaluation.class_images import ClassImages
from studiogan_gsr.evaluation.generation import prepare_batch_norm
from studiogan_gsr.evaluation.latents import draw, latents_of, sample_latents
from studiogan_gsr.evaluation.samples import to_pixels
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.seeds import BATCHES, mixed
from support.runs import BIGGAN, PLAIN, Sections, changed

Trained = tuple[torch.nn.Module, Configuration]
SETTINGS = {"SNGAN": PLAIN, "BigGAN": BIGGAN}


@pytest.fixture(params=SETTINGS)
def trained(request: pytest.FixtureRequest) -> Trained:
    """A generator whose running statistics are those of a few batches."""
    return make(SETTINGS[request.param])


def make(sections: Sections) -> Trained:
    configuration = read_configuration(sections)
    generator = make_networks(configuration, 0)[0]
    stream = torch.Generator().manual_seed(0)
    for _ in range(5):
        z = torch.randn(16, configuration.MODEL.z_dim, generator=stream)
        generator(z, torch.randint(10, (16,), generator=stream))
    return generator.eval(), configuration


@pytest.mark.parametrize("batch_norm", ["running", "standing"])
def test_an_image_depends_on_seed_class_and_number_alone(
    trained: Trained, batch_norm: str, device: torch.device
) -> None:
    alone = ClassImages(*trained, seed=3, batch_norm=batch_norm, batch_size=1, device=device)
    image = next(iter(alone.batches([(7, 70)])))[0][0]
    wanted = [(label, number) for number in range(72) for label in (9, 7)]
    for batch_size in (16, 50, 64, 1000):
        images = ClassImages(*trained, seed=3, batch_norm=batch_norm, batch_size=batch_size, device=device)
        found = {}
        for some, places in images.batches(wanted):
            found |= {wanted[place]: image for image, place in zip(some, places, strict=True)}
        assert len(found) == len(wanted)
        # A GPU chooses how to convolve by the size of the batch, and may round otherwise.
        assert (found[7, 70].int() - image.int()).abs().max() <= (device.type == "cuda")
    assert not torch.equal(found[9, 70], image)
    assert not torch.equal(found[7, 69], image)
    other = next(iter(alone.batches([(7, 70)], seed=4)))[0][0]
    assert not torch.equal(other, image)


def test_calls_give_the_numbers_of_each_class_in_turn(trained: Trained) -> None:
    images = ClassImages(*trained)
    called = images([5, 2, 5])
    (batch, places), *rest = images.batches([(5, 0), (2, 0), (5, 1)])
    assert not rest
    assert places == [0, 1, 2]
    assert torch.equal(called, batch)
    assert called.dtype == torch.uint8
    assert torch.equal(images([5, 2, 5], seed=1), ClassImages(*trained, seed=1)([5, 2, 5]))


def test_images_are_the_generators(trained: Trained) -> None:
    generator, configuration = trained
    z = latents_of([(4, 0), (4, 1)], "gaussian", configuration.MODEL.z_dim, 0)
    with torch.no_grad():
        images = generator(z, torch.tensor([4, 4]))
    difference = ((images + 1) / 2 * 255).clamp(0, 255) - ClassImages(*trained)([4, 4]).float()
    assert difference.abs().max() <= 0.5 + 1e-3


def test_the_generator_itself_does_not_change(trained: Trained) -> None:
    before = {name: value.clone() for name, value in trained[0].state_dict().items()}
    for batch_norm in ("running", "standing", "batch"):
        ClassImages(*trained, batch_norm=batch_norm)([1, 2])
    after = trained[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not trained[0].training


def test_standing_statistics_come_from_all_classes_and_are_not_those_of_training(trained: Trained) -> None:
    running, standing = (ClassImages(*trained, batch_norm=which) for which in ("running", "standing"))
    assert not torch.equal(running([3] * 16), standing([3] * 16))


def test_batch_statistics_are_those_of_evaluation(trained: Trained) -> None:
    """The k-th image of a class is the k-th of a stream of uniform labels, in whole batches of the same size."""
    generator, configuration = trained
    images = ClassImages(*trained, batch_norm="batch", batch_size=24)
    by_key = {(label, number): None for label in (0, 8) for number in range(5)}
    for some, places in images.batches(list(by_key)):
        by_key |= {list(by_key)[place]: one for place, one in zip(places, some, strict=True)}
    stream = torch.Generator().manual_seed(mixed(0, BATCHES))
    z, labels = sample_latents("gaussian", 24, configuration.MODEL.z_dim, 10, stream)
    prepare_batch_norm(generator, "batch", lambda: None)
    with torch.no_grad():
        expected = to_pixels(generator(z, labels))[labels == 8]
    assert len(expected)
    for number, image in enumerate(expected[:5]):
        assert torch.equal(by_key[8, number], image)
    (alone, _), *_ = images.batches([(8, 0)])
    assert torch.equal(alone[0], by_key[8, 0])


def test_latents_are_normal_and_truncated_ones_truncated_normal() -> None:
    wanted = [(label, number) for label in range(4) for number in range(2000)]
    z = latents_of(wanted, "gaussian", 4, seed=0)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    truncated = latents_of(wanted, "gaussian", 4, seed=0, truncation=0.5)
    assert truncated.abs().max() <= 0.5
    assert stats.kstest(truncated.flatten().double().numpy(), stats.truncnorm(-0.5, 0.5).cdf).pvalue > 0.01
    # Different classes, numbers and dimensions are uncorrelated.
    assert torch.corrcoef(z.reshape(4, -1)).fill_diagonal_(0).abs().max() < 4 / math.sqrt(8000)
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 4 / math.sqrt(8000)
    uniform = latents_of(wanted, "uniform", 4, seed=0).flatten().numpy()
    assert stats.kstest(uniform, "uniform", (-1, 2)).pvalue > 0.01


def test_a_wide_truncation_is_none() -> None:
    z = draw("gaussian", 50_000, 2, torch.Generator().manual_seed(0), truncation=8.0)
    assert stats.kstest(z.flatten().double().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("changes", "truncation", "message"),
    [
        ({"MODEL": {"z_prior": "uniform"}}, 1.0, "MODEL.z_prior uniform"),
        ({}, 0.0, "found 0.0; allowed: a number above 0"),
        ({}, float("nan"), "found nan"),
    ],
)
def test_an_impossible_truncation_is_refused(changes: Sections, truncation: float, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ClassImages(*make(changed(PLAIN, **changes)), truncation=truncation)


def test_unknown_statistics_are_refused(trained: Trained) -> None:
    with pytest.raises(OptionError, match="batch_norm"):
        ClassImages(*trained, batch_norm="moving")


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_images_that_are_not_finite_are_refused(trained: Trained, batch_norm: str) -> None:
    generator = trained[0]
    next(generator.parameters()).data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        ClassImages(*trained, batch_norm=batch_norm)([1])
