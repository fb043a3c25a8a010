"""docs/what-programs-compute.md: its statements about other programs, shown with the programs' own functions.

A test that starts with `test_g1_` shows the statement with the tag [G1].  What cannot run here, such as a loop that
needs a GPU, is parsed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from studiogan_gsr import effective_number_weights
from studiogan_gsr.hosts.studiogan.checkout import Checkout, default_root
from support.authors import authors_program, lines_of, modules_of

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "what-programs-compute.md").read_text(encoding="utf-8")
PROGRAMS = ("gSRGAN", "PyTorch-StudioGAN", "MSGAN", "NoisyTwins")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the programs

host = pytest.mark.host


@functools.cache
def imported(source: Path, *names: str) -> list[ModuleType]:
    with modules_of(source) as load:
        return [load(name) for name in names]


def gsrgan(*names: str) -> list[ModuleType]:
    """Import modules of gSR's authors, after `utils.misc`: their imports are circular."""
    return imported(authors_program("gSRGAN", "src/utils/misc.py") / "src", "utils.misc", *names)[1:]


def noisytwins(*names: str) -> list[ModuleType]:
    return imported(authors_program("NoisyTwins", "src/utils/barlow.py") / "src", *names)


def worker_of(name: str) -> Path:
    return authors_program(name, "src/worker.py") / "src" / "worker.py"


def definition(path: Path, name: str) -> ast.FunctionDef | ast.ClassDef:
    """Return the first function or class of that name in a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return next(n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds) and n.name == name)


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """Return the calls of a function or method in source order; its name may have dots."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    found.sort(key=lambda call: call.lineno)
    return [call for call in found if re.search(rf"(^|\.){re.escape(name)}$", ast.unparse(call.func))]


def keywords(call: ast.Call) -> dict[str, str]:
    return {str(keyword.arg): ast.unparse(keyword.value) for keyword in call.keywords}


def assigned(tree: ast.AST, target: str) -> list[str]:
    """Return what is assigned to a name, as source, in source order."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Assign)]
    found.sort(key=lambda assignment: assignment.lineno)
    return [ast.unparse(n.value) for n in found if target in (ast.unparse(t) for t in n.targets)]


def options(path: Path) -> dict[str, str]:
    """Return {option: default}, as source, of a command line."""
    added = calls(ast.parse(path.read_text()), "add_argument")
    return {ast.literal_eval(a): keywords(call).get("default", "None") for call in added for a in call.args}


def shares(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels, minlength=classes) / len(labels)


# ------------------------------------------------------------------ the page


def test_every_tag_has_its_test_and_every_test_its_tag() -> None:
    stated = re.findall(r"\| \[([A-Z]\d+)\] \|$", PAGE, flags=re.MULTILINE)
    here = [match[1].upper() for name in globals() if (match := re.match(r"test_([a-z]\d+)_", name))]
    elsewhere = []
    for tags, path, test in re.findall(r"^- ((?:\[[A-Z]\d+\] )+)`(tests/\S+)::(\S+)`$", PAGE, flags=re.MULTILINE):
        elsewhere += re.findall(r"\w+", tags)
        assert re.search(rf"^def {test}\(", (REPOSITORY / path).read_text(encoding="utf-8"), re.MULTILINE), (
            f"{path}::{test}"
        )
    assert sorted(stated) == sorted(here + elsewhere)
    assert set(re.findall(r"\[([A-Z]\d+)\]", PAGE)) == set(stated)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_describes_the_commits_that_are_checked_out(name: str) -> None:
    folder = default_root().parent / name
    if not (folder / ".git").exists():
        pytest.skip(f"{name} is not checked out at {folder}")
    (described,) = re.findall(rf"/{name}\) at commit\s`([0-9a-f]{{40}})`", PAGE)
    found = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    head = found.stdout.strip()
    assert head == described, f"{folder} is at {head}: read {name} again, the page describes {described}"


# ------------------------------------------------------------------ gSRGAN


def norms(layer: Any) -> tuple[Tensor, Tensor]:
    """Return their spectral norms of the gains and biases of a layer, after the 40 iterations of the first call."""
    settings = SimpleNamespace(num_power_iter=4, shuffle_emb=False)
    gain, bias = layer.plot_sn(torch.zeros(1), settings)[:2]
    return gain.detach(), bias.detach()


def true_norms(embedding: nn.Embedding, classes: int) -> Tensor:
    return torch.linalg.matrix_norm(embedding.weight.detach().reshape(classes, 16, 16), 2)


def test_g1_the_norm_of_the_biases_is_too_small_and_that_of_the_gains_is_right() -> None:
    (ops,) = gsrgan("utils.model_ops")
    layer = ops.ConditionalBatchNorm2d(256, 400, False)
    gain, bias = norms(layer)
    assert (gain / true_norms(layer.embed0, 400)).mean() > 0.99
    assert 0.7 < (bias / true_norms(layer.embed1, 400)).mean() < 0.8
    # Biases near rank one that the gains' right vector does not see.
    rows = torch.zeros(2, 400, 16, 16)
    rows[0, ..., 0], rows[1, ..., 1] = torch.randn(400, 16), torch.randn(400, 16)
    rows[1] += 0.01 * torch.randn(400, 16, 16)
    layer = ops.ConditionalBatchNorm2d(256, 400, False)
    with torch.no_grad():
        layer.embed0.weight.copy_(rows[0].flatten(1))
        layer.embed1.weight.copy_(rows[1].flatten(1))
    _, bias = norms(layer)
    assert (bias / true_norms(layer.embed1, 400)).mean() < 0.3


def regularizer_loss(weighted: bool) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """Return their regularizer's value from norms of gains and biases, one tensor of all classes for each layer."""
    lines = lines_of(worker_of("gSRGAN"), "cnt_layers = len(gain_sn_tmp)", "gen_acml_loss += reg_loss")
    cfgs = SimpleNamespace(num_classes=3, beta=0.99, sn_reg_weight=0.5)
    cfgs.class_balanced_loss_based_on_effective_number_of_samples = weighted
    data = SimpleNamespace(img_num_list=[500, 60, 7])
    settings = SimpleNamespace(cfgs=cfgs, lam=[1, 1, 1], local_rank="cpu", train_dataset=data)

    def loss(gains: list[Tensor], biases: list[Tensor]) -> Tensor:
        names = {"self": settings, "np": np, "torch": torch, "gain_sn_tmp": gains, "bias_sn_tmp": biases}
        names["gen_acml_loss"] = torch.zeros((), dtype=torch.float64)
        exec(lines, names)
        return names["gen_acml_loss"]

    return loss


