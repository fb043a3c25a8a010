"""Regularizers of every role in the native host: alone, stacked, accumulated, resumed, on two ranks, and broken."""

from __future__ import annotations

import copy
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from studiogan_gsr.cli import main
from studiogan_gsr.contract import Batch
from studiogan_gsr.errors import FAILED, WRONG_REQUEST
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.losses import discriminator_loss, generator_loss
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization.combined import Regularization
from support.plugins import ROLE_NAMES, MakePackage, make_roles, one_role
from support.runs import (
    COUNTS,
    PLAIN,
    arguments,
    changed,
    checked_steps,
    command_with,
    difference,
    end_ranks,
    files,
    log_lines,
    losses,
    one_rank_with,
    one_thread,
    random_batches,
    run,
    start_ranks,
    write,
)

CPU = torch.device("cpu")
GSR = {"name": "gsr", "weight": 0.5, "beta": 0.9}
LECAM = {"name": "lecam", "weight": 0.3, "decay": 0.9, "start": 1}
STACK = [GSR, LECAM]
SGD = {"OPTIMIZATION": {"type_": "SGD", "momentum": 0.9, "nesterov": False, "g_lr": 0.01, "d_lr": 0.01}}
AUGMENTED = {
    "diffaug": {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}},
    "ada": {"AUG": {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0.9}},
    "none": {},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def roles(make_package: MakePackage) -> Path:
    """The folder of a package with a regularizer for each role."""
    return make_roles(make_package)


def trainer_of(regularizers: list[Any], speed: Speed | None = None, **changes: Any) -> Trainer:
    sections = changed(PLAIN, **changes)
    if regularizers:
        sections["REGULARIZER"] = regularizers
    return Trainer(read_configuration(sections), COUNTS, random_batches(), CPU, 0, speed or Speed())


def stepped(trainer: Trainer, steps: int = 2) -> Trainer:
    return checked_steps(trainer, steps)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    networks = {"G": trainer.generator, "D": trainer.discriminator}
    return {f"{key} {name}": p for key, net in networks.items() for name, p in net.named_parameters()}


def regularizer_of(trainer: Trainer, name: str) -> Any:
    (found,) = [method.regularizer for method in trainer.regularization.methods if method.name == name]
    return found


# ------------------------------------------------------------------ alone and stacked


@pytest.mark.parametrize("beside", [[], STACK], ids=["alone", "with gsr and lecam"])
@pytest.mark.parametrize("name", ROLE_NAMES)
def test_a_role_changes_the_run_alone_and_stacked(name: str, beside: list[Any], roles: Path) -> None:
    ours = stepped(trainer_of([*beside, name]))
    without = stepped(trainer_of(beside))
    moved = {key[0] for key, p in weights(ours).items() if not torch.equal(p, weights(without)[key])}
    assert moved == {"G", "D"}  # each network sees the other
    assert all(p.isfinite().all() for p in weights(ours).values())
    assert ours.regularization.names == [*(entry["name"] for entry in beside), name]
    assert ours.regularization.report(2)[f"{name}/count"] > 0


@pytest.mark.parametrize("beside", [[], STACK], ids=["alone", "with gsr and lecam"])
@pytest.mark.parametrize("name", ROLE_NAMES)
def test_a_role_that_is_zero_leaves_the_run_as_it_is_to_the_bit(name: str, beside: list[Any], roles: Path) -> None:
    zero = stepped(trainer_of([{"name": name, "weight": 0}, *beside]), 3)
    without = stepped(trainer_of(beside), 3)
    assert not difference(weights(zero), weights(without))
    assert torch.equal(zero.noise.get_state(), without.noise.get_state())


def test_our_own_methods_that_are_zero_leave_the_run_as_it_is_to_the_bit() -> None:
    zeros = [{"name": "gsr", "weight": 0}, {"name": "lecam", "weight": 0}, {"name": "class_balance", "power": 0}]
    assert not difference(weights(stepped(trainer_of(zeros), 3)), weights(stepped(trainer_of([]), 3)))


