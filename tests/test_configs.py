"""The shipped configurations: pairs, the paper's settings, and headers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from studiogan_gsr.registry import find_dataset, find_regularizer
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations

PLAIN = [name for name in shipped_configurations() if not name.endswith("-gSR")]

# Key by key, what the authors' configurations say for CIFAR-10.
PAPER: dict[str, dict[str, Any]] = {
    "SNGAN": {"backbone": "resnet", "beta2": 0.9, "z_dim": 128, "conv_dim": 64, "lecam_lambda": 0.3, "beta": 0.999},
    "BigGAN": {
        "backbone": "big_resnet",
        "beta2": 0.999,
        "z_dim": 80,
        "conv_dim": 96,
        "lecam_lambda": 0.1,
        "beta": 0.99,
    },
}


def test_every_model_has_every_augmentation_with_and_without_gsr() -> None:
    assert len(PLAIN) == 9
    assert sorted(f"{name}-gSR" for name in PLAIN) == sorted(set(shipped_configurations()) - set(PLAIN))


@pytest.mark.parametrize("name", PLAIN)
def test_a_pair_differs_in_the_regularizer_alone(name: str) -> None:
    without = load_configuration(shipped_configuration(name))
    with_gsr = load_configuration(shipped_configuration(f"{name}-gSR"))
    section = with_gsr.pop("REGULARIZER")
    assert with_gsr == without
    assert section["name"] == "gsr"


@pytest.mark.parametrize("name", shipped_configurations())
def test_settings_are_the_papers(name: str) -> None:
    sections = load_configuration(shipped_configuration(name))
    model, loss, optimization = (sections[s] for s in ("MODEL", "LOSS", "OPTIMIZATION"))
    family = name.split("/")[1].split("-")[0]
    paper = PAPER["BigGAN" if family == "ContraGAN" else family]
    assert model["backbone"] == paper["backbone"]
    assert (model["z_dim"], model["g_conv_dim"], model["d_conv_dim"]) == (paper["z_dim"], *2 * [paper["conv_dim"]])
    assert optimization == {
        "type_": "Adam", "batch_size": 64, "g_lr": 0.0002, "d_lr": 0.0002, "beta1": 0.5, "beta2": paper["beta2"],
        "d_updates_per_step": 5, "total_steps": 120000,
    }  # fmt: skip
    assert loss["adv_loss"] == "hinge"
    if "LeCam" in name:
        assert loss["apply_lecam"]
        assert (loss["lecam_lambda"], loss["lecam_ema_decay"]) == (paper["lecam_lambda"], 0.99)
        assert sections["AUG"] == {"apply_diffaug": True, "diffaug_type": "diffaug"}
    if name.endswith("-gSR"):
        settings = regularizer_settings(sections)
        assert settings is not None
        find_regularizer(settings.name, settings.options)
        assert settings.options == {"weight": 0.5, "beta": paper["beta"]}
    found = find_dataset(sections["DATA"]["name"])
    assert found is not None
    assert found[1] == {"ratio": 100}


@pytest.mark.parametrize("name", shipped_configurations())
def test_the_header_names_data_paper_and_cost(name: str) -> None:
    text = shipped_configuration(name).read_text()
    header = text[: text.index("DATA:")]
    assert all(line.startswith("#") for line in header.splitlines())
    for word in ("CIFAR-10-LT, imbalance ratio 100", "Paper", "Cost: 120k steps"):
        assert word in header
    assert yaml.safe_load(text)["DATA"]["num_classes"] == 10
