"""NoisyTwins: against its definition, against the authors' program, and in the real StudioGAN."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, effective_number_weights
from studiogan_gsr.cli import main
from studiogan_gsr.contract import Batch, roles_of
from studiogan_gsr.errors import GeneratorError, OptionError, RegularizerError
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.regularizers.noisytwins import NoisyEmbedding, NoisyTwins, noisytwins, twins_loss
from support.authors import authors_program, lines_of, modules_of
from support.generators import Shared
from support.host import Host, Outcome, narrowed, refused
from support.plugins import MakePackage
from support.runs import PLAIN, arguments, write

COUNTS = [500, 60, 7]
Z, W, LAYERS = 6, 8, 3


class Mapping(nn.Module):
    """A mapping network of NVIDIA's kind: w of every layer from noise and class."""

    def __init__(self, z_dim: int = Z, classes: int = 3) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_layers = z_dim, classes, 1
        self.embed, self.fc0 = nn.Linear(classes, W), nn.Linear(z_dim + W, W)

    def forward(self, z: Tensor | None, one_hot: Tensor) -> Tensor:
        y = self.embed(one_hot.float())
        w = self.fc0(y if z is None else torch.cat([z, y], 1))
        return w.unsqueeze(1).repeat(1, LAYERS, 1)


class StyleGAN(nn.Module):
    def __init__(self, mapping: nn.Module | None = None) -> None:
        super().__init__()
        self.mapping = mapping or Mapping()


class Discriminator(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.mapping = Mapping(0, classes)


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, len(COUNTS))


def batch(w: Tensor, step: int = 0) -> Batch:
    z, labels = torch.zeros(len(w), Z), torch.zeros(len(w), dtype=torch.long)
    return Batch(step=step, z=z, labels=labels, images=torch.zeros(len(w), 3, 2, 2), w=w, logits=w[:, 0, 0])


def seeded(seed: int, mapping: nn.Module, *inputs: Any, **options: Any) -> Tensor:
    torch.manual_seed(seed)
    return mapping(*inputs, **options)


# ------------------------------------------------------------------ the loss


def test_the_loss_is_the_definition() -> None:
    """The cross-correlation element by element, in float64."""
    w, other = torch.randn(2, 5, W, dtype=torch.float64)
    a, b = ((half - half.mean(0)) / (half.var(0, correction=0) + 1e-5).sqrt() for half in (w, other))
    expected = 0.0
    for i in range(W):
        for j in range(W):
            c = sum(a[n, i] * b[n, j] for n in range(5)) / 5
            expected += (c - 1) ** 2 if i == j else 0.05 * c**2
    torch.testing.assert_close(twins_loss(w, other, 0.05), expected)
    assert twins_loss(w, other, 0.05).dtype == torch.float64


