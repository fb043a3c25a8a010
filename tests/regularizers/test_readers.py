"""A registered reader is compared with what its layer computes: wrong ones are refused, right ones never."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, register_affine_reader
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.regularizers import affines
from studiogan_gsr.regularizers.affines import AffineReader

COUNTS, CLASSES = [8, 4, 2], 3


class Scaled(nn.Module):
    """norm(x) * scale(y) + shift(y), with scales of one at the start, or norm(x) * (1 + scale(y)) + shift(y).

    last: the channels are the last dimension of x, not the second.
    """

    def __init__(self, norm: nn.Module, channels: int = 8, deviation: bool = False, last: bool = False) -> None:
        super().__init__()
        self.norm, self.start, self.last = norm, 0.0 if deviation else 1.0, last
        self.scale, self.shift = nn.Embedding(CLASSES, channels), nn.Embedding(CLASSES, channels)
        nn.init.constant_(self.scale.weight, self.start)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scale, shift = 1 - self.start + self.scale(y), self.shift(y)
        if x.ndim > 2:
            ones = [1] * (x.ndim - 2)
            shape = [len(x), *ones, -1] if self.last else [len(x), -1, *ones]
            scale, shift = scale.view(shape), shift.view(shape)
        return self.norm(x) * scale + shift


NORMS: dict[str, Callable[[], Scaled]] = {
    "batch": lambda: Scaled(nn.BatchNorm2d(8, affine=False)),
    "batch, of its own scale": lambda: Scaled(nn.BatchNorm2d(8)),
    "batch, without statistics": lambda: Scaled(nn.BatchNorm2d(8, track_running_stats=False)),
    "batch of vectors": lambda: Scaled(nn.BatchNorm1d(8)),
    "instance": lambda: Scaled(nn.InstanceNorm2d(8), deviation=True),
    "instance of sequences": lambda: Scaled(nn.InstanceNorm1d(8, affine=True)),
    "group": lambda: Scaled(nn.GroupNorm(2, 8), deviation=True),
    "layer": lambda: Scaled(nn.LayerNorm(8), last=True),
    "layer of images": lambda: Scaled(nn.GroupNorm(1, 8)),
    "none": lambda: Scaled(nn.Identity()),
    "as many channels as classes": lambda: Scaled(nn.BatchNorm2d(3), 3),
}


def right(layer: nn.Module, generator: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, Scaled)
    return layer.scale.weight - 1 if layer.start else layer.scale.weight, layer.shift.weight


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affines, "_READERS", dict(affines._READERS))


def penalised(generator: nn.Module, layer_class: type[nn.Module], reader: AffineReader) -> str:
    """Register a reader, and return the summary of gSR over a generator's layers."""
    register_affine_reader(layer_class, reader)
    return str(GroupSpectralRegularizer(generator, COUNTS))


def trained(generator: nn.Module) -> nn.Module:
    """Return a generator whose parameters and statistics are far from those of a new one."""
    stream = torch.Generator().manual_seed(1)
    for tensor in generator.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(5).add_(torch.rand(tensor.shape, generator=stream))
    return generator


