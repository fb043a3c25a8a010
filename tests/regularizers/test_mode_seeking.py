"""Mode seeking: against its definition, against the authors' program, and with every conditioning."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.contract import Batch, roles_of
from studiogan_gsr.errors import OptionError, PluginError, RegularizerError
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.regularizers.mode_seeking import ModeSeeking, mode_seeking_loss, paired
from support.authors import authors_program, modules_of
from support.runs import PLAIN, SNGAN, changed

COUNTS = [9, 5, 3, 2]
CLASSES, SIZE, NOISE = 4, 6, 5
GENERATOR = nn.Linear(NOISE, 2)


def batch(z: Tensor, images: Tensor, labels: Tensor | None = None) -> Batch:
    labels = paired(torch.arange(len(z)) % CLASSES) if labels is None else labels
    return Batch(step=0, z=z, labels=labels, images=images, w=None, logits=images.flatten(1).sum(1))


# ------------------------------------------------------------------ the definition


def test_the_loss_of_a_linear_generator_is_known_without_a_computer() -> None:
    """G(z) = 3 z: the ratio is 3 for any pairs."""
    z, other = torch.randn(2, 5, 7)
    loss = mode_seeking_loss(3 * z, 3 * other, z, other)
    torch.testing.assert_close(loss, torch.tensor(1 / (3 + 1e-5)))


def test_means_are_over_the_whole_batch_and_not_per_pair() -> None:
    images, other = torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [1.0]])
    z, other_z = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [-4.0, 2.0]])
    ratio = ((1 + 3) / 2) / ((1 + 1 + 4 + 2) / 4)
    torch.testing.assert_close(mode_seeking_loss(images, other, z, other_z), torch.tensor(1 / (ratio + 1e-5)))


def test_images_that_differ_more_cost_less() -> None:
    z, images = torch.randn(2 * SIZE, NOISE), torch.randn(2 * SIZE, 3, 4, 4)
    method = ModeSeeking(GENERATOR, COUNTS, weight=0.7)
    near, far = (method.generator_loss(batch(z, scale * images)) for scale in (0.1, 1.0))
    assert near > far > 0
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(method.generator_loss(batch(z, images)), images)
    moved = method.generator_loss(batch(z, images - 1e-2 * gradient / gradient.abs().max()))
    assert moved < method.generator_loss(batch(z, images))


def test_the_weight_multiplies_and_the_logged_number_is_without_it() -> None:
    z, images = torch.randn(SIZE, NOISE), torch.randn(SIZE, 3, 4, 4)
    one, third = (ModeSeeking(GENERATOR, COUNTS, weight) for weight in (1.0, 0.3))
    assert one.scalars() == {}
    torch.testing.assert_close(third.generator_loss(batch(z, images)), 0.3 * one.generator_loss(batch(z, images)))
    assert one.scalars() == third.scalars() == {"loss": pytest.approx(one.generator_loss(batch(z, images)).item())}
    assert roles_of(one) == ("generator_loss", "draw")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_is_summed_in_float32_and_float64_stays(dtype: torch.dtype) -> None:
    """In float16 the sum of so many differences would be infinite."""
    z, images = torch.randn(SIZE, NOISE).to(dtype), 100 * torch.randn(SIZE, 3, 64, 64).to(dtype)
    loss = ModeSeeking(GENERATOR, COUNTS).generator_loss(batch(z, images))
    exact = ModeSeeking(GENERATOR, COUNTS).generator_loss(batch(z.double(), images.double()))
    assert loss.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5 if dtype != torch.float64 else 0, atol=0)


@pytest.mark.parametrize("equal", ["images", "z", "both"])
def test_pairs_of_equal_images_or_equal_z_give_a_finite_loss_and_gradient(equal: str) -> None:
    z, images = torch.randn(SIZE, NOISE), torch.randn(SIZE, 3, 4, 4)
    if equal != "images":
        z = z[: SIZE // 2].repeat(2, 1)
    if equal != "z":
        images = images[: SIZE // 2].repeat(2, 1, 1, 1)
    images.requires_grad_()
    loss = ModeSeeking(GENERATOR, COUNTS).generator_loss(batch(z, images))
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert loss.item() == pytest.approx(0 if equal == "z" else 1e5, abs=1e-9)


def test_the_guard_against_equal_z_changes_no_number() -> None:
    z, images = 1e-6 * torch.randn(SIZE, NOISE), torch.randn(SIZE, 3, 4, 4)
    (a, b), (x, y) = z.chunk(2), images.chunk(2)
    assert torch.equal(mode_seeking_loss(x, y, a, b), 1 / ((y - x).abs().mean() / (b - a).abs().mean() + 1e-5))


# ------------------------------------------------------------------ pairs


@pytest.mark.parametrize("update", ["generator", "discriminator"])
def test_the_halves_of_a_batch_share_their_labels_and_z_stays(update: str) -> None:
    z, labels = torch.randn(8, NOISE), torch.arange(8)
    drawn, pairs = ModeSeeking(GENERATOR, COUNTS).draw(z, labels, update)
    assert drawn is z
    assert pairs.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert labels.tolist() == [*range(8)]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_step_of_path_lengths_gets_what_the_host_drew(size: int) -> None:
    z, labels = torch.randn(size, NOISE), torch.arange(size)
    drawn = ModeSeeking(GENERATOR, COUNTS).draw(z, labels, "path_length")
    assert drawn[0] is z
    assert drawn[1] is labels


@pytest.mark.parametrize("size", [1, 7])
def test_a_batch_without_pairs_is_refused(size: int) -> None:
    with pytest.raises(RegularizerError, match=f"found a batch of {size}; allowed: an even number"):
        ModeSeeking(GENERATOR, COUNTS).draw(torch.randn(size, NOISE), torch.arange(size), "generator")


def test_a_batch_without_pairs_ends_a_run_before_its_first_step() -> None:
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": 7})
    with pytest.raises(PluginError, match=r"mode_seeking.*draw\(\).*found a batch of 7; allowed: an even number"):
        trainer({**sections, "REGULARIZER": "mode_seeking"})


@pytest.mark.parametrize("weight", [-1, float("inf"), float("nan"), True, "1", None])
def test_impossible_weights_are_refused(weight: Any) -> None:
    with pytest.raises(OptionError):
        ModeSeeking.check_options({"weight": weight})


# ------------------------------------------------------------------ the authors' program


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Their conditional DCGAN for CIFAR-10, on the CPU."""
    folder = authors_program("MSGAN", "DCGAN-Mode-Seeking/model.py") / "DCGAN-Mode-Seeking"
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, device=None: self)
    monkeypatch.setattr(torch.cuda, "FloatTensor", torch.FloatTensor)
    with modules_of(folder) as load:
        yield load("model")


