"""The list of the shipped configurations, and the text of one."""

from __future__ import annotations

import pytest

from studiogan_gsr.cli import main
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations


def test_every_configuration_has_a_line_that_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert [*lines] == [*shipped_configurations(), "Next:"]
    for name, rest in {
        "CIFAR10_LT/SNGAN": "CIFAR10_LT_rho100 32 px plain 120k steps lecam-diffaug: SNGAN",
        "CIFAR10_LT/SNGAN-ADA-gSR": "CIFAR10_LT_rho100 32 px ADA, gsr 0.5 120k steps ada: SNGAN + ADA + gSR",
        "CIFAR10_LT/BigGAN-gSR": "CIFAR10_LT_rho100 32 px gsr 0.5 120k steps no row",
        "LSUN_LT/BigGAN128-DiffAug-LeCam-gSR": "LSUN_LT_rho1000 128 px DiffAug, LeCam, gsr 0.01 120k steps lsun-128: "
        "BigGAN + gSR",
        "CIFAR10_LT/SNGAN-DiffAug-LeCam": "CIFAR10_LT_rho100 32 px DiffAug, LeCam 120k steps lecam-diffaug: SNGAN + "
        "LeCam + DiffAug; cifar10-lt: SNGAN, ratio 100; ablation: without gSR",
    }.items():
        assert lines[name] == f"{name} {rest}"


def test_a_name_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "CIFAR10_LT/SNGAN-gSR"]) == 0
    assert capsys.readouterr().out == shipped_configuration("CIFAR10_LT/SNGAN-gSR").read_text()


def test_an_unknown_name_is_told_with_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "CIFAR10_LT/SNGAN-GSR"]) == 2
    assert "did you mean CIFAR10_LT/SNGAN-gSR?" in capsys.readouterr().err