def test_the_order_of_the_list_does_not_matter(roles: Path) -> None:
    listed: list[Any] = ["ridge", "contrast", "drift", "shrink", *STACK]
    one, other = (stepped(trainer_of(entries, **SGD), 3) for entries in (listed, listed[::-1]))
    assert one.regularization.names == other.regularization.names[::-1]
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-4, atol=1e-6)
    fewer = stepped(trainer_of(listed[1:], **SGD), 3)  # the tolerance would show a missing one
    assert any(not torch.allclose(p, weights(fewer)[k], rtol=1e-4, atol=1e-6) for k, p in weights(one).items())


def test_lecam_by_its_name_is_the_hosts_own(roles: Path) -> None:
    loss = {"apply_lecam": True, "lecam_lambda": 0.3, "lecam_ema_decay": 0.9, "lecam_ema_start_iter": 1}
    by_key, by_name = stepped(trainer_of([], LOSS=loss), 4), stepped(trainer_of([LECAM]), 4)
    assert not difference(weights(by_key), weights(by_name))
    assert by_key.regularization.report(4) == by_name.regularization.report(4)
    assert any(not torch.equal(p, weights(by_name)[k]) for k, p in weights(stepped(trainer_of([]), 4)).items())


# ------------------------------------------------------------------ every update


@pytest.mark.parametrize(
    ("d_updates", "g_updates", "accumulation", "d_first"),
    [(2, 2, 2, False), (2, 1, 1, True), (1, 3, 2, True), (1, 1, 1, False)],
)
def test_each_role_is_called_in_every_update(
    d_updates: int, g_updates: int, accumulation: int, d_first: bool, roles: Path
) -> None:
    optimization = {
        "d_updates_per_step": d_updates,
        "g_updates_per_step": g_updates,
        "acml_steps": accumulation,
        "d_first": d_first,
    }
    trainer = trainer_of([*ROLE_NAMES, *STACK], OPTIMIZATION=optimization)
    seen: list[str] = []
    for name, role in ROLE_NAMES.items():
        regularizer_of(trainer, name).watch = lambda *given, role=role: seen.append(role)
    discriminator = ["draw", "discriminator_loss"] * accumulation * d_updates
    generator = [*["draw", "generator_loss"] * accumulation, "penalty"] * g_updates
    for step in (1, 2):
        seen.clear()
        trainer.step()
        assert seen == (discriminator + generator if d_first else generator + discriminator)
        trainer.regularization.check_active(step)
    active = {method.name: method.active for method in trainer.regularization.methods}
    of_g, of_d = 2 * g_updates, 2 * d_updates
    assert active == {"ridge": of_g, "contrast": of_g, "drift": of_d, "shrink": of_g, "gsr": of_g, "lecam": of_d}


