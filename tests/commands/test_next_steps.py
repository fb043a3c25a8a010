"""The last line of each command, which says what to do next, with commands that exist."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from docs.commands import parsers
from studiogan_gsr.cli import main, parser
from studiogan_gsr.commands import plugins
from studiogan_gsr.commands.data import _training
from studiogan_gsr.commands.next_steps import command, with_generator
from studiogan_gsr.errors import DONE, FAILED, PluginError
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.studiogan import checkout, launcher, patching
from studiogan_gsr.hosts.studiogan import doctor as diagnosis
from studiogan_gsr.hosts.studiogan.doctor import Finding
from studiogan_gsr.registry import try_all_plugins
from studiogan_gsr.runs import demo, downstream, evaluate, init, prefetch
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import EXAMPLE, shipped_configuration
from support.runs import PLAIN, arguments, changed, one_thread, write

TRAIN = f"`studiogan-gsr train {EXAMPLE} --data data --out runs/sngan-gsr`"
DIGITS = "--out runs/Digits_LT_rho50` with DATA.name: Digits_LT_rho50 in CONFIG"
RUN = f"-- -t -cfg {EXAMPLE} -data data -save runs"
# What each command prints after "Next: "; GSR and PLAIN are runs, OUT is an empty folder.
STEPS = {
    "init --data photos": "`studiogan-gsr data show Folder_LT --data photos`, the commands above",
    "init --data flat --split split": "`studiogan-gsr data show Folder_LT --data split`, the commands above",
    "configs": TRAIN,
    f"prefetch {EXAMPLE} --data data": f"`studiogan-gsr train {EXAMPLE} --data data --out runs/first`",
    f"prefetch {EXAMPLE} --data data --studiogan": (
        f"`studiogan-gsr studiogan run -- -t -metrics fid -ref valid -cfg {EXAMPLE} -data data -save runs/first`"
    ),
    "train CONFIG --data data --out OUT/run": (
        "`studiogan-gsr report OUT/run`, `studiogan-gsr evaluate OUT/run`, "
        "`studiogan-gsr generate OUT/run --out OUT/run-images`"
    ),
    "data prepare Digits_LT_rho50 --data OUT --workers 1": f"`studiogan-gsr train CONFIG --data OUT {DIGITS}",
    "data show Digits_LT_rho50 --data data --out OUT": f"`studiogan-gsr train CONFIG --data data {DIGITS}",
    "evaluate GSR": "`studiogan-gsr report GSR`",
    "generate GSR --out OUT/images --images 1 --device cpu": "`studiogan-gsr downstream GSR`",
    "downstream PLAIN GSR": "`studiogan-gsr report PLAIN GSR`",
    "export GSR --out OUT/it": (
        "`studiogan-gsr generate OUT/it --out OUT/it-images`, `studiogan_gsr.load_generator('OUT/it')` in Python, "
        "upload the folder to a model hub"
    ),
    "spectrum GSR --out OUT": "`studiogan-gsr report GSR`",
    "report PLAIN GSR --out OUT": "open OUT/index.html in a browser",
    "demo --out OUT": (
        "`studiogan-gsr report OUT/plain OUT/gsr`, `studiogan-gsr generate OUT/gsr --out OUT/images`, " + TRAIN
    ),
    "studiogan run -- -t -cfg x -save OUT": "`studiogan-gsr report OUT`, `studiogan-gsr evaluate OUT`",
    "studiogan patch --root OUT": (
        f"`python OUT/src/main.py -t -cfg {shipped_configuration(EXAMPLE)} -data data -save runs`"
    ),
    "studiogan patch --root OUT --revert": f"`studiogan-gsr studiogan run --root OUT {RUN}`",
    "studiogan fetch --root OUT": (
        f"`studiogan-gsr studiogan run --root OUT {RUN}`, `studiogan-gsr doctor --root OUT`"
    ),
    "plugins": f"`studiogan-gsr demo`, {TRAIN}",
    "doctor": f"`studiogan-gsr demo`, {TRAIN}, `studiogan-gsr studiogan run {RUN}`",
}


def next_in(printed: str) -> str:
    """What the last line says, whose commands all parse."""
    last = printed.splitlines()[-1]
    assert last.startswith("Next: ")
    assert printed.count("Next: ") == 1
    for text in re.findall(r"`(studiogan-gsr [^`]*)`", last):
        parser().parse_args(shlex.split(text)[1:])
    return last.removeprefix("Next: ")


@pytest.fixture
def without_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave out what takes long or needs a checkout: these commands only print their last line."""

    def nothing(*_: Any, **__: Any) -> list[str]:
        return []

    for module, name in (
        (init, "init"), (prefetch, "prefetch"), (evaluate, "evaluate"), (downstream, "downstream"),
        (demo, "demo"), (launcher, "run"), (patching, "apply_series"), (diagnosis, "diagnose"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, nothing)
    conditional = SimpleNamespace(configuration=read_configuration(PLAIN))
    monkeypatch.setattr("studiogan_gsr.hosts.native.run.train", lambda *_: conditional)
    found = SimpleNamespace(root=tmp_path, main=tmp_path / "src" / "main.py", commit=lambda: None)
    for name in ("fetch", "find_checkout"):
        monkeypatch.setattr(checkout, name, lambda *_: found)


def test_every_command_is_in_the_table() -> None:
    def has_actions(command: argparse.ArgumentParser) -> bool:
        return any(isinstance(action, argparse._SubParsersAction) for action in command._actions)

    commands = {name for name, command in parsers().items() if not has_actions(command)}
    for name in (name.removeprefix("studiogan-gsr ") for name in commands if name.startswith("studiogan-gsr ")):
        assert any(line.startswith(name) for line in STEPS), name


@pytest.mark.usefixtures("without_the_work")
@pytest.mark.parametrize("line", STEPS)
def test_a_command_ends_with_what_to_do_next(
    line: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"PLAIN": pair[0], "GSR": pair[1], "OUT": tmp_path}

    def real(text: str) -> str:
        return re.sub("PLAIN|GSR|OUT", lambda found: str(places[found[0]]), text)

    with one_thread():
        assert main(shlex.split(real(line))) == DONE
    assert next_in(capsys.readouterr().out) == real(STEPS[line])


@pytest.mark.parametrize("name", ["CIFAR10_LT_rho100", "LSUN_LT_rho1000", "iNaturalist2019"])
def test_a_shipped_configuration_of_the_data_set_is_named(name: str) -> None:
    words = shlex.split(_training(name, "my data").strip("`"))
    assert words[:2] == ["studiogan-gsr", "train"]
    assert load_configuration(shipped_configuration(words[2]))["DATA"]["name"] == name
    assert words[3:] == ["--data", "my data", "--out", f"runs/{name}"]


def test_a_run_without_classes_is_not_followed_by_a_command_that_refuses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unconditional = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}, OPTIMIZATION={"total_steps": 1})
    run = tmp_path / "run"
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", unconditional), run)) == DONE
        assert next_in(capsys.readouterr().out) == f"`studiogan-gsr report {run}`, `studiogan-gsr evaluate {run}`"
        assert main(["report", str(run), "--out", str(tmp_path / "page")]) == DONE


