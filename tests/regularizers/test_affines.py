"""Reading class parameters: against what a forward shows, for every recognised family."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import studiogan_gsr.regularizers.affines as affines_module
from studiogan_gsr import GroupSpectralRegularizer, class_conditional_affines, register_affine_reader
from studiogan_gsr.errors import GeneratorError
from support.generators import FAMILIES, WRAPS, Generator, OneHot, Shared, observed_affines

CLASSES, CHANNELS = 5, [8, 12, 8]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=WRAPS)
def generator(request: pytest.FixtureRequest, family: str) -> Generator:
    torch.manual_seed(0)
    generator = FAMILIES[family](CLASSES, CHANNELS, WRAPS[request.param])
    generator(torch.randn(4, 12, 2, 2), torch.tensor([0, 1, 2, 3]))  # spectral norms have moved
    return generator


def test_read_values_are_those_of_a_forward(generator: Generator) -> None:
    observed = observed_affines(generator, CLASSES)
    read = class_conditional_affines(generator)
    assert [a.name for a in read] == [f"layers.{i}" for i in range(len(CHANNELS))]
    for affine, (gain, bias), channels in zip(read, observed, CHANNELS, strict=True):
        assert affine.gain.shape == affine.bias.shape == (CLASSES, channels)
        torch.testing.assert_close(affine.gain, gain, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(affine.bias, bias, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_a_forward(generator: Generator) -> None:
    def gradients(tensors: list[Tensor]) -> list[Tensor | None]:
        total = sum((t * torch.linspace(-1, 1, t.numel()).view_as(t)).sum() for t in tensors)
        parameters = list(generator.parameters())
        return list(torch.autograd.grad(total, parameters, allow_unused=True))

    read = [t for a in class_conditional_affines(generator) for t in (a.gain, a.bias)]
    observed = [t for pair in observed_affines(generator, CLASSES) for t in pair]
    mine, theirs = gradients(read), gradients(observed)
    assert any(g is not None for g in mine)
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_reading_changes_nothing(generator: Generator) -> None:
    generator.layers[0].eval()
    before = copy.deepcopy(generator.state_dict())
    flags = [m.training for m in generator.modules()]
    random_state = torch.get_rng_state()
    sum(a.gain.sum() + a.bias.sum() for a in class_conditional_affines(generator)).backward()
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    assert [m.training for m in generator.modules()] == flags
    assert all(p.requires_grad for p in generator.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_wrapped_generators_are_unwrapped(generator: Generator) -> None:
    expected = class_conditional_affines(generator)
    for wrapped in (nn.DataParallel(generator), torch.compile(generator)):
        for a, b in zip(class_conditional_affines(wrapped), expected, strict=True):
            assert a.name == b.name
            assert torch.equal(a.gain, b.gain)


def test_a_linear_layer_with_a_bias_adds_it_to_every_class() -> None:
    generator = OneHot(CLASSES, CHANNELS, bias=True)
    for affine, (gain, bias) in zip(
        class_conditional_affines(generator), observed_affines(generator, CLASSES), strict=True
    ):
        torch.testing.assert_close(affine.gain, gain, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(affine.bias, bias, rtol=1e-5, atol=1e-6)


def test_an_information_code_before_the_label_is_skipped() -> None:
    """StudioGAN's InfoGAN feeds [projected code, label, noise]."""
    generator = Shared(CLASSES, [8], dim=6, noise=5)
    generator.info_proj_linear = nn.Linear(2, 4)  # 4 of the 11 inputs come before the embedding
    weight = generator.layers[0].gain.weight
    expected = generator.shared.weight @ weight[:, 4:10].T
    torch.testing.assert_close(class_conditional_affines(generator)[0].gain, expected)


class BigGANSpectral(nn.Linear):
    """The interface of BigGAN-PyTorch's SNLinear: u0 is kept, v and the next u follow."""

    def __init__(self, inputs: int, outputs: int, transpose: bool) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.transpose, self.eps = transpose, 1e-12
        self.register_buffer("u0", torch.randn(1, inputs if transpose else outputs))

    def W_(self) -> Tensor:
        matrix = self.weight.T if self.transpose else self.weight
        v = nn.functional.normalize(self.u0 @ matrix, dim=1)
        u = nn.functional.normalize(v @ matrix.T, dim=1)
        return self.weight / (v @ matrix.T @ u.T).squeeze()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.W_())


