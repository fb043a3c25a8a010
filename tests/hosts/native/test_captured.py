"""Updates that are captured and replayed: equal to eager ones, with a tape on the CPU in place of CUDA graphs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts.native import augmentation, training
from studiogan_gsr.hosts.native.captured import WARM_UP
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from support.plugins import ROLE_NAMES, MakePackage, make_roles, one_role
from support.runs import (
    COUNTS,
    FAMILIES,
    PLAIN,
    Sections,
    changed,
    checked_steps,
    difference,
    one_thread,
    random_batches,
    state_of,
)
from support.tape import Tapes

GSR = {"name": "gsr", "beta": 0.9}
LECAM = {"name": "lecam", "decay": 0.9, "start": 3}
STEPS = 7
EVERYTHING = changed(
    PLAIN,
    MODEL={"apply_g_ema": True, "g_ema_decay": 0.9, "g_ema_start": 4},
    AUG={"apply_diffaug": True, "diffaug_type": "diffaug"},
)
MakeTrainer = Callable[[Sections], Trainer]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def eager(sections: Sections, speed: Speed | None = None, device: torch.device | None = None) -> Trainer:
    device = device or torch.device("cpu")
    batches = random_batches(seed=1, device=device)
    return Trainer(read_configuration(sections), COUNTS, batches, device, 0, speed or Speed())


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTrainer]:
    """Makes a trainer whose updates are recorded on tapes, as on a GPU they are captured as CUDA graphs."""
    # ADA's fast path on a CPU reads values; on a GPU it does not.
    monkeypatch.setattr(augmentation, "_pad", _pad_without_reading)
    monkeypatch.setattr(training, "CudaGraphs", Tapes)
    why = Trainer.why_eager

    def why_eager(self: Trainer) -> str | None:
        reason = why(self)
        return None if reason == "CUDA graphs need a GPU" else reason

    monkeypatch.setattr(Trainer, "why_eager", why_eager)
    return lambda sections: eager(sections, Speed(graphs=True))


def make_odd(make_package: MakePackage, role: str, body: str) -> None:
    """Make a package with a regularizer `odd` whose role has this body, which more methods may follow."""
    source = one_role("Odd", role, body)
    make_package("stranger", "studiogan.regularizers", {"odd": "stranger_odd:Odd"}, {"stranger_odd": source})


def _pad_without_reading(x: Tensor, reach: Tensor) -> Any:
    height, width = x.shape[2:]
    return augmentation._mirrored_within(x, reach), (width - 1, height - 1, width - 1, height - 1)


def trained(trainer: Trainer, steps: int = STEPS) -> Trainer:
    return checked_steps(trainer, steps)


def everything(trainer: Trainer) -> dict[str, Any]:
    optimizers = {"g": trainer.g_optimizer, "d": trainer.d_optimizer}
    moments = {name: dict(enumerate(optimizer.state.values())) for name, optimizer in optimizers.items()}
    buffers = {"buffers": dict(trainer.generator.named_buffers()), "losses": trainer.losses}
    return {**state_of(trainer), **buffers, "moments": moments, "finite": trainer.finite}


CASES: dict[str, tuple[Sections, Any]] = {
    "plain": (PLAIN, None),
    "SGD": (changed(PLAIN, OPTIMIZATION={"type_": "SGD", "momentum": 0.9, "nesterov": True}), None),
    "RMSprop": (changed(PLAIN, OPTIMIZATION={"type_": "RMSprop", "momentum": 0.0, "alpha": 0.99}), None),
    "gsr": (EVERYTHING, GSR),
    "gsr and lecam": (EVERYTHING, [GSR, LECAM]),
    "released": (EVERYTHING, [{**GSR, "released_bias_update": True}, {"name": "lecam", "released": True}]),
    "mode_seeking": (EVERYTHING, ["mode_seeking", LECAM]),
    "class_balance": (EVERYTHING, ["class_balance", GSR]),
    "accumulation, several updates, generator first": (
        changed(EVERYTHING, OPTIMIZATION={"acml_steps": 2, "g_updates_per_step": 2, "d_first": False}),
        [GSR, LECAM],
    ),
    "ADA": (
        changed(
            PLAIN,
            AUG={
                "apply_ada": True,
                "ada_aug_type": "bgc",
                "ada_initial_augment_p": 0.5,
                "ada_target": 0.6,
                "ada_kimg": 1,
                "ada_interval": 2,
            },
        ),
        [GSR, LECAM],
    ),
    "weight clipping": (
        changed(
            PLAIN,
            MODEL={"apply_d_sn": False},
            LOSS={"adv_loss": "wasserstein", "apply_wc": True, "wc_bound": 0.01},
        ),
        GSR,
    ),
    "ContraGAN": (changed(EVERYTHING, **FAMILIES["ContraGAN"]), GSR),
    "BigGAN": (changed(EVERYTHING, **FAMILIES["BigGAN"]), [GSR, LECAM]),
}


def sections_of(name: str) -> Sections:
    sections, regularizers = CASES[name]
    return sections if regularizers is None else {**sections, "REGULARIZER": regularizers}


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_are_equal_to_eager_ones(replayed: MakeTrainer, name: str) -> None:
    one, other = trained(eager(sections_of(name))), trained(replayed(sections_of(name)))
    assert difference(everything(one), everything(other)) == ""
    for updates in other._updates.values():
        assert updates._captured is not None  # type: ignore[attr-defined]


def test_each_phase_is_captured_once(replayed: MakeTrainer) -> None:
    trainer = trained(replayed(sections_of("gsr and lecam")))
    recorder = trainer._updates["generator"]._recorder  # type: ignore[attr-defined]
    # In step 3 LeCam starts, in step 4 its penalty acts, and the generator's average starts.  The discriminator has
    # two updates a step; the generator has one, and in a new phase that is eager.
    assert recorder.captured == len({1, 3, 4}) + len({5})


def test_replays_are_counted_on_the_device(replayed: MakeTrainer) -> None:
    trainer = trained(replayed(sections_of("accumulation, several updates, generator first")))
    gsr, lecam = trainer.regularization.methods
    assert gsr.attachment is not None
    assert int(gsr.attachment.count.on_device) == gsr.attachment.attempts == gsr.active == 2 * STEPS
    assert int(lecam.terms["discriminator_loss"].count.on_device) == 2 * 2 * STEPS == 2 * lecam.active


@pytest.mark.parametrize("role", ["penalty", "discriminator_loss"])
def test_a_graph_without_the_regularizer_ends_the_run(replayed: MakeTrainer, role: str) -> None:
    """As if the graph had been captured without the role: the device's count stays behind."""
    trainer = trained(replayed(sections_of("gsr and lecam")), STEPS - 1)
    methods = {"penalty": trainer.regularization.methods[0], "discriminator_loss": trainer.regularization.methods[1]}
    count = methods[role].attachment.count if role == "penalty" else methods[role].terms[role].count
    for update in trainer._updates.values():
        recording = update._captured.replay.__self__  # type: ignore[attr-defined]
        recording.leave_out(count.on_device)
    trainer.step()
    trainer.regularization.check_active(STEPS)
    with pytest.raises(
        RegularizerError, match=rf"{role} was active \d+ times on the device by step {STEPS}; expected: \d+"
    ):
        trainer.regularization.report(STEPS)