def test_a_checkpoint_without_classes_and_records_gets_its_configuration(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unconditional = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}, OPTIMIZATION={"total_steps": 1})
    config, save = write(tmp_path / "c.yaml", unconditional), tmp_path / "save"
    with one_thread():
        assert main(arguments(config, tmp_path / "run")) == DONE
        shutil.copytree(tmp_path / "run" / "checkpoints" / "step=1", save / "checkpoints" / "of-studiogan")
        capsys.readouterr()
        named = ["evaluate", str(save), "--config", str(config), "--data", "unused"]
        assert main([*named, *("--backbone", pixels, "--images", "16", "--repeats", "1", "--device", "cpu")]) == DONE
        place = save / "checkpoints" / "of-studiogan" / "config.yaml"
        step = f"copy the configuration to {place}, then `studiogan-gsr report {save}`"
        assert next_in(capsys.readouterr().out) == step
        shutil.copy(config, place)
        assert main(["report", str(save), "--out", str(tmp_path / "page")]) == DONE
    assert "FD-Pixels" in (tmp_path / "page" / "index.html").read_text()


def test_generate_from_an_export_is_followed_by_a_command_that_says_where_the_images_are(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    with one_thread():
        assert main(["export", str(pair[0]), "--out", str(out)]) == DONE
        capsys.readouterr()
        assert main(["generate", str(out), "--out", str(tmp_path / "images"), "--images", "1"]) == DONE
    assert next_in(capsys.readouterr().out) == f"`studiogan-gsr downstream {out} --data DIR`"


@pytest.mark.usefixtures("without_the_work")
def test_the_newest_of_several_runs_of_studiogan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / "checkpoints" / name for name in ("b", "a")]
    for age, folder in zip((10, 0), folders, strict=True):
        folder.mkdir(parents=True)
        (folder / "model=G-current-weights-step=2.pth").touch()
        os.utime(folder, (time.time() - age,) * 2)
    assert main(["studiogan", "run", "--", "-t", "-cfg", "x", "-save", str(tmp_path)]) == DONE
    steps = f"`studiogan-gsr report {folders[1]}`, `studiogan-gsr evaluate {folders[1]}`"
    assert next_in(capsys.readouterr().out) == steps


