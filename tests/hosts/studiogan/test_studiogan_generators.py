"""Generators that the native host has not: their checkpoints are measured through the checkout that trained them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.hosts.studiogan.generators import read_studiogan_configuration
from support.host import Host, Outcome, configure, narrowed
from support.plugins import PIXELS, MakePackage

SMALL = ("--backbone", "pixels", "--images", "16", "--repeats", "1", "--device", "cpu", "--no-lpips")


@pytest.fixture
def environment(make_package: MakePackage, tmp_path: Path, checkout: Checkout) -> dict[str, str]:
    """A backbone of another package, and a cache of its own, for a process of its own."""
    site = make_package("pixels", "studiogan.backbones", {"pixels": "pixels:Pixels"}, {"pixels": PIXELS})
    return {"PYTHONPATH": str(site), "HOME": str(tmp_path), "STUDIOGAN_ROOT": str(checkout.root)}


def done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.output
    return outcome


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("GGAN", "blocks.2.0.bn0"),
        ("BigGAN-Deep", "blocks.0.0.bn1"),
        pytest.param("StyleGAN2", "mapping", marks=pytest.mark.slow),
    ],
)
def test_checkpoints_of_other_backbones_are_measured_inspected_and_reported(
    name: str, layer: str, checkout: Checkout, digits: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    sections = narrowed(checkout.source / "configs" / "CIFAR10" / f"{name}.yaml")
    if name == "GGAN":  # deep_conv
        sections["MODEL"]["g_cond_mtd"] = "cBN"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    host = Host(checkout, narrow_stylegan=True)
    run = done(host.run(tmp_path / "config.yaml", digits, tmp_path / "run")).save
    command = {"folder": tmp_path, "environment": environment}
    for out in ("first.json", "again.json"):
        done(host.command("evaluate", run, *SMALL, "--out", tmp_path / out, **command))
    first, again = (json.loads((tmp_path / out).read_text()) for out in ("first.json", "again.json"))
    assert first["all"]["frechet"]["mean"] > 0
    assert first["all"] == again["all"]
    for out, options in (("few", ("--images", "2", "--classes", "3")), ("many", ("--images", "3"))):
        done(host.command("generate", run, *options, "--out", tmp_path / out, "--device", "cpu", **command))
    for file in ("000000.png", "000001.png"):  # for a StyleGAN too, whose layers draw noise
        assert (tmp_path / "few" / "3" / file).read_bytes() == (tmp_path / "many" / "3" / file).read_bytes()
    assert len(list((tmp_path / "many").glob("*/*.png"))) == 30
    done(host.command("spectrum", run, "--out", tmp_path / "spectrum", **command))
    found = json.loads((tmp_path / "spectrum" / "spectrum.json").read_text())
    assert layer in found["layers"]
    assert len(found["largest"]) == len(found["start"]) == 10
    assert found["exploding"] == []  # in two steps
    if name == "StyleGAN2":
        assert "Norms of the mapping network's w" in found["verdict"][-1]
    done(host.command("report", run, "--out", tmp_path / "page", **command))
    page = (tmp_path / "page" / "index.html").read_text()
    assert sections["MODEL"].get("backbone", "resnet") in page
    assert "Nearest training images" in page


@pytest.mark.host
def test_the_checkouts_generator_gives_the_numbers_of_the_native_one(
    checkout: Checkout, digits: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """One checkpoint, measured as what it was trained as, which the native host has not, and as what it has."""
    loss = {"adv_loss": "hinge", "apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5}
    configuration = configure(tmp_path, LOSS=loss)
    host = Host(checkout)
    run = done(host.run(configuration, digits, tmp_path / "run")).save
    native = configure(tmp_path, LOSS={"adv_loss": "hinge"}).rename(tmp_path / "native.yaml")
    command = {"folder": tmp_path, "environment": environment}
    for out, options in (("theirs.json", ()), ("again.json", ()), ("ours.json", ("--config", native))):
        done(host.command("evaluate", run, *SMALL, *options, "--out", tmp_path / out, **command))
    theirs, again, ours = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("theirs", "again", "ours"))
    assert theirs["all"] == again["all"]
    for metric, value in theirs["all"].items():
        assert ours["all"][metric]["mean"] == pytest.approx(value["mean"], rel=1e-4, abs=1e-6), metric
    environment["STUDIOGAN_ROOT"] = str(tmp_path / "nowhere")
    outcome = host.command("evaluate", run, *SMALL, **command)
    assert outcome.status == 2
    assert "no PyTorch-StudioGAN at" in outcome.output
    outcome = host.command("generate", run, "--out", tmp_path / "images", **command)
    assert outcome.status == 2
    assert "no PyTorch-StudioGAN at" in outcome.output
    assert host.command("evaluate", run, *SMALL, "--config", native, **command).status == 0


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"MODEL": {"info_type": "discrete"}}, "MODEL.info_type"),
        ({"LOSS": {"apply_lo": True}}, "LOSS.apply_lo"),
        ({"MODEL": {"backbon": "resnet"}}, "MODEL.backbon"),
        ({"DATA": {"name": "../x"}}, "DATA.name"),
    ],
)
def test_what_cannot_be_generated_from_noise_and_labels_is_refused(sections: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_studiogan_configuration(sections)
    assert caught.value.path == path


def test_keys_that_are_not_given_have_studiogans_defaults() -> None:
    sections = {"MODEL": {"backbone": "stylegan2", "z_dim": 512}, "REGULARIZER": "gsr"}
    configuration = read_studiogan_configuration(sections)
    assert (configuration.MODEL.z_dim, configuration.MODEL.z_prior) == (512, "gaussian")
    assert configuration.MODEL.info_type is None
    assert configuration.OPTIMIZATION.batch_size == 64
    assert [entry.name for entry in configuration.regularizers] == ["gsr"]
    assert configuration.sections() == sections