@pytest.mark.parametrize("role", ["generator_loss", "discriminator_loss", "draw"])
def test_a_host_that_leaves_a_role_out_ends_the_run(
    role: str, roles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {value: key for key, value in ROLE_NAMES.items()}[role]
    if role == "draw":
        monkeypatch.setattr(Regularization, "draw", lambda self, z, labels, update: (z, labels))
    else:
        monkeypatch.setattr(Regularization, "terms", lambda self, network, batch: [])
    configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": name})
    assert main(arguments(configuration, tmp_path / "out")) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    network, expected = ("discriminator", 2) if role == "discriminator_loss" else ("generator", 1)
    found = f"{role}() was called 0 times in the {network}'s updates of step 1; expected: {expected}; the run is"
    assert f"roles 1.0 [studiogan.regularizers] {name} = many_roles:{name.capitalize()}: {found} stopped" in line
    assert not (tmp_path / "out" / "checkpoints").exists()


# ------------------------------------------------------------------ the batch


class Watched:
    """What a trainer's regularizers were given, and what it should have been, in each update of two steps."""

    def __init__(self, augmentation: str) -> None:
        changes = changed(PLAIN, MODEL={"apply_d_sn": False}, **AUGMENTED[augmentation])
        self.trainer = trainer_of(["contrast", "drift"], **{k: v for k, v in changes.items() if k != "REGULARIZER"})
        self.augmented: list[tuple[Tensor, Tensor]] = []
        self.real: list[tuple[Tensor, Tensor]] = []
        self.checked = 0
        augment, batches = self.trainer.augment, self.trainer.batches

        def spy(x: Tensor) -> Tensor:
            self.augmented.append((x.detach().clone(), (y := augment(x)).detach().clone()))
            return y

        def drawn() -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in batches:
                self.real.append((x.clone(), y.clone()))
                yield x, y

        self.trainer.augment, self.trainer.batches = spy, drawn()  # type: ignore[assignment]
        for name, check in (("contrast", self.of_generator), ("drift", self.of_discriminator)):
            regularizer_of(self.trainer, name).watch = check

    def logits_of(self, augmented: Tensor, labels: Tensor) -> Tensor:
        return copy.deepcopy(self.trainer.discriminator)(augmented, labels).logits

    def of_both(self, batch: Batch) -> None:
        assert batch.step == self.trainer.steps
        assert (batch.z.shape, batch.z.dtype) == ((8, 8), torch.float32)
        assert (batch.labels.shape, batch.labels.dtype) == ((8,), torch.int64)
        assert (batch.images.shape, batch.images.dtype) == ((8, 3, 32, 32), torch.float32)
        assert (batch.logits.shape, batch.logits.dtype) == ((8,), torch.float32)
        assert batch.w is None
        assert torch.equal(batch.images, copy.deepcopy(self.trainer.generator)(batch.z, batch.labels))
        before, after = self.augmented[-1]
        assert torch.equal(batch.images, before)
        assert torch.equal(batch.logits, self.logits_of(after, batch.labels))
        assert batch.logits.requires_grad
        self.checked += 1

    def of_generator(self, batch: Batch) -> None:
        self.of_both(batch)
        assert (batch.real_images, batch.real_labels, batch.real_logits) == (None, None, None)
        assert batch.images.requires_grad

    def of_discriminator(self, batch: Batch) -> None:
        self.of_both(batch)
        assert not batch.images.requires_grad
        x, y = self.real[-1]
        assert batch.real_images is not None
        assert batch.real_labels is not None
        assert batch.real_logits is not None
        assert torch.equal(batch.real_images, x)
        assert torch.equal(batch.real_labels, y)
        before, after = self.augmented[-2]
        assert torch.equal(before, x)
        assert torch.equal(batch.real_logits, self.logits_of(after, y))
        assert batch.real_logits.requires_grad


@pytest.mark.parametrize("augmentation", AUGMENTED)
def test_a_batch_is_complete_and_of_this_update(augmentation: str, roles: Path) -> None:
    watched = Watched(augmentation)
    stepped(watched.trainer)
    assert watched.checked == 2 * (1 + 2)
    assert any(not torch.equal(*pair) for pair in watched.augmented) == (augmentation != "none")


def test_what_draw_returns_is_what_the_generator_gets(roles: Path) -> None:
    trainer = trainer_of(["shrink", "contrast", "drift"])
    drawn: list[tuple[Tensor, Tensor]] = []
    seen: list[Batch] = []
    regularizer_of(trainer, "shrink").watch = lambda z, labels: drawn.append((z, labels))
    for name in ("contrast", "drift"):
        regularizer_of(trainer, name).watch = lambda batch: seen.append(batch)
    trainer.step()
    for call, ((z, labels), batch) in enumerate(zip(drawn, seen, strict=True), start=1):
        torch.testing.assert_close(batch.z, z * (1 - 0.1 * (1 + 0.01 * call)))
        assert torch.equal(batch.labels, labels.flip(0))


# ------------------------------------------------------------------ gradients


def gradients_of(trainer: Trainer, side: str) -> list[Tensor]:
    """Gradients at the first optimizer step of a network in the next training step."""
    network = trainer.generator if side == "g" else trainer.discriminator
    optimizer = trainer.g_optimizer if side == "g" else trainer.d_optimizer
    found: list[list[Tensor]] = []

    def keep(*given: Any) -> None:
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()])

    handle = optimizer.register_step_pre_hook(keep)
    trainer.step()
    handle.remove()
    return found[0]