@pytest.mark.parametrize("after_training", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_right_reader_passes_and_nothing_changes(norm: str, after_training: bool) -> None:
    generator = nn.Sequential(NORMS[norm](), NORMS[norm]())
    if after_training:
        trained(generator)
    generator[0].eval()
    before, random_state = copy.deepcopy(generator.state_dict()), torch.get_rng_state()
    assert "not checked" not in penalised(generator, Scaled, right)
    assert all(torch.equal(before[key], value) for key, value in generator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [layer.training for layer in generator] == [False, True]
    assert all(p.grad is None and p.requires_grad for p in generator.parameters())


WRONG: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], str]] = {
    "1 more": (
        lambda gain, bias: (gain + 1, bias),
        "its reader's gain is 1 more than the layer's, .*return gain - 1",
    ),
    "1 less": (
        lambda gain, bias: (gain - 1, bias),
        "its reader's gain is 1 less than the layer's, .*do not subtract",
    ),
    "swapped": (lambda gain, bias: (bias, gain), "gain and bias look swapped: return gain, bias"),
    "swapped, stored scale": (lambda gain, bias: (bias, gain + 1), "gain and bias look swapped"),
    "swapped, the wrong one less 1": (lambda gain, bias: (bias - 1, gain + 1), "gain and bias look swapped"),
    "half the gain": (
        lambda gain, bias: (gain / 2, bias),
        "gain is not the layer's: class . over class . is .* in what channel . is",
    ),
    "another bias": (lambda gain, bias: (gain, bias.flip(0)), "bias is not the layer's, its gain is"),
    "labels shifted": (lambda gain, bias: (gain.roll(1, 0), bias.roll(1, 0)), "gain is not the layer's"),
    "no gradient": (lambda gain, bias: (gain, bias.detach()), "its reader's bias has no gradient"),
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("norm", NORMS)
def test_a_wrong_reader_is_refused_with_the_mistake(norm: str, mistake: str) -> None:
    change, message = WRONG[mistake]
    with pytest.raises(GeneratorError, match=rf"^0 \(Scaled\): .*{message}"):
        penalised(nn.Sequential(NORMS[norm]()), Scaled, lambda layer, generator: change(*right(layer, generator)))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("batch", r"shape \(8, 3\), which look transposed; expected: \(3, 8\)"),
        ("as many channels as classes", "look transposed"),
    ],
)
def test_a_transposed_result_is_refused(norm: str, message: str) -> None:
    def transposed(layer: nn.Module, generator: nn.Module) -> tuple[Tensor, Tensor]:
        gain, bias = right(layer, generator)
        return gain.T, bias.T

    with pytest.raises(GeneratorError, match=rf"^0 \(Scaled\): .*{message}"):
        penalised(nn.Sequential(NORMS[norm]()), Scaled, transposed)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda gain, bias: gain, r"returned \(3, 8\); expected: gain and bias, two tensors"),
        (lambda gain, bias: (gain, None), r"returned \(3, 8\) and NoneType; expected"),
        (lambda gain, bias: (gain, bias[:, :4]), r"returned \(3, 8\) and \(3, 4\)"),
        (lambda gain, bias: (gain[0], bias[0]), r"returned \(8,\) and \(8,\)"),
        (lambda gain, bias: gain.no_such, "failed: AttributeError: .*no_such"),
    ],
)
def test_a_result_of_another_form_is_refused(result: Callable[..., object], message: str) -> None:
    with pytest.raises(GeneratorError, match=rf"^the reader of 0 \(Scaled\) {message}"):
        penalised(nn.Sequential(NORMS["batch"]()), Scaled, lambda layer, generator: result(*right(layer, generator)))  # type: ignore[arg-type, return-value]


def test_a_reader_that_always_reads_the_first_layer_is_refused_at_the_second() -> None:
    with pytest.raises(GeneratorError, match=r"^1 \(Scaled\): its reader's gain is not the layer's"):
        penalised(
            nn.Sequential(NORMS["batch"](), NORMS["group"]()),
            Scaled,
            lambda layer, generator: right(generator[0], generator),  # type: ignore[index]
        )


class Film(nn.Module):
    """x * (1 + gain) + bias, linear in a vector, with an activation if there is one."""

    def __init__(self, inputs: int, after: nn.Module | None = None) -> None:
        super().__init__()
        self.linear, self.after = (
            nn.utils.parametrizations.spectral_norm(nn.Linear(inputs, 16)),
            after or nn.Identity(),
        )

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        gain, bias = self.linear(vector)[..., None, None].chunk(2, 1)
        return self.after(x * (1 + gain) + bias)


class Embedded(nn.Module):
    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        self.classes, self.film = nn.Embedding(CLASSES, size), layer


def film_of(vectors: Callable[[nn.Module], Tensor], extra: float = 0.0) -> AffineReader:
    def reader(layer: nn.Module, generator: nn.Module) -> tuple[Tensor, Tensor]:
        gain, bias = layer.linear(vectors(generator)).chunk(2, 1)  # type: ignore[operator]
        return gain + extra, bias

    return reader


@pytest.mark.parametrize("size", [3, 5])  # 3: one-hot labels fit the layer, too, and would be wrong
def test_a_layer_of_embedded_labels_is_run_with_the_generators_embedding(size: int) -> None:
    def embedded(generator: nn.Module) -> Tensor:
        return generator.classes.weight  # type: ignore[union-attr, return-value]

    generator = Embedded(Film(size), size)
    assert "not checked" not in penalised(generator, Film, film_of(embedded))
    with pytest.raises(GeneratorError, match=r"^film \(Film\): its reader's gain is 1 more"):
        penalised(generator, Film, film_of(embedded, 1.0))


