"""The penalty: against the definition, the authors' program, and its own promises."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from studiogan_gsr import GroupSpectralRegularizer, class_conditional_affines, effective_number_weights
from studiogan_gsr.errors import ConfigurationError, GeneratorError, OptionError
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.regularizers.gsr import GSROptions
from studiogan_gsr.regularizers.spectral import group_shape, group_spectral_norms
from studiogan_gsr.regularizers.weights import images_of_equal_weight
from studiogan_gsr.settings import RegularizerSettings
from support.generators import FAMILIES, WRAPS, Generator, OneHot, Pairs, Shared

CIFAR = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
LSUN = [50000, 15811, 5000, 1581, 500]


def definition(generator: nn.Module, counts: list[int], weight: float, beta: float | None) -> Tensor:
    """The poster's formula with the program's division, term by term, by SVD."""
    weights = effective_number_weights(counts, beta) * weight
    affines = class_conditional_affines(generator)
    total = torch.zeros((), dtype=torch.float64, device=affines[0].gain.device)
    for affine in affines:
        for side in (affine.gain, affine.bias):
            for vector, factor in zip(side, weights.tolist(), strict=True):
                matrix = vector.double().reshape(group_shape(len(vector)))
                total = total + factor * torch.linalg.svdvals(matrix)[0] ** 2
    return total / (len(affines) * len(counts))


# ---------------------------------------------------------------- class weights


@pytest.mark.parametrize(
    ("counts", "beta", "expected"),
    [
        (CIFAR, 0.999, [0.091, 0.095, 0.108, 0.136, 0.189, 0.280, 0.434, 0.693, 1.129, 1.844]),
        (CIFAR, 0.99, [0.392, 0.392, 0.392, 0.392, 0.393, 0.400, 0.434, 0.521, 0.693, 0.992]),
        (LSUN, 0.999, [0.367, 0.367, 0.370, 0.462, 0.933]),
    ],
)
def test_class_weights_are_the_published_ones(counts: list[int], beta: float, expected: list[float]) -> None:
    np.testing.assert_allclose(0.5 * effective_number_weights(counts, beta), expected, atol=5e-4)


def test_class_weights_have_mean_one_and_are_equal_without_beta() -> None:
    for beta in (0.0, 0.9, 0.999, 1 - 1e-9):
        assert effective_number_weights(CIFAR, beta).mean() == pytest.approx(1)
    assert effective_number_weights(CIFAR, None).tolist() == [1] * 10
    assert effective_number_weights([7], 0.99).tolist() == [1]
    # beta -> 1: inverse to the counts.  One sample in a class has the effective number one.
    inverse = effective_number_weights([1, 4], 1 - 1e-12)
    assert inverse[0] / inverse[1] == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(("counts", "beta"), [([], 0.9), ([5, 0], 0.9), ([5, -1], None), ([5], 1.0), ([5], -0.1)])
def test_impossible_class_weights_are_refused(counts: list[int], beta: float | None) -> None:
    with pytest.raises(OptionError):
        effective_number_weights(counts, beta)


@pytest.mark.parametrize(("count", "said"), [(0, "0"), (-1, "-1"), (math.inf, "inf"), (math.nan, "nan")])
def test_a_count_that_is_not_positive_is_named_with_its_class(count: float, said: str) -> None:
    with pytest.raises(OptionError, match=rf"allowed: positive numbers of images \(class 1 has {said}\)"):
        effective_number_weights([5, count, 3], 0.9)


# ---------------------------------------------------------------- the penalty


@pytest.fixture(params=FAMILIES)
def generator(request: pytest.FixtureRequest, device: torch.device) -> Generator:
    torch.manual_seed(1)
    return FAMILIES[request.param](10, [16, 24, 16]).to(device)


@pytest.mark.parametrize("beta", [0.999, None])
def test_penalty_and_gradient_equal_the_definition(generator: Generator, beta: float | None) -> None:
    exact = GroupSpectralRegularizer(generator, CIFAR, weight=0.7, beta=beta, power_iterations=0)
    iterated = GroupSpectralRegularizer(generator, CIFAR, weight=0.7, beta=beta)
    expected = definition(generator, CIFAR, 0.7, beta)
    parameters = [p for p in generator.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, parameters)
    for regularizer, tolerance in ((exact, 1e-6), (iterated, 1e-3)):
        penalty = regularizer.penalty()
        assert penalty.dtype == torch.float32
        torch.testing.assert_close(penalty.double(), expected, rtol=tolerance, atol=0)
        for mine, theirs in zip(torch.autograd.grad(penalty, parameters), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=30 * tolerance * float(theirs.abs().max() + 1e-9))


def test_double_precision_generators_are_penalised_in_double_precision(device: torch.device) -> None:
    torch.manual_seed(0)
    model = PenaltyOf(OneHot(3, [6, 8]).double().to(device), [5, 3, 1])
    name = "generator.layers.0.gain.weight"
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    assert model().dtype == torch.float64
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(model, {name: w}), weight)


class PenaltyOf(nn.Module):
    """The penalty as the forward of a module, for functional_call."""

    def __init__(self, generator: nn.Module, counts: list[int]) -> None:
        super().__init__()
        self.generator, self.counts = generator, counts

    def forward(self) -> Tensor:
        return GroupSpectralRegularizer(self.generator, self.counts).penalty()


def test_sides_and_groups_can_be_chosen(device: torch.device) -> None:
    torch.manual_seed(0)
    generator = Pairs(4, [12, 12]).to(device)
    counts = [9, 9, 9, 9]

    def penalty(**options: object) -> float:
        return GroupSpectralRegularizer(generator, counts, 1.0, None, 0, **options).penalty().item()

    gain, bias = penalty(apply_to=["gain"]), penalty(apply_to=["bias"])
    assert gain + bias == pytest.approx(penalty(), rel=1e-6)
    assert gain != pytest.approx(bias)
    stack = torch.stack([layer.embed0.weight.detach() for layer in generator.layers]).reshape(2, 4, 2, 6)
    expected = group_spectral_norms(stack).square().sum() / 8
    assert penalty(apply_to=["gain"], groups=2) == pytest.approx(float(expected), rel=1e-6)
    # One group: the Euclidean norm; prime channels can have no other.
    one = penalty(apply_to=["gain"], groups=1)
    assert one == pytest.approx(float(stack.square().sum() / 8), rel=1e-6)
    with pytest.raises(OptionError, match="divisor of 12"):
        penalty(groups=5)


@pytest.mark.parametrize("counts", [[5], [1, 1], [5000, 1]])
def test_one_class_one_sample_and_prime_channels(counts: list[int], device: torch.device) -> None:
    torch.manual_seed(0)
    generator = Pairs(len(counts), [7, 13, 1]).to(device)
    expected = definition(generator, counts, 0.5, 0.99).item()
    for steps in (0, 4):
        regularizer = GroupSpectralRegularizer(generator, counts, power_iterations=steps)
        assert regularizer.penalty().item() == pytest.approx(expected, rel=1e-5)
    assert regularizer.scalars()["penalty"].item() == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(5)), st.integers(0, 2**31), st.floats(0.1, 10))
def test_the_penalty_follows_class_order_and_scale(order: list[int], seed: int, factor: float) -> None:
    generator, permuted = (Pairs(5, [8, 12]) for _ in range(2))
    counts = [100, 50, 20, 7, 1]
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p, q in zip(generator.parameters(), permuted.parameters(), strict=True):
            p.copy_(torch.randn(p.shape, generator=source))
            q.copy_(p[order] * factor)
    options = {"beta": 0.9, "power_iterations": 0}
    expected = GroupSpectralRegularizer(generator, counts, **options).penalty().item() * factor**2
    again = GroupSpectralRegularizer(permuted, [counts[i] for i in order], **options).penalty().item()
    assert again == pytest.approx(expected, rel=1e-5)


def test_the_penalty_falls_when_it_is_minimised(generator: Generator) -> None:
    regularizer = GroupSpectralRegularizer(generator, CIFAR)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.02)
    first = regularizer.penalty().item()
    for _ in range(30):
        optimizer.zero_grad()
        regularizer.penalty().backward()
        optimizer.step()
    assert regularizer.penalty().item() < first / 2
    # Minimising makes leading singular values meet, where four iterations lag most.
    with torch.no_grad():
        assert float(definition(generator, CIFAR, 0.5, 0.99)) == pytest.approx(regularizer.penalty().item(), rel=0.05)


def test_warm_vectors_follow_a_training_run(device: torch.device) -> None:
    """Four iterations a step stay within 1 % of the exact norms while the weights move."""
    torch.manual_seed(0)
    generator = Shared(10, [24, 24]).to(device)
    regularizer = GroupSpectralRegularizer(generator, CIFAR, weight=0.5)
    exact = GroupSpectralRegularizer(generator, CIFAR, weight=0.5, power_iterations=0)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3)
    for _ in range(50):
        x, y = torch.randn(8, 24, 2, 2).to(device), torch.randint(10, (8,)).to(device)
        optimizer.zero_grad()
        (regularizer.penalty() - 0.1 * generator(x, y).square().sum()).backward()
        optimizer.step()
        assert regularizer.penalty().item() == pytest.approx(exact.penalty().item(), rel=1e-2)


class CountKernels(TorchDispatchMode):
    """Counts what reaches a device: operations whose result is not a view of an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        self.count += alias is None or alias.is_write
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"power_iterations": 0}, {"released_bias_update": True}, {"beta": None}])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_kernels_grows_neither_with_layers_of_one_shape_nor_with_classes(
    family: str, wrap: str, options: dict[str, Any]
) -> None:
    def kernels(layers: int, classes: int) -> int:
        generator = FAMILIES[family](classes, [16] * layers, WRAPS[wrap])
        regularizer = GroupSpectralRegularizer(generator, [5] * classes, **options)
        regularizer.penalty()
        with CountKernels() as kernels:
            torch.autograd.grad(regularizer.penalty(), list(generator.parameters()))
        return kernels.count

    assert kernels(2, 3) == kernels(12, 5) > 10
    # More classes than inputs: the shared embedding is multiplied in another order.
    assert kernels(2, 40) == kernels(9, 100)