def by_hand(trainer: Trainer, side: str, accumulation: int, term: Callable[..., Tensor]) -> list[Tensor]:
    """The same, written out: the mean of the losses of accumulated batches, each with the term."""
    network = trainer.generator if side == "g" else trainer.discriminator
    trainer.generator.train()
    trainer.discriminator.train()
    parameters = list(network.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for _ in range(accumulation):
        if side == "d":
            real, real_labels = next(trainer.batches)
        z, labels = sample_latents("gaussian", 8, 8, 10, trainer.noise)
        fake = trainer.generator(z, labels)
        if side == "g":
            logits = trainer.discriminator(fake, labels).logits
            loss = generator_loss("hinge", logits) + term(fake, logits)
        else:
            real_logits = trainer.discriminator(real, real_labels).logits
            logits = trainer.discriminator(fake.detach(), labels).logits
            loss = discriminator_loss("hinge", real_logits, logits) + term(real_logits, logits)
        found = torch.autograd.grad(loss / accumulation, parameters, allow_unused=True)
        total = [old if new is None else old + new for old, new in zip(total, found, strict=True)]
    return total


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("side", ["g", "d"])
def test_a_term_adds_the_gradient_that_adding_it_to_the_loss_does(side: str, accumulation: int, roles: Path) -> None:
    changes = {"OPTIMIZATION": {"acml_steps": accumulation, "d_updates_per_step": 1, "d_first": side == "d"}}
    name = "contrast" if side == "g" else "drift"
    found = gradients_of(trainer_of([{"name": name, "weight": 0.7}], **changes), side)
    without = gradients_of(trainer_of([], **changes), side)
    calls = 0

    def term(first: Tensor, logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        other = logits.square().mean() if side == "g" else logits.mean()
        return 0.7 * (1 + 0.01 * calls) * (first.square().mean() + other)

    wanted = by_hand(trainer_of([], **changes), side, accumulation, term)
    assert calls == accumulation
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in zip(found, without, strict=True))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_penalty_is_added_once_per_optimizer_step(accumulation: int, roles: Path) -> None:
    changes = {"OPTIMIZATION": {"acml_steps": accumulation, "d_first": False}}
    trainer = trainer_of([{"name": "ridge", "weight": 0.7}], **changes)
    found, without = gradients_of(trainer, "g"), gradients_of(trainer_of([], **changes), "g")
    start = trainer_of([], **changes).generator.parameters()
    for a, b, p in zip(found, without, start, strict=True):
        torch.testing.assert_close(a, b + 2 * 0.7 * 1.01 * p, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ precision


def test_in_bfloat16_every_role_is_called_and_finite(roles: Path) -> None:
    speed = Speed(precision="bfloat16")
    trainer = trainer_of([*ROLE_NAMES, *STACK], speed)
    seen: list[Batch] = []
    for name in ("contrast", "drift"):
        regularizer_of(trainer, name).watch = seen.append
    stepped(trainer, 3)
    assert len(seen) == 3 * (1 + 2)
    assert all(batch.logits.isfinite().all() and batch.images.isfinite().all() for batch in seen)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in weights(trainer).values())
    full = trainer_of([*ROLE_NAMES, *STACK])
    stepped(full, 3)
    in_half, in_full = trainer.regularization.report(3), full.regularization.report(3)
    assert in_half.keys() == in_full.keys()
    for role in ("contrast", "drift"):
        (half,) = trainer.regularization.methods[list(trainer.regularization.names).index(role)].terms.values()
        (whole,) = full.regularization.methods[list(full.regularization.names).index(role)].terms.values()
        assert half.last is not None
        assert whole.last is not None
        assert half.last.dtype == torch.float32
        assert half.last.item() == pytest.approx(whole.last.item(), rel=0.1, abs=0.01)
        assert half.last.item() != whole.last.item()


# ------------------------------------------------------------------ resume


STACKS: dict[str, list[Any]] = {
    "ours": [LECAM, {"name": "mode_seeking", "weight": 0.1}, GSR],
    "all roles": [*ROLE_NAMES, *STACK],
}


@pytest.mark.parametrize("stack", STACKS)
def test_resumed_after_sigkill_a_run_ends_as_an_uninterrupted_one(stack: str, roles: Path, tmp_path: Path) -> None:
    configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": STACKS[stack]})
    out, whole = tmp_path / "out", tmp_path / "whole"
    given = ("--steps", "6", "--save-freq", "3")
    done = run(tmp_path, command_with, roles, arguments(configuration, whole, *given))
    assert done.process.exitcode == 0, done.output
    died = run(tmp_path, command_with, roles, arguments(configuration, out, *given), 11)  # in the second checkpoint
    assert died.process.exitcode == -signal.SIGKILL, died.output
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [3]
    resumed = run(tmp_path, command_with, roles, arguments(configuration, out, *given, "--resume"))
    assert resumed.process.exitcode == 0, resumed.output
    names = [entry if isinstance(entry, str) else entry["name"] for entry in STACKS[stack]]
    for name in names:
        assert f"{name}: state restored from the checkpoint\n" in resumed.output
    assert losses(out) == losses(whole)
    assert not difference(*(files(path / "checkpoints" / "step=6") for path in (out, whole)))
    record = json.loads((out / "run.json").read_text())
    assert [entry["name"] for entry in record["regularizers"]] == names
    saved = files(out / "checkpoints" / "step=6")["model=G-current-weights-step=6.pth"]["regularizer"]
    acted = {"lecam": 12, "drift": 12}
    assert {entry["name"]: entry["acted"] for entry in saved} == {name: acted.get(name, 6) for name in names}


def test_the_order_of_a_list_may_change_when_a_run_resumes_and_nothing_else(
    roles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def resumed(regularizers: Any, *more: str) -> tuple[int, str]:
        configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": regularizers})
        capsys.readouterr()
        status = main(arguments(configuration, out, *more))
        return status, capsys.readouterr().err

    assert resumed([GSR, "contrast", LECAM], "--steps", "2") == (0, "")
    for wrong, message in (
        ([GSR, LECAM], "REGULARIZER.names is ['gsr', 'lecam'], the run in "),
        ([GSR, "contrast", LECAM, "ridge"], "REGULARIZER.names is ['contrast', 'gsr', 'lecam', 'ridge'], the run "),
        ("gsr", "REGULARIZER.names is ['gsr'], the run in "),
        ([GSR, "contrast", {**LECAM, "weight": 3}], "REGULARIZER.lecam.weight is 3, the run in "),
    ):
        status, line = resumed(wrong, "--steps", "4", "--resume")
        assert status == WRONG_REQUEST
        assert message in line
        assert len(line.splitlines()) == 1
    assert resumed([LECAM, GSR, "contrast"], "--steps", "4", "--resume") == (0, "")
    assert [line["step"] for line in log_lines(out)] == [1, 2, 3, 4]


def test_a_run_of_one_name_resumes_as_a_list_of_one(tmp_path: Path) -> None:
    for given, more in (("gsr", ()), (["gsr"], ("--resume",)), ({"name": "gsr", "weight": 0.5}, ("--resume",))):
        configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": given})
        steps = str(1 + len(log_lines(tmp_path / "out")) if more else 1)
        assert main(arguments(configuration, tmp_path / "out", "--steps", steps, *more)) == 0
    assert isinstance(yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["REGULARIZER"], dict)


# ------------------------------------------------------------------ two ranks


def two_ranks(folder: Path, roles: Path, sections: Any, options: TrainOptions) -> list[dict[str, Any]]:
    """What each of two ranks holds at the end."""
    kept = [folder / f"{rank}-{options.steps}.pth" for rank in range(2)]
    ranks = start_ranks(folder, 2, one_rank_with, [(roles, sections, options, path) for path in kept])
    assert end_ranks(ranks) == [0, 0], "".join(child.output for child in ranks)
    return [torch.load(path, weights_only=True) for path in kept]


def rank_options(out: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data="unused", out=out, device="cpu", print_freq=1, save_freq=2, **more)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in ROLE_NAMES])
def test_on_two_ranks_each_role_leaves_the_same_networks(name: str, roles: Path, tmp_path: Path) -> None:
    sections = {**PLAIN, "REGULARIZER": name}
    first, second = two_ranks(tmp_path, roles, sections, rank_options(tmp_path / "out", steps=2))
    for network in ("G", "D"):
        assert not difference(first[network], second[network])
    assert not torch.equal(first["noise"], second["noise"])


