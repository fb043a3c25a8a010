"""Compare the native host with StudioGAN: cases, the results of both hosts, and their differences."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studiogan_gsr.hosts.native.augmentation import ADA, _constant
from studiogan_gsr.hosts.native.augmentation import augmentation as make_augmentation
from studiogan_gsr.hosts.native.configuration import Configuration, read_configuration
from studiogan_gsr.hosts.native.losses import conditional_loss, discriminator_loss, generator_loss
from studiogan_gsr.hosts.native.networks import Judgement, make_networks
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations
from support.studiogan_networks import ADVERSARIAL, computing_in, gradients, states, weighted

Case = dict[str, Any]
Results = dict[str, Any]
Sections = dict[str, dict[str, Any]]

REFERENCE = Path(__file__).with_name("studiogan_networks.py")
CLASSES, IMAGES, STEPS = 5, 6, 10  # IMAGES: in a batch
CONDITIONINGS = ("W/O", "AC", "PD", "2C", "D2DCE")
KINDS = ("blit", "geom", "color", "bg", "bgc")
NEEDS: dict[str, Sections] = {
    "W/O": {},
    "PD": {},
    "AC": {"LOSS": {"cond_lambda": 0.7}},
    "2C": {"MODEL": {"d_embed_dim": 6}, "LOSS": {"cond_lambda": 0.7, "temperature": 0.5}},
    "D2DCE": {"MODEL": {"d_embed_dim": 6}, "LOSS": {"cond_lambda": 0.7, "temperature": 0.5, "m_p": 0.8}},
}


def merged(*parts: Mapping[str, Mapping[str, Any]]) -> Sections:
    """Merge sections; keys of later parts replace those of earlier parts."""
    sections: Sections = {}
    for part in parts:
        for name, values in part.items():
            sections[name] = {**sections.get(name, {}), **values}
    return sections


# ------------------------------------------------------------------ cases

FACTORS: dict[str, tuple[Any, ...]] = {
    "backbone": ("resnet", "big_resnet"),
    "img_size": (32, 64, 128),
    "g_cond_mtd": ("W/O", "cBN"),
    "d_cond_mtd": CONDITIONINGS,
    "apply_g_sn": (False, True),
    "apply_d_sn": (False, True),
    "attention": ("none", "one", "two"),
    "g_act_fn": ("ReLU", "Leaky_ReLU", "ELU", "GELU"),
    "d_act_fn": ("ReLU", "Leaky_ReLU", "ELU", "GELU"),
    "normalize_d_embed": (False, True),
    "g_init": ("ortho", "N02", "glorot", "xavier"),
    "d_init": ("ortho", "N02", "glorot", "xavier"),
}
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairs(choice: Mapping[str, Any]) -> set[Pair]:
    return set(itertools.combinations(choice.items(), 2))


def all_pairs(factors: Mapping[str, tuple[Any, ...]]) -> set[Pair]:
    """Return all pairs of values of two different factors."""
    named = [[(name, value) for value in values] for name, values in factors.items()]
    return {pair for one, other in itertools.combinations(named, 2) for pair in itertools.product(one, other)}


def covering(factors: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return a small list of choices in which each pair of values occurs at least once; greedy, deterministic."""
    missing, draw = all_pairs(factors), random.Random(0)
    chosen = []
    while missing:
        tries = []
        for _ in range(100):
            fixed = dict(draw.choice(sorted(missing, key=repr)))
            choice = {name: fixed.get(name, draw.choice(values)) for name, values in factors.items()}
            tries.append((len(pairs(choice) & missing), repr(choice), choice))
        chosen.append(max(tries)[2])
        missing -= pairs(chosen[-1])
    return chosen


def _inputs(size: int, classes: int, z_dim: int, seed: int) -> Case:
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=stream)

    return {
        "z": normal(IMAGES, z_dim),
        "images": normal(IMAGES, 3, size, size).tanh(),
        "labels": torch.randint(classes, (IMAGES,), generator=stream),
        "weights": {
            "images": normal(IMAGES, 3, size, size),
            "adv_output": normal(IMAGES),
            "embed": normal(IMAGES, 6),
            "proxy": normal(IMAGES, 6),
            "cls_output": normal(IMAGES, classes),
        },
    }


# Per image size, the blocks followed by attention: of the generator, of the discriminator.  Each has 8
# channels at least, which attention needs.
_ATTENTION = {
    "none": {32: None, 64: None, 128: None},
    "one": {32: ([2], [1]), 64: ([2], [2]), 128: ([3], [3])},
    "two": {32: ([3, 1], [4, 2]), 64: ([1, 2], [5, 3]), 128: ([1, 2], [4, 6])},
}