def test_equal_twins_with_uncorrelated_entries_cost_nothing() -> None:
    """The columns of a Hadamard matrix have mean 0, variance 1 and no correlation."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    w = torch.kron(torch.kron(two, two), two)[:, 1:]
    assert twins_loss(w, w, 0.05).item() == pytest.approx(0, abs=1e-8)
    assert twins_loss(w, -w, 0.05).item() == pytest.approx(4 * 7, rel=1e-4)  # each C_ii is -1


def test_the_first_w_of_each_half_counts_and_no_other() -> None:
    w = torch.randn(6, LAYERS, W, requires_grad=True)
    method = NoisyTwins(StyleGAN(), COUNTS, noisytwins_options(weight=0.3, gamma=0.2))
    loss = method.generator_loss(batch(w))
    torch.testing.assert_close(loss, 0.3 * twins_loss(w[:3, 0], w[3:, 0], 0.2))
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient[:, 0].abs().sum(1).all()
    assert not gradient[:, 1:].any()
    assert method.scalars() == {"loss": pytest.approx(loss.item() / 0.3)}


def test_half_precision_is_computed_in_float32() -> None:
    w, other = torch.randn(2, 64, W, dtype=torch.float16)
    loss = twins_loss(w, other, 0.05)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, twins_loss(w.float(), other.float(), 0.05))


def test_before_the_start_the_loss_has_no_effect_but_is_logged() -> None:
    w = torch.randn(6, LAYERS, W, requires_grad=True)
    method = NoisyTwins(StyleGAN(), COUNTS, noisytwins_options(start=5))
    before, after = (method.generator_loss(batch(w, step)) for step in (4, 5))
    assert before == 0
    assert not torch.autograd.grad(before, w)[0].any()
    assert after > 0
    assert method.scalars()["loss"] == pytest.approx(100 * after.item())


def noisytwins_options(**options: Any) -> Any:
    return noisytwins(StyleGAN(), COUNTS, **options).options


# ------------------------------------------------------------------ twins


def test_the_halves_of_a_generators_batch_are_twins() -> None:
    z, labels = torch.randn(6, Z), torch.arange(6)
    twins, pairs = NoisyTwins(StyleGAN(), COUNTS, noisytwins_options()).draw(z, labels, "generator")
    assert torch.equal(twins, torch.cat([z[:3], z[:3]]))
    assert pairs.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("update", ["discriminator", "path_length"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_other_batches_stay_as_the_host_drew_them(update: str, size: int) -> None:
    z, labels = torch.randn(size, Z), torch.arange(size)
    drawn = NoisyTwins(StyleGAN(), COUNTS, noisytwins_options()).draw(z, labels, update)
    assert drawn[0] is z
    assert drawn[1] is labels


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_batch_without_two_pairs_of_twins_is_refused(size: int) -> None:
    """One pair has no variance to be normalized by."""
    with pytest.raises(RegularizerError, match=f"found a batch of {size}; allowed: an even number of images, 4 or"):
        NoisyTwins(StyleGAN(), COUNTS, noisytwins_options()).draw(
            torch.zeros(size, Z), torch.zeros(size), "generator"
        )


# ------------------------------------------------------------------ the noise


@pytest.mark.parametrize("beta", [0.99, 0, None])
def test_the_noise_of_each_class_is_as_wide_as_its_weight_says(beta: float | None) -> None:
    generator, sigma, many = StyleGAN(), 0.6, 20000
    before = generator.mapping.embed(torch.eye(3))
    noisytwins(generator, COUNTS, sigma=sigma, beta=beta)
    seen: list[Tensor] = []
    generator.mapping.fc0.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, Z:]))
    weights = effective_number_weights(COUNTS, beta)
    for label in range(3):
        generator.mapping(torch.zeros(many, Z), one_hot(torch.full((many,), label)))
        noise = (seen[-1] - before[label]).detach()
        # 160,000 normal numbers: the standard error of the deviation is 0.2 %.
        assert noise.std().item() == pytest.approx(sigma * weights[label], rel=0.01)
        assert noise.mean().item() == pytest.approx(0, abs=0.02 * weights[label])
        assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.05
    assert (len(set(weights)) == 1) == (not beta)


def test_there_is_noise_in_training_only_and_only_inside_of_the_mapping_network() -> None:
    generator = StyleGAN()
    z, labels = torch.randn(4, Z), one_hot(torch.tensor([0, 1, 2, 0]))
    clean = generator.mapping(z, labels)
    embedded = generator.mapping.embed(labels.float())
    noisytwins(generator, COUNTS)
    assert not torch.equal(generator.mapping(z, labels), clean)
    assert torch.equal(generator.mapping.embed(labels.float()), embedded)  # after a forward of the network
    generator.eval()
    state = torch.get_rng_state()
    assert torch.equal(generator.mapping(z, labels), clean)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn
    generator.train()
    assert not torch.equal(generator.mapping(z, labels), clean)


def test_a_forward_that_fails_leaves_no_noise_behind() -> None:
    generator = StyleGAN()
    noisytwins(generator, COUNTS)
    embedded = generator.mapping.embed(torch.eye(3))
    with pytest.raises(RuntimeError, match=r"shapes|size"):
        generator.mapping(torch.randn(4, Z + 1), one_hot(torch.zeros(4, dtype=torch.long)))
    assert torch.equal(generator.mapping.embed(torch.eye(3)), embedded)


def test_gsr_on_the_mapping_network_and_the_norms_see_no_noise() -> None:
    generator = StyleGAN()
    gsr = GroupSpectralRegularizer(generator, COUNTS, power_iterations=0, groups=2, apply_to=["mapping"])
    penalty, norms = gsr.penalty(), gsr.class_norms()["mapping"]["mapping"]
    noisytwins(generator, COUNTS)
    generator.mapping(torch.randn(4, Z), one_hot(torch.zeros(4, dtype=torch.long)))
    assert torch.equal(gsr.penalty(), penalty)
    assert torch.equal(gsr.class_norms()["mapping"]["mapping"], norms)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_the_generator_has_no_noise(how: str) -> None:
    """An averaged generator is a copy, whether it was made before or after the noise came."""
    generator = StyleGAN()
    z, labels = torch.randn(4, Z), one_hot(torch.tensor([0, 1, 2, 0]))
    clean = generator.mapping(z, labels)
    noisytwins(generator, COUNTS)
    if how == "deepcopy":
        averaged = copy.deepcopy(generator)
    else:
        buffer = io.BytesIO()
        torch.save(generator, buffer)
        buffer.seek(0)
        averaged = torch.load(buffer, weights_only=False)
    assert averaged.training
    assert torch.equal(averaged.mapping(z, labels), clean)
    assert not torch.equal(generator.mapping(z, labels), clean)
    assert averaged.state_dict().keys() == generator.state_dict().keys()
    noisytwins(averaged, COUNTS)  # a copy can be trained, too
    assert torch.equal(seeded(0, averaged.mapping, z, labels), seeded(0, generator.mapping, z, labels))


def test_its_line_names_the_options_and_the_noise() -> None:
    low, *_, high = sorted(0.75 * effective_number_weights(COUNTS, 0.99))
    assert str(noisytwins(StyleGAN(), COUNTS)) == (
        "weight 0.01, sigma 0.75, beta 0.99, gamma 0.05, start 0, discriminator_noise False; "
        f"noise on class embeddings {low:.3g} to {high:.3g}"
    )


def test_replicas_of_data_parallel_have_the_noise() -> None:
    generator = StyleGAN()
    noisytwins(generator, COUNTS)
    z, labels = torch.randn(4, Z), one_hot(torch.tensor([0, 1, 2, 0]))
    replica = generator.mapping._replicate_for_data_parallel()
    embed = generator.mapping.embed._replicate_for_data_parallel()
    for module, source in ((replica, generator.mapping), (embed, generator.mapping.embed)):
        for name, parameter in source._parameters.items():
            setattr(module, name, parameter)
    replica.embed = embed
    assert torch.equal(seeded(0, replica, z, labels), seeded(0, generator.mapping, z, labels))


def test_with_weight_0_it_is_the_noise_alone() -> None:
    generator, twin = StyleGAN(), StyleGAN()
    twin.load_state_dict(generator.state_dict())
    alone, whole = noisytwins(generator, COUNTS, weight=0), noisytwins(twin, COUNTS)
    assert type(alone) is NoisyEmbedding
    assert roles_of(alone) == ("draw",)
    assert roles_of(whole) == ("generator_loss", "draw")
    z, labels = torch.randn(4, Z), torch.arange(4) % 3
    drawn = alone.draw(z, labels)
    assert drawn[0] is z
    assert drawn[1] is labels
    inputs = z, one_hot(labels)
    assert torch.equal(seeded(0, generator.mapping, *inputs), seeded(0, twin.mapping, *inputs))
    assert alone.scalars() == {}
    assert alone.state_dict() == whole.state_dict() == {}


def test_the_discriminators_noise_is_an_option() -> None:
    generator, discriminator = StyleGAN(), Discriminator()
    labels = one_hot(torch.tensor([0, 1, 2, 0]))
    clean = discriminator.mapping(None, labels)
    noisytwins(generator, COUNTS, discriminator=discriminator)
    assert torch.equal(discriminator.mapping(None, labels), clean)
    noisytwins(generator, COUNTS, discriminator=discriminator, discriminator_noise=True)
    assert not torch.equal(discriminator.mapping(None, labels), clean)
    assert torch.equal(discriminator.eval().mapping(None, labels), clean)
    with pytest.raises(OptionError, match="discriminator_noise"):
        noisytwins(generator, COUNTS, discriminator_noise=True)
    with pytest.raises(GeneratorError, match=r"Linear has no mapping network .* MODEL.d_cond_mtd: SPD"):
        noisytwins(generator, COUNTS, discriminator=nn.Linear(2, 2), discriminator_noise=True)
    with pytest.raises(GeneratorError, match="Discriminator's class embedding has 6 classes; the data has 3"):
        noisytwins(generator, COUNTS, discriminator=Discriminator(6), discriminator_noise=True)


# ------------------------------------------------------------------ what is refused


def test_a_generator_without_a_class_embedding_is_refused() -> None:
    with pytest.raises(GeneratorError, match=r"Shared has no mapping network .* MODEL.g_cond_mtd: cAdaIN"):
        noisytwins(Shared(3, [12]), COUNTS)
    unconditional = StyleGAN()
    unconditional.mapping.c_dim = 0
    with pytest.raises(GeneratorError, match="StyleGAN has no mapping network with a class embedding"):
        noisytwins(unconditional, COUNTS)
    with pytest.raises(GeneratorError, match="StyleGAN's class embedding has 3 classes; the data has 2"):
        noisytwins(StyleGAN(), COUNTS[:2])


@pytest.mark.parametrize("weight", [0, 0.01])
def test_the_native_host_refuses_it_before_the_first_step(
    weight: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "c.yaml", {**PLAIN, "REGULARIZER": {"name": "noisytwins", "weight": weight}})
    assert main(arguments(path, tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert "noisytwins" in error
    assert "has no mapping network with a class embedding; allowed: StyleGAN2 and StyleGAN3" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("weight", -1),
        ("sigma", math.inf),
        ("gamma", "0.05"),
        ("beta", 1),
        ("beta", -0.1),
        ("start", 2.5),
        ("start", -1),
        ("discriminator_noise", 1),
    ],
)
def test_impossible_options_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        noisytwins.check_options({option: value})
    assert caught.value.option == option


# ------------------------------------------------------------------ the authors' program


@pytest.fixture
def program() -> Iterator[Any]:
    folder = authors_program("NoisyTwins", "src/utils/barlow.py") / "src"
    with modules_of(folder) as load:
        yield SimpleNamespace(load=load, source=folder)


ignored = pytest.mark.filterwarnings("ignore")  # those of the program's imports


def noise_of_classes(source: Path, beta: float) -> Tensor:
    """The weights of the classes' noise, by their lines."""
    lines = lines_of(source / "loader.py", "if  cfgs.MODEL.effective_number_samples_beta > 0", "[1]*cfgs.DATA")
    cfgs = SimpleNamespace(
        MODEL=SimpleNamespace(effective_number_samples_beta=beta), DATA=SimpleNamespace(num_classes=3)
    )
    data = SimpleNamespace(dataset=SimpleNamespace(img_num_list=COUNTS))
    names = {"cfgs": cfgs, "np": np, "torch": torch, "train_dataloader": data, "local_rank": "cpu"}
    exec(lines, names)
    found: Tensor = names["effective_num_samples_lambda"]
    return found