def test_g2_the_sum_is_divided_by_layers_and_classes() -> None:
    gains, biases = torch.rand(2, 4, 3)
    weights = torch.from_numpy(0.5 * effective_number_weights([500, 60, 7], 0.99))
    total = ((gains.square() + biases.square()) * weights).sum()  # the poster's formula
    torch.testing.assert_close(regularizer_loss(True)([*gains], [*biases]), total / 12)


def test_g3_equal_class_weights_crash() -> None:
    with pytest.raises(TypeError):
        regularizer_loss(False)([torch.ones(3)], [torch.ones(3)])


def test_g4_reading_the_norms_moves_the_spectral_norm_of_the_layer_itself() -> None:
    (ops,) = gsrgan("utils.model_ops")
    layer = ops.ConditionalBatchNorm2d_for_skip_and_shared(32, 10, True)
    settings = SimpleNamespace(num_power_iter=4, shuffle_emb=False, num_classes=5)
    for training in (True, False):
        before = layer.train(training).gain.weight_u.clone()
        layer.plot_sn(torch.randn(5, 6), torch.zeros(1), settings, 4)
        assert torch.equal(layer.gain.weight_u, before) != training


def test_g5_the_vectors_of_the_power_iteration_are_not_in_a_checkpoint() -> None:
    (ops,) = gsrgan("utils.model_ops")
    layer = ops.ConditionalBatchNorm2d(32, 5, False)
    norms(layer)
    assert layer.u0 is not None
    assert [*layer.state_dict()] == ["embed0.weight", "embed1.weight"]


def lecam_of_gsrgan(best: str | None, **values: Any) -> dict[str, Any]:
    lines = lines_of(worker_of("gSRGAN"), "if self.lc_regularizer:", "dis_acml_loss += self.lc_lambda * lc_reg")
    settings = SimpleNamespace(lc_regularizer=True, lc_gamma=0.99, lc_lambda=1.0, best_fid_checkpoint_path=best)
    names = {"self": settings, "torch": torch, "F": F, "dis_acml_loss": torch.zeros(()), "step_count": 9, **values}
    exec(lines, names)
    return names


