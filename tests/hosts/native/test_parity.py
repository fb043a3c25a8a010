"""The native host against StudioGAN itself: defaults, networks, losses, sampling, augmentation, training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import support.parity as parity
from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.hosts.keys import KEYS
from studiogan_gsr.hosts.native import augmentation as native_augmentation
from studiogan_gsr.hosts.native.configuration import SECTIONS, read_configuration
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.native.training import Speed
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.settings import load_configuration
from support.parity import Case, Reference, Results, distance

# One worker for all: the reference processes are started once.
pytestmark = [pytest.mark.host, pytest.mark.xdist_group("parity")]

NETWORKS, TRAININGS = parity.network_cases(), parity.training_cases()
LOSSES, SAMPLERS, AUGMENTATIONS = parity.loss_cases(), parity.sampler_cases(), parity.augmentation_cases()
LOSS_NAMES = ("d_loss", "g_loss", "class_loss", "p of ADA")
# Relative to the largest value of a group; gradients in float32 have a looser bound because there rounding puts
# some activations on the other side of zero, which float64 does not.
VALUES = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENTS = {torch.float64: 1e-9, torch.float32: 2e-2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the reference: orthogonal matrices round differently with the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def both(checkout: Checkout) -> Iterator[tuple[Reference, Reference]]:
    """Two processes, so that one computes while its tests wait for, or work on, the other's results."""
    single = {f"{kind} {name}": case for kind, cases in (
        ("network", NETWORKS), ("loss", LOSSES), ("sampler", SAMPLERS), ("augmentation", AUGMENTATIONS),
    ) for name, case in cases.items()}  # fmt: skip
    references = (
        Reference(checkout, {"defaults": {"kind": "defaults"}, **single}),
        Reference(checkout, TRAININGS),
    )
    yield references
    for reference in references:
        reference.close()


@pytest.fixture(scope="module")
def single(both: tuple[Reference, Reference]) -> dict[str, Results]:
    return both[0].results()


@pytest.fixture(scope="module")
def trained(both: tuple[Reference, Reference]) -> dict[str, Results]:
    return both[1].results()


# ------------------------------------------------------------------ configuration


def test_keys_and_defaults_are_studiogans(single: dict[str, Results]) -> None:
    def comparable(value: Any) -> Any:
        """StudioGAN's "N/A", alone or in a list, is our None."""
        if value in ("N/A", ["N/A"]):
            return None
        return tuple(value) if isinstance(value, list) else value

    def flat(sections: dict[str, dict[str, Any]]) -> set[tuple[str, str, str, Any]]:
        return {
            (section, key, type(comparable(value)).__name__, comparable(value))
            for section, values in sections.items()
            for key, value in values.items()
        }

    ours = {section: {name: key.default for name, key in keys.items()} for section, keys in KEYS.items()}
    assert flat(ours) == flat(single["defaults"])


def test_studiogans_own_configurations_are_read_or_refused_for_what_is_not_supported(checkout: Checkout) -> None:
    read, refused = 0, {}
    for path in sorted(checkout.source.glob("configs/**/*.yaml")):
        sections = load_configuration(path)
        try:
            configuration = read_configuration(sections)
        except ConfigurationError as error:
            refused[path] = error.allowed
            continue
        read += 1
        for section, values in sections.items():
            if section not in SECTIONS:
                continue
            for key, value in values.items():
                if key in {field.name for field in dataclasses.fields(SECTIONS[section])}:
                    found = getattr(getattr(configuration, section), key)
                    given = tuple(value) if isinstance(value, list) else value
                    assert found == (None if value == "N/A" else given), (path, section, key)
    assert {path.name: why for path, why in refused.items() if "studiogan run" not in why} == {}
    assert (read, len(refused)) == (68, 128)


# ------------------------------------------------------------------ networks