def their_mappings(program: Any, module: str, beta: float, sigma: float) -> tuple[nn.Module, nn.Module]:
    """Their mapping network with noise, and the same one without, to add ours to."""
    made: ModuleType = program.load(f"models.{module}")
    sizes = {"z_dim": Z, "c_dim": 3, "w_dim": W, "num_ws": LAYERS, "num_layers": 2}
    sizes["effective_num_samples_lambda"] = noise_of_classes(program.source, beta)
    noisy = made.MappingNetwork(**sizes, add_emb_noise=True, emb_noise_std=sigma)
    plain = made.MappingNetwork(**sizes)
    plain.load_state_dict(noisy.state_dict())
    return noisy, plain


@ignored
@pytest.mark.parametrize("module", ["stylegan2", "stylegan3"])
@pytest.mark.parametrize("beta", [0.99, 0])
def test_the_noisy_embedding_equals_the_authors(program: Any, module: str, beta: float) -> None:
    theirs, mapping = their_mappings(program, module, beta, sigma=0.75)
    noisytwins(StyleGAN(mapping), COUNTS, sigma=0.75, beta=beta or None)
    z, labels = torch.randn(64, Z), one_hot(torch.arange(64) % 3)
    clean = mapping(z, labels), theirs(z, labels, mode="eval")
    for step in range(3):
        expected = seeded(step, theirs, z, labels, update_emas=True, mode="train")
        torch.testing.assert_close(seeded(step, mapping, z, labels, update_emas=True), expected, rtol=1e-5, atol=1e-6)
        assert (expected - clean[1]).abs().max() > 0.1
    torch.testing.assert_close(mapping.w_avg, theirs.w_avg)
    # Their `mode` is our evaluation.
    assert torch.equal(mapping.eval()(z, labels), theirs(z, labels, mode="eval"))