def test_a_layer_of_one_hot_labels_is_run_with_them() -> None:
    def one_hot(generator: nn.Module) -> Tensor:
        return torch.eye(CLASSES)

    assert "not checked" not in penalised(nn.Sequential(Film(CLASSES)), Film, film_of(one_hot))
    with pytest.raises(GeneratorError, match=r"^0 \(Film\): its reader's gain is 1 less"):
        penalised(nn.Sequential(Film(CLASSES)), Film, film_of(one_hot, -1.0))


@pytest.mark.parametrize(
    ("layer", "reader", "expected"),
    [
        (Scaled(nn.Identity()), right, {torch.int64: 3}),  # each class once
        (Film(CLASSES), film_of(lambda _: torch.eye(CLASSES)), {torch.int64: 4, torch.float32: 3}),  # 4: shapes of x
    ],
    ids=["labels", "one-hot"],
)
def test_the_first_trial_that_agrees_is_the_last(
    layer: nn.Module, reader: AffineReader, expected: dict[torch.dtype, int]
) -> None:
    """The generator's embedding, which would be tried next, is not."""
    tried: list[torch.dtype] = []
    layer.register_forward_pre_hook(lambda _, given: tried.append(given[1].dtype))
    assert "not checked" not in penalised(Embedded(layer, CLASSES), type(layer), reader)
    assert Counter(tried) == expected


class Mapped(Embedded):
    """Gives its layer not the embedding, but a function of it that has the same size."""

    def __init__(self) -> None:
        super().__init__(Film(5), 5)
        self.mapping = nn.Sequential(nn.Linear(5, 5), nn.Tanh())


class Masked(Scaled):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, y) * mask


def test_a_layer_that_cannot_be_compared_is_named_in_the_summary() -> None:
    """And not refused, since its reader may well be right."""

    def mapped(generator: nn.Module) -> Tensor:
        return generator.mapping(generator.classes.weight)  # type: ignore[operator, union-attr]

    summary = penalised(Mapped(), Film, film_of(mapped))
    assert "film (Film): its reader is not checked: the layer does not run alone (it is called as" in summary
    masked = nn.Sequential(Masked(nn.Identity()))
    summary = penalised(masked, Scaled, right)
    assert "0 (Masked): its reader is not checked" in summary
    assert "missing" not in summary
    summary = penalised(masked, Scaled, lambda layer, generator: (layer.scale.weight, layer.shift.weight))  # type: ignore[union-attr, return-value]
    assert "the gain of every class is 1, where a new layer has 0: is a - 1 missing?" in summary
    rectified = nn.Sequential(Film(CLASSES, nn.ReLU()))
    assert "0 (Film): its reader is not checked" in penalised(rectified, Film, film_of(lambda _: torch.eye(CLASSES)))


def later_rows(layer: nn.Module, generator: nn.Module) -> tuple[Tensor, Tensor]:
    gain, bias = right(layer, generator)
    return gain[1:], bias[1:]


def test_rows_after_one_without_a_class_are_right_if_the_generator_adds_1_to_the_labels() -> None:
    layer = Scaled(nn.BatchNorm2d(8))
    layer.scale, layer.shift = nn.Embedding(CLASSES + 1, 8), nn.Embedding(CLASSES + 1, 8)
    summary = penalised(nn.Sequential(layer), Scaled, later_rows)
    assert "0 (Scaled): its reader is right if the generator adds 1 to the labels before this layer" in summary
    with pytest.raises(GeneratorError, match="its reader's gain is not the layer's"):
        penalised(nn.Sequential(layer), Scaled, lambda *args: (later_rows(*args)[0] / 2, later_rows(*args)[1]))


def test_a_reader_of_fixed_tensors_is_named_in_the_summary() -> None:
    layer = NORMS["batch"]()
    summary = penalised(nn.Sequential(layer), Scaled, lambda _layer, generator: right(layer, generator))
    assert "not checked: what it returns does not depend on the parameters of the layer that it is given" in summary


def test_a_generator_in_half_precision_is_checked_too() -> None:
    generator = nn.Sequential(NORMS["batch"]()).half()
    assert "not checked" not in penalised(generator, Scaled, right)
    with pytest.raises(GeneratorError, match="gain is 1 more"):
        penalised(generator, Scaled, lambda layer, generator: (layer.scale.weight, layer.shift.weight))  # type: ignore[union-attr, return-value]
