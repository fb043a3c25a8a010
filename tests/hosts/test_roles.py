"""The guards around the roles of a regularizer, without a host: each fault is named with its plug-in."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.contract import Batch
from studiogan_gsr.errors import ConfigurationError, GSRError, PluginError, RegularizerError, reason
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.method import TrainingFacts
from studiogan_gsr.registry import REGULARIZERS
from studiogan_gsr.settings import RegularizerSettings
from support.plugins import ROLE_NAMES, SIGNATURES, MakePackage, make_roles, one_role

PLUGIN = "stranger 2.3 [studiogan.regularizers] odd = stranger_odd:Odd"
NETWORK = {"generator_loss": "generator", "discriminator_loss": "discriminator"}
# What each role returns when nothing is wrong.
FINE = {
    "penalty": "return self.weight.square().sum()",
    "generator_loss": "return batch.images.square().mean()",
    "discriminator_loss": "return batch.real_logits.square().mean()",
    "draw": "return z, labels",
}
Odd = Callable[..., Regularization]


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 12)

    def forward(self, z: Tensor) -> Tensor:
        return self.map(z).view(-1, 3, 2, 2)


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(12, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(images.flatten(1)).flatten()


def training(has_w: bool = True, size: int = 4, updates: int = 1, accumulation: int = 1) -> TrainingFacts:
    torch.manual_seed(0)
    generator = Generator()
    return TrainingFacts(
        generator=generator,
        discriminator=Discriminator(),
        optimizer=torch.optim.SGD(generator.parameters(), lr=0.01),
        class_counts=[3, 1],
        updates=dict.fromkeys(("generator", "discriminator"), updates),
        accumulation=accumulation,
        sizes=dict.fromkeys(("generator", "discriminator"), size),
        z_dim=4,
        has_w=has_w,
    )


def batch_of(training: TrainingFacts, network: str) -> Batch:
    """A batch of an update of a network, with w."""
    stream = torch.Generator().manual_seed(1)
    z, labels = torch.randn(4, 4, generator=stream), torch.tensor([0, 1, 0, 1])
    real = torch.randn(4, 3, 2, 2, generator=stream)
    images, w = training.generator(z), torch.randn(4, 2, 4, generator=stream)
    if network == "generator":
        return Batch(0, z, labels, images, w, training.discriminator(images))
    images = images.detach()
    judged, judged_real = training.discriminator(images), training.discriminator(real)
    return Batch(0, z, labels, images, w, judged, real, labels.flip(0), judged_real)


@pytest.fixture
def odd(make_package: MakePackage) -> Odd:
    """odd(role, body, fields) makes the package `stranger`, and its regularizer `odd` for `fields` of `training`."""

    def make(role: str, body: str, needs: tuple[str, ...] = (), **fields: Any) -> Regularization:
        source = one_role("Odd", role, body).replace("needs = ()", f"needs = {needs!r}")
        make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": source}, version="2.3")
        return Regularization([RegularizerSettings("odd")], training(**fields))

    return make


def updated(regularization: Regularization, network: str) -> None:
    """One update of a network as a host makes it: batch, terms, and the check after it."""
    found = regularization.training
    if network == "generator":
        found.optimizer.zero_grad()
    regularization.draw(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]), network)
    batch = batch_of(found, network)
    loss = batch.logits.mean()
    for term in regularization.terms(network, batch):
        loss = loss + term
    loss.backward()
    if network == "generator":
        found.optimizer.step()


def message_of(error: GSRError) -> str:
    """The message, which is one line and survives pickling."""
    text = str(error)
    assert len(text.splitlines()) == 1
    assert str(pickle.loads(pickle.dumps(error))) == text
    return text


# ------------------------------------------------------------------ what is right passes


@pytest.mark.parametrize("role", FINE)
def test_a_role_that_keeps_the_contract_runs(role: str, odd: Odd) -> None:
    regularization = odd(role, FINE[role])
    (method,) = regularization.methods
    assert (method.roles, str(method.plugin)) == ((role,), PLUGIN)
    for step in range(1, 11):
        for network in ("discriminator", "generator"):
            updated(regularization, network)
        regularization.check_active(step)
    assert method.active == 10
    regularization.report(10)
    (message,) = regularization.first_step_messages(10, 1)
    assert message.startswith("odd: active in step 10, ")
    assert regularization.records()[0]["roles"] == [role]


def test_one_object_may_have_all_roles(make_package: MakePackage) -> None:
    bodies = [f"    def {SIGNATURES[role]}:\n        {FINE[role]}\n" for role in ("generator_loss", "draw")]
    source = one_role("Odd", "penalty", FINE["penalty"]) + "\n" + "\n".join(bodies)
    make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": source})
    regularization = Regularization([RegularizerSettings("odd")], training())
    assert regularization.methods[0].roles == ("penalty", "generator_loss", "draw")
    for network in ("discriminator", "generator"):
        updated(regularization, network)
    regularization.check_active(1)
    assert regularization.methods[0].calls("generator") == {"generator_loss": 1, "draw": 1}
    assert regularization.methods[0].calls("discriminator") == {"draw": 1}


def test_a_term_is_given_the_batch_and_its_gradient_is_the_losses(odd: Odd) -> None:
    """The identity around what is given changes no value and no gradient."""
    regularization = odd("generator_loss", "return batch.images.square().mean() + batch.logits.square().mean()")
    found = regularization.training
    batch = batch_of(found, "generator")
    (term,) = regularization.terms("generator", batch)
    expected = batch.images.square().mean() + batch.logits.square().mean()
    assert torch.equal(term, expected)
    parameters = list(found.generator.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters, retain_graph=True) for value in (term, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert ours[0].abs().max() > 0


def test_a_batch_is_frozen() -> None:
    batch = batch_of(training(), "discriminator")
    for field in dataclasses.fields(batch):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(batch, field.name, None)


def test_a_factory_that_names_the_discriminator_gets_it(odd: Odd) -> None:
    regularization = odd("penalty", FINE["penalty"])
    assert regularization.methods[0].regularizer.discriminator is regularization.training.discriminator
    assert regularization.methods[0].options == {}


# ------------------------------------------------------------------ terms


WRONG_TERMS = [
    ("raise ValueError('no\\nway')", "failed: ValueError: no way"),
    ("raise SystemExit(0)", "failed: SystemExit: 0"),
    ("return 3.0", "returned float; expected: a scalar tensor"),
    ("return None", "returned NoneType; expected: a scalar tensor"),
    ("return batch.images * self.weight.sum() * self.judge.sum()", "returned a tensor of shape (4, 3, 2, 2)"),
    ("return self.weight.detach().sum()", "returned a tensor without gradient; nothing would be regularized"),
    ("return (self.weight.sum() + self.judge.sum()).to('meta')", "returned a tensor on meta; the batch is on cpu"),
    ("return (self.weight.sum() + self.judge.sum()) * float('nan')", "or its gradient is not finite (nan)"),
    ("return (self.weight.sum() + self.judge.sum()) / 0", "or its gradient is not finite ("),
    # A finite value with an infinite gradient.
    ("return ((self.weight * 0).sum() + (self.judge * 0).sum()).sqrt()", "or its gradient is not finite (0.0)"),
    ("return torch.ones((), requires_grad=True) * 2", "reaches none of the 2 trainable parameters of its network"),
    ("self.weight.data.mul_(2); return self.weight.sum() + self.judge.sum()", "writes to a network's parameters"),
    ("self.judge.data.mul_(2); return self.weight.sum() + self.judge.sum()", "writes to a network's parameters"),
]


@pytest.mark.parametrize("role", NETWORK)
@pytest.mark.parametrize(("body", "cause"), WRONG_TERMS)
def test_a_wrong_term_is_named(role: str, body: str, cause: str, odd: Odd) -> None:
    regularization = odd(role, body)
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, NETWORK[role])
    text = message_of(caught.value)
    assert text.startswith(f"{PLUGIN}: {role}()")
    assert cause in text


@pytest.mark.parametrize(("role", "other"), [("generator_loss", "judge"), ("discriminator_loss", "weight")])
def test_a_term_that_reaches_the_other_network_alone_is_named(role: str, other: str, odd: Odd) -> None:
    regularization = odd(role, f"return self.{other}.sum()")
    with pytest.raises(
        RegularizerError, match=r"_loss\(\) reaches none of the 2 trainable parameters of its network"
    ):
        updated(regularization, NETWORK[role])


@pytest.mark.parametrize("role", NETWORK)
def test_an_error_of_this_package_is_named_with_the_plug_in(role: str, odd: Odd) -> None:
    body = "from studiogan_gsr.errors import RegularizerError; raise RegularizerError('too few images')"
    regularization = odd(role, body)
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, NETWORK[role])
    assert message_of(caught.value) == f"{PLUGIN}: {role}(): too few images"


FIELDS = [
    (role, field)
    for role in NETWORK
    for field in ("z", "labels", "images", "w", "logits", "real_images", "real_labels", "real_logits")
    if role == "discriminator_loss" or not field.startswith("real")
]


@pytest.mark.parametrize("later", [False, True], ids=["first call", "third call"])
@pytest.mark.parametrize(("role", "field"), FIELDS)
def test_what_is_written_in_place_is_named(role: str, field: str, later: bool, odd: Odd) -> None:
    first = 3 if later else 1
    write = f"torch.no_grad().__call__(lambda: batch.{field}.add_(1))()"
    regularization = odd(role, f"{write} if self.calls == {first} else None; {FINE[role]}")
    for _ in range(first - 1):
        updated(regularization, NETWORK[role])
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, NETWORK[role])
    assert message_of(caught.value) == f"{PLUGIN}: {role}() writes to batch.{field}; it may only read"


@pytest.mark.parametrize(("role", "field"), FIELDS)
def test_what_the_first_call_writes_through_data_is_named(role: str, field: str, odd: Odd) -> None:
    regularization = odd(role, f"batch.{field}.data.add_(1); {FINE[role]}")
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, NETWORK[role])
    assert message_of(caught.value) == f"{PLUGIN}: {role}() writes to batch.{field}; it may only read"


@pytest.mark.parametrize("role", NETWORK)
@pytest.mark.parametrize("weight", ["weight", "judge"])
def test_a_later_write_into_weights_is_named(role: str, weight: str, odd: Odd) -> None:
    write = f"torch.no_grad().__call__(lambda: self.{weight}.mul_(1))()"
    regularization = odd(role, f"{write} if self.calls == 3 else None; {FINE[role]}")
    for _ in range(2):
        updated(regularization, NETWORK[role])
    with pytest.raises(RegularizerError, match=r"_loss\(\) writes to a network's parameters; it may only read"):
        updated(regularization, NETWORK[role])


KEPT = [
    ("generator_loss", "self.kept.append(batch)"),
    ("generator_loss", "self.kept.append(batch.images.mean())"),
    ("generator_loss", "self.kept.append(self.weight.square().sum()); return self.kept[-1]"),
    ("discriminator_loss", "self.kept.append(batch)"),
    ("discriminator_loss", "self.kept.append(batch.logits.mean())"),
    ("discriminator_loss", "self.kept.append(batch.real_logits.mean())"),
    ("discriminator_loss", "self.kept.append(self.discriminator(batch.real_images).mean()); return self.kept[-1]"),
]


@pytest.mark.parametrize(("role", "keep"), KEPT)
def test_graphs_that_are_kept_alive_are_noticed_before_memory_is_full(role: str, keep: str, odd: Odd) -> None:
    regularization = odd(role, f"{keep}; {FINE[role]}")
    for _ in range(8):
        updated(regularization, NETWORK[role])
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, NETWORK[role])
    assert message_of(caught.value) == f"{PLUGIN}: {role}() keeps the graphs of 8 earlier calls: detach what it keeps"


def test_a_penalty_that_keeps_its_graphs_is_noticed(odd: Odd) -> None:
    regularization = odd("penalty", "self.kept.append(self.weight.square().sum()); return self.kept[-1]")
    for _ in range(8):
        updated(regularization, "generator")
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, "generator")
    assert (
        message_of(caught.value) == f"{PLUGIN}: penalty() keeps the graphs of 8 earlier calls: detach what it keeps"
    )


@pytest.mark.parametrize("role", NETWORK)
def test_the_last_graph_alone_may_be_kept(role: str, odd: Odd) -> None:
    regularization = odd(role, f"self.kept = [batch]; {FINE[role]}")
    for _ in range(20):
        updated(regularization, NETWORK[role])


@pytest.mark.parametrize("role", NETWORK)
def test_a_term_that_becomes_nan_is_named_at_the_next_print(role: str, odd: Odd) -> None:
    """Also where a later one is finite again."""
    regularization = odd(role, f"f = float('nan') if self.calls == 2 else 1.0; {FINE[role]} * f")
    updated(regularization, NETWORK[role])
    regularization.report(1)
    batch = batch_of(regularization.training, NETWORK[role])
    for _ in range(2):
        regularization.terms(NETWORK[role], batch)
    with pytest.raises(RegularizerError) as caught:
        regularization.report(3)
    assert message_of(caught.value) == f"{PLUGIN}: {role}() was not finite by step 3; the run is stopped"


@pytest.mark.parametrize("role", NETWORK)
def test_a_term_of_logits_that_are_nan_is_not_to_blame(role: str, odd: Odd) -> None:
    """A run that diverges is not the fault of the regularizer that sees it first."""
    regularization = odd(role, "return batch.logits.square().sum()")
    updated(regularization, NETWORK[role])
    batch = batch_of(regularization.training, NETWORK[role])
    for factor in (float("nan"), 1e30):  # whose square is not finite
        regularization.terms(NETWORK[role], dataclasses.replace(batch, logits=batch.logits * factor))
    regularization.report(2)


def test_scalars_that_are_not_finite_are_named(make_package: MakePackage) -> None:
    source = one_role("Odd", "draw", FINE["draw"]).replace("{}", "{'loss': float('inf')}", 1)
    make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": source}, version="2.3")
    regularization = Regularization([RegularizerSettings("odd")], training())
    with pytest.raises(RegularizerError) as caught:
        regularization.report(7)
    assert message_of(caught.value) == f"{PLUGIN}: loss is inf at step 7; the run is stopped"


@pytest.mark.parametrize(
    ("returned", "logged"),
    [
        ("0.1", 0.1),
        ("3", 3.0),
        ("np.float64(0.1)", 0.1),
        ("torch.tensor(0.1, dtype=torch.float64)", 0.1),
        ("torch.tensor([0.5])", 0.5),
        ("torch.tensor(True)", 1.0),
        ("self.weight.sum()", None),  # with gradient
    ],
)
def test_scalars_may_be_numbers_or_tensors_of_one_number(
    returned: str, logged: float | None, make_package: MakePackage
) -> None:
    make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": scalars_of(returned)})
    regularization = Regularization([RegularizerSettings("odd")], training())
    expected = float(regularization.methods[0].regularizer.weight.detach().sum()) if logged is None else logged
    found = regularization.report(1)
    assert found == {"odd/x": expected}
    assert type(found["odd/x"]) is float


@pytest.mark.parametrize("returned", ["torch.zeros(2)", "torch.tensor(1 + 1j)", "None", "'b'", "object()", "[1.0]"])
def test_scalars_that_are_no_numbers_are_refused(returned: str, make_package: MakePackage) -> None:
    source = scalars_of(returned)
    make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": source}, version="2.3")
    with pytest.raises(PluginError) as caught:
        Regularization([RegularizerSettings("odd")], training())
    with pytest.raises((TypeError, ValueError, RuntimeError)) as cause:
        float(eval(returned))
    assert message_of(caught.value) == f"{PLUGIN}: scalars() failed: {reason(cause.value)}"


def scalars_of(returned: str) -> str:
    source = one_role("Odd", "generator_loss", FINE["generator_loss"])
    return "import numpy as np\n" + source.replace("{}", "{'x': " + returned + "}", 1)


def test_a_term_that_is_nan_is_named_before_scalars_that_fail_because_of_it(make_package: MakePackage) -> None:
    body = "self.f = float('nan') if self.calls == 2 else 1.0; return batch.images.square().mean() * self.f"
    source = one_role("Odd", "generator_loss", body).replace(
        "return {}", "return {'x': int(getattr(self, 'f', 0)) // (self.calls != 1)}", 1
    )
    make_package("stranger", REGULARIZERS, {"odd": "stranger_odd:Odd"}, {"stranger_odd": source}, version="2.3")
    regularization = Regularization([RegularizerSettings("odd")], training())
    updated(regularization, "generator")
    with pytest.raises(PluginError) as failed:
        regularization.report(1)
    assert (
        message_of(failed.value)
        == f"{PLUGIN}: scalars() failed: ZeroDivisionError: integer division or modulo by zero"
    )
    regularization.terms("generator", batch_of(regularization.training, "generator"))
    with pytest.raises(RegularizerError) as caught:
        regularization.report(2)
    assert message_of(caught.value) == f"{PLUGIN}: generator_loss() was not finite by step 2; the run is stopped"


# ------------------------------------------------------------------ draws


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("raise ValueError('no\\nway')", "failed: ValueError: no way"),
        ("raise SystemExit(0)", "failed: SystemExit: 0"),
        ("return z", "returned Tensor; expected: (z, labels)"),
        ("return None", "returned NoneType; expected: (z, labels)"),
        ("return z, labels, z", "returned tuple; expected: (z, labels)"),
        ("return z[:2], labels", "returned z of shape (2, 4), torch.float32, on cpu; expected: of shape (4, 4)"),
        ("return z, labels[:2]", "returned labels of shape (2,), torch.int64, on cpu; expected: of shape (4,)"),
        ("return z.double(), labels", "returned z of shape (4, 4), torch.float64, on cpu; expected: "),
        ("return z, labels.int()", "returned labels of shape (4,), torch.int32, on cpu; expected: "),
        ("return z.to('meta'), labels", "returned z of shape (4, 4), torch.float32, on meta; expected: "),
        ("return z, labels.tolist()", "returned labels list; expected: of shape (4,)"),
        ("return z, labels + 1", "returned labels from 1 to 2; allowed: 0 to 1"),
        ("return z, labels - 1", "returned labels from -1 to 0; allowed: 0 to 1"),
        ("return z * float('nan'), labels", "returned a z that is not finite"),
        ("return z.mul_(2), labels", "writes to what it gets; it may only read"),
        ("return z, labels.fill_(0)", "writes to what it gets; it may only read"),
        ("z.data.mul_(2); return z, labels", "writes to what it gets; it may only read"),
        ("labels.data.fill_(0); return z, labels", "writes to what it gets; it may only read"),
    ],
)
def test_a_wrong_draw_is_refused_before_the_first_step(body: str, cause: str, odd: Odd) -> None:
    with pytest.raises(PluginError) as caught:
        odd("draw", body)
    assert message_of(caught.value).startswith(f"{PLUGIN}: draw() {cause}")


def test_a_draw_that_refuses_the_batch_is_named(odd: Odd) -> None:
    body = "from studiogan_gsr.errors import RegularizerError; raise RegularizerError('found 4 images')"
    with pytest.raises(PluginError) as caught:
        odd("draw", body)
    assert message_of(caught.value) == f"{PLUGIN}: draw(): found 4 images"


@pytest.mark.parametrize("what", ["return z[:2], labels", "z.mul_(2); return z, labels", "raise OSError('gone')"])
def test_a_draw_that_breaks_later_is_named(what: str, odd: Odd) -> None:
    """The trial calls it for a batch of each network."""
    regularization = odd(
        "draw", f"exec('pass')\n        if self.calls == 4:\n            {what}\n        return z, labels"
    )
    updated(regularization, "generator")
    with pytest.raises(RegularizerError) as caught:
        updated(regularization, "generator")
    assert message_of(caught.value).startswith(f"{PLUGIN}: draw() ")


@pytest.mark.parametrize("role", FINE)
def test_trials_use_up_no_random_numbers_of_torch(role: str, odd: Odd) -> None:
    body = "return z + torch.randn_like(z), labels" if role == "draw" else f"torch.rand(3); {FINE[role]}"
    odd(role, body)
    state = torch.get_rng_state()
    training()  # which sets the seed, as `odd` does
    assert torch.equal(torch.get_rng_state(), state)


def test_trials_leave_the_state_of_a_regularizer_as_it_was(make_package: MakePackage) -> None:
    make_roles(make_package)
    for name in ("ridge", "shrink"):
        regularization = Regularization([RegularizerSettings(name)], training())
        assert regularization.methods[0].scalars() == {"count": 0.0}
        assert regularization.methods[0].active == 0


def test_two_that_draw_are_refused_with_both_names(make_package: MakePackage) -> None:
    make_roles(make_package)
    settings = [RegularizerSettings(name) for name in ("shrink", "class_balance")]
    with pytest.raises(PluginError) as caught:
        Regularization(settings, training())
    text = message_of(caught.value)
    assert "roles 1.0 [studiogan.regularizers] shrink = many_roles:Shrink and studiogan-gsr " in text
    assert "class_balance:ClassBalance: both change what the generator gets (draw); remove one of them" in text


# ------------------------------------------------------------------ needs, options, calls


@pytest.mark.parametrize(
    ("needs", "has_w", "cause"),
    [
        (("w",), False, "needs batch.w, the latents of a StyleGAN; Generator has none"),
        (("z", "latents"), True, "needs 'latents'; a batch has step, z, labels, images, w, logits, real_images"),
    ],
)
def test_what_a_run_does_not_have_is_refused(needs: tuple[str, ...], has_w: bool, cause: str, odd: Odd) -> None:
    with pytest.raises(PluginError) as caught:
        odd("generator_loss", FINE["generator_loss"], needs, has_w=has_w)
    assert message_of(caught.value).startswith(f"{PLUGIN}: {cause}")


def test_what_a_run_has_is_allowed(odd: Odd) -> None:
    assert odd("generator_loss", FINE["generator_loss"], ("w", "logits"), has_w=True).names == ["odd"]


def test_an_option_cannot_replace_the_discriminator(odd: Odd) -> None:
    odd("penalty", FINE["penalty"])
    with pytest.raises(ConfigurationError, match=r"REGULARIZER\[1\].discriminator: found 1; odd has the keys none"):
        Regularization([RegularizerSettings("odd", {"discriminator": 1}, "REGULARIZER[1]")], training())


def test_a_name_given_twice_is_refused_without_a_configuration_too(odd: Odd) -> None:
    odd("penalty", FINE["penalty"])
    with pytest.raises(ConfigurationError, match="allowed: each regularizer once"):
        Regularization([RegularizerSettings("odd"), RegularizerSettings("odd")], training())


def test_a_factory_that_changes_a_network_is_named(make_package: MakePackage) -> None:
    for network in ("generator", "discriminator"):
        source = one_role("Odd", "penalty", FINE["penalty"])
        source = source.replace("self.calls, ", f"{network}.map.weight.data.mul_(2); self.calls, ")
        entries, modules = {f"odd_{network}": f"odd_{network}:Odd"}, {f"odd_{network}": source}
        make_package(f"odd-{network}", REGULARIZERS, entries, modules)
        with pytest.raises(PluginError, match=rf"odd_{network}:Odd: changes the {network}: map.weight"):
            Regularization([RegularizerSettings(f"odd_{network}")], training())


@pytest.mark.parametrize("role", FINE)
def test_a_host_that_does_not_call_a_role_ends_the_run(role: str, odd: Odd) -> None:
    regularization = odd(role, FINE[role])
    found = regularization.training
    for step in (1, 2):
        for network in ("generator", "discriminator"):
            updated(regularization, network)
        regularization.check_active(step)
    # Step 3 without the role.
    network = NETWORK.get(role, "generator")
    cause = f"{role}() was called 0 times in the {network}'s updates of step 3; expected: 1; the run is stopped"
    if role == "penalty":
        found.optimizer.zero_grad()
        cause = "was not active in step 3; the run is stopped"
    with pytest.raises(RegularizerError) as caught:
        regularization.check_active(3)
    assert message_of(caught.value) == f"{PLUGIN}: {cause}"


@pytest.mark.parametrize("role", NETWORK)
def test_calls_follow_updates_and_accumulation(role: str, odd: Odd) -> None:
    regularization = odd(role, FINE[role], updates=2, accumulation=3)
    for _ in range(6):
        updated(regularization, NETWORK[role])
    regularization.check_active(1)
    assert regularization.methods[0].active == 2
    for made in (5, 7):
        for _ in range(made):
            updated(regularization, NETWORK[role])
        with pytest.raises(RegularizerError, match=rf"called {made} times in .* of step 2; expected: 6"):
            regularization.check_active(2)


def test_a_draw_for_one_network_alone_ends_the_run(odd: Odd) -> None:
    regularization = odd("draw", FINE["draw"])
    updated(regularization, "generator")
    with pytest.raises(RegularizerError, match=r"draw\(\) was called 0 times in the discriminator's updates"):
        regularization.check_active(1)


def test_the_order_of_a_list_changes_no_term(make_package: MakePackage) -> None:
    make_roles(make_package)
    found = []
    for names in (list(ROLE_NAMES), list(reversed(ROLE_NAMES))):
        torch.manual_seed(0)
        regularization = Regularization([RegularizerSettings(name) for name in names], training())
        assert regularization.names == names
        torch.manual_seed(5)
        for _ in range(3):
            for network in ("discriminator", "generator"):
                updated(regularization, network)
        assert regularization.report(3) == {
            "ridge/count": 3,
            "contrast/count": 3,
            "drift/count": 3,
            "shrink/count": 6,
        }
        found.append(list(regularization.training.generator.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