def test_g7_lecam_pushes_logits_of_generated_images_down_where_the_published_one_pushes_them_up() -> None:
    """All logits of real images are 1; the generated ones lie above that, where the published LeCam does nothing."""
    fake = torch.full((4,), 3.0, requires_grad=True)
    found = lecam_of_gsrgan(None, alpha_r=1.0, alpha_f=3.0, dis_out_real=torch.ones(4), dis_out_fake=fake)
    assert found["dis_acml_loss"].item() == pytest.approx(4)
    assert (torch.autograd.grad(found["dis_acml_loss"], fake)[0] > 0).all()


def test_g8_a_resumed_run_has_no_moving_averages() -> None:
    logits = {"dis_out_real": torch.tensor([1.0, 3.0]), "dis_out_fake": torch.tensor([-2.0, 0.0])}
    first = lecam_of_gsrgan(None, alpha_r=100.0, alpha_f=100.0, **logits)
    assert first["alpha_r"].tolist() == pytest.approx([99.01, 99.03])
    resumed = lecam_of_gsrgan("folder", alpha_r=100.0, alpha_f=100.0, **logits)
    assert [resumed[name].tolist() for name in ("alpha_r", "alpha_f")] == [2.0, -1.0]
    # The path is of no use but this: a checkpoint always has one, a new run never.
    assert "self.checkpoint_dir" in ast.unparse(definition(worker_of("gSRGAN"), "save"))
    assert "best_fid_checkpoint_path" not in ast.unparse(definition(worker_of("gSRGAN"), "evaluation"))


def trained() -> tuple[nn.Linear, torch.optim.Adam]:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return network, optimizer


def saved(path: Path) -> Path:
    """A discriminator's checkpoint after one step."""
    network, optimizer = trained()
    state = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "seed": 1, "run_name": "run"}
    state |= {"step": 1, "best_step": 1, "best_fid": 9.0, "best_fid_checkpoint_path": "folder", "ada_p": 0.0}
    torch.save({**state, "lecam_emas": {"D_real": 0.5, "D_fake": -0.5}}, path)
    return path


def test_g9_a_resumed_run_has_lost_adams_moments(tmp_path: Path) -> None:
    (checkpoints,) = gsrgan("utils.load_checkpoint")
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    checkpoints.load_checkpoint(network, optimizer, saved(tmp_path / "D.pth"), metric=True)
    assert optimizer.state_dict()["state"] == {}
    assert trained()[1].state_dict()["state"] != {}


def test_g10_an_image_depends_on_the_batch_that_it_is_evaluated_in() -> None:
    (ops,) = gsrgan("utils.model_ops")
    layer = ops.ConditionalBatchNorm2d(8, 3, False).eval()
    assert layer.bn.running_mean is None
    features, labels = torch.randn(6, 8, 4, 4), torch.tensor([0, 1, 2, 2, 2, 2])
    whole, half = layer(features, labels), layer(features[:3], labels[:3])
    assert (whole[:3] - half).abs().max() > 0.1


def test_g11_the_reference_of_cifar_is_the_test_set() -> None:
    loader = ast.parse((authors_program("gSRGAN", "src/loader.py") / "src" / "loader.py").read_text())
    training, evaluation = (keywords(call) for call in calls(loader, "IMBALANCECIFAR10"))
    assert (training["train"], training["imb_factor"]) == ("True", "cfgs.imb_factor")
    assert (evaluation["train"], evaluation["imb_factor"]) == ("False", "1.0")


def test_g12_the_checkpoint_is_chosen_on_what_is_reported() -> None:
    """Choice and final evaluation use one loader and one pair of moments; three repeats are of one checkpoint."""
    evaluation = definition(worker_of("gSRGAN"), "evaluation")
    final, during = calls(evaluation, "calculate_fid_score")  # in source order
    for call in (final, during):
        given = [ast.unparse(argument) for argument in call.args]
        assert given[0] == "self.eval_dataloader"
        assert given[-3:-1] == ["self.mu", "self.sigma"]
    assert (ast.unparse(final.args[4]), ast.unparse(during.args[4])) == ("50000", "self.num_eval[self.eval_type]")
    assert assigned(evaluation, "num_random_restarts") == ["3"]
    assert "fid_score <= self.best_fid" in ast.unparse(evaluation)