@ignored
@pytest.mark.parametrize("gamma", [0.05, 5e-3])
def test_loss_and_gradient_equal_the_authors(program: Any, gamma: float) -> None:
    barlow = program.load("utils.barlow")
    theirs = barlow.BarlowTwins(W, lambd=gamma, use_projector=False)
    ours = NoisyTwins(StyleGAN(), COUNTS, noisytwins_options(weight=0.02, gamma=gamma))
    for _ in range(3):
        w = torch.randn(20, LAYERS, W, requires_grad=True)
        expected = barlow.compute_contrastive(w[:10, 0, :], w[10:, 0, :], theirs, 0.02)
        loss = ours.generator_loss(batch(w))
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(value, w)[0] for value in (loss, expected)))


@ignored
@pytest.mark.parametrize("module", ["stylegan2", "stylegan3"])
def test_twins_w_loss_and_gradients_of_a_whole_batch_equal_the_authors(program: Any, module: str) -> None:
    """Their generate_images and loss on one batch; ours from the noise and labels that it drew."""
    sample, barlow = program.load("utils.sample"), program.load("utils.barlow")
    noisy, mapping = their_mappings(program, module, 0.99, sigma=0.75)
    given: list[Tensor] = []

    def generator_mapping(*inputs: Any, **options: Any) -> Tensor:
        given.extend(inputs)
        return noisy(*inputs, **options)

    torch.manual_seed(5)
    _, labels, _, _, ws, _, _ = sample.generate_images(
        z_prior="gaussian",
        truncation_factor=-1.0,
        batch_size=10,
        z_dim=Z,
        num_classes=3,
        y_sampler="totally_random_barlow",
        radius="N/A",
        generator=None,
        discriminator=None,
        is_train=True,
        LOSS=SimpleNamespace(lo_steps4train=0, apply_lo=False),
        RUN=SimpleNamespace(truncation_cutoff=None, langevin_sampling=False),
        MODEL=SimpleNamespace(info_type="N/A"),
        device="cpu",
        is_stylegan=True,
        generator_mapping=generator_mapping,
        generator_synthesis=lambda ws, update_emas: ws,
        style_mixing_p=0,
        stylegan_update_emas=False,
        cal_trsp_cost=False,
    )
    expected = barlow.compute_contrastive(
        ws[:5, 0, :], ws[5:, 0, :], barlow.BarlowTwins(W, lambd=0.05, use_projector=False), 0.01
    )
    # What they draw: labels of half the batch, then noise of all of it.
    torch.manual_seed(5)
    half, z = torch.randint(3, (5,)), torch.randn(10, Z)
    method = noisytwins(StyleGAN(mapping), COUNTS, weight=0.01, sigma=0.75, beta=0.99, gamma=0.05)
    twins, pairs = method.draw(z, torch.cat([half, (half + 1) % 3]), "generator")
    assert torch.equal(twins, given[0])
    assert torch.equal(pairs, labels)
    assert torch.equal(one_hot(pairs), given[1])
    w = mapping(twins, one_hot(pairs))
    torch.testing.assert_close(w, ws, rtol=1e-5, atol=1e-6)
    loss = method.generator_loss(batch(w))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    mine, theirs = (
        torch.autograd.grad(value, [*network.parameters()]) for value, network in ((loss, mapping), (expected, noisy))
    )
    for one, other in zip(mine, theirs, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)
        assert scale > 0


