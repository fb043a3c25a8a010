"""Every role of a regularizer in the real StudioGAN: when it is called, on what batch, alone and with others."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.host import DDP, Host, Outcome, configure, meeting, narrowed, refused
from support.plugins import MakePackage
from support.strangers import ROLES, calls, make_strangers, untrue

pytestmark = pytest.mark.host

# In two updates of each network, with two accumulated batches each.
MANY = {"batch_size": 8, "d_updates_per_step": 2, "g_updates_per_step": 2, "acml_steps": 2}
LECAM = {"name": "lecam", "start": 1, "decay": 0.9}
ALL = [*ROLES, "gsr", LECAM]


class Strangers:
    """Runs with a stranger's regularizers, and what these wrote down."""

    def __init__(self, host: Host, digits: Path, folder: Path, site: Path) -> None:
        self.host, self.digits, self.folder, self.site = host, digits, folder, site

    def run(self, regularizers: Any, *arguments: str, name: str = "out", steps: int = 2, **changes: Any) -> Outcome:
        optimization = {"total_steps": steps, **MANY, **changes.pop("OPTIMIZATION", {})}
        path = configure(self.folder, OPTIMIZATION=optimization, REGULARIZER=regularizers, **changes)
        return self.start(path, *arguments, name=name)

    def start(
        self, configuration: Path, *arguments: str, name: str = "out", ranks: int = 1, forked: bool = True
    ) -> Outcome:
        facts = self.facts(name)
        facts.mkdir()
        environment = {"PYTHONPATH": str(self.site), "FACTS": str(facts), **(meeting() if ranks > 1 else {})}
        more = {"ranks": ranks, "forked": forked and ranks == 1, "environment": environment, "limit": 900}
        return self.host.run(configuration, self.digits, self.folder / name, *arguments, **more)

    def facts(self, name: str = "out") -> Path:
        return self.folder / f"facts-{name}"


@pytest.fixture
def strangers(checkout: Checkout, digits: Path, tmp_path: Path, make_package: MakePackage) -> Strangers:
    return Strangers(Host(checkout, narrow_stylegan=True), digits, tmp_path, make_strangers(make_package))


def done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.output
    return outcome