class Generator:
    """Images whose pixels are their noise."""

    z_dim, num_classes, img_size = 12, 5, 2

    def __call__(self, z: Tensor, labels: Tensor, evaluation: bool) -> Tensor:
        return z.tanh().reshape(-1, 3, 2, 2)


def activations(fid: ModuleType, images: Any, generate: int | None, seen: list[Tensor]) -> np.ndarray:
    """Return their features, all ones, of a loader's images or of generated ones."""

    def network(batch: Tensor) -> tuple[Tensor, None]:
        seen.append(batch)
        return torch.ones(len(batch), 2048), None

    judge = SimpleNamespace(conditional_strategy="ProjGAN")
    made = generate is not None
    features, _ = fid.get_activations(
        images, Generator(), judge, network, generate, 1, "gaussian", made, False, 0, 0, 0, "cpu", tqdm_disable=True
    )
    return features


def test_g13_features_are_of_images_that_are_not_rounded_to_8_bits() -> None:
    (fid,) = gsrgan("metrics.FID")
    seen: list[Tensor] = []
    activations(fid, SimpleNamespace(batch_size=4), 8, seen)
    levels = (torch.cat(seen) + 1) * 127.5
    assert ((levels - levels.round()).abs() > 0.01).float().mean() > 0.9


def test_g14_moments_of_inaturalists_reference_have_rows_that_nobody_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sampler and loader, as for iNaturalist: the last images are no whole batch and are dropped."""
    sample, fid = gsrgan("utils.sample", "metrics.FID")
    images, labels = torch.zeros(10, 3, 2, 2), torch.arange(10) % 5
    data = TensorDataset(images, labels)
    loader = DataLoader(data, 4, drop_last=True, sampler=sample.BalancedBatchSampler(data, labels))
    monkeypatch.setattr(fid, "np", SimpleNamespace(empty=lambda shape: np.full(shape, np.nan)))
    features = activations(fid, loader, None, [])
    assert np.isnan(features).all(axis=1).tolist() == 8 * [False] + 2 * [True]
    program = ast.parse((authors_program("gSRGAN", "src/loader.py") / "src" / "loader.py").read_text())
    balanced = [keywords(c) for c in calls(program, "DataLoader") if "BalancedBatchSampler" in ast.unparse(c)]
    assert [call["drop_last"] for call in balanced] == ["True"]


def test_g15_most_of_lsuns_reference_are_training_images() -> None:
    (data,) = gsrgan("data_utils.load_dataset")

    def counts(images: int, factor: float) -> list[int]:
        made = data.IMBALANCELSUN.__new__(data.IMBALANCELSUN)
        made.max_samples = images
        made_counts: list[int] = made.get_img_num_per_cls(5, "exp", factor)
        return made_counts

    reference = counts(2000, 1.0)
    assert sum(reference) == 10_000
    for factor, shared in ((0.01, 8081), (0.001, 5912)):
        # Both take the first images of the same files.
        assert sum(map(min, counts(50_000, factor), reference)) == shared


def test_g16_labels_of_generated_images_are_uniform() -> None:
    (sample,) = gsrgan("utils.sample")
    _, labels = sample.sample_latents("gaussian", 20_000, 2, 1, 10)
    assert (shares(labels, 10) - 0.1).abs().max() < 0.01


def test_g17_the_augmentation_of_differentiable_augmentation_is_fixed() -> None:
    assert assigned(definition(worker_of("gSRGAN"), "__init__"), "self.policy") == ["'color,translation,cutout'"]


def test_g18_ada_moves_by_the_target_times_what_was_published() -> None:
    (misc,) = gsrgan("utils.misc")
    images, target = 500_000, 0.6
    adaptive = misc.Adaptive_Augment(None, target, images, 64, "cpu")
    adaptive.initialize()
    moved = [adaptive.update(torch.ones(64)) for _ in range(4)][-1]
    assert moved == pytest.approx(target * 4 * 64 / images)


def of_settings(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == name


def flat(sections: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in sections.items():
        values |= flat(value) if isinstance(value, dict) else {key: value}
    return values


def test_g19_some_configurations_lack_keys_and_one_is_without_gsr() -> None:
    source = authors_program("gSRGAN", "src/main.py") / "src"
    reads = {n.attr for n in ast.walk(definition(source / "worker.py", "__init__")) if of_settings(n, "cfgs")}
    later = {n.attr for n in ast.walk(definition(source / "worker.py", "evaluation")) if of_settings(n, "self.cfgs")}
    given = {option.lstrip("-").replace("-", "_") for option in options(source / "main.py")}
    missing, without = {}, []
    for path in sorted((source / "configs").rglob("*.json")):
        keys = flat(json.loads(path.read_text()))
        missing[path.stem] = (reads - {*keys} - given, later - {*keys} - given)
        without += [path.stem] if not keys["sn_regularize"] else []
    at_start = {name: keys for name, (keys, _) in missing.items() if keys}
    assert at_start == {"BigGAN_iNat": {"fro_regularize"}}
    at_evaluation = {name for name, (_, keys) in missing.items() if "compute_prdc" in keys}
    assert at_evaluation == {"BigGAN_LSUN", "BigGAN_LSUN_128", "BigGAN_iNat", "SNGAN_LSUN"}
    assert without == ["BigGAN_LSUN_128"]


def random_states(source: Path) -> list[Path]:
    """Return the files that read or set the state of a random generator."""
    return [
        path for path in source.rglob("*.py") if re.search(r"rng_state|random\.(get|set)_?state", path.read_text())
    ]


def test_g21_no_checkpoint_has_the_state_of_a_random_generator() -> None:
    source = authors_program("gSRGAN", "src/main.py") / "src"
    assert random_states(source) == []
    assert "seed" in ast.unparse(calls(definition(source / "main.py", "main"), "fix_all_seed")[0])


# ------------------------------------------------------------------ PyTorch-StudioGAN


@host
def test_s3_a_checkpoint_brings_back_lecams_averages_and_adams_moments(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, ops = imported(checkout.source, "utils.ckpt", "utils.ops")
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    network = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    *_, averages = checkpoints.load_ckpt(network, optimizer, saved(tmp_path / "D.pth"), True, True, True)
    assert len(optimizer.state_dict()["state"]) == 2
    lecam = ops.LeCamEMA()
    lecam.__dict__ = averages  # as the worker's __init__ does
    assert (lecam.D_real, lecam.D_fake) == (0.5, -0.5)
    assert assigned(definition(checkout.source / "worker.py", "__init__"), "self.lecam_ema.__dict__")


@host
def test_s4_lecams_averages_move_in_every_update_and_accumulated_part(checkout: Checkout) -> None:
    training = definition(checkout.source / "worker.py", "train_discriminator")
    loops = [n for n in ast.walk(training) if isinstance(n, ast.For)]
    around = [ast.unparse(loop.iter) for loop in loops if calls(loop, "lecam_ema.update")]
    assert around == ["range(self.OPTIMIZATION.d_updates_per_step)", "range(self.OPTIMIZATION.acml_steps)"]


@host
def test_s5_labels_of_generated_images_are_uniform(checkout: Checkout) -> None:
    (sample,) = imported(checkout.source, "utils.sample")
    labels = sample.sample_y("totally_random", 20_000, 10, "cpu")
    assert (shares(labels, 10) - 0.1).abs().max() < 0.01
    for function in ("train_discriminator", "train_generator", "evaluate"):
        tree = definition(checkout.source / "worker.py", function)
        drawn = calls(tree, "generate_images") + calls(tree, "generate_images_and_stack_features")
        assert {keywords(call)["y_sampler"] for call in drawn} == {"'totally_random'"}


@host
def test_s6_the_reference_is_the_training_set_unless_told_otherwise_and_sets_the_number_of_images(
    checkout: Checkout,
) -> None:
    defaults = options(checkout.source / "main.py")
    assert defaults["-ref"] == "'train'"
    loader = ast.parse((checkout.source / "loader.py").read_text())
    assert assigned(loader, "num_eval[cfgs.RUN.ref_dataset]") == ["len(eval_dataloader.dataset)"]
    (measured,) = calls(definition(checkout.source / "worker.py", "evaluate"), "generate_images_and_stack_features")
    assert keywords(measured)["num_generate"] == "self.num_eval[self.RUN.ref_dataset]"


@host
def test_s7_running_statistics_are_those_of_the_generators_updates_alone(checkout: Checkout) -> None:
    (misc,) = imported(checkout.source, "utils.misc")
    layer = nn.BatchNorm2d(2)
    for change, moves in ((misc.untrack_bn_statistics, False), (misc.track_bn_statistics, True)):
        before = layer.apply(change).running_mean.clone()
        layer(torch.randn(4, 2, 3, 3) + 1)
        assert torch.equal(layer.running_mean, before) != moves
    for update, name in (("train_discriminator", "untrack"), ("train_generator", "track")):
        (applied,) = calls(definition(checkout.source / "worker.py", update), "Gen.apply")
        assert ast.unparse(applied.args[0]) == f"misc.{name}_bn_statistics"


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 8, 1)), nn.BatchNorm2d(8))


@host
def test_s8_the_averaged_generators_spectral_norms_are_found_again_in_evaluation(checkout: Checkout) -> None:
    ema, misc = imported(checkout.source, "utils.ema", "utils.misc")
    source, target = normed(), normed()
    average = ema.Ema(source, target, decay=0.9, start_iter=0)
    for step in range(60):
        source[0].weight_u.copy_(F.normalize(torch.randn(8), dim=0))  # turns much faster than in training
        average.update(step)
    assert target[0].weight_u.norm() < 0.6
    controller = misc.GeneratorController(target, None, None, False, False, 0, 0, None, "cpu", 0, None, 0)
    generator = controller.prepare_generator()[0]
    assert (generator[0].training, generator[1].training) == (True, False)
    generator(torch.randn(1, 3, 2, 2))
    assert generator[0].weight_u.norm().item() == pytest.approx(1)


@host
def test_s9_images_are_rounded_to_8_bits_before_they_are_measured(checkout: Checkout) -> None:
    (ops,) = imported(checkout.source, "utils.ops")
    images = torch.rand(1, 3, 4, 4) * 2 - 1
    rounded = ops.quantize_images(images)
    assert rounded.dtype == np.uint8
    assert np.abs(rounded - ((images + 1) * 127.5).numpy()).max() <= 0.51


@host
def test_s10_images_are_enlarged_bilinearly_unless_told_otherwise(checkout: Checkout) -> None:
    (resize,) = imported(checkout.source, "utils.resize")
    assert options(checkout.source / "main.py")["--post_resizer"] == "'legacy'"
    image = np.random.randint(0, 256, (32, 32, 3)).astype(np.uint8)
    legacy, clean = (resize.build_resizer(name, "InceptionV3_tf", 299)(image) for name in ("legacy", "clean"))
    expected = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=299, mode="bilinear")
    np.testing.assert_allclose(legacy, expected[0].permute(1, 2, 0).numpy(), rtol=1e-5)
    assert np.abs(clean - legacy).mean() > 3  # bicubic


@host
def test_s11_the_checkpoint_is_chosen_on_the_reference_that_is_reported(checkout: Checkout) -> None:
    evaluate = definition(checkout.source / "worker.py", "evaluate")
    assert "self.best_fid is None or fid_score <= self.best_fid" in ast.unparse(evaluate)
    (fid,) = calls(evaluate, "calculate_fid")
    assert (keywords(fid)["pre_cal_mean"], keywords(fid)["pre_cal_std"]) == ("self.mu", "self.sigma")
    assert options(checkout.source / "main.py")["--save_freq"] == "2000"


@host
def test_s12_ada_moves_as_published(checkout: Checkout) -> None:
    lines = lines_of(checkout.source / "worker.py", "heuristic = (self.dis_sign_real[0]", "self.aa_p = min(")
    images = 4 * 64
    run = SimpleNamespace(dis_sign_real=torch.tensor([images, images]), aa_target=0.6, aa_kimg=500)
    run.aa_p = torch.zeros(())
    exec(lines, {"self": run, "np": np, "torch": torch})
    assert run.aa_p.item() == pytest.approx(images / 500_000)


@host
def test_s13_its_differentiable_augmentation_has_all_three_kinds(checkout: Checkout) -> None:
    (augmentation,) = imported(checkout.source, "utils.diffaug")
    policy = inspect.signature(augmentation.apply_diffaug).parameters["policy"].default
    assert policy == "color,translation,cutout"


@host
def test_s15_no_checkpoint_has_the_state_of_a_random_generator(checkout: Checkout) -> None:
    assert random_states(checkout.source) == []
    assert calls(definition(checkout.source / "loader.py", "load_worker"), "fix_seed")


# ------------------------------------------------------------------ MSGAN

CLASSES = 4


@pytest.fixture
def msgan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Their conditional DCGAN for CIFAR-10 on the CPU."""
    folder = authors_program("MSGAN", "DCGAN-Mode-Seeking/model.py") / "DCGAN-Mode-Seeking"
    monkeypatch.setattr(Tensor, "cuda", lambda self, device=None: self)
    monkeypatch.setattr(torch.cuda, "FloatTensor", torch.FloatTensor)
    with modules_of(folder) as load:
        program = load("model").CDCGAN(SimpleNamespace(nz=5, class_num=CLASSES))
        program.gpu = 0
        program.initialize()
        yield program