@ignored
def test_the_discriminators_noise_equals_the_authors(program: Any) -> None:
    """Their program adds it in every forward of the discriminator, evaluation included."""
    made = program.load("models.stylegan2")

    def discriminator(**noise: Any) -> nn.Module:
        mapping = {"effective_num_samples_lambda": noise_of_classes(program.source, 0.99), "num_layers": 2, **noise}
        return made.Discriminator(
            c_dim=3,
            img_resolution=8,
            img_channels=3,
            architecture="orig",
            channel_base=64,
            channel_max=8,
            d_cond_mtd="SPD",
            num_classes=3,
            normalize_d_embed=False,
            mapping_kwargs=mapping,
            epilogue_kwargs={"mbstd_group_size": 4},
            MODEL=SimpleNamespace(info_type="N/A"),
        )

    theirs, ours = discriminator(add_emb_noise=True, emb_noise_std=0.75), discriminator()
    ours.load_state_dict(theirs.state_dict())
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    clean = ours(images, labels)["adv_output"]
    noisytwins(StyleGAN(), COUNTS, sigma=0.75, discriminator=ours, discriminator_noise=True)
    mine, expected = (seeded(4, network, images, labels)["adv_output"] for network in (ours, theirs))
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert (mine - clean).abs().max() > 0.01