_BRANCH = """return (1.0 if batch.step < 5 else 0.5) * batch.logits.sum()

    def phase(self, step):
        return {phase}"""


@pytest.mark.parametrize(("phase", "equal"), [("step < 5", True), ("None", False)])
def test_phases_are_what_python_code_may_depend_on(
    replayed: MakeTrainer, make_package: MakePackage, phase: str, equal: bool
) -> None:
    """A regularizer that says when it changes is captured anew; without that, the first value is repeated."""
    make_odd(make_package, "generator_loss", _BRANCH.format(phase=phase))
    sections = {**PLAIN, "REGULARIZER": "odd"}
    one, other = trained(eager(sections)), trained(replayed(sections))
    assert (difference(everything(one), everything(other)) == "") == equal


@pytest.mark.parametrize("name", ROLE_NAMES)
def test_a_regularizer_without_phases_runs_eagerly(
    replayed: MakeTrainer, make_package: MakePackage, name: str
) -> None:
    make_roles(make_package)
    sections = {**PLAIN, "REGULARIZER": ["gsr", name]}
    one, other = eager(sections), replayed(sections)
    why = other.why_eager()
    assert why is not None
    assert re.fullmatch(rf"roles .* {name} = .* has no phase\(\), so it cannot be captured", why)
    assert difference(everything(trained(one)), everything(trained(other))) == ""


PHASE = "return batch.logits.sum()\n\n    def phase(self, step):\n        "


@pytest.mark.parametrize("body", ["return [step]", "raise KeyError(step)"])
def test_phases_that_cannot_be_compared_end_the_run(
    replayed: MakeTrainer, make_package: MakePackage, body: str
) -> None:
    make_odd(make_package, "generator_loss", PHASE + body)
    with pytest.raises(RegularizerError, match=r"odd .*: phase\(\) failed: "):
        trained(replayed({**PLAIN, "REGULARIZER": "odd"}))


def test_a_regularizer_that_waits_cannot_be_captured(replayed: MakeTrainer, make_package: MakePackage) -> None:
    make_odd(make_package, "generator_loss", f"batch.logits[0].detach().item(); {PHASE}pass")
    with pytest.raises(RegularizerError, match="in a capture"):
        trained(replayed({**PLAIN, "REGULARIZER": "odd"}))


def test_without_a_gpu_steps_run_eagerly() -> None:
    trainer = eager(PLAIN, Speed(graphs=True))
    assert trainer.why_eager() == "CUDA graphs need a GPU"
    assert eager(PLAIN).why_eager() == ""
    assert WARM_UP == 3


def test_exact_gsr_is_not_captured(replayed: MakeTrainer) -> None:
    """Its SVD waits for the device."""
    why = replayed({**PLAIN, "REGULARIZER": {"name": "gsr", "power_iterations": 0}}).why_eager()
    assert why is not None
    assert why.endswith("has no phase(), so it cannot be captured")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", ["gsr and lecam", "ADA", "ContraGAN", "BigGAN"])
def test_cuda_graphs_are_equal_to_eager_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for switch, value in (("deterministic", True), ("benchmark", False), ("allow_tf32", False)):
        monkeypatch.setattr(torch.backends.cudnn, switch, value)
    device = torch.device("cuda", 0)
    one, other = (trained(eager(sections_of(name), Speed(graphs=graphs), device)) for graphs in (False, True))
    assert other.why_eager() is None
    assert torch.equal(one.noise.get_state(), other.noise.get_state())
    for network in ("generator", "discriminator"):
        found, expected = (dict(getattr(t, network).named_parameters()) for t in (other, one))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
