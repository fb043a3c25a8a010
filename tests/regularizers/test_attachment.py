"""Attaching equals adding the penalty to the loss."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, attach
from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.regularizers import attachment
from support.attached import COUNTS, loss_of, make_generator, train_rank
from support.generators import Generator, OneHot

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.5, 0.999), eps=1e-6),
    "fused adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=1e-2),
}


def train(
    device: torch.device,
    make: MakeOptimizer,
    attached: bool,
    accumulate: int = 1,
    scaler: Any = None,
    steps: int = 5,
) -> Generator:
    generator = make_generator(device)
    optimizer = make(list(generator.parameters()))
    regularizer = GroupSpectralRegularizer(generator, COUNTS, power_iterations=0)
    if attached:
        attach(regularizer, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(accumulate):
            loss = loss_of(generator, step * accumulate + part) / accumulate
            if not attached:
                loss = loss + regularizer.penalty() / accumulate
            (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return generator


def assert_equal(a: nn.Module, b: nn.Module, rtol: float = 1e-5) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_attached_equals_added_to_the_loss(name: str, accumulate: int, device: torch.device) -> None:
    make = OPTIMIZERS[name]
    attached = train(device, make, True, accumulate)
    assert_equal(attached, train(device, make, False, accumulate))
    without = make_generator(device)
    assert any(not torch.allclose(p, q) for p, q in zip(attached.parameters(), without.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adam", "fused adam", "sgd"])
def test_under_a_grad_scaler_the_penalty_is_not_scaled(name: str, device: torch.device) -> None:
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    assert_equal(
        train(device, OPTIMIZERS[name], True, scaler=scaler), train(device, OPTIMIZERS[name], False), rtol=1e-4
    )


def test_a_step_that_the_scaler_skips_changes_no_weight(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = OPTIMIZERS["adam"](list(generator.parameters()))
    handle = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    scaler = torch.amp.GradScaler(device.type)
    before = [p.detach().clone() for p in generator.parameters()]
    scaler.scale(loss_of(generator, 0) * float("inf")).backward()
    scaler.step(optimizer)
    assert handle.steps == 0
    assert all(torch.equal(p, old) for p, old in zip(generator.parameters(), before, strict=True))


def test_the_gradient_of_the_penalty_is_added_once_to_what_is_there(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    regularizer = GroupSpectralRegularizer(generator, COUNTS, power_iterations=0)
    wanted = torch.autograd.grad(regularizer.penalty(), list(generator.parameters()), allow_unused=True)
    attach(regularizer, optimizer)
    before = [p.detach().clone() for p in generator.parameters()]
    loss_of(generator, 0).backward()
    loss_gradient = [p.grad.clone() for p in generator.parameters()]
    optimizer.step()
    for p, old, grad, penalty in zip(generator.parameters(), before, loss_gradient, wanted, strict=True):
        torch.testing.assert_close(old - p, grad + (0 if penalty is None else penalty), rtol=1e-4, atol=1e-5)


def test_a_parameter_without_gradient_gets_the_penaltys_alone(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    before = copy.deepcopy(generator.state_dict())
    optimizer.step()  # no backward at all
    moved = {k for k, v in generator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k, _ in generator.named_parameters()}


def test_frozen_parameters_stay_and_the_others_are_penalised(device: torch.device) -> None:
    generator = make_generator(device)
    generator.shared.requires_grad_(False)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    shared, gain = generator.shared.weight.clone(), generator.layers[0].gain.weight.clone()
    optimizer.step()
    assert torch.equal(generator.shared.weight, shared)
    assert not torch.equal(generator.layers[0].gain.weight, gain)


def test_a_closure_is_regularized_inside_the_step(device: torch.device) -> None:
    def run(attached: bool) -> tuple[Generator, float]:
        generator = make_generator(device)
        optimizer = torch.optim.LBFGS(generator.parameters(), max_iter=4)
        regularizer = GroupSpectralRegularizer(generator, COUNTS, power_iterations=0)
        if attached:
            attach(regularizer, optimizer)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(generator, 0)
            if not attached:
                loss = loss + regularizer.penalty()
            loss.backward()
            return loss.detach()

        first = float(optimizer.step(closure))
        return generator, first

    (a, first), (b, expected) = run(True), run(False)
    assert first == pytest.approx(expected, rel=1e-5)
    assert_equal(a, b, rtol=1e-3)


@pytest.mark.parametrize("kind", ["removed", "weight zero"])
def test_removed_or_only_watching_is_bit_for_bit_the_same_as_never_attached(kind: str, device: torch.device) -> None:
    def run(attached: bool) -> Generator:
        generator = make_generator(device)
        optimizer = OPTIMIZERS["adam"](list(generator.parameters()))
        if attached and kind == "removed":
            attach(GroupSpectralRegularizer(generator, COUNTS), optimizer).remove()
        elif attached:
            attach(GroupSpectralRegularizer(generator, COUNTS, weight=0), optimizer)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(generator, step).backward()
            optimizer.step()
        return generator

    for p, q in zip(run(True).parameters(), run(False).parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_trial_at_attaching_leaves_no_trace(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = OPTIMIZERS["adam"](list(generator.parameters()))
    regularizer = GroupSpectralRegularizer(generator, COUNTS)
    state, random_state = copy.deepcopy(regularizer.state_dict()), torch.get_rng_state()
    handle = attach(regularizer, optimizer)
    assert handle.steps == 0
    again = regularizer.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(v, again[k]) for k, v in state.items() if isinstance(v, Tensor))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in generator.parameters())


class Odd:
    """A regularizer whose penalty is whatever the test says."""

    def __init__(self, penalty: Callable[[], Any]) -> None:
        self.penalty = penalty

    def scalars(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_regularizers_that_could_not_act_are_refused_before_any_step(device: torch.device) -> None:
    generator = make_generator(device)
    weight = generator.layers[0].gain.weight
    optimizer = OPTIMIZERS["adam"](list(generator.parameters()))
    for penalty, reason in (
        (lambda: 3.0, "returned float; expected: a scalar tensor"),
        (lambda: weight, r"returned a tensor of shape \(12, 9\)"),
        (lambda: weight.detach().sum(), "without gradient"),
        (
            lambda: torch.ones((), requires_grad=True, device=device) * 2,
            "reaches none of the 7 trainable parameters of this Adam",
        ),
        (lambda: weight.sum() / 0, "not finite"),
        (lambda: {}["gone"], "Odd: penalty\\(\\) failed: KeyError: 'gone'"),
        (lambda: (weight.sum() * 0).sqrt(), "not finite"),  # a finite value with an infinite gradient
    ):
        with pytest.raises(RegularizerError, match=reason):
            attach(Odd(penalty), optimizer)
    with pytest.raises(
        RegularizerError, match=r"is not a regularizer: scalars\(\), state_dict\(\), load_state_dict\(\) missing"
    ):
        attach(type("Half", (), {"penalty": lambda self: weight.sum()})(), optimizer)
    loss_of(generator, 0).backward()
    optimizer.step()  # nothing was left behind


def test_the_discriminators_optimizer_is_refused(device: torch.device) -> None:
    generator, discriminator = make_generator(device), nn.Linear(3, 1).to(device)
    optimizer = torch.optim.Adam(discriminator.parameters())
    with pytest.raises(RegularizerError, match="attach it to the generator's optimizer"):
        attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)


def test_data_parallel_replicas_do_not_matter(device: torch.device) -> None:
    if device.type == "cpu" and torch.cuda.is_available():
        pytest.skip("where there is a GPU, DataParallel takes no network on the CPU")
    generator = OneHot(4, [12, 12]).to(device)
    wrapped = nn.DataParallel(generator)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1.0)
    handle = attach(GroupSpectralRegularizer(wrapped, COUNTS), optimizer)
    loss_of(wrapped, 0).backward()
    optimizer.step()
    assert handle.steps == 1


def test_two_ranks_get_the_same_penalty_as_one_process_on_the_whole_batch(tmp_path: Path) -> None:
    seeds = [[0, 1], [2, 3], [4, 5]]
    torch.multiprocessing.spawn(train_rank, args=(2, str(tmp_path), seeds), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))

    generator = make_generator()
    optimizer = OPTIMIZERS["adam"](list(generator.parameters()))
    regularizer = GroupSpectralRegularizer(generator, COUNTS)
    attach(regularizer, optimizer)
    for step in seeds:
        optimizer.zero_grad()
        (sum(loss_of(generator, seed) for seed in step) / 2).backward()
        optimizer.step()
    for p, q in zip([*generator.parameters(), *regularizer.buffers()], first, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ which optimizer, how often


class Wrapped(torch.optim.Optimizer):
    """As accelerate wraps an optimizer: a subclass that has not been initialised as one, and knows the real one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure) if closure else self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_wrapped_optimizer_is_regularized_as_the_one_inside(layers: int, device: torch.device) -> None:
    def make(parameters: Any) -> Any:
        optimizer: Any = torch.optim.Adam(parameters, lr=1e-2)
        for _ in range(layers):
            optimizer = Wrapped(optimizer)
        return optimizer

    plain = train(device, lambda p: torch.optim.Adam(p, lr=1e-2), True)
    for p, q in zip(train(device, make, True).parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(RegularizerError, match=r"found list; a torch.optim.Optimizer is needed"):
        attach(GroupSpectralRegularizer(make_generator(device), COUNTS), [])  # type: ignore[arg-type]


def test_an_optimizer_that_is_built_anew_is_refused_until_it_is_attached_to(device: torch.device) -> None:
    generator = make_generator(device)
    regularizer = GroupSpectralRegularizer(generator, COUNTS)
    optimizer = torch.optim.Adam(generator.parameters())
    handle = attach(regularizer, optimizer)
    before = [p.detach().clone() for p in generator.parameters()]
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)  # the first is gone, with its hook
    loss_of(generator, 0).backward()
    for _ in range(2):
        with pytest.raises(
            RegularizerError, match="this SGD moves parameters that it regularizes, and it is attached"
        ):
            optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(generator.parameters(), before, strict=True))
    again = attach(regularizer, optimizer)
    optimizer.step()
    assert (handle.steps, again.steps) == (0, 1)
    again.remove()
    handle.remove()
    optimizer.step()  # of nobody


