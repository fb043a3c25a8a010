"""A stranger's package in the native host: the methods of docs/plugins.md, one of each role, alone and stacked."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from studiogan_gsr.cli import main
from support.runs import PLAIN, arguments, difference, files, log_lines, one_thread, write
from support.strangers_package import ROLES, SCALARS, blocks, install, pattern, section_of_the_page

LAST = "step=4"
NAMES = ["gsr", "lecam", *ROLES]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)


def train(folder: Path, regularizer: Any, *more: str) -> Path:
    """Four steps on the digits; the run's folder."""
    sections = PLAIN if regularizer is None else {**PLAIN, "REGULARIZER": regularizer}
    folder.mkdir(exist_ok=True)
    with one_thread():
        assert main(arguments(write(folder / "configuration.yaml", sections), folder / "run", *more)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("plain"), None)


@pytest.fixture(scope="module")
def stacked(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with gSR, LeCam and all four methods, as docs/plugins.md shows it, and what it printed."""
    folder = tmp_path_factory.mktemp("stacked")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.delitem(sys.modules, "my_methods", raising=False)  # another test's
        printed = folder / "printed.txt"
        with printed.open("w") as file:
            patch.setattr(sys, "stdout", file)
            run = train(folder, section_of_the_page())
    return run, printed.read_text()


def weights(run: Path) -> dict[str, Any]:
    """Both networks at the end."""
    kept = files(run / "checkpoints" / LAST)
    return {name: content["state_dict"] for name, content in kept.items() if "state_dict" in content}


def records(run: Path) -> dict[str, Any]:
    return {record["name"]: record for record in json.loads((run / "run.json").read_text())["regularizers"]}


@pytest.mark.parametrize("name", ROLES)
def test_each_method_works_alone_by_its_name(
    name: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / name, name)
    assert re.search(rf"^{name}: active in step 1, {ROLES[name]} ", capsys.readouterr().out, re.MULTILINE)
    assert difference(weights(plain), weights(run))  # it made a difference
    record = records(run)[name]
    assert record["roles"] == [ROLES[name]]
    assert record["plugin"].startswith(f"my-methods 1.0 [studiogan.regularizers] {name} = my_methods:")
    logged = {key for line in log_lines(run) for key in line if "/" in key}
    assert logged == {key for key in SCALARS if key.startswith(f"{name}/")}


def test_all_act_together_with_gsr_and_lecam(stacked: tuple[Path, str]) -> None:
    run, printed = stacked
    said = re.findall(r"^(\w+): active in step 1, (\w+)", printed, re.MULTILINE)
    assert dict(said) == {"gsr": "penalty", "lecam": "discriminator_loss", **ROLES}
    assert "weight_decay of my-methods 1.0: WeightDecay()" in printed
    assert list(records(run)) == NAMES
    assert records(run)["weight_decay"]["options"] == {"weight": 1e-5}
    assert records(run)["total_variation"]["options"] == {"weight": 0.1}  # the default


def test_the_output_that_the_page_shows_is_printed(stacked: tuple[Path, str]) -> None:
    shown = blocks("text")[-1]
    for line in shown.splitlines():
        assert re.search(pattern(line), stacked[1], re.MULTILINE), line


def test_their_numbers_are_in_the_log_and_in_tensorboard(stacked: tuple[Path, str]) -> None:
    run, _ = stacked
    lines = log_lines(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    expected = SCALARS | {"gsr/penalty", "lecam/penalty"}
    for line in lines:
        assert expected <= set(line)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert expected <= set(events.Tags()["scalars"])
    for key in expected:
        assert [event.value for event in events.Scalars(key)] == pytest.approx([line[key] for line in lines])


def test_the_order_of_the_list_does_not_matter(stacked: tuple[Path, str], tmp_path: Path) -> None:
    again = train(tmp_path / "reversed", section_of_the_page()[::-1])
    for line, other in zip(log_lines(stacked[0]), log_lines(again), strict=True):
        for key in ("g_loss", "d_loss", *SCALARS):
            assert other[key] == pytest.approx(line[key], rel=1e-3), key


def test_a_resumed_run_restores_their_states(
    stacked: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path / "resumed", section_of_the_page(), "--steps", "2")
    argv = arguments(tmp_path / "resumed" / "configuration.yaml", run, "--steps", "4", "--resume")
    with one_thread():
        assert main(argv) == 0
    restored = re.findall(r"^(\w+): state restored from the checkpoint", capsys.readouterr().out, re.MULTILINE)
    assert restored == NAMES
    assert difference(files(stacked[0] / "checkpoints" / LAST), files(run / "checkpoints" / LAST)) == ""


def test_the_report_lists_all_of_them(stacked: tuple[Path, str], plain: Path, tmp_path: Path) -> None:
    with one_thread():
        assert main(["report", str(plain), str(stacked[0]), "--out", str(tmp_path / "page")]) == 0
        assert main(["report", str(stacked[0]), "--out", str(tmp_path / "alone")]) == 0
    for folder in ("page", "alone"):
        page = html.unescape((tmp_path / folder / "index.html").read_text())
        for name in NAMES:
            assert f"regularizer {name}" in page
        assert "regularizer weight_decay (weight 1e-05)" in page
        assert f"<td>REGULARIZER</td>{'<td>-</td>' if folder == 'page' else ''}<td>{', '.join(NAMES)}</td>" in page
        assert "<td>REGULARIZER.weight_decay.weight</td>" in page
        assert "<td>REGULARIZER.gsr.weight</td>" in page


def test_plugins_lists_them_with_their_roles(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plugins"])
    lines = capsys.readouterr().out.splitlines()
    for name, role in ROLES.items():
        (line,) = [line for line in lines if f" {name} " in line]
        assert " my-methods 1.0 " in line
        assert f" {role} " in line