@pytest.mark.parametrize("evaluating", [False, True])
def test_loss_and_gradient_equal_the_authors(program: ModuleType, evaluating: bool) -> None:
    """One update of their generator, and ours on the images, noise and labels of theirs.

    Their adversarial loss is the sum of those of both halves.  Where the discriminator treats every image by itself,
    here without batch statistics, half of their lambda with the mean over the batch is half of their loss.
    """
    theirs = program.CDCGAN(SimpleNamespace(nz=NOISE, class_num=CLASSES))
    theirs.gpu = 0
    theirs.initialize()
    theirs.D.train(not evaluating)
    theirs.real_image, theirs.label = torch.randn(3, 3, 32, 32), torch.tensor([2, 0, 2])
    given: list[Tensor] = []
    forward = theirs.G.forward
    theirs.G.forward = lambda z, label: given.extend((z, label)) or forward(z, label)
    theirs.forward()
    z, one_hot = given
    labels = one_hot.flatten(1).argmax(1)
    # Their pairs are ours.
    drawn_z, drawn_labels = ModeSeeking(GENERATOR, COUNTS).draw(z, labels, "generator")
    assert drawn_z is z
    assert torch.equal(drawn_labels, labels)
    assert labels.tolist() == [2, 0, 2, 2, 0, 2]
    method = ModeSeeking(GENERATOR, COUNTS, weight=0.5 if evaluating else 1.0)
    parameters = [*theirs.G.parameters()]
    term = method.generator_loss(batch(z, theirs.fake_image, labels))
    if evaluating:
        logits = theirs.D(theirs.fake_image, one_hot)
        adversarial = nn.functional.binary_cross_entropy(logits, torch.ones_like(logits))
        total = 2 * (adversarial + term)
    else:
        halves = theirs.fake_image.chunk(2)
        total = sum(theirs.backward_G(theirs.D, images, theirs.label_one_hot) for images in halves) + term
    mine = torch.autograd.grad(total, parameters, retain_graph=True)
    alone = torch.autograd.grad(term, parameters, retain_graph=True)
    assert all(gradient.any() for gradient in (alone[0], alone[-2]))
    theirs.update_G()
    torch.testing.assert_close(method.scalars()["loss"].item(), theirs.loss_lz.item(), rtol=1e-6, atol=0)
    torch.testing.assert_close(total, theirs.loss_G)
    for ours, parameter in zip(mine, parameters, strict=True):
        # A bias in front of a batch normalization has no gradient but rounding.
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------ native host