def log_of(outcome: Outcome) -> list[dict[str, Any]]:
    (path,) = outcome.save.glob("statistics/*/log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(outcome: Outcome, network: str) -> dict[str, torch.Tensor]:
    return outcome.checkpoint(network)["state_dict"]


# ------------------------------------------------------------------ calls and batches


@pytest.mark.parametrize("d_first", [True, False], ids=["d_first", "g_first"])
@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_called_in_every_update_on_a_complete_batch(
    name: str, stacked: bool, d_first: bool, strangers: Strangers
) -> None:
    regularizers = ["gsr", name, LECAM] if stacked else name
    outcome = done(strangers.run(regularizers, OPTIMIZATION={"d_first": d_first}))
    found, steps = calls(strangers.facts(), name), range(3)
    per_step = {"pull": 2, "bright": 4, "margin": 4, "marked": 8}[name]
    trials = {"pull": 1, "marked": 2}.get(name, 0)
    assert len(found) == trials + 3 * per_step
    if name == "marked":
        order = ["discriminator", "generator"] if d_first else ["generator", "discriminator"]
        expected = 3 * [update for update in order for _ in range(4)]
        assert [call["update"] for call in found[trials:]] == expected
        assert {call["size"] for call in found} == {8}
    elif name != "pull":
        assert [call["step"] for call in found] == [step for step in steps for _ in range(4)]
        assert not untrue(found)
        assert {call["w"] for call in found} == {None}
    if name == "margin":  # the step's real batches, each once
        for step in steps:
            assert len({call["sum"] for call in found if call["step"] == step}) == 4

    names = ["gsr", name, "lecam"] if stacked else [name]
    assert [len(outcome.lines(f"rank 0: {entry}: active in step 1")) for entry in names] == [1] * len(names)
    expected_calls = [step * per_step for step in (1, 2, 3)]  # a trial leaves no trace in the state
    assert [line[f"{name}/calls"] for line in log_of(outcome)] == expected_calls
    assert [
        f"{name}_calls: {float(n):<.4} " in line
        for n, line in zip(expected_calls, outcome.lines("Progress:"), strict=True)
    ] == [True] * 3
    saved = outcome.checkpoint()["regularizer"]
    assert [entry["name"] for entry in saved] == names
    assert [entry["acted"] for entry in saved] == [4] * len(names)
    assert saved[names.index(name)]["state"] == {"calls": 2 * per_step}


def test_a_role_with_weight_0_changes_nothing_and_each_with_weight_changes_its_network(
    strangers: Strangers,
) -> None:
    plain = done(strangers.run(None, name="plain"))
    zero = done(strangers.run([{"name": name, "weight": 0.0} for name in ROLES], name="zero"))
    assert len(calls(strangers.facts("zero"), "margin")) == 12
    first = {key: values[:1] for key, values in plain.losses().items()}
    for network in ("G", "D"):
        before, after = weights(plain, network), weights(zero, network)
        assert all(torch.equal(before[key], value) for key, value in after.items())
    assert zero.losses() == plain.losses()
    # In the first step the generator's updates come last, so that they change the discriminator in later ones only.
    for name, key in (("bright", "gen_loss"), ("margin", "dis_loss")):
        with_it = {key: values[:1] for key, values in done(strangers.run(name, name=name)).losses().items()}
        assert with_it[key] != first[key]
    for name in ("pull", "marked"):
        outcome = done(strangers.run(name, name=name))
        before, after = weights(plain, "G"), weights(outcome, "G")
        assert any(not torch.equal(before[key], value) for key, value in after.items())


def test_two_spawned_ranks_call_every_role_alike_on_batches_of_their_own(strangers: Strangers) -> None:
    optimization = {"total_steps": 2, **MANY, "batch_size": 16}
    outcome = strangers.start(configure(strangers.folder, OPTIMIZATION=optimization, REGULARIZER=ALL), *DDP, ranks=2)
    done(outcome)
    for name in (*ROLES, "gsr", "lecam"):
        proofs = re.findall(rf"\[studiogan-gsr\] rank (\d): {name}: active in step 1, ", outcome.output)
        assert sorted(proofs) == ["0", "1"], outcome.output
    of_ranks = {name: [calls(strangers.facts(), name, rank) for rank in (0, 1)] for name in ROLES}
    assert [len(found) for found in of_ranks["pull"]] == [7, 7]
    assert [[call["size"] for call in found] for found in of_ranks["marked"]] == [[8] * 26] * 2
    for name in ("bright", "margin"):
        ours, theirs = of_ranks[name]
        assert [call["step"] for call in ours] == [call["step"] for call in theirs] == [0] * 4 + [1] * 4 + [2] * 4
        assert not untrue([*ours, *theirs])
        assert [call["weights"] for call in ours] == [pytest.approx(call["weights"], rel=1e-6) for call in theirs]
        assert all(one["noise"] != other["noise"] for one, other in zip(ours, theirs, strict=True))
    assert all(one["sum"] != other["sum"] for one, other in zip(*of_ranks["margin"], strict=True))
    assert len({str(call["weights"]) for call in of_ranks["bright"][0]}) == 6  # each update moved the generator


ADA = {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0.9, "ada_target": 0.6}
CONSISTENT = {"apply_cr": True, "cr_lambda": 10}
BALANCED = {"apply_bcr": True, "real_lambda": 10, "fake_lambda": 10}
NEAR = {"apply_zcr": True, "radius": 0.05, "g_lambda": 0.5, "d_lambda": 20}
LATENT = {"lo_alpha": 0.9, "lo_beta": 0.1, "lo_lambda": 0.1, "lo_rate": 0.8, "lo_steps4train": 2, "lo_steps4eval": 10}
INFO = {"info_type": "both", "g_info_injection": "concat", "info_num_discrete_c": 1, "info_dim_discrete_c": 10}
CONTRASTIVE = {"d_cond_mtd": "2C", "d_embed_dim": 16, "normalize_d_embed": True}
INFO_LOSS = {"infoGAN_loss_discrete_lambda": 1.0, "infoGAN_loss_conti_lambda": 1.0}


@pytest.mark.parametrize(
    ("arguments", "changes", "expected"),
    [
        (["-mpc"], {}, set()),
        ([], {"AUG": {**ADA, "ada_kimg": 500, "ada_interval": 4}}, {"judged", "real_images"}),
        ([], {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}}, {"judged", "real_images"}),
        ([], {"LOSS": {"apply_r1_reg": True, "r1_lambda": 10.0}}, set()),
        ([], {"LOSS": {"apply_gp": True, "gp_lambda": 10.0}}, set()),
        ([], {"LOSS": CONSISTENT, "AUG": {"apply_diffaug": False, "cr_aug_type": "cr"}}, set()),
        ([], {"LOSS": BALANCED, "AUG": {"bcr_aug_type": "bcr"}}, set()),
        ([], {"LOSS": NEAR}, set()),
        ([], {"LOSS": {"apply_lo": True, **LATENT}, "MODEL": {"z_prior": "uniform"}}, {"z", "z_begins"}),
        ([], {"MODEL": {**INFO, "info_num_conti_c": 2}, "LOSS": INFO_LOSS}, {"z"}),
        ([], {"LOSS": {"adv_loss": "wasserstein"}}, set()),
        ([], {"MODEL": CONTRASTIVE, "LOSS": {"cond_lambda": 1.0, "temperature": 0.5}}, set()),
    ],
    ids=["mpc", "ada", "diffaug", "r1", "gp", "cr", "bcr", "zcr", "lo", "info", "wasserstein", "2C"],
)
def test_all_roles_beside_studiogans_own_methods(
    arguments: list[str], changes: dict[str, Any], expected: set[str], strangers: Strangers
) -> None:
    """expected: what of a batch the networks got otherwise: augmented images, noise optimized or with codes."""
    changes["LOSS"] = {"adv_loss": "hinge", **changes.get("LOSS", {})}
    outcome = done(strangers.run(ALL, *arguments, steps=1, **changes))
    for name in (*ROLES, "gsr", "lecam"):
        assert outcome.lines(f"rank 0: {name}: active in step 1")
    found = {name: calls(strangers.facts(), name) for name in ROLES}
    assert [len(found[name]) for name in ROLES] == [5, 8, 8, 18]
    batches = [*found["bright"], *found["margin"]]
    assert untrue(batches) == expected
    generated = calls(strangers.facts(), "marked", call="generated")
    if "zcr" in str(changes):  # z near the drawn one is generated with it
        updates = [call for call in generated if call["size"] == 8 and call["near"]]
        assert [call["marked"] for call in updates] == [True, False] * 16