def test_two_ranks_resume_with_what_each_alone_knows(roles: Path, tmp_path: Path) -> None:
    """The released LeCam has averages of each rank's own images."""
    released = {"name": "lecam", "weight": 0.3, "decay": 0.9, "released": True}
    sections = {**PLAIN, "REGULARIZER": [GSR, *ROLE_NAMES, released]}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = two_ranks(tmp_path / "whole", roles, sections, rank_options(tmp_path / "whole" / "run", steps=4))
    out = tmp_path / "parts" / "run"
    two_ranks(tmp_path / "parts", roles, sections, rank_options(out, steps=2))
    parts = two_ranks(tmp_path / "parts", roles, sections, rank_options(out, steps=4, resume=True))
    for ours, theirs in zip(parts, whole, strict=True):
        assert not difference(ours, theirs)
    for network in ("G", "D"):
        assert not difference(parts[0][network], parts[1][network])
    averages = [kept["regularizers"]["lecam"]["averages"] for kept in parts]
    assert averages[0].shape == (2, 4)
    assert not torch.equal(*averages)
    assert losses(out) == losses(tmp_path / "whole" / "run")


# ------------------------------------------------------------------ broken


TERMS = [
    ("raise KeyError('gone')", "failed: KeyError: 'gone'"),
    ("raise SystemExit(0)", "failed: SystemExit: 0"),
    ("return batch.logits.sum() * float('nan')", "or its gradient is not finite (nan)"),
    ("return batch.logits.sum() * (float('nan') if self.calls == 3 else 1)", "was not finite by step"),
    ("return batch.logits.sum().detach()", "returned a tensor without gradient"),
    ("return batch.logits", "returned a tensor of shape (8,)"),
    ("return batch.logits.sum().to('meta')", "returned a tensor on meta; the batch is on cpu"),
    ("batch.images.data.mul_(2); return batch.logits.sum()", "writes to batch.images; it may only read"),
    ("self.weight.data.add_(1); return batch.logits.sum()", "writes to a network's parameters; it may only read"),
    ("self.judge.data.add_(1); return batch.logits.sum()", "writes to a network's parameters; it may only read"),
    ("self.kept.append(batch.logits); return batch.logits.sum()", "keeps the graphs of 8 earlier calls: detach"),
]
LOSSES = ("generator_loss", "discriminator_loss")
IN_TRAINING = [
    *(
        (role, body, f"{role}() {cause}")
        for role in ("generator_loss", "discriminator_loss")
        for body, cause in TERMS
    ),
    ("generator_loss", "return (0 * batch.z).sum() + torch.ones((), requires_grad=True)", "reaches none of the "),
    ("discriminator_loss", "return self.weight.sum()", "reaches none of the "),
    ("penalty", "return self.weight.sum() * (1 if self.calls < 3 else float('nan'))", "the penalty is nan at step 2"),
    ("penalty", "self.kept.append(self.weight.sum()); return self.kept[-1]", "penalty() keeps the graphs of 8"),
    ("draw", "return (z, labels) if self.calls < 5 else (z[:1], labels)", "draw() returned z of shape (1, 8)"),
    ("draw", "return (z if self.calls < 5 else z.mul_(2)), labels", "draw() writes to what it gets"),
]
BEFORE = [
    ("penalty", "raise KeyError('gone')", "penalty() failed: KeyError: 'gone'"),
    ("penalty", "return self.weight.sum() * float('nan')", "penalty() or its gradient is not finite (penalty: nan)"),
    ("penalty", "return self.judge.sum()", "penalty() reaches none of the "),
    ("penalty", "return self.weight.sum().to('meta')", "penalty() returned a tensor on meta; "),
    ("penalty", "self.weight.data.mul_(2); return self.weight.sum()", "penalty() changes the generator"),
    ("penalty", "from studiogan_gsr.errors import GeneratorError; raise GeneratorError('a: b')", "penalty(): a: b"),
    ("draw", "raise SystemExit(0)", "draw() failed: SystemExit: 0"),
    ("draw", "return z, labels + 1", "draw() returned labels from 1 to 10; allowed: 0 to 9"),
    ("draw", "return z.half(), labels", "draw() returned z of shape (8, 8), torch.float16"),
    ("draw", "z.data.mul_(2); return z, labels", "draw() writes to what it gets; it may only read"),
    ("unrole", "pass", "returned Broken, no regularizer: penalty() or generator_loss() or "),
]


