"""A stranger's package in the real StudioGAN: the methods of docs/plugins.md, one of each role, alone and stacked."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from studiogan_gsr.cli import main
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.host import Host, Outcome, configure
from support.runs import one_thread
from support.strangers_package import ROLES, SCALARS, install, section_of_the_page

pytestmark = pytest.mark.host

NAMES = ["gsr", "lecam", *ROLES]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("stranger"))


def train(checkout: Checkout, site: Path, digits: Path, folder: Path, regularizer: Any) -> Outcome:
    """Three steps of SNGAN on the digits."""
    configuration = configure(folder, REGULARIZER=regularizer)
    outcome = Host(checkout).run(configuration, digits, folder / "out", environment={"PYTHONPATH": str(site)})
    assert outcome.status == 0, outcome.output
    return outcome


@pytest.fixture(scope="module")
def stacked(checkout: Checkout, site: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run with gSR, LeCam and all four methods, as docs/plugins.md shows it."""
    return train(checkout, site, digits, tmp_path_factory.mktemp("stacked"), section_of_the_page())


def active(outcome: Outcome) -> dict[str, str]:
    """What each regularizer did in the first step, by its name."""
    found = re.findall(r"^\[studiogan-gsr\] rank 0: (\w+): active in step 1, (\w+)", outcome.output, re.MULTILINE)
    return dict(found)


def log_lines(outcome: Outcome) -> list[dict[str, Any]]:
    (path,) = outcome.save.glob("statistics/*/log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ROLES)
def test_each_method_works_alone_by_its_name(
    name: str, checkout: Checkout, site: Path, digits: Path, tmp_path: Path
) -> None:
    outcome = train(checkout, site, digits, tmp_path, name)
    assert active(outcome) == {name: ROLES[name]}
    (line,) = outcome.lines(f"{name} of my-methods 1.0: ")
    assert line.endswith("class counts 120 102 88 75 64 55 47 40 34 30")
    for logged in log_lines(outcome):
        assert {key for key in logged if "/" in key} == {key for key in SCALARS if key.startswith(f"{name}/")}


def test_all_act_together_with_gsr_and_lecam(stacked: Outcome) -> None:
    assert active(stacked) == {"gsr": "penalty", "lecam": "discriminator_loss", **ROLES}
    progress = stacked.lines("Progress:")
    assert len(progress) == 3
    for line in progress:
        for key in SCALARS | {"gsr/penalty", "lecam/penalty"}:
            assert re.search(rf"{key.replace('/', '_', 1)}: -?\d", line), key
    assert all({*SCALARS, "gsr/penalty", "lecam/penalty"} <= set(line) for line in log_lines(stacked))


def test_the_record_and_the_checkpoint_hold_all_of_them(stacked: Outcome) -> None:
    record = json.loads((stacked.checkpoint_folder / "run.json").read_text())["regularizers"]
    assert [entry["name"] for entry in record] == NAMES
    by_name = {entry["name"]: entry for entry in record}
    for name, role in ROLES.items():
        assert by_name[name]["roles"] == [role]
        assert by_name[name]["plugin"].startswith(f"my-methods 1.0 [studiogan.regularizers] {name} = ")
        assert by_name[name]["acted"] > 0
    assert by_name["weight_decay"]["options"] == {"weight": 1e-5}
    saved = {state["name"]: state["state"] for state in stacked.checkpoint()["regularizer"]}
    assert list(saved) == NAMES
    assert saved["drift"]["mean"] != 0


def test_the_report_lists_all_of_them(stacked: Outcome, tmp_path: Path) -> None:
    with one_thread():
        assert main(["report", str(stacked.checkpoint_folder), "--out", str(tmp_path)]) == 0
    page = html.unescape((tmp_path / "index.html").read_text())
    for name in NAMES:
        assert f"regularizer {name}" in page
    assert f"<td>REGULARIZER</td><td>{', '.join(NAMES)}</td>" in page
