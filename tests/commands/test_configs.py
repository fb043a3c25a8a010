"""The list of the shipped configurations, and the text of one."""

from __future__ import annotations

import re

import pytest

from studiogan_gsr.cli import main
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations


def test_every_configuration_has_a_line_that_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    header, *others = capsys.readouterr().out.splitlines()
    columns = ["name", "data set", "pixels", "augmentation and regularizers", "steps"]
    assert re.split(" {2,}", header) == [*columns, "rows of benchmarks/tables.yaml (table: row)"]
    lines = {line.split()[0]: " ".join(line.split()) for line in others}
    assert [*lines] == [*shipped_configurations(), "Next:"]
    for name, rest in {
        "CIFAR10_LT/SNGAN": "CIFAR10_LT_rho100 32 none 120,000 lecam-diffaug: SNGAN",
        "CIFAR10_LT/SNGAN-ADA-gSR": "CIFAR10_LT_rho100 32 ADA, gsr 0.5 120,000 ada: SNGAN + ADA + gSR",
        "CIFAR10_LT/BigGAN-gSR": "CIFAR10_LT_rho100 32 gsr 0.5 120,000 none",
        "LSUN_LT/BigGAN128-DiffAug-LeCam-gSR": "LSUN_LT_rho1000 128 DiffAug, LeCam, gsr 0.01 120,000 lsun-128: "
        "BigGAN + gSR",
        "CIFAR10_LT/SNGAN-DiffAug-LeCam": "CIFAR10_LT_rho100 32 DiffAug, LeCam 120,000 lecam-diffaug: SNGAN + "
        "LeCam + DiffAug; cifar10-lt: SNGAN, ratio 100; ablation: without gSR",
    }.items():
        assert lines[name] == f"{name} {rest}"


def test_a_name_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "CIFAR10_LT/SNGAN-gSR"]) == 0
    assert capsys.readouterr().out == shipped_configuration("CIFAR10_LT/SNGAN-gSR").read_text()


def test_an_unknown_name_is_told_with_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "CIFAR10_LT/SNGAN-GSR"]) == 2
    assert "did you mean CIFAR10_LT/SNGAN-gSR?" in capsys.readouterr().err