def test_m4_the_discriminator_counts_the_real_images_twice(msgan: Any) -> None:
    real, judged = torch.randn(3, 3, 32, 32), []
    forward = msgan.D.forward
    msgan.D.forward = lambda images, labels: judged.append(images) or forward(images, labels)
    msgan.update_D(real, torch.tensor([2, 0, 2]))
    assert [torch.equal(images, real) for images in judged] == [False, True, False, True]


def test_m5_the_generator_learns_from_the_images_that_the_discriminator_has_just_learned_from(msgan: Any) -> None:
    forward, made = msgan.G.forward, []
    msgan.G.forward = lambda z, labels: made.append(len(z)) or forward(z, labels)
    msgan.update_D(torch.randn(3, 3, 32, 32), torch.tensor([2, 0, 2]))
    images = msgan.fake_image
    msgan.update_G()
    assert msgan.fake_image is images
    assert made == [6]


def test_m6_both_optimizers_decay_the_weights(msgan: Any) -> None:
    found = [o.param_groups[0]["weight_decay"] for o in (msgan.gen_opt, msgan.dis_opt)]
    assert found == [1e-4, 1e-4]


def test_m7_images_for_evaluation_have_the_labels_of_the_test_images() -> None:
    folder = authors_program("MSGAN", "DCGAN-Mode-Seeking/test.py") / "DCGAN-Mode-Seeking"
    main = definition(folder / "test.py", "main")
    (data,) = calls(main, "CIFAR10")
    assert keywords(data)["train"] == "False"
    loops = [ast.unparse(n.iter) for n in ast.walk(main) if isinstance(n, ast.For)]
    assert loops == ["enumerate(loader)", "range(opts.num)"]
    assert options(folder / "options.py")["--num"] == "5"
    assert not [path for path in folder.glob("*.py") if re.search(r"inception|\bfid\b|lpips", path.read_text(), re.I)]