def network_cases() -> dict[str, Case]:
    """Return cases that cover all pairs of network options; the networks have 2 to 64 channels."""
    cases = {}
    for number, choice in enumerate(covering(FACTORS)):
        size, how, big = choice["img_size"], choice["d_cond_mtd"], choice["backbone"] == "big_resnet"
        places = _ATTENTION[choice["attention"]][size]
        z_dim = 3 * {32: 4, 64: 5, 128: 6}[size] if big else 7
        model = {key: value for key, value in choice.items() if key not in ("img_size", "attention")}
        model |= {"z_dim": z_dim, "g_conv_dim": 2, "d_conv_dim": 4 if size < 128 else 2}
        if big:
            model["g_shared_dim"] = 4
        if places:
            model |= {"apply_attn": True, "attn_g_loc": places[0], "attn_d_loc": places[1]}
        sections = merged({"DATA": {"img_size": size, "num_classes": CLASSES}, "MODEL": model}, NEEDS[how])
        inputs = _inputs(size, CLASSES, z_dim, number)
        name = f"{number}-{choice['backbone']}{size}-{how.replace('/', '')}"
        cases[name] = {"kind": "network", "sections": sections, "seed": number, **inputs}
    return cases


def loss_cases() -> dict[str, Case]:
    """Return a case for each conditional loss, adversarial loss and kind of labels."""
    labels = {
        "mixed": [0, 1, 1, 3, 0, 1],
        "all alone": [4, 1, 0, 3, 2],
        "all the same": [2, 2, 2, 2],
        "two": [1, 0],
    }
    cases = {}
    for number, (how, adversarial, kind) in enumerate(itertools.product(CONDITIONINGS, ADVERSARIAL, labels)):
        stream, n = torch.Generator().manual_seed(number), len(labels[kind])
        shapes = {"adv_output": (n,), "fake": (n,), "embed": (n, 6), "proxy": (n, 6), "cls_output": (n, CLASSES)}
        model = {"d_cond_mtd": how, "z_dim": 7, "g_conv_dim": 2, "d_conv_dim": 2}
        sections = {"DATA": {"num_classes": CLASSES}, "MODEL": model, "LOSS": {"adv_loss": adversarial}}
        cases[f"{how}-{adversarial}-{kind}"] = {
            "kind": "losses",
            "sections": merged(sections, NEEDS[how]),
            "labels": torch.tensor(labels[kind]),
            **{key: torch.randn(shape, generator=stream) for key, shape in shapes.items()},
        }
    return cases