class Copies(TorchDispatchMode):
    """Counts tensors that are made of Python lists; copying one to a GPU waits for the GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"power_iterations": 0}, {"released_bias_update": True}])
def test_a_penalty_copies_no_list_to_the_device(options: dict[str, Any]) -> None:
    generator = Pairs(10, [24, 16, 24])
    regularizer = GroupSpectralRegularizer(generator, CIFAR, **options)
    regularizer.penalty()
    with Copies() as copies:
        regularizer.penalty()
        assert copies.count == 0
        generator.layers[0].embed0.weight[[0, 1]]
        assert copies.count == 1
    assert not any("order" in key for key in regularizer.state_dict())


# ---------------------------------------------------------------- the authors' update


def program_norms(gain: Tensor, bias: Tensor, steps: int, state: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the authors' program computes for (classes, n_g, n_c) matrices, loop by loop, from its description."""

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-3)

    u0, v0, u1, v1 = state
    for _ in range(steps):
        v0 = unit(gain.mT @ u0)
        u0 = unit(gain @ v0)
        v1 = unit(bias.mT @ u1)
        u1 = unit(bias @ v0)  # v0, where the definition has v1
    state[:] = u0, v0, u1, v1
    return (u0 * (gain @ v0)).sum((1, 2)), (u1 * (bias @ v1)).sum((1, 2))


