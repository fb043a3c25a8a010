"""Whether a layer multiplies by its gain or by one plus it: found out, said, and never guessed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, class_conditional_affines, register_affine_reader
from studiogan_gsr.errors import GeneratorError, OptionError
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers import affines
from support.generators import FAMILIES, WRAPS, ConditionalNorm, Generator, HalvedNorm
from support.runs import MODELS

COUNTS = [8, 4, 2]


class Factor(ConditionalNorm):
    """norm(x) * gain(y) + bias(y), gains of one at the start, as many write it."""

    def __init__(self, channels: int, kind: type[nn.Module] = nn.Embedding) -> None:
        super().__init__(channels, lambda: kind(3, channels), ("gain", "bias"))
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bn(x) * self.gain(y)[..., None, None] + self.bias(y)[..., None, None]


class Deviation(HalvedNorm):
    """norm(x) * (1 + gamma(y)) + beta(y), both halves of one embedding of zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 3, lambda module: module)
        nn.init.zeros_(self.embed.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.embed(y)[..., None, None].chunk(2, 1)
        return self.bn(x) * (1 + gamma) + beta


class Silent(Factor):
    """Cannot be run without more than x and y."""

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, y) * mask


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affines, "_SHIFTS", dict(affines._SHIFTS))


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_computes_what_it_is_read_as(family: str, wrap: str) -> None:
    generator = FAMILIES[family](3, [12, 8], WRAPS[wrap])
    state = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    GroupSpectralRegularizer(generator, COUNTS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert generator.training
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    trained = copy.deepcopy(generator)
    for parameter in trained.parameters():
        parameter.data.mul_(5).add_(1)
    GroupSpectralRegularizer(trained, COUNTS)  # any gains are a checkpoint's good right


@pytest.mark.parametrize(
    ("layer", "message", "remedy", "norm"),
    [
        (lambda: Factor(8), "computes norm(x) * gain, and is read as norm(x) * (1 + gain)", "factor", 0.0),
        (lambda: Deviation(8), "computes norm(x) * (1 + gain), and is read as norm(x) * gain", "deviation", 0.0),
        (lambda: Silent(8), "the gain of every class is 1, read as norm(x) * (1 + gain), where a new", "factor", 0.0),
    ],
    ids=["factor", "deviation", "cannot be run"],
)
def test_a_layer_of_the_other_convention_is_refused_with_the_remedy(
    layer: type[nn.Module], message: str, remedy: str, norm: float
) -> None:
    generator = Generator([layer(), layer()], [8, 8])
    kind = type(generator.layers[0])
    with pytest.raises(GeneratorError) as caught:
        GroupSpectralRegularizer(generator, COUNTS)
    assert "layers.0" in str(caught.value)
    assert message in str(caught.value)
    assert f'register_affine_reader({kind.__name__}, gain="{remedy}")' in str(caught.value)
    register_affine_reader(kind, gain=remedy)
    regularizer = GroupSpectralRegularizer(generator, COUNTS, power_iterations=0)
    assert float(regularizer.penalty().detach()) == norm
    assert all(not affine.gain.any() for affine in class_conditional_affines(generator))


def test_a_registered_convention_is_checked_too() -> None:
    register_affine_reader(Factor, gain="deviation")
    with pytest.raises(GeneratorError, match=r'computes norm\(x\) \* gain, .* gain="factor"\) corrects this'):
        GroupSpectralRegularizer(Generator([Factor(8)], [8]), COUNTS)


class Labelled(nn.Module):
    """norm(x) * gain(y) + bias(y), linear in the one-hot vector that it makes of the label."""

    def __init__(self, deviation: bool = False) -> None:
        super().__init__()
        self.bn, self.deviation = nn.BatchNorm2d(8, affine=False), deviation
        self.gain, self.bias = nn.Linear(3, 8), nn.Linear(3, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        vector = nn.functional.one_hot(y, 3).float()
        gain = self.gain(vector)[..., None, None]
        return self.bn(x) * (1 + gain if self.deviation else gain) + self.bias(vector)[..., None, None]


def test_a_layer_that_takes_labels_is_run_with_labels() -> None:
    GroupSpectralRegularizer(nn.Sequential(Labelled(deviation=True)), COUNTS)
    with pytest.raises(GeneratorError, match=r"^0 computes norm\(x\) \* gain, and is read as norm\(x\) \* \(1"):
        GroupSpectralRegularizer(nn.Sequential(Labelled()), COUNTS)
    with pytest.raises(GeneratorError, match=r"^1 computes norm"):  # one class of layer, two conventions
        GroupSpectralRegularizer(nn.Sequential(Labelled(deviation=True), Labelled()), COUNTS)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_layer_is_run_after_a_forward_of_spectral_norm_too(wrap: str) -> None:
    """Whose weight then hangs in a graph, and cannot be copied as it is."""
    layer = Factor(8, nn.Embedding)
    nn.init.normal_(layer.gain.weight, 1, 0.3)
    layer.gain = WRAPS[wrap](layer.gain)
    generator = Generator([layer], [8])
    generator(torch.randn(4, 8, 2, 2), torch.tensor([0, 1, 2, 0])).sum()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    with pytest.raises(GeneratorError, match=r"layers.0 computes norm\(x\) \* gain, and is read as"):
        GroupSpectralRegularizer(generator, COUNTS)
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())


def test_a_convention_is_inherited_and_a_constant_can_be_meant() -> None:
    class Mine(Silent):
        pass

    generator = Generator([Mine(8)], [8])
    register_affine_reader(Silent, gain="deviation")
    (affine,) = class_conditional_affines(generator)
    assert torch.equal(affine.gain, torch.ones(3, 8))
    GroupSpectralRegularizer(generator, COUNTS)


def test_a_reader_or_a_convention_is_given_and_not_both() -> None:
    for given in ({}, {"gain": "one"}, {"reader": lambda layer, generator: (layer, layer), "gain": "factor"}):
        with pytest.raises(OptionError, match="deviation or factor, or else a reader"):
            register_affine_reader(Factor, **given)  # type: ignore[arg-type]


def test_an_embed_without_num_features_is_told_what_it_lacks() -> None:
    layer = HalvedNorm(8, 3, lambda module: module)
    del layer.num_features
    with pytest.raises(
        GeneratorError, match=r"layers.0.embed .3 x 16. would be read if its layer had .* num_features"
    ):
        GroupSpectralRegularizer(Generator([layer], [8]), COUNTS)


@pytest.mark.parametrize("name", MODELS)
def test_the_native_hosts_generators_are_read_as_they_compute(name: str) -> None:
    configuration = read_configuration(MODELS[name])
    generator, _ = make_networks(configuration, 0)
    GroupSpectralRegularizer(generator, [4] * configuration.DATA.num_classes)


@pytest.mark.host
@pytest.mark.filterwarnings("ignore")  # those of StudioGAN's imports
def test_studiogans_layer_is_read_as_it_computes(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(checkout.source)
    from utils import ops

    from studiogan_gsr.regularizers import conventions
    from studiogan_gsr.regularizers.affines import find_conditional_layers

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            modules = type("M", (), {"g_bn": staticmethod(ops.batchnorm_2d), "g_linear": staticmethod(ops.linear)})
            self.bn = ops.ConditionalBatchNorm2d(in_features=3, out_features=8, MODULES=modules)
            self.num_classes = 3

    (layer,) = find_conditional_layers(Theirs())
    assert layer.module is not None
    assert conventions._measured_convention(layer.module, *conventions._gain_of(layer)) == "deviation"
    assert Path(ops.__file__).is_relative_to(checkout.source)