# ------------------------------------------------------------------ NoisyTwins


def test_n1_the_correlation_is_divided_by_the_size_of_half_the_batch() -> None:
    """Equal halves then have the correlation 1; divided by the whole batch it would be a half, and the loss W / 4."""
    (barlow,) = noisytwins("utils.barlow")
    width = 8
    twins = barlow.BarlowTwins(width, lambd=0.0, use_projector=False)
    w = torch.randn(20, width)
    assert barlow.compute_contrastive(w, w, twins, 1.0).item() < 1e-6 < width / 4


def test_n3_noise_is_switched_off_by_an_argument_and_not_by_eval() -> None:
    (stylegan,) = noisytwins("models.stylegan2")
    sizes = {"z_dim": 4, "c_dim": 3, "w_dim": 8, "num_ws": 2, "effective_num_samples_lambda": torch.ones(3, 1)}
    network = stylegan.MappingNetwork(**sizes, add_emb_noise=True, emb_noise_std=0.75).eval()
    z, labels = torch.randn(5, 4), torch.eye(3)[[0, 1, 2, 0, 1]]
    quiet = network(z, labels, mode="eval")
    assert torch.equal(quiet, network(z, labels, mode="eval"))
    assert (network(z, labels) - quiet).abs().max() > 0.1


def test_n4_twins_are_made_in_the_generators_updates_alone() -> None:
    for update, samplers in (
        ("train_discriminator", ["'totally_random'"]),
        ("train_generator", ["'totally_random_barlow'", "'totally_random'"]),
    ):
        assert assigned(definition(worker_of("NoisyTwins"), update), "y_sampler") == samplers