# ------------------------------------------------------------------ the real StudioGAN

# Writes what the mapping network and the losses see to a file; adds nothing to the losses.
WATCH = """
import json, os, torch
class Watch:
    def __init__(self, generator, class_counts):
        self.again, self.trained = False, generator.mapping
        torch.nn.modules.module.register_module_forward_hook(self.map, with_kwargs=True)
    def write(self, **line):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(json.dumps(line) + chr(10))
    def map(self, mapping, inputs, options, w):
        if self.again or type(mapping) is not type(self.trained) or not mapping.z_dim:
            return
        self.again = True
        with torch.no_grad():
            other = mapping(*inputs, **{**options, "update_emas": False})
        self.again = False
        noisy, trained = not torch.equal(w, other), mapping is self.trained
        self.write(where="mapping", trained=trained, training=mapping.training, noisy=noisy, size=len(w))
    def see(self, where, batch):
        pairs = (batch.z, batch.labels, batch.w[:, 0])
        self.write(where=where, equal=[torch.equal(*pair.chunk(2)) for pair in pairs])
        return 0 * batch.logits.sum()
    def generator_loss(self, batch):
        return self.see("generator", batch)
    def discriminator_loss(self, batch):
        return self.see("discriminator", batch)
    def scalars(self):
        return {}
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
"""
STACK = [
    {"name": "noisytwins", "discriminator_noise": True},
    {"name": "gsr", "apply_to": ["mapping"]},
    "watch",
]


