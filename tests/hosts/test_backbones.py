"""Every configuration that StudioGAN has for CIFAR10, two steps with gSR: trained, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from studiogan_gsr import GroupSpectralRegularizer
from studiogan_gsr.errors import GeneratorError
from studiogan_gsr.hosts.studiogan.checkout import Checkout, default_root
from support.host import Host, narrowed, refused

pytestmark = pytest.mark.host

# One of each kind of backbone and condition; the others are slow tests.
QUICK = (
    "ACGAN-Mod-ADC",
    "BigGAN",
    "BigGAN-Info",
    "ContraGAN",
    "DCGAN",
    "GGAN",
    "MHGAN",
    "ReACGAN-Deep",
    "SNGAN-LeCam",
)
FILES = sorted((default_root() / "src" / "configs" / "CIFAR10").glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in FILES],
)
def test_a_configuration_of_studiogan_trains_with_gsr_or_is_refused_with_the_reason(
    path: Path, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    sections = narrowed(path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    outcome = Host(checkout, narrow_stylegan=True).run(tmp_path / "config.yaml", digits, tmp_path / "out")
    if sections["MODEL"].get("g_cond_mtd", "W/O") == "W/O":
        refused(
            outcome, "gsr.*refused: GeneratorError: .*(no class-conditional|not conditional on|no mapping network)"
        )
        return
    assert outcome.status == 0, outcome.output
    penalties = [float(re.search(r"gsr_penalty: (\S+)", line)[1]) for line in outcome.lines("Progress:")]
    assert len(penalties) == 2
    assert penalties[0] >= penalties[1] > 0  # four digits are printed
    assert outcome.lines("gsr: active in step 1")


def test_a_stylegan_without_the_experimental_option_is_refused_and_told_of_it(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    sections = narrowed(checkout.source / "configs" / "CIFAR10" / "StyleGAN2.yaml") | {"REGULARIZER": "gsr"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    outcome = Host(checkout).run(tmp_path / "config.yaml", digits, tmp_path / "out")
    refused(outcome, r"no class-conditional normalisation layer; .* apply_to: \[mapping\] \(experimental\)")


@pytest.mark.slow
def test_path_length_regularization_does_not_make_the_penalty_act_twice(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    """It steps the generator's optimizer once more in the steps that it is due in, here in all."""
    sections = narrowed(checkout.source / "configs" / "CIFAR10" / "StyleGAN2.yaml")
    sections["REGULARIZER"] = {"name": "gsr", "apply_to": ["mapping"]}
    sections["STYLEGAN"] |= {"apply_pl_reg": True, "pl_weight": 2, "g_reg_interval": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    outcome = Host(checkout, narrow_stylegan=True).run(tmp_path / "config.yaml", digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    steps = len(outcome.lines("Progress:"))
    state = torch.load(next(outcome.checkpoint_folder.glob("model=G-*")), weights_only=True)
    moments = state["optimizer"]["state"].values()
    assert max(int(moment["step"]) for moment in moments) == 2 * steps
    assert state["regularizer"][0]["acted"] == steps


@pytest.mark.filterwarnings("ignore")  # those of StudioGAN's imports
@pytest.mark.parametrize("module", ["stylegan2", "stylegan3"])
def test_the_map_of_a_stylegan_is_what_its_mapping_network_makes_of_no_noise(
    module: str, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(checkout.source)
    networks = __import__(f"models.{module}", fromlist=["MappingNetwork"])
    torch.manual_seed(0)

    class Generator(torch.nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.mapping = networks.MappingNetwork(16, classes, 24, 5, num_layers=2)

    generator = Generator(3)
    regularizer = GroupSpectralRegularizer(
        generator, [9, 5, 2], beta=None, power_iterations=0, groups=4, apply_to=["mapping"]
    )
    w = generator.mapping(torch.zeros(3, 16), torch.eye(3))[:, 0]
    norms = torch.linalg.matrix_norm(w.reshape(3, 4, 6), 2)
    torch.testing.assert_close(regularizer.class_norms()["mapping"]["mapping"], norms)
    torch.testing.assert_close(regularizer.penalty(), 0.5 * norms.square().mean())
    regularizer.penalty().backward()
    reached = {name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {f"mapping.{layer}.{part}" for layer in ("embed", "fc0", "fc1") for part in ("weight", "bias")}
    assert not generator.mapping.w_avg.any()  # nothing moved
    with pytest.raises(GeneratorError, match="no mapping network with a class embedding"):
        GroupSpectralRegularizer(Generator(0), [9, 5, 2], apply_to=["mapping"])
    with pytest.raises(GeneratorError, match="the data has 2"):
        GroupSpectralRegularizer(generator, [9, 5], apply_to=["mapping"])