def test_the_released_update_is_the_authors_and_differs_from_the_definition(device: torch.device) -> None:
    torch.manual_seed(0)
    generator = Pairs(10, [24, 24]).to(device)
    regularizer = GroupSpectralRegularizer(generator, CIFAR, beta=None, released_bias_update=True)
    corrected = GroupSpectralRegularizer(generator, CIFAR, beta=None)
    states = [[torch.randn(10, n, 1).to(device) for n in (4, 6, 4, 6)] for _ in range(2)]
    for call in range(3):
        total = torch.zeros((), device=device)
        for layer, state in zip(generator.layers, states, strict=True):
            gain, bias = (e.weight.detach().reshape(10, 4, 6) for e in (layer.embed0, layer.embed1))
            sigma = program_norms(gain, bias, 4 if call else 400, state)
            total = total + 0.5 * sum(s.square().sum() for s in sigma) / 20
        value = regularizer.penalty().item()
        assert value == pytest.approx(float(total), rel=1e-4)
        assert value < 0.9 * corrected.penalty().item()
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))


def test_how_far_the_released_update_is_off() -> None:
    """On random matrices three quarters of the true norm; near rank one it can miss nearly all."""
    torch.manual_seed(0)

    def share(generator: Pairs) -> float:
        options = {"beta": None, "weight": 1.0}
        released = GroupSpectralRegularizer(generator, [1] * 200, released_bias_update=True, **options)
        released.penalty()
        ones = {"apply_to": ["bias"], "power_iterations": 0}
        exact = GroupSpectralRegularizer(generator, [1] * 200, **ones, **options)
        gain = GroupSpectralRegularizer(generator, [1] * 200, apply_to=["gain"], power_iterations=0, **options)
        bias_part = released.penalty().item() - gain.penalty().item()
        return math.sqrt(bias_part / exact.penalty().item())

    generator = Pairs(200, [256])
    assert 0.6 < share(generator) < 0.85
    with torch.no_grad():
        # The gain side looks at the first column, the bias side has almost all in the second.
        gain, bias = torch.zeros(200, 16, 16), 0.01 * torch.randn(200, 16, 16)
        gain[..., 0], bias[..., 1] = torch.randn(200, 16), torch.randn(200, 16)
        generator.layers[0].embed0.weight.copy_(gain.flatten(1))
        generator.layers[0].embed1.weight.copy_(bias.flatten(1))
    assert share(generator) < 0.5