@pytest.mark.parametrize("transpose", [False, True])
def test_biggan_pytorch_spectral_norm_is_read(transpose: bool) -> None:
    generator = OneHot(CLASSES, [8, 8])
    for layer in generator.layers:
        layer.gain, layer.bias = (BigGANSpectral(CLASSES, 8, transpose) for _ in range(2))
    for affine, (gain, bias) in zip(
        class_conditional_affines(generator), observed_affines(generator, CLASSES), strict=True
    ):
        torch.testing.assert_close(affine.gain, gain, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(affine.bias, bias, rtol=1e-5, atol=1e-6)


def test_a_registered_reader_covers_a_layer_and_its_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(CLASSES, 2, 8))

    class Derived(Own):
        pass

    monkeypatch.setattr(affines_module, "_READERS", {})
    generator = nn.Sequential(Own(), Derived())
    with pytest.raises(GeneratorError):
        class_conditional_affines(generator)
    register_affine_reader(Own, lambda layer, generator: (layer.table[:, 0], layer.table[:, 1]))
    read = class_conditional_affines(generator)
    assert [a.name for a in read] == ["0", "1"]
    assert torch.equal(read[1].gain, generator[1].table[:, 0])
    assert torch.equal(read[1].bias, generator[1].table[:, 1])


def test_a_generator_without_conditional_layers_is_refused_with_what_was_found() -> None:
    with pytest.raises(GeneratorError, match=r"looked for .*gain.*embed0.*embed.*found 2 BatchNorm2d, 1 Embedding"):
        class_conditional_affines(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Embedding(3, 4)))
    with pytest.raises(GeneratorError, match="no normalisation layer at all"):
        class_conditional_affines(nn.Linear(3, 4))


def test_layers_that_are_conditional_on_noise_alone_are_refused() -> None:
    """StudioGAN's unconditional BigGAN has the same layers, fed by a chunk of noise."""
    generator = OneHot(CLASSES, CHANNELS)
    generator.num_classes = CLASSES + 1
    with pytest.raises(GeneratorError, match="not conditional on the class"):
        class_conditional_affines(generator)
    generator.num_classes, generator.g_cond_mtd = CLASSES, "W/O"
    with pytest.raises(GeneratorError, match="not conditional on the class"):
        class_conditional_affines(generator)


def test_a_layer_that_looks_conditional_and_cannot_be_read_is_not_skipped() -> None:
    generator = OneHot(CLASSES, [8, 8])
    layer = generator.layers[1]
    layer.gain, layer.bias = (nn.Sequential(nn.Linear(CLASSES, 8)) for _ in range(2))
    with pytest.raises(GeneratorError, match=r"layers.1.gain and .bias are Sequential and Sequential"):
        class_conditional_affines(generator)


def test_a_layer_too_narrow_for_the_shared_embedding_is_refused() -> None:
    generator = Shared(CLASSES, [8])
    generator.shared = nn.Embedding(CLASSES, 20)
    with pytest.raises(GeneratorError, match="takes 9 inputs; expected: at least 20"):
        class_conditional_affines(generator)


def test_other_parametrizations_are_refused() -> None:
    generator = OneHot(CLASSES, [8])
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(generator.layers[0].bias)
    with pytest.raises(GeneratorError, match="by a hook of an unknown kind"):
        class_conditional_affines(generator)
    nn.utils.parametrizations.weight_norm(generator.layers[0].gain)
    with pytest.raises(GeneratorError, match=r"_WeightNorm.*register_affine_reader"):
        class_conditional_affines(generator)


class Named(nn.Module):
    """Two embeddings under names that are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8, affine=False)
        self.scale, self.shift = nn.Embedding(CLASSES, 8), nn.Embedding(CLASSES, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.bn(x) * self.scale(y)[..., None, None] + self.shift(y)[..., None, None]


class Joined(nn.Module):
    """One embedding of both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CLASSES, 16)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = self.table(label)[..., None, None].chunk(2, 1)
        return nn.functional.instance_norm(x) * scale + shift


class Block(nn.Module):
    """Passes the label on: its layer is to be named, not the block."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x, y)


@pytest.mark.parametrize("layer", [Named, Joined])
def test_layers_that_look_conditional_are_named_with_a_line_that_reads_them(
    layer: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(affines_module, "_READERS", {})
    generator = nn.Sequential(Block(layer()), Block(layer()), nn.Embedding(CLASSES, 4))
    with pytest.raises(GeneratorError, match=rf"looks: 2 {layer.__name__}, the first is 0.layer; to add") as caught:
        class_conditional_affines(generator)
    line = str(caught.value).partition("to add a reader: ")[2].partition(", each (classes, channels)")[0]
    exec(line, {"register_affine_reader": register_affine_reader, layer.__name__: layer})
    assert "not checked" not in str(GroupSpectralRegularizer(generator, [2] * CLASSES))


def test_a_layer_that_takes_a_label_is_named_without_embeddings() -> None:
    class Film(nn.Module):
        def forward(self, x: Tensor, cond: Tensor) -> Tensor:
            return x * (1 + cond)

    with pytest.raises(
        GeneratorError, match=r"looks: 1 Film, the first is 1; .*register_affine_reader\(Film, lambda"
    ):
        class_conditional_affines(nn.Sequential(nn.ReLU(), Film()))