def path_length_weight(losses: ModuleType, worker: Path, weight: float) -> float:
    """Return by what a program multiplies the path-length penalty, of an interval of one step."""
    images = torch.randn(2, 3, 4, 4)

    def loss(pl_weight: float) -> float:
        torch.manual_seed(1)
        ws = torch.randn(2, 5, 6, requires_grad=True)
        value = losses.PathLengthRegularizer("cpu", pl_weight=pl_weight).cal_pl_reg(images * ws.square().mean(), ws)
        found = SimpleNamespace(pl_reg_loss=value)
        found.STYLEGAN = SimpleNamespace(pl_weight=pl_weight, g_reg_interval=1)
        found.OPTIMIZATION = SimpleNamespace(acml_steps=1)
        exec(lines_of(worker, "self.pl_reg_loss *=", "self.pl_reg_loss *="), {"self": found})
        return float(found.pl_reg_loss)

    return loss(weight) / loss(1.0)


@host
def test_n5_path_lengths_have_the_square_of_their_weight(checkout: Checkout) -> None:
    (theirs,), (studiogans,) = noisytwins("utils.losses"), imported(checkout.source, "utils.losses")
    assert path_length_weight(theirs, worker_of("NoisyTwins"), 2.0) == pytest.approx(4)
    assert path_length_weight(studiogans, checkout.source / "worker.py", 2.0) == pytest.approx(2)
    weights = {}
    for path in (worker_of("NoisyTwins").parent / "configs").rglob("*.yaml"):
        style = yaml.safe_load(path.read_text())["STYLEGAN"]
        weights[path] = style["pl_weight"] if style["apply_pl_reg"] else 0
    assert {*weights.values()} == {0, 2}