# ---------------------------------------------------------------- state, logging, promises


def rng_states() -> list[Tensor]:
    """The states of torch's global random generators on all devices."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def test_a_restored_run_goes_on_as_if_nothing_had_happened(device: torch.device) -> None:
    torch.manual_seed(0)
    generator = OneHot(10, [16, 24]).to(device)
    regularizer = GroupSpectralRegularizer(generator, CIFAR, power_iterations=1)

    def move() -> None:
        with torch.no_grad():
            for i, p in enumerate(generator.parameters()):
                p.add_(0.3 * torch.sin(torch.arange(p.numel(), device=device) + i).view_as(p))

    regularizer.penalty()
    move()
    regularizer.penalty()
    saved, weights = copy.deepcopy(regularizer.state_dict()), copy.deepcopy(generator.state_dict())
    move()
    expected = regularizer.penalty()

    generator.load_state_dict(weights)
    resumed = GroupSpectralRegularizer(generator, CIFAR, power_iterations=1)
    resumed.load_state_dict(saved)
    move()
    assert torch.equal(resumed.penalty(), expected)
    # Without a saved state it converges first.
    fresh = GroupSpectralRegularizer(generator, CIFAR, power_iterations=1)
    exact = GroupSpectralRegularizer(generator, CIFAR, power_iterations=0)
    assert fresh.penalty().item() == pytest.approx(exact.penalty().item(), rel=1e-4)
    for options in ({"apply_to": ["bias"]}, {"groups": 4}):
        other = GroupSpectralRegularizer(generator, CIFAR, power_iterations=1, **options)
        with pytest.warns(UserWarning, match=r"the saved vectors are of .* they are recomputed"):
            other.load_state_dict(saved)
        exact = GroupSpectralRegularizer(generator, CIFAR, power_iterations=0, **options)
        assert other.penalty().item() == pytest.approx(exact.penalty().item(), rel=1e-4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        GroupSpectralRegularizer(OneHot(10, [16]), CIFAR).load_state_dict(
            GroupSpectralRegularizer(OneHot(10, [16, 16]), CIFAR).state_dict()
        )


def test_a_state_that_is_loaded_as_part_of_a_larger_module_counts_too(device: torch.device) -> None:
    torch.manual_seed(0)
    generator = OneHot(10, [16]).to(device)
    whole = nn.ModuleDict({"regularizer": GroupSpectralRegularizer(generator, CIFAR)})
    regularizer = whole["regularizer"]
    cold, expected = copy.deepcopy(whole.state_dict()), regularizer.penalty().item()
    warm = copy.deepcopy(whole.state_dict())
    whole.load_state_dict(cold)
    assert regularizer.penalty().item() == expected
    other = nn.ModuleDict({"regularizer": GroupSpectralRegularizer(generator, CIFAR)})
    other.load_state_dict(warm)
    assert torch.equal(other["regularizer"].penalty(), regularizer.penalty())


@pytest.mark.parametrize("before", [0, 4])
def test_a_run_may_go_on_exactly_or_by_iteration(before: int, device: torch.device) -> None:
    """Exact norms keep no vectors: a state of them must not stand for converged ones."""
    torch.manual_seed(0)
    generator = OneHot(10, [16, 24]).to(device)
    first = GroupSpectralRegularizer(generator, CIFAR, power_iterations=before)
    expected = first.penalty().item()
    second = GroupSpectralRegularizer(generator, CIFAR, power_iterations=4 - before)
    second.load_state_dict(first.state_dict())
    assert second.penalty().item() == pytest.approx(expected, rel=1e-4)
    third = GroupSpectralRegularizer(generator, CIFAR, power_iterations=before)
    third.load_state_dict(second.state_dict())
    assert third.penalty().item() == pytest.approx(expected, rel=1e-4)


def test_nothing_of_the_host_is_disturbed(generator: Generator) -> None:
    generator.layers[1].eval()
    before = copy.deepcopy(generator.state_dict())
    flags = [m.training for m in generator.modules()]
    numpy_state, torch_states = np.random.get_state()[1].copy(), rng_states()
    regularizer = GroupSpectralRegularizer(generator, CIFAR)
    for _ in range(3):
        regularizer.penalty()
        regularizer.scalars()
        regularizer.class_norms()
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    assert [m.training for m in generator.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())
    assert all(map(torch.equal, rng_states(), torch_states))
    assert (np.random.get_state()[1] == numpy_state).all()
    assert not list(regularizer.parameters())  # the generator is not its submodule


def test_autocast_does_not_lower_the_precision(generator: Generator, device: torch.device) -> None:
    expected = GroupSpectralRegularizer(generator, CIFAR).penalty()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        penalty = GroupSpectralRegularizer(generator, CIFAR).penalty()
    assert penalty.dtype == torch.float32
    assert torch.equal(penalty, expected)


def test_half_precision_parameters_are_penalised_in_float32(device: torch.device) -> None:
    generator = OneHot(10, [16]).bfloat16().to(device)
    penalty = GroupSpectralRegularizer(generator, CIFAR).penalty()
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert generator.layers[0].gain.weight.grad.dtype == torch.bfloat16


def test_scalars_show_the_thirds_by_frequency_whatever_the_label_order(device: torch.device) -> None:
    generator = Pairs(6, [9]).to(device)
    with torch.no_grad():
        generator.layers[0].embed0.weight.zero_()
        generator.layers[0].embed1.weight.zero_()
        for label, norm in enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]):
            generator.layers[0].embed1.weight[label, 0] = norm
    # Rarest first: labels 4 and 5 are the head, 0 and 1 the tail.
    scalars = GroupSpectralRegularizer(generator, [1, 2, 3, 4, 5, 6]).scalars()
    assert {k: pytest.approx(v.item()) for k, v in scalars.items() if k != "penalty"} == {
        "norm_head": 6, "norm_middle": 4, "norm_tail": 2
    }  # fmt: skip
    assert all(value.shape == () for value in scalars.values())  # tensors, to be read together


def test_weight_zero_watches_and_penalises_nothing(generator: Generator) -> None:
    regularizer = GroupSpectralRegularizer(generator, CIFAR, weight=0)
    penalty = regularizer.penalty()
    gradients = torch.autograd.grad(penalty, list(generator.parameters()))
    assert penalty.item() == 0
    assert all(not g.any() for g in gradients)
    assert regularizer.scalars()["norm_tail"] > 0


def test_class_norms_name_layers_and_sides(device: torch.device) -> None:
    generator = Pairs(4, [9, 16]).to(device)
    norms = GroupSpectralRegularizer(generator, [4, 3, 2, 1]).class_norms()
    assert list(norms) == ["layers.0", "layers.1"]
    expected = group_spectral_norms(generator.layers[1].embed1.weight.detach().reshape(4, 4, 4))
    torch.testing.assert_close(norms["layers.1"]["bias"], expected)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(GeneratorError, match="16 channels have 10 classes, the data has 9"):
        GroupSpectralRegularizer(OneHot(10, [16]), CIFAR[:9])


def test_the_description_says_what_is_penalised() -> None:
    text = str(GroupSpectralRegularizer(OneHot(10, [16, 24, 16]), CIFAR))
    assert "3 layers, 60 matrices of 4x4 and 4x6, weight 0.5, beta 0.99, power_iterations 4" in text


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (
            CIFAR,
            {},
            r"class weights 0.392 to 0.992, equal within 1 % from 460 images on \(5 of 10 classes\)\)$",
        ),
        ([5000, 900, 500], {}, r"equal within 1 % from 460 images on \(3 of 3 classes\)\)$"),
        (CIFAR, {"beta": 0.999}, r"class weights 0\.0\d+ to [\d.]+\)$"),
        (CIFAR, {"beta": None, "weight": 0.25}, r"class weights all 0.25\)$"),
        (CIFAR, {"weight": 0}, r"class weights all 0\)$"),
    ],
)
def test_the_description_says_where_class_weights_are_equal(
    counts: list[int], options: dict[str, Any], message: str
) -> None:
    text = " ".join(str(GroupSpectralRegularizer(OneHot(len(counts), [16]), counts, **options)).split())
    assert re.search(message, text), text
    assert str(GSROptions(**options)) in text


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99, 0.999, 0.9999])
def test_from_so_many_images_on_weights_are_equal_within_a_hundredth(beta: float) -> None:
    enough = images_of_equal_weight(beta)
    at, before, endless = effective_number_weights([enough, enough - 1, 10**9], beta)
    assert at <= 1.01 * endless < before


def test_a_subclass_with_options_of_its_own_checks_those_that_it_passes_on() -> None:
    class Louder(GroupSpectralRegularizer):
        def __init__(self, generator: nn.Module, class_counts: list[int], volume: int = 1, **options: Any) -> None:
            super().__init__(generator, class_counts, **options)

    Louder.check_options({"volume": 3, "groups": 2})
    with pytest.raises(OptionError, match="beta: found 2"):
        Louder.check_options({"beta": 2})


@pytest.mark.parametrize(
    ("written", "meant"),
    [("lambda", "weight"), ("gsr_lambda", "weight"), ("n_power_iterations", "power_iterations"), ("n_g", "groups")],
)
def test_the_papers_name_of_an_option_is_answered_with_ours(written: str, meant: str) -> None:
    message = rf"^REGULARIZER.{written}: found 1; gsr has the keys .*did you mean {meant}"
    with pytest.raises(ConfigurationError, match=message):
        find_regularizer(RegularizerSettings("gsr", {written: 1}))
    assert set(GroupSpectralRegularizer.also_called.values()) <= {field.name for field in fields(GSROptions)}