class Small:
    """Steps of a small StyleGAN of 8 x 8 pixels in the real StudioGAN, watched."""

    def __init__(self, checkout: Checkout, data: Path, folder: Path, make_package: MakePackage) -> None:
        self.host, self.data, self.folder = Host(checkout, narrow_stylegan=True), data, folder
        self.site = make_package("watches", "studiogan.regularizers", {"watch": "watch:Watch"}, {"watch": WATCH})

    def run(self, base: str, regularizer: Any, *arguments: str, name: str = "out", **changes: Any) -> Outcome:
        sections = narrowed(self.host.checkout.source / "configs" / "CIFAR10" / f"{base}.yaml")
        sections.pop("AUG", None)
        sections["REGULARIZER"] = regularizer
        sections["DATA"] = {**sections["DATA"], "img_size": 8}
        sections["MODEL"] |= {"z_dim": 16, "w_dim": 16}
        sections["STYLEGAN"]["mapping_network"] = 2
        for section, values in changes.items():
            sections[section] |= values
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sections))
        environment = {"PYTHONPATH": str(self.site), "WATCHED": str(self.folder / f"{name}.jsonl")}
        return self.host.run(
            path,
            self.data,
            self.folder / name,
            "--pre_resizer",
            "lanczos",
            *arguments,
            environment=environment,
        )

    def watched(self, where: str, name: str = "out") -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["where"] == where]


@pytest.fixture
def small(checkout: Checkout, digits: Path, tmp_path: Path, make_package: MakePackage) -> Small:
    return Small(checkout, digits, tmp_path, make_package)


def check_twins(small: Small, outcome: Outcome) -> None:
    """Twins with noise in the generator's updates; noise alone in the discriminator's; none in evaluation."""
    assert outcome.status == 0, outcome.output
    assert outcome.lines("noisytwins: active in step 1")
    for line in outcome.lines("Progress:"):
        assert float(re.search(r"noisytwins_loss: (\S+)", line)[1]) > 0
    z, labels, w = zip(*(line["equal"] for line in small.watched("generator")), strict=True)
    assert all(z)
    assert all(labels)
    assert not any(w)
    assert not any(any(line["equal"][::2]) for line in small.watched("discriminator"))
    check_noise(small)


def check_noise(small: Small, name: str = "out") -> None:
    """The generator that is trained has noise; the averaged one, which is evaluated, has none."""
    mapped = small.watched("mapping", name)
    assert {line["training"] for line in mapped} == {True, False}
    assert all(line["noisy"] == line["training"] == line["trained"] for line in mapped)


@pytest.mark.host
def test_stylegan2_trains_with_twins_and_gsr_and_goes_on_from_a_checkpoint(small: Small) -> None:
    """Path-length regularization is due in every step: its half batches have noise, but no twins."""
    path_lengths = {"apply_pl_reg": True, "pl_weight": 2, "g_reg_interval": 1}
    outcome = small.run("StyleGAN2", STACK, STYLEGAN=path_lengths)
    check_twins(small, outcome)
    steps = len(outcome.lines("Progress:"))
    assert len(small.watched("generator")) == len(small.watched("discriminator")) == steps
    assert sum(line["size"] == 4 for line in small.watched("mapping")) == steps
    again = small.run(
        "StyleGAN2",
        STACK,
        "-ckpt",
        str(outcome.checkpoint_folder),
        name="again",
        STYLEGAN=path_lengths,
        OPTIMIZATION={"total_steps": 3},
    )
    assert again.status == 0, again.output
    assert again.lines("noisytwins: state restored from the checkpoint")
    assert int(re.search(r"Step: +(\d+)", again.lines("Progress:")[0])[1]) == steps + 1
    check_noise(small, "again")


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("weight", [0, 0.01])
def test_stylegan2_trains_with_it_alone(weight: float, small: Small) -> None:
    outcome = small.run("StyleGAN2", [{"name": "noisytwins", "weight": weight}, "watch"])
    assert outcome.status == 0, outcome.output
    check_noise(small)
    twins = [all(line["equal"][:2]) for line in small.watched("generator")]
    assert all(twins) if weight else not any(twins)


@pytest.mark.host
@pytest.mark.slow
def test_stylegan3_trains_with_twins_and_gsr(small: Small) -> None:
    check_twins(small, small.run("StyleGAN3-t-ADA", STACK, LOSS={"apply_r1_reg": False}))


@pytest.mark.host
def test_a_stylegan_without_classes_is_refused(small: Small) -> None:
    outcome = small.run("StyleGAN2-Uncond", "noisytwins")
    refused(outcome, r"noisytwins.*Generator has no mapping network with a class embedding; allowed: StyleGAN2")