def test_n6_lecams_averages_start_at_0_and_need_hundreds_of_updates() -> None:
    (ops,) = noisytwins("utils.ops")
    configuration = worker_of("NoisyTwins").parent / "configs" / "iNat19" / "StyleGAN2-SPD-ADA-LC-NoisyTwins.yaml"
    loss = yaml.safe_load(configuration.read_text())["LOSS"]
    assert (loss["lecam_ema_start_iter"], loss["lecam_ema_decay"]) == (0, 0.99)
    lecam = ops.LeCamEMA()
    lecam.decay, lecam.start_itr = loss["lecam_ema_decay"], loss["lecam_ema_start_iter"]
    for step in range(100):
        lecam.update(1.0, "D_real", step)
    assert lecam.D_real == pytest.approx(1 - 0.99**100) == pytest.approx(0.634, abs=1e-3)


@pytest.mark.parametrize("name", ["AnimalFace_FS", "Imgnet_carniv"])
def test_n7_few_shot_sets_have_no_reference_but_the_training_images(name: str) -> None:
    (data,) = noisytwins("data_util")
    with pytest.raises(AssertionError, match="only support train"):
        data.Dataset_(name, "", train=False)


def test_n8_labels_of_generated_images_are_uniform() -> None:
    (sample,) = noisytwins("utils.sample")
    for name in ("totally_random", "totally_random_barlow"):
        labels = sample.sample_y(name, 20_000, 10, "cpu")
        assert (shares(labels, 10) - 0.1).abs().max() < 0.01


def test_n9_cifar10_lt_has_always_the_ratio_100_and_the_seed_0() -> None:
    (data,) = noisytwins("data_util")
    defaults = inspect.signature(data.IMBALANCECIFAR10.__init__).parameters
    assert (defaults["imb_factor"].default, defaults["rand_number"].default) == (0.01, 0)
    source = authors_program("NoisyTwins", "src/data_util.py") / "src" / "data_util.py"
    training, evaluation = (keywords(call) for call in calls(ast.parse(source.read_text()), "IMBALANCECIFAR10"))
    assert "imb_factor" not in training
    assert evaluation["imb_factor"] == "1.0"


def test_n10_the_final_evaluation_generates_50000_images_of_the_best_checkpoint() -> None:
    evaluate = definition(worker_of("NoisyTwins"), "evaluate")
    assert assigned(evaluate, "self.num_eval[self.RUN.ref_dataset]") == ["50000"]
    script = (authors_program("NoisyTwins", "run_script.sh") / "run_script.sh").read_text()
    evaluation = script.split('"evaluate" ]')[1].split('elif [ "${TASK}"')[0]
    assert evaluation.count("main.py") == evaluation.count("-best") == 2