# ------------------------------------------------------------------ generating elsewhere


@pytest.mark.parametrize(
    "arguments", [("-v",), ("-std_stat", "-std_max", "16", "-std_step", "3", "-v")], ids=["", "std"]
)
def test_draw_never_changes_what_is_generated_outside_of_updates(
    arguments: tuple[str, ...], strangers: Strangers
) -> None:
    """Canvases at every save and at the end, and standing statistics, which StudioGAN generates as in training."""
    done(strangers.run("marked", *arguments, steps=1))
    generated = calls(strangers.facts(), "marked", call="generated")
    assert sum(call["marked"] for call in generated) == 2 * 8  # two steps of eight batches
    others = [call["size"] for call in generated if not call["marked"]]
    assert len(others) >= 2 + 3 * ("-std_stat" in arguments)
    assert len(calls(strangers.facts(), "marked")) == 2 + 2 * 8


def stylegan2(strangers: Strangers, **changes: dict[str, Any]) -> Path:
    sections = narrowed(strangers.host.checkout.source / "configs" / "CIFAR10" / "StyleGAN2.yaml")
    sections["OPTIMIZATION"] |= {"total_steps": 1}
    sections["REGULARIZER"] = [*ROLES, {"name": "gsr", "apply_to": ["mapping"]}, LECAM]
    for name, values in changes.items():
        sections.setdefault(name, {}).update(values)
    path = strangers.folder / "stylegan2.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.mark.slow