def broken(make_package: MakePackage, role: str, body: str, tmp_path: Path) -> list[str]:
    """Make the package `stranger`; return arguments that train with it, and with gsr."""
    source = one_role("Broken", role, body)
    make_package("stranger", "studiogan.regularizers", {"broken": "a_broken:Broken"}, {"a_broken": source}, "2.3")
    configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": ["gsr", "broken"]})
    return arguments(configuration, tmp_path / "out", "--steps", "10", "--print-freq", "2", "--save-freq", "100")


def blamed(capsys: pytest.CaptureFixture[str], cause: str) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("studiogan-gsr: stranger 2.3 [studiogan.regularizers] broken = a_broken:Broken: "), line
    assert cause in line


@pytest.mark.parametrize(("role", "body", "cause"), IN_TRAINING)
def test_a_plug_in_that_breaks_in_training_ends_the_run_by_name(
    role: str,
    body: str,
    cause: str,
    make_package: MakePackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = broken(make_package, role, body, tmp_path)
    assert main(argv) == FAILED
    blamed(capsys, cause)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(("role", "body", "cause"), BEFORE)
def test_a_plug_in_that_is_broken_from_the_start_is_a_wrong_request(
    role: str,
    body: str,
    cause: str,
    make_package: MakePackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = broken(make_package, role, body, tmp_path)
    assert main(argv) == WRONG_REQUEST
    blamed(capsys, cause)
    assert not (tmp_path / "out").exists()


def test_a_draws_random_numbers_of_torch_change_no_trial_and_no_run_without_it(
    make_package: MakePackage, tmp_path: Path
) -> None:
    broken(make_package, "draw", "return z + 0 * torch.randn_like(z), labels", tmp_path)
    state = torch.get_rng_state()
    trainer_of(["broken"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("needs", "cause"),
    [
        (("w",), "needs batch.w, the latents of a StyleGAN; Generator has none"),
        (("latents",), "needs 'latents'; a batch has step, z, labels, images, w, "),
    ],
)
def test_a_need_that_this_host_does_not_meet_is_a_wrong_request(
    needs: tuple[str, ...],
    cause: str,
    make_package: MakePackage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = broken(make_package, "generator_loss", "return batch.logits.sum()", tmp_path)
    module = tmp_path / "site-stranger" / "a_broken.py"
    module.write_text(module.read_text().replace("needs = ()", f"needs = {needs!r}"))
    assert main(argv) == WRONG_REQUEST
    blamed(capsys, cause)


def test_a_run_that_diverges_is_not_blamed_on_a_regularizer(
    roles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(
        PLAIN,
        MODEL={"apply_d_sn": False, "d_cond_mtd": "W/O"},
        LOSS={"adv_loss": "wasserstein"},
        OPTIMIZATION={"d_lr": 1e4, "g_lr": 1e4, "d_updates_per_step": 1},
    )
    configuration = write(tmp_path / "c.yaml", {**sections, "REGULARIZER": ["lecam"]})
    assert main(arguments(configuration, tmp_path / "out", "--steps", "50", "--save-freq", "100")) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"a loss was NaN or Inf by step \d+ .*; a lower learning rate", line), line


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([], "REGULARIZER: found an empty list; allowed: a plug-in's name"),
        (["gsr", {"weight": 1}], "REGULARIZER[1]: found the keys weight; allowed: "),
        (["gsr", 3], "REGULARIZER[1]: found 3; allowed: "),
        ([None, "gsr"], "REGULARIZER[0]: found None; allowed: "),
        (["gsr", {"name": "gsr", "weight": 1}], "REGULARIZER[1]: found gsr; allowed: each regularizer once"),
        (
            ["lecam", {"name": "mode_seeking", "decay": 1}],
            "REGULARIZER[1].decay: found 1; mode_seeking has the keys ",
        ),
        (["gsr", {"name": "mode_seeking", "weight": -1}], "REGULARIZER[1].weight: found -1; allowed: a finite"),
        (["class_balance", "mode_seeking"], "both change what the generator gets (draw); remove one of them"),
        (["gsr", "noisytwins"], "[studiogan.regularizers] noisytwins = "),
        (["gsr", {"name": "contrast", "discriminator": 1}], "REGULARIZER[1].discriminator: found 1; contrast has"),
    ],
)
def test_a_wrong_list_is_refused_in_a_line_before_anything_is_written(
    section: Any, message: str, roles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": section})
    assert main(arguments(configuration, tmp_path / "out")) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line, line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("section", ["lecam", ["gsr", "lecam"], {"name": "lecam", "released": True}])
def test_lecam_beside_the_hosts_own_is_refused(
    section: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"apply_lecam": True, "lecam_lambda": 0.3, "lecam_ema_decay": 0.9, "lecam_ema_start_iter": 1}
    configuration = write(tmp_path / "c.yaml", {**changed(PLAIN, LOSS=loss), "REGULARIZER": section})
    assert main(arguments(configuration, tmp_path / "out")) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    where = "REGULARIZER[1]" if isinstance(section, list) else "REGULARIZER"
    assert f"LOSS.apply_lecam: found lecam; allowed: each regularizer once; {where} is lecam, too" in line


def test_the_old_key_of_the_released_lecam_is_refused_with_the_new_spelling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = write(tmp_path / "c.yaml", changed(PLAIN, LOSS={"lecam_released": True}))
    assert main(arguments(configuration, tmp_path / "out")) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    assert "LOSS.lecam_released: found True; " in line
    spelling = re.search(r"REGULARIZER: (\{.*?\})", line)
    assert spelling is not None
    new = yaml.safe_load(spelling[1].replace("LOSS.lecam_lambda", "0.3").replace("LOSS.lecam_ema_decay", "0.9"))
    configuration = write(tmp_path / "new.yaml", {**PLAIN, "REGULARIZER": new})
    assert main(arguments(configuration, tmp_path / "out", "--steps", "1")) == 0


@pytest.mark.parametrize("size", [1, 7])
def test_pairs_with_a_batch_of_one_or_an_odd_batch_are_refused(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": size})
    configuration = write(tmp_path / "c.yaml", {**sections, "REGULARIZER": ["gsr", "mode_seeking"]})
    assert main(arguments(configuration, tmp_path / "out")) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    plugin = "mode_seeking = studiogan_gsr.regularizers.mode_seeking:ModeSeeking"
    assert f"{plugin}: draw(): found a batch of {size}; allowed: an even number of images, for pairs" in line
    assert not (tmp_path / "out").exists()


def test_a_batch_of_one_is_enough_for_the_other_roles(roles: Path) -> None:
    """Each batch then has images of one class only."""
    trainer = trainer_of(["ridge", "contrast", "drift", "shrink", *STACK], OPTIMIZATION={"batch_size": 1})
    trainer.batches = random_batches(size=1)
    stepped(trainer, 3)