def test_the_cases_have_every_pair_of_options() -> None:
    found = set()
    for case in NETWORKS.values():
        model = case["sections"]["MODEL"]
        size = case["sections"]["DATA"]["img_size"]
        choice = {**model, "img_size": size, "attention": "none"}
        if model.get("apply_attn"):
            choice["attention"] = {1: "one", 2: "two"}[len(model["attn_g_loc"])]
        found |= parity.pairs({name: choice[name] for name in parity.FACTORS})
    assert found == parity.all_pairs(parity.FACTORS)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_start_equal_to_the_bit(name: str, single: dict[str, Results]) -> None:
    case, theirs = NETWORKS[name], single[f"network {name}"]["initial"]
    networks = make_networks(parity.native_configuration(case), case["seed"])
    for network, expected in zip(networks, (theirs["generator"], theirs["discriminator"]), strict=True):
        found = network.state_dict()
        assert [(k, v.shape, v.dtype) for k, v in found.items()] == [
            (k, v.shape, v.dtype) for k, v in expected.items()
        ]
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_and_differentiate_equally(
    name: str, dtype: torch.dtype, folded: bool, single: dict[str, Results]
) -> None:
    theirs = single[f"network {name}"]
    mine = parity.native_network(NETWORKS[name], theirs["moved"], dtype, folded)
    theirs = theirs[str(dtype)]
    assert [*mine] == [*theirs]
    for group, tensors in mine.items():
        bound = GRADIENTS if group.endswith("gradients") else VALUES
        assert distance(tensors, theirs[group]).relative < bound[dtype], group


# ------------------------------------------------------------------ losses, sampling, augmentation


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_equal(name: str, single: dict[str, Results]) -> None:
    mine, theirs = parity.native_losses(LOSSES[name]), single[f"loss {name}"]
    for key in ("losses", "gradients"):
        assert distance(mine[key], theirs[key]).relative < 1e-12


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_and_labels_are_equal_draw_for_draw(name: str, single: dict[str, Results]) -> None:
    case = SAMPLERS[name]
    given = case["arguments"]
    stream = torch.Generator().manual_seed(case["seed"])
    shape = (given["z_prior"], given["batch_size"], given["z_dim"], given["num_classes"])
    z, labels = sample_latents(*shape, stream)
    assert z.dtype == torch.float32
    assert torch.equal(z, single[f"sampler {name}"]["z"])
    assert torch.equal(labels, single[f"sampler {name}"]["labels"])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_and_their_gradients_are_equal(name: str, single: dict[str, Results]) -> None:
    """In float32 StudioGAN builds the same maps in another order, and a pixel's place rounds otherwise."""
    case, theirs = AUGMENTATIONS[name], single[f"augmentation {name}"]
    mine = parity.native_augmentation(case)
    for key in ("images", "gradient"):
        bound = 1e-12 if case["dtype"] is torch.float64 else 5e-5
        assert distance(mine[key], theirs[key]).relative < bound


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n.startswith(("blit", "geom", "bg"))])
def test_the_way_of_devices_that_waits_for_nothing_is_the_same(
    name: str, single: dict[str, Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_on_a_device(x: Tensor, reach: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
        height, width = x.shape[2:]
        grown = (width - 1, height - 1, width - 1, height - 1)
        return native_augmentation._mirrored_within(x, reach), grown

    monkeypatch.setattr(native_augmentation, "_pad", as_on_a_device)
    mine, theirs = parity.native_augmentation(AUGMENTATIONS[name]), single[f"augmentation {name}"]
    for key in ("images", "gradient"):
        assert distance(mine[key], theirs[key]).relative < (2e-4 if "float32" in name else 1e-11)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("name", TRAININGS)
def test_ten_steps_are_equal(name: str, trained: dict[str, Results]) -> None:
    """All of it in float64.  Odd cases without what makes a step fast."""
    case: Case = TRAININGS[name]
    slow = Speed(channels_last=False, folded=False, fused=False)
    mine, theirs = parity.native_training(case, slow if case["seed"] % 2 else Speed()), trained[name]
    assert [*mine] == [*theirs]
    assert theirs["losses"].isfinite().all()
    for network, tensors in mine.pop("initial").items():
        assert distance(tensors, theirs["initial"][network]).difference == 0, network
    for step, rows in enumerate(zip(mine.pop("losses").tolist(), theirs["losses"].tolist(), strict=True)):
        for loss, found, expected in zip(LOSS_NAMES, *rows, strict=True):
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-10), (step, loss)
    for network, tensors in mine.items():
        assert distance(tensors, theirs[network]).relative < 1e-6, network


def test_the_cases_reach_what_starts_late_and_what_adapts(trained: dict[str, Results]) -> None:
    def rows(option: str) -> list[list[list[float]]]:
        return [trained[name]["losses"].tolist() for name in TRAININGS if name.endswith(f"-{option}")]

    for name in TRAININGS:
        if "averaged" in trained[name]:
            far = distance(trained[name]["averaged"], trained[name]["generator"])
            assert far.difference > 1e-4, name
    moved = [row[3] for case in rows("ada") + rows("ada, rare") for row in case]
    assert {p for p in moved if 0 < p < 1} >= {0.4}
    assert len({round(p, 6) for p in moved}) > 5
    assert {row[3] for case in rows("ada, fixed") for row in case} == {0.6}