def test_a_stylegan_gives_its_latents_and_path_lengths_are_drawn_for_and_not_penalised(strangers: Strangers) -> None:
    """With ADA, R1 out of the loop, and two updates of the generator, each followed by a path-length step."""
    changes = {
        "STYLEGAN": {"apply_pl_reg": True, "pl_weight": 2, "g_reg_interval": 1, "d_reg_interval": 1},
        "OPTIMIZATION": {"g_updates_per_step": 2, "acml_steps": 1},
        "LOSS": {"r1_lambda": 0.01},
    }
    outcome = done(strangers.start(stylegan2(strangers, **changes)))
    found = {name: calls(strangers.facts(), name) for name in ROLES}
    assert len(found["pull"]) == 1 + 2 * 2  # a trial; not in the path-length steps
    assert [len(found[name]) for name in ("bright", "margin")] == [4, 2]
    batches = [*found["bright"], *found["margin"]]
    assert not untrue(batches)
    assert {call["w"] for call in batches} == {True}
    drawn = [(call["update"], call["size"]) for call in found["marked"]]
    assert sorted(drawn[:3]) == [("discriminator", 8), ("generator", 8), ("path_length", 4)]  # trials
    step = [("generator", 8), ("path_length", 4)] * 2
    assert drawn[3:] == [*step, ("discriminator", 8)] * 2
    moments = outcome.checkpoint()["optimizer"]["state"].values()
    assert max(int(moment["step"]) for moment in moments) == 8  # of which four are of path lengths
    assert [entry["acted"] for entry in outcome.checkpoint()["regularizer"]] == [4, 4, 2, 4, 4, 2]


# ------------------------------------------------------------------ refused and stopped