_ADA = {"apply_ada": True, "ada_initial_augment_p": 0.4, "ada_target": 0.1, "ada_kimg": 0.1, "ada_interval": 1}
_EMA = {"apply_g_ema": True, "g_ema_decay": 0.9, "g_ema_start": 3}
_LECAM = {"apply_lecam": True, "lecam_lambda": 0.3, "lecam_ema_start_iter": 4, "lecam_ema_decay": 0.9}
_TWO = {"d_updates_per_step": 2}
OPTIONS: dict[str, Sections] = {
    "plain": {},
    "diffaug+lecam": {"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}, "LOSS": _LECAM},
    "ada": {"AUG": {**_ADA, "ada_aug_type": "bgc"}},
    "ema": {"MODEL": _EMA},
    "sgd+decay": {
        "OPTIMIZATION": {
            "type_": "SGD", "momentum": 0.9, "nesterov": True, "g_weight_decay": 0.01, "d_weight_decay": 0.02,
            "g_lr": 0.0001, "d_lr": 0.0002,
        },
    },
    "rmsprop": {"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.5, "alpha": 0.9}},
    "g first": {"OPTIMIZATION": {"d_first": False, **_TWO}, "MODEL": _EMA},
    "accumulated+lecam": {"OPTIMIZATION": {"acml_steps": 2}, "LOSS": _LECAM},
    "two of each": {"OPTIMIZATION": {"g_updates_per_step": 2, **_TWO}, "MODEL": _EMA},
    "clipped": {"LOSS": {"apply_wc": True, "wc_bound": 0.1}},
    # A bias that does not influence the loss has the gradient of weight decay only, and Adam divides that by its eps,
    # 1e-6: a larger decay would amplify rounding errors.
    "uniform+decay": {
        "MODEL": {"z_prior": "uniform"}, "OPTIMIZATION": {"g_weight_decay": 0.0001, "d_weight_decay": 0.0002},
    },
    "ada, rare": {"AUG": {**_ADA, "ada_aug_type": "bg", "ada_interval": 3}},
    "ada, fixed": {
        "AUG": {"apply_ada": True, "ada_aug_type": "color", "ada_initial_augment_p": 0.6, "ada_target": None},
    },
}  # fmt: skip
_ACTIVATIONS = ("ReLU", "GELU", "Leaky_ReLU", "ELU")


def training_cases() -> dict[str, Case]:
    """Ten steps of each backbone with each conditioning and adversarial loss, the other options in rotation."""
    cases = {}
    combinations = itertools.product(("resnet", "big_resnet"), CONDITIONINGS, ADVERSARIAL)
    for number, (backbone, how, adversarial) in enumerate(combinations):
        option = list(OPTIONS)[number % len(OPTIONS)]
        conditional = number % 5 != 3
        model = {
            "backbone": backbone,
            "g_cond_mtd": "cBN" if conditional else "W/O",
            "d_cond_mtd": how,
            "apply_g_sn": number % 2 == 0,
            "apply_d_sn": number % 3 != 0,
            "normalize_d_embed": number % 4 < 2,
            "g_act_fn": _ACTIVATIONS[number % 4],
            "d_act_fn": _ACTIVATIONS[number % 7 % 4],
            "z_dim": 8,
            "g_conv_dim": 2,
            "d_conv_dim": 4,
        }
        if number % 3 == 1:
            model |= {"apply_attn": True, "attn_g_loc": [2], "attn_d_loc": [1]}
        if backbone == "big_resnet" and conditional:
            model["g_shared_dim"] = 4
        sections = merged(
            {
                "DATA": {"num_classes": CLASSES},
                "MODEL": model,
                "LOSS": {"adv_loss": adversarial},
                "OPTIMIZATION": {"batch_size": IMAGES, "d_updates_per_step": 1, "g_lr": 0.001, "d_lr": 0.002},
            },
            NEEDS[how],
            OPTIONS[option],
        )
        optimization = sections["OPTIMIZATION"]
        batches = STEPS * optimization["d_updates_per_step"] * optimization.get("acml_steps", 1)
        name = f"{backbone}-{how.replace('/', '')}-{adversarial}-{option}"
        cases[name] = training_case(sections, batches, number)
    return cases


def shipped_cases() -> dict[str, Case]:
    """Return ten steps of each shipped model without gSR, in float32 and float64.

    The networks are narrow.  EMA and LeCam start within the ten steps, and ADA starts at p = 0.3.
    """
    cases = {}
    for name, dtype in itertools.product(shipped_configurations(), (torch.float32, torch.float64)):
        if name.endswith("-gSR"):
            continue
        sections = load_configuration(shipped_configuration(name))
        narrow = {"MODEL": {"g_conv_dim": 4, "d_conv_dim": 8}, "OPTIMIZATION": {"batch_size": 8, **_TWO}}
        early: Sections = {}
        if sections["MODEL"].get("apply_g_ema"):
            early |= {"MODEL": {"g_ema_start": 3}}
        if sections["LOSS"].get("apply_lecam"):
            early |= {"LOSS": {"lecam_ema_start_iter": 2}}
        if sections.get("AUG", {}).get("apply_ada"):
            early |= {"AUG": {"ada_kimg": 1, "ada_initial_augment_p": 0.3}}
        made = merged(sections, narrow, early)
        full = f"{name.split('/')[1]}, {_short(dtype)}"
        cases[full] = training_case(made, 2 * STEPS, 3, dtype)
    return cases


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def training_case(sections: Sections, batches: int, seed: int, dtype: torch.dtype = torch.float64) -> Case:
    """Return a training case on batches of noise images, brighter for higher labels.

    batches: number of batches, as many as the ten steps need.
    """
    stream = torch.Generator().manual_seed(seed)
    made = []
    classes, size = sections["DATA"].get("num_classes", 10), sections["DATA"].get("img_size", 32)
    for _ in range(batches):
        labels = torch.randint(classes, (sections["OPTIMIZATION"]["batch_size"],), generator=stream)
        noise = torch.randn(len(labels), 3, size, size, generator=stream)
        made.append(((noise + labels[:, None, None, None] / classes).tanh(), labels))
    return {"kind": "training", "sections": sections, "seed": seed, "dtype": dtype, "batches": made}


def sampler_cases() -> dict[str, Case]:
    cases = {}
    for prior, n, dimensions, classes in itertools.product(("gaussian", "uniform"), (1, 7, 64), (8, 80), (1, 10)):
        arguments = {"z_prior": prior, "batch_size": n, "z_dim": dimensions, "num_classes": classes}
        arguments["y_sampler"] = "totally_random"
        name = f"{prior}-{n}x{dimensions}-{classes}"
        cases[name] = {"kind": "sampler", "seed": n, "arguments": arguments}
    return cases


def augmentation_cases() -> dict[str, Case]:
    """DiffAugment and each kind of ADA at p 0, 0.3 and 1, on 32 and 64 pixels, in both precisions."""
    asked: dict[str, dict[str, Any]] = {"diffaug": {"apply_diffaug": True, "diffaug_type": "diffaug"}}
    for kind, p in itertools.product(KINDS, (0.0, 0.3, 1.0)):
        asked[f"{kind}-{p}"] = {"apply_ada": True, "ada_aug_type": kind, "ada_initial_augment_p": p}
    cases = {}
    dtypes = (torch.float32, torch.float64)
    for number, ((name, aug), size, dtype) in enumerate(itertools.product(asked.items(), (32, 64), dtypes)):
        stream = torch.Generator().manual_seed(number)
        images, weights = (torch.randn(IMAGES, 3, size, size, generator=stream) for _ in range(2))
        full = f"{name}-{size}-{_short(dtype)}"
        common = {"kind": "augmentation", "aug": aug, "dtype": dtype, "seed": number}
        cases[full] = {**common, "images": images.tanh(), "weights": weights}
    return cases


# ------------------------------------------------------------------ StudioGAN's results


class Reference:
    """Start a process that computes StudioGAN's results for some cases; `results()` waits for it."""

    def __init__(self, checkout: Checkout, cases: Mapping[str, Case]) -> None:
        self.names = list(cases)
        self._folder = tempfile.TemporaryDirectory()
        given, self._out = (Path(self._folder.name) / name for name in ("cases.pt", "results.pt"))
        torch.save(list(cases.values()), given)
        command = [sys.executable, "-W", "ignore", str(REFERENCE), str(checkout.source), str(given), str(self._out)]
        self._process = subprocess.Popen(
            command,
            env={**environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._results: dict[str, Results] | None = None

    def results(self) -> dict[str, Results]:
        if self._results is None:
            output, _ = self._process.communicate(timeout=600)
            assert self._process.returncode == 0, output
            found = torch.load(self._out, weights_only=True)
            self._results = dict(zip(self.names, found, strict=True))
            self._folder.cleanup()
        return self._results

    def close(self) -> None:
        with self._process:  # closes its output, and waits
            self._process.kill()
        self._folder.cleanup()


# ------------------------------------------------------------------ the native host's results


def native_configuration(case: Case) -> Configuration:
    return read_configuration(case["sections"])


def native_network(case: Case, moved: Mapping[str, Any], dtype: torch.dtype, folded: bool) -> Results:
    """Return the native host's results for what studiogan_networks.network computes in one dtype.

    moved: StudioGAN's states, to start from.  folded: as in `make_networks`.
    """
    configuration = native_configuration(case)
    generator, discriminator = make_networks(configuration, 0, folded)
    generator.load_state_dict(moved["generator"])
    discriminator.load_state_dict(moved["discriminator"])
    generator, discriminator = generator.to(dtype), discriminator.to(dtype)
    z, images = (case[key].to(dtype).requires_grad_() for key in ("z", "images"))
    labels, weights = case["labels"], case["weights"]
    generated = generator(z, labels)
    real = discriminator(images, labels)
    fake = discriminator(generated.detach(), labels)
    total = weighted(_heads(real), weights)
    losses = {}
    loss = conditional_loss(configuration.MODEL, configuration.LOSS)
    if loss is not None:
        losses["conditional"] = loss(real, labels)
        total = total + losses["conditional"]
    for name in ADVERSARIAL:
        losses[f"{name} d"] = discriminator_loss(name, real.logits, fake.logits)
        losses[f"{name} g"] = generator_loss(name, fake.logits)
    results: Results = {
        "images": {"images": generated.detach()},
        "heads": {name: head.detach() for name, head in _heads(real).items()},
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "generator's gradients": gradients(weighted({"images": generated}, weights), generator, z),
        "discriminator's gradients": gradients(total, discriminator, images),
        "generator after": states(generator),
        "discriminator after": states(discriminator),
    }
    with torch.no_grad():
        results["images, evaluating"] = {"images": generator.eval()(z, labels)}
        results["heads, evaluating"] = _heads(discriminator.eval()(images, labels))
    return results


def _heads(judgement: Judgement) -> dict[str, Tensor]:
    heads = {
        "adv_output": judgement.logits,
        "embed": judgement.embed,
        "proxy": judgement.proxy,
        "cls_output": judgement.class_logits,
    }
    return {name: head for name, head in heads.items() if head is not None}


def native_losses(case: Case) -> Results:
    configuration = native_configuration(case)
    keys = ("adv_output", "embed", "proxy", "cls_output", "fake")
    inputs = {key: case[key].double().requires_grad_() for key in keys}
    real, embed, proxy, class_logits, fake = inputs.values()
    results = {}
    loss = conditional_loss(configuration.MODEL, configuration.LOSS)
    if loss is not None:
        results["conditional"] = loss(Judgement(real, embed, proxy, class_logits), case["labels"])
    results["d"] = discriminator_loss(configuration.LOSS.adv_loss, real, fake)
    results["g"] = generator_loss(configuration.LOSS.adv_loss, fake)
    total = sum(results.values())
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, [*inputs.values()], allow_unused=True, materialize_grads=True)
    return {
        "losses": {name: value.detach() for name, value in results.items()},
        "gradients": dict(zip(inputs, found, strict=True)),
    }


@contextlib.contextmanager
def _all_in(dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype`, as in `computing_in`, and make the host's cached constants again in it."""
    _constant.cache_clear()
    try:
        with computing_in(dtype):
            yield
    finally:
        _constant.cache_clear()


def native_training(case: Case, speed: Speed) -> Results:
    """Return the native host's results for what studiogan_networks.training computes."""
    dtype = case["dtype"]
    with _all_in(dtype):
        configuration = native_configuration(case)
        batches = iter([(images.to(dtype), labels) for images, labels in case["batches"]])
        counts = [IMAGES] * configuration.DATA.num_classes
        trainer = Trainer(configuration, counts, batches, torch.device("cpu"), case["seed"], speed)
        initial = {"generator": states(trainer.generator), "discriminator": states(trainer.discriminator)}
        if trainer.ada is not None:
            _round_filter(trainer.ada)
        rows = []
        for _ in range(STEPS):
            trainer.step()
            losses = {key: float(value) for key, value in trainer.losses.items()}
            p = float(trainer.ada.p) if trainer.ada is not None else 0.0
            rows.append([losses["d_loss"], losses["g_loss"], losses.get("class_loss", 0.0), p])
    results = {
        "initial": initial,
        "losses": torch.tensor(rows, dtype=torch.float64),
        "generator": states(trainer.generator),
        "discriminator": states(trainer.discriminator),
    }
    assert next(batches, None) is None, "the steps did not use all batches"
    return results if trainer.averaged is None else results | {"averaged": states(trainer.averaged)}


def native_augmentation(case: Case) -> Results:
    """Return the native host's results for what studiogan_networks.augmentation computes."""
    dtype = case["dtype"]
    with _all_in(dtype):
        aug = read_configuration({"AUG": case["aug"]}).AUG
        augment = make_augmentation(aug, torch.Generator().manual_seed(case["seed"]))
        if isinstance(augment, ADA):
            _round_filter(augment)
        images = case["images"].to(dtype).requires_grad_()
        augmented = augment(images)
        (gradient,) = torch.autograd.grad((augmented * case["weights"].to(dtype)).sum(), images)
    return {"images": augmented.detach(), "gradient": gradient}


def _round_filter(ada: ADA) -> None:
    """Round ADA's filter to float32, as StudioGAN's is even where everything else is float64."""
    taps = ada._filter
    with computing_in(torch.float32):
        ada._filter = taps.float().to(taps.dtype)


# ------------------------------------------------------------------ differences


@dataclass(frozen=True)
class Distance:
    """The largest absolute difference of named tensors, and the largest absolute value among them."""

    difference: float
    size: float

    @property
    def relative(self) -> float:
        return self.difference / self.size if self.size else self.difference

    def __or__(self, other: Distance) -> Distance:
        return Distance(max(self.difference, other.difference), max(self.size, other.size))


def distance(mine: Tensor | Mapping[str, Tensor], theirs: Tensor | Mapping[str, Tensor]) -> Distance:
    """Compare two tensors, or all tensors of two dicts together; names, shapes and integers have to be equal."""
    if isinstance(mine, Tensor):
        mine, theirs = {"": mine}, {"": theirs}
    assert isinstance(theirs, Mapping)
    assert [*mine] == [*theirs]
    far = Distance(0.0, 0.0)
    for name, value in mine.items():
        other = theirs[name]
        assert (value.shape, value.dtype) == (other.shape, other.dtype), name
        if not value.is_floating_point():
            assert torch.equal(value, other), name
        elif value.numel():
            assert value.isfinite().all(), name
            assert other.isfinite().all(), name
            far |= Distance(float((value - other).abs().max()), float(other.abs().max()))
    return far