def test_optimizers_of_other_parameters_and_of_networks_that_are_gone_are_let_alone(device: torch.device) -> None:
    generator, discriminator = make_generator(device), nn.Linear(3, 1).to(device)
    attach(GroupSpectralRegularizer(generator, COUNTS), torch.optim.Adam(generator.parameters()))
    other = torch.optim.Adam(discriminator.parameters())
    discriminator(torch.ones(3, device=device)).backward()
    other.step()
    assert any(claim.parameters for claim in attachment._CLAIMS)
    del generator
    gc.collect()
    other.step()
    assert not [claim for claim in attachment._CLAIMS if claim.name == "GroupSpectralRegularizer"]


def test_attached_twice_is_refused_unless_it_is_named_apart(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.Adam(generator.parameters())
    first = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    with pytest.raises(RegularizerError, match="acts on this Adam already, and would act twice: remove"):
        attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)  # a notebook's cell, run again
    attach(GroupSpectralRegularizer(generator, COUNTS, apply_to=["bias"]), optimizer, "bias alone")
    first.remove()
    attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    optimizer.step()


def test_loading_an_optimizers_state_leaves_the_regularizer_at_work(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.Adam(generator.parameters())
    handle = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    assert handle.steps == 2


def test_a_step_that_a_fused_optimizer_skips_is_not_counted(device: torch.device) -> None:
    """GradScaler leaves it to the optimizer's kernel, on the device."""
    generator = make_generator(device)
    optimizer = OPTIMIZERS["fused adam"](list(generator.parameters()))
    handle = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
    counted = []
    for step, factor in enumerate((1.0, float("inf"), float("nan"), 1.0)):
        before = [p.detach().clone() for p in generator.parameters()]
        optimizer.zero_grad()
        scaler.scale(loss_of(generator, step) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(p, old) for p, old in zip(generator.parameters(), before, strict=True))
        assert moved == (factor == 1.0)
        counted.append((handle.attempts, handle.steps))
    assert counted == [(1, 1), (2, 1), (3, 1), (4, 2)]


def test_a_step_of_another_term_is_left_out(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    handle = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    before = [p.detach().clone() for p in generator.parameters()]
    handle.skip_next()
    handle.skip_next()  # with gradient accumulation, of which every part says so
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(generator.parameters(), before, strict=True))
    optimizer.step()
    assert handle.steps == 1


def test_a_penalty_that_goes_through_a_graph_a_second_time_is_named(device: torch.device) -> None:
    generator = make_generator(device)
    kept = generator.layers[0].gain.weight.square().sum().sqrt()  # its graph is gone after the first gradient
    optimizer = torch.optim.Adam(generator.parameters())
    attach(Odd(lambda: kept.square()), optimizer, "cached of mine 1.0")
    message = r"^cached of mine 1.0: the gradient of penalty\(\) failed: .*second time.*; penalty\(\) must not"
    with pytest.raises(RegularizerError, match=message):
        optimizer.step()


def test_a_rest_whose_step_is_not_made_is_taken_back(device: torch.device) -> None:
    generator = make_generator(device)
    optimizer = torch.optim.SGD(generator.parameters(), lr=1.0)
    handle = attach(GroupSpectralRegularizer(generator, COUNTS), optimizer)
    handle.skip_next()
    handle.cancel_skip()
    optimizer.step()
    assert handle.steps == 1