CONDITIONS = {
    "SNGAN": {},
    "BigGAN": {"MODEL": {"backbone": "big_resnet", "g_shared_dim": 4, "apply_g_sn": True}},
    "ContraGAN": {
        "MODEL": {"d_cond_mtd": "2C", "d_embed_dim": 6},
        "LOSS": {"cond_lambda": 0.7, "temperature": 0.5},
    },
    "ReACGAN": {
        "MODEL": {
            "backbone": "big_resnet",
            "g_shared_dim": 4,
            "d_cond_mtd": "D2DCE",
            "d_embed_dim": 6,
            "apply_g_ema": True,
            "g_ema_decay": 0.9,
            "g_ema_start": 1,
        },
        "LOSS": {"cond_lambda": 0.7, "temperature": 0.5, "m_p": 0.8},
    },
    "ACGAN": {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 0.7}},
}
STACK = [{"name": "gsr"}, {"name": "mode_seeking"}, {"name": "lecam", "start": 0, "weight": 0.1, "decay": 0.9}]


def trainer(sections: dict[str, Any]) -> Trainer:
    configuration = read_configuration(sections)
    size, classes = configuration.OPTIMIZATION.batch_size, configuration.DATA.num_classes

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        stream = torch.Generator().manual_seed(1)
        while True:
            yield torch.rand(size, 3, 32, 32, generator=stream) * 2 - 1, torch.arange(size) % classes

    counts = [50 - 4 * label for label in range(classes)]
    return Trainer(configuration, counts, batches(), torch.device("cpu"), 3, Speed())


@pytest.mark.parametrize(
    "family", ["SNGAN", *(pytest.param(name, marks=pytest.mark.slow) for name in CONDITIONS if name != "SNGAN")]
)
def test_three_steps_of_each_conditioning_with_a_stack(family: str) -> None:
    sections = changed(PLAIN, **CONDITIONS[family])
    without, alone, stacked = (
        trainer({**sections, **({"REGULARIZER": entries} if entries else {})})
        for entries in (None, "mode_seeking", STACK)
    )
    for trained in (without, alone, stacked):
        for step in range(1, 4):
            trained.step()
            trained.regularization.check_active(step)
        assert trained.finite
    for trained, names in ((alone, ["mode_seeking"]), (stacked, [entry["name"] for entry in STACK])):
        assert trained.regularization.names == names
        numbers = trained.regularization.report(3)
        assert numbers["mode_seeking/loss"] > 0
    assert numbers["lecam/penalty"] >= 0
    assert numbers["lecam/real_average"] != 0
    assert numbers["gsr/penalty"] > 0
    differ = [
        not torch.equal(a, b)
        for first, second in ((without, alone), (alone, stacked))
        for a, b in ((first.generator, second.generator), (first.discriminator, second.discriminator))
        for a, b in [(nn.utils.parameters_to_vector(a.parameters()), nn.utils.parameters_to_vector(b.parameters()))]
    ]
    assert all(differ)


def test_the_order_of_a_stack_changes_nothing_but_rounding() -> None:
    runs = [trainer({**PLAIN, "REGULARIZER": entries}) for entries in (STACK, STACK[::-1])]
    for trained in runs:
        for _ in range(2):
            trained.step()
    for first, second in zip(*(trained.generator.parameters() for trained in runs), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_every_batch_of_a_run_has_pairs_and_evaluation_has_none() -> None:
    sections = changed(SNGAN, OPTIMIZATION={"acml_steps": 2, "g_updates_per_step": 2})
    trained = trainer({**sections, "REGULARIZER": "mode_seeking"})
    seen: list[Tensor] = []
    trained.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    trained.step()
    assert len(seen) == 2 * 2 + 2 * 2
    for labels in seen:
        assert torch.equal(*labels.chunk(2))
    assert len({tuple(labels.tolist()) for labels in seen}) == len(seen)


def test_a_checkpoint_of_it_is_empty_and_can_be_read() -> None:
    buffer = io.BytesIO()
    torch.save(ModeSeeking(GENERATOR, COUNTS).state_dict(), buffer)
    buffer.seek(0)
    ModeSeeking(GENERATOR, COUNTS).load_state_dict(torch.load(buffer, weights_only=True))