@pytest.mark.parametrize(
    ("regularizers", "loss", "message"),
    [
        ("bright", "topk", "LOSS.apply_topk: found True; bright would not see"),
        (["gsr", "mode_seeking"], "topk", "LOSS.apply_topk: found True; mode_seeking would not see"),
        ("bright", "MH", "LOSS.adv_loss: found MH; bright cannot add"),
        (["gsr", LECAM], "MH", "LOSS.adv_loss: found MH; lecam cannot add"),
    ],
)
def test_losses_that_hide_logits_are_refused(
    regularizers: Any, loss: str, message: str, strangers: Strangers
) -> None:
    if loss == "topk":
        changes = {"LOSS": {"adv_loss": "hinge", "apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5}}
    else:
        changes = {"LOSS": {"adv_loss": "MH", "mh_lambda": 0.05}, "MODEL": {"d_cond_mtd": "MH"}}
    refused(strangers.run(regularizers, **changes), message)


@pytest.mark.parametrize("loss", ["topk", "MH"])
def test_roles_that_see_no_hidden_logit_run_beside_these_losses(loss: str, strangers: Strangers) -> None:
    if loss == "topk":
        changes = {"LOSS": {"adv_loss": "hinge", "apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5}}
        done(strangers.run(["margin", "marked"], **changes))
        assert not untrue(calls(strangers.facts(), "margin"))
    else:
        changes = {"LOSS": {"adv_loss": "MH", "mh_lambda": 0.05}, "MODEL": {"d_cond_mtd": "MH"}}
        done(strangers.run(["pull", "marked"], **changes))


@pytest.mark.parametrize(
    ("name", "role", "network", "key"),
    [("margin", "discriminator_loss", "discriminator", "d"), ("bright", "generator_loss", "generator", "g")],
)
def test_a_checkout_that_replaces_its_losses_later_is_stopped_with_the_plugins_name(
    name: str, role: str, network: str, key: str, strangers: Strangers, cloned: Checkout
) -> None:
    worker = cloned.source / "worker.py"
    text, made = worker.read_text(), "        self.cfgs.define_losses()\n"
    assert text.count(made) == 1
    worker.write_text(text.replace(made, f"{made}        cfgs.LOSS.{key}_loss = losses.{key}_hinge\n"))
    strangers.host = Host(cloned)
    outcome = strangers.start(configure(strangers.folder, REGULARIZER=["gsr", name]), forked=False)
    stopped(
        outcome, rf"strangers 1.0 .* {name} = .*: {role}\(\) was called 0 times in the {network}'s updates of step 1"
    )


def stopped(outcome: Outcome, message: str, lines: int = 1) -> None:
    """The run failed, in one line, with the plug-in's name."""
    assert outcome.status == 1, outcome.output
    found = outcome.lines("studiogan-gsr: ")
    assert len(found) == lines, found
    assert all(re.search(message, line) for line in found), found
    assert "Traceback" not in outcome.output


@pytest.fixture
def cloned(checkout: Checkout, tmp_path: Path) -> Checkout:
    subprocess.run(["git", "clone", "--quiet", checkout.root, tmp_path / "clone"], check=True)
    return Checkout(tmp_path / "clone")


BROKEN = """
import os
import torch
import torch.distributed as dist
class Base:
    def __init__(self, generator, class_counts, discriminator):
        self.generator, self.discriminator, self.kept, self.calls = generator, discriminator, [], 0
    def scalars(self): return {}
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
    def late(self, calls):
        self.calls += 1
        return self.calls > calls
"""


def make_bad(make_package: MakePackage, body: str) -> Path:
    """Make the package `bad`, whose regularizer has the method `body`; return its folder."""
    module = f"{BROKEN}class Bad(Base):\n{body}\n"
    return make_package("bad", "studiogan.regularizers", {"bad": "bad:Bad"}, {"bad": module})


G_LOSS, D_LOSS, DRAW = (
    "    def generator_loss(self, batch):\n        ",
    "    def discriminator_loss(self, batch):\n        ",
    "    def draw(self, z, labels):\n        ",
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (G_LOSS + "return {}['gone']", r"generator_loss\(\) failed: KeyError"),
        (G_LOSS + "return 3.0", r"generator_loss\(\) returned float; expected: a scalar tensor"),
        (G_LOSS + "return batch.images", r"generator_loss\(\) returned a tensor of shape \(8, 3, 32, 32\)"),
        (G_LOSS + "return batch.images.detach().mean()", r"generator_loss\(\) returned a tensor without gradient"),
        (G_LOSS + "return batch.images.mean() * float('nan')", r"generator_loss\(\) or its gradient is not finite"),
        (G_LOSS + "return batch.images.mean().to('meta')", r"generator_loss\(\) returned a tensor on meta"),
        (G_LOSS + "batch.labels.zero_(); return batch.images.mean()", r"generator_loss\(\) writes to batch.labels"),
        (
            G_LOSS + "batch.images.data.mul_(2); return batch.images.mean()",
            r"generator_loss\(\) writes to batch.images",
        ),
        (G_LOSS + "batch.step = 3; return batch.images.mean()", r"generator_loss\(\) failed: FrozenInstanceError"),
        (G_LOSS + "return batch.real_logits.mean()", r"generator_loss\(\) failed: AttributeError"),
        (G_LOSS + "exit()", r"generator_loss\(\) failed: SystemExit"),
        (
            G_LOSS + "self.kept.append(batch.images.mean()); return self.kept[-1]",
            r"generator_loss\(\) keeps the graphs of 8 earlier calls",
        ),
        (
            G_LOSS + "return batch.images.mean() * (float('inf') if self.late(2) else 1)",
            r"generator_loss\(\) was not finite by step 1",
        ),
        (
            G_LOSS + "return batch.images.mean() * (float('inf') if self.late(6) else 1)",
            r"generator_loss\(\) was not finite by step 2",
        ),
        (
            D_LOSS + "return batch.images.mean() + next(self.generator.parameters()).sum()",
            r"discriminator_loss\(\) returned a tensor without gradient",
        ),
        (
            D_LOSS + "return torch.zeros((), requires_grad=True) + 0",
            r"discriminator_loss\(\) reaches none of the \d+ trainable parameters",
        ),
        (
            D_LOSS + "batch.real_images.mul_(1); return batch.logits.mean()",
            r"discriminator_loss\(\) writes to batch.real_images",
        ),
        (
            D_LOSS + "next(self.discriminator.parameters()).data.add_(1); return batch.logits.mean()",
            r"discriminator_loss\(\) writes to a network's parameters",
        ),
        (D_LOSS + "return batch.logits.mean() / 0", r"discriminator_loss\(\) or its gradient is not finite"),
        (DRAW + "return {}['gone']", r"draw\(\) failed: KeyError"),
        (DRAW + "return z", r"draw\(\) returned Tensor; expected: \(z, labels\)"),
        (DRAW + "return z[:4], labels[:4]", r"draw\(\) returned z of shape \(4, "),
        (DRAW + "return z, labels.float()", r"draw\(\) returned labels of shape \(8,\), torch.float32"),
        (DRAW + "return z, labels + 10", r"draw\(\) returned labels from 10 to 19; allowed: 0 to 9"),
        (DRAW + "return z / 0, labels", r"draw\(\) returned a z that is not finite"),
        (DRAW + "return z.mul_(2), labels", r"draw\(\) writes to what it gets"),
        (DRAW + "return (z[:4], labels) if self.late(9) else (z, labels)", r"draw\(\) returned z of shape \(4, "),
    ],
)
def test_a_broken_role_is_named_and_stopped_in_one_line(
    body: str, message: str, strangers: Strangers, make_package: MakePackage
) -> None:
    strangers.site = make_bad(make_package, body)
    outcome = strangers.run(["gsr", "bad"], steps=2)
    message = rf"bad 1.0 .* bad = bad:Bad: {message}"
    if "draw" in body and "late" not in body:
        refused(outcome, message)
    else:
        stopped(outcome, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            G_LOSS + "return batch.images.mean() * ({}['gone'] if dist.get_rank() else 1)",
            r"generator_loss\(\) failed: KeyError",
        ),
        pytest.param(
            D_LOSS + "return batch.logits.mean() * (1 if dist.get_rank() else float('nan'))",
            r"discriminator_loss\(\) or its gradient is not finite",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            DRAW + "return z[dist.is_initialized():], labels",
            r"draw\(\) returned z of shape \(7, ",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["generator_loss", "discriminator_loss", "draw"],
)
def test_a_broken_role_is_named_from_a_spawned_rank(
    body: str, message: str, strangers: Strangers, make_package: MakePackage
) -> None:
    strangers.site = make_bad(make_package, body)
    optimization = {"total_steps": 2, "batch_size": 16, "d_updates_per_step": 1}
    path = configure(strangers.folder, OPTIMIZATION=optimization, REGULARIZER=["gsr", "bad"])
    outcome = strangers.start(path, *DDP, ranks=2)
    assert outcome.status in (1, 2)
    (line,) = outcome.lines("studiogan-gsr: ")
    assert re.search(rf"bad 1.0 .* bad = bad:Bad: {message}", line), line
