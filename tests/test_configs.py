"""The shipped configurations: pairs, the paper's settings, and headers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from benchmarks.paths import RESULTS
from benchmarks.tables.rows import read_tables
from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations

PLAIN = [name for name in shipped_configurations() if not name.endswith("-gSR")]

# Key by key, what the authors' configurations say: gSR's weight and beta, LeCam's weight, the optimizers and widths.
_COLUMNS = "data size classes weight beta lecam batch d_lr g_lr beta1 beta2 d_steps steps z channels ema"
_PAPER = """
CIFAR10_LT/SNGAN        CIFAR10_LT_rho100 32 10  0.5  0.999 0.3   64 2e-4 2e-4 0.5 0.9   5 120000 128 64 0
CIFAR10_LT/BigGAN       CIFAR10_LT_rho100 32 10  0.5  0.99  0.1   64 2e-4 2e-4 0.5 0.999 5 120000  80 96 1000
LSUN_LT/SNGAN           LSUN_LT_rho100    64 5   0.5  0.999 0.3   64 2e-4 2e-4 0.5 0.9   5 120000 128 64 0
LSUN_LT/BigGAN          LSUN_LT_rho100    64 5   0.5  0.99  0.3   64 2e-4 2e-4 0.5 0.9   5 200000 120 80 1000
LSUN_LT/SNGAN128        LSUN_LT_rho1000  128 5   0.5  0.999 1.0   64 2e-4 2e-4 0.5 0.9   5 120000 128 64 20000
LSUN_LT/BigGAN128       LSUN_LT_rho1000  128 5   0.01 0.99  0.5   64 4e-4 1e-4 0.5 0.9   5 120000 120 80 1000
iNaturalist2019/BigGAN  iNaturalist2019   64 1010 0.01 0.999 0.01 256 2e-4 2e-4 0.0 0.999 2 200000 100 80 20000
"""
PAPER: dict[str, dict[str, Any]] = {
    line.split()[0]: dict(
        zip(_COLUMNS.split(), line.split()[1:2] + [float(x) for x in line.split()[2:]], strict=True)
    )
    for line in _PAPER.strip().splitlines()
}
NAMES = {"CIFAR10_LT": "CIFAR-10-LT", "LSUN_LT": "LSUN-LT", "iNaturalist2019": "iNaturalist-2019"}


def paper(name: str) -> dict[str, Any]:
    """What the paper says of a configuration; it has no ContraGAN, whose networks and optimizers are its BigGAN's."""
    return PAPER[name.split("-")[0].replace("ContraGAN", "BigGAN")]


def test_every_model_is_there_with_and_without_gsr() -> None:
    models = {f"CIFAR10_LT/{model}{extra}" for model in ("SNGAN", "BigGAN", "ContraGAN") for extra in ("", "-ADA")}
    models |= {f"{model}-DiffAug-LeCam" for model in (*PAPER, "CIFAR10_LT/ContraGAN")}
    assert set(PLAIN) == models
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
    sections, wanted = load_configuration(shipped_configuration(name)), paper(name)
    data, model, loss, optimization = (sections[s] for s in ("DATA", "MODEL", "LOSS", "OPTIMIZATION"))
    assert list(data.values()) == [wanted["data"], wanted["size"], wanted["classes"]]
    big = "BigGAN" in name or "ContraGAN" in name
    assert model["backbone"] == ("big_resnet" if big else "resnet")
    assert (model["z_dim"], model["g_conv_dim"], model["d_conv_dim"]) == (wanted["z"], *2 * [wanted["channels"]])
    assert model.get("apply_g_sn", False) == big
    if big:
        place = 2 if wanted["size"] == 32 else 3
        assert (model["attn_g_loc"], model["attn_d_loc"], model["g_shared_dim"]) == ([place], [1], 128)
    average = {key: model.get(key) for key in ("apply_g_ema", "g_ema_decay", "g_ema_start")}
    assert [*average.values()] == ([True, 0.9999, wanted["ema"]] if wanted["ema"] else [None] * 3)
    assert optimization == {
        "type_": "Adam", "batch_size": wanted["batch"], "g_lr": wanted["g_lr"], "d_lr": wanted["d_lr"],
        "beta1": wanted["beta1"], "beta2": wanted["beta2"], "d_updates_per_step": wanted["d_steps"],
        "total_steps": wanted["steps"],
    }  # fmt: skip
    assert loss["adv_loss"] == "hinge"
    if "LeCam" in name:
        assert loss["apply_lecam"]
        assert (loss["lecam_lambda"], loss["lecam_ema_decay"]) == (wanted["lecam"], 0.99)
        assert sections["AUG"] == {"apply_diffaug": True, "diffaug_type": "diffaug"}
    if name.endswith("-gSR"):
        (settings,) = regularizer_settings(sections)
        find_regularizer(settings)
        assert settings.options == {"weight": wanted["weight"], "beta": wanted["beta"]}
    assert find_dataset(data["name"]) is not None
    read_configuration(sections)  # by the native host, too


@pytest.mark.parametrize("name", shipped_configurations())
def test_the_header_names_data_rows_paper_and_operations(name: str) -> None:
    text, wanted = shipped_configuration(name).read_text(), paper(name)
    lines = text[: text.index("DATA:")].splitlines()
    assert all(line.startswith("# ") for line in lines)
    header = " ".join(line.removeprefix("# ") for line in lines)
    rows = [
        f"{table.name}: {row.name}"
        for table in read_tables().tables.values()
        for row in table.rows.values()
        if row.configuration == name and row.sections == load_configuration(shipped_configuration(name))
    ]
    assert (f"Rows of benchmarks/tables.yaml: {'; '.join(rows)}." if rows else "It is no row of ") in header
    step = json.loads((RESULTS / "speed-cpu.json").read_text())["steps"]["data"][f"{name.removesuffix('-gSR')}-gSR"]
    assert f"steps of {step['teraflop']:.3g} TFLOP; " in header  # operations, which are the same on every machine
    assert " s a step" not in header
    ratio = wanted["data"].rpartition("rho")[2]
    data = NAMES[name.split("/")[0]] + (f", imbalance ratio {ratio}" if "rho" in wanted["data"] else "")
    for word in (data, "Paper", f"Cost: {int(wanted['steps']) // 1000}k steps"):
        assert word in header
    assert yaml.safe_load(text)["DATA"]["num_classes"] == wanted["classes"]