@pytest.mark.usefixtures("without_the_work")
def test_what_only_studiogan_has_is_trained_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "c.yaml", changed(PLAIN, MODEL={"backbone": "stylegan2"}))
    assert main(["prefetch", str(config), "--data", "data"]) == DONE
    step = f"`studiogan-gsr studiogan run -- -t -metrics none -cfg {config} -data data -save runs/first`"
    assert next_in(capsys.readouterr().out) == step


def test_what_failed_is_to_be_fixed_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Finding("torch", "missing", "pip install torch")
    monkeypatch.setattr(diagnosis, "diagnose", lambda _: [problem])
    assert main(["doctor"]) == FAILED
    assert next_in(capsys.readouterr().out) == "fix these, then `studiogan-gsr doctor`"
    tried = [(plugin, PluginError(str(plugin), "broken")) for plugin, _ in try_all_plugins()[:1]]
    monkeypatch.setattr(plugins, "try_all_plugins", lambda: tried)
    assert main(["plugins"]) == FAILED
    assert next_in(capsys.readouterr().out).startswith("`studiogan-gsr doctor`, which says what to do ")


def test_a_checkpoint_without_records_is_exported_first(tmp_path: Path) -> None:
    assert with_generator("report", Path("run"), None) == "`studiogan-gsr report run`"
    assert with_generator("downstream", Path("run"), None, "--data", "d") == "`studiogan-gsr downstream run --data d`"
    config = str(write(tmp_path / "c.yaml", PLAIN))
    step = with_generator("report", Path("a b"), config)
    assert step == f"`studiogan-gsr export 'a b' --config {config} --out 'a b-generator'`"
    assert next_in(f"Next: {step}") == step
    without_classes = str(write(tmp_path / "w.yaml", changed(PLAIN, MODEL={"g_cond_mtd": "W/O"})))
    step = with_generator("report", Path("run"), without_classes)  # `export` would refuse it
    assert step == "copy the configuration to run/config.yaml, then `studiogan-gsr report run`"


def test_paths_are_quoted() -> None:
    assert shlex.split(command("report", Path("my runs/it's")).strip("`")) == [
        "studiogan-gsr",
        "report",
        "my runs/it's",
    ]
