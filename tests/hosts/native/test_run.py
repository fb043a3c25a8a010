"""Runs of the native host: their folder, and how they end, die and go on."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from studiogan_gsr import progress
from studiogan_gsr.cli import main
from studiogan_gsr.errors import FAILED, WRONG_REQUEST, RequestError, TrainingError
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.evaluation.samples import generate, save_grid, shown_classes, to_pixels
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.native import progress_line, training
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.failures import memory_explained
from studiogan_gsr.hosts.native.losses import discriminator_loss
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.progress_line import TrainingProgress
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.seeds import SAMPLES, mixed
from support.runs import (
    BIGGAN,
    COUNTS,
    MODELS,
    PLAIN,
    SNGAN,
    Child,
    Sections,
    arguments,
    changed,
    command,
    command_on_a_full_disk,
    command_that_dies,
    command_with_impatient_workers,
    command_with_little_memory,
    command_with_small_files,
    difference,
    discriminator_gradients,
    discriminator_work,
    end_ranks,
    files,
    free_port,
    log_lines,
    losses,
    one_rank,
    one_thread,
    run,
    start,
    start_ranks,
    write,
)

OF_STEPS = "--steps"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """A test that failed may have left some; they would hold up the end of all tests."""
    yield
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's configurations, SNGAN.yaml, BigGAN.yaml and plain.yaml, and its uninterrupted runs."""
    made = tmp_path_factory.mktemp("native")
    for name, sections in {**MODELS, "plain": PLAIN}.items():
        write(made / f"{name}.yaml", sections)
    return made


def options(out: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data="unused", out=out, **{"device": "cpu", "print_freq": 1, "save_freq": 2, **more})


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], message: str, status: int = WRONG_REQUEST) -> None:
    """The command ends so, with one line on stderr that matches."""
    assert main(argv) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^studiogan-gsr: .*{message}", line), line


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    """`python -m` from the beginning."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = [sys.executable, "-m", *argv]
    return subprocess.run(given, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_runs_train_evaluate_and_resume_on_every_device(
    name: str, precision: str, device: torch.device, tmp_path: Path, pixels: str
) -> None:
    given = {"device": device.type, "precision": precision, "evaluate": 40, "backbone": pixels}
    out = tmp_path / "run"
    train(MODELS[name], options(out, steps=2, **given))
    trainer = train(MODELS[name], options(out, steps=4, resume=True, **given))
    tensors = [*trainer.generator.state_dict().values(), *trainer.discriminator.state_dict().values()]
    assert {tensor.device for tensor in tensors} == {device}
    lines = losses(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(value).all() for line in lines for value in line.values())
    assert [line["step"] for line in evaluations(out)] == [2, 4]
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [2, 4]
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [start["device_type"] for start in starts] == [device.type] * 2


# The folder.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """Seven steps of SNGAN with gSR, a line every third and a checkpoint every other; and the trainer."""
    out = tmp_path_factory.mktemp("trained") / "runs" / "sngan"
    return train(SNGAN, options(out, steps=7, seed=5, print_freq=3)), out


def test_the_folder_holds_the_resolved_configuration(trained: tuple[Trainer, Path]) -> None:
    _, out = trained
    written = yaml.safe_load((out / "config.yaml").read_text())
    gsr = {"weight": 0.5, "beta": 0.9, "power_iterations": 4, "groups": "square", "apply_to": ["gain", "bias"]}
    gsr |= {"released_bias_update": False}
    wanted = read_configuration(changed(SNGAN, OPTIMIZATION={"total_steps": 7}, REGULARIZER=gsr))
    assert read_configuration(written) == wanted
    assert written["OPTIMIZATION"]["g_lr"] == 0.0002  # a default
    assert written["REGULARIZER"]["name"] == "gsr"


def test_the_folder_holds_versions_seed_data_and_plugins(trained: tuple[Trainer, Path]) -> None:
    _, out = trained
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 5
    (beginning,) = record["starts"]
    assert beginning["versions"]["torch"] == version("torch")
    assert beginning["versions"]["studiogan-gsr"] == version("studiogan-gsr")
    assert set(beginning["versions"]) == {"python", "studiogan-gsr", "torch", "torchvision", "numpy", "pillow"}
    assert (beginning["step"], beginning["ranks"], beginning["threads"]) == (0, 1, 1)
    assert (beginning["print_freq"], beginning["save_freq"], beginning["steps"]) == (3, 2, 7)
    assert re.fullmatch(r"CPU, \d+ threads? \(.+\)", beginning["device"])
    assert beginning["speed"]["precision"] == "float32"
    assert [entry["name"] for entry in record["regularizers"]] == ["gsr", "lecam"]
    gsr, lecam = record["regularizers"]
    assert "gsr = studiogan_gsr.regularizers" in gsr["plugin"]
    assert (gsr["roles"], lecam["roles"]) == (["penalty"], ["discriminator_loss"])
    assert lecam["options"] == {"weight": 0.1, "decay": 0.9, "start": 2, "released": False}
    assert lecam["summary"].startswith("lecam of studiogan-gsr ")
    assert gsr["options"] == {
        "weight": 0.5,
        "beta": 0.9,
        "power_iterations": 4,
        "groups": "square",
        "apply_to": ["gain", "bias"],
        "released_bias_update": False,
    }
    data = record["data"]
    assert data["name"] == "Digits_LT_rho50"
    assert data["class_counts"] == COUNTS
    assert "Digits_LT = studiogan_gsr.datasets" in data["plugin"]
    assert data["classes"] == [str(digit) for digit in range(10)]
    assert len(data["images_sha256"]) == 64


def test_the_log_has_a_line_a_print_interval(trained: tuple[Trainer, Path]) -> None:
    trainer, out = trained
    lines = log_lines(out)
    assert [line["step"] for line in lines] == [1, 3, 6, 7]
    gsr = {"gsr/penalty", "gsr/norm_head", "gsr/norm_middle", "gsr/norm_tail"}
    lecam = {"lecam/penalty", "lecam/real_average", "lecam/fake_average"}
    keys = {"step", "seconds", "steps_per_second", "d_loss", "g_loss", "class_norms", *gsr, *lecam}
    assert [set(line) - keys for line in lines] == [{"gsr/gradient_share"}, set(), set(), set()]
    assert all(keys <= set(line) for line in lines)
    assert all(len(line["class_norms"]) == 10 for line in lines)
    assert lines[-1]["d_loss"] == trainer.losses["d_loss"].item()
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_tensorboard_reads_the_same_numbers(trained: tuple[Trainer, Path]) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, out = trained
    read = events.EventAccumulator(str(out / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == set(log_lines(out)[0]) - {"step", "class_norms"}
    for name in ("d_loss", "gsr/penalty"):
        shown = [(event.step, event.value) for event in read.Scalars(name)]
        assert shown == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log_lines(out)]


def test_a_sample_grid_has_a_row_of_each_class(trained: tuple[Trainer, Path]) -> None:
    trainer, out = trained
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        f"step={step:06}.png" for step in (2, 4, 6, 7)
    ]
    picture = np.asarray(Image.open(out / "samples" / "step=000007.png"))
    assert picture.shape == (10 * 33 - 1, 10 * 33 - 1, 3)
    labels = torch.arange(10).repeat_interleave(10)
    pixels = to_pixels(generate(trainer.generator, labels, "gaussian", 8, mixed(5, SAMPLES)))
    for row, column in ((0, 0), (3, 9), (9, 4)):
        cell = picture[row * 33 : row * 33 + 32, column * 33 : column * 33 + 32]
        assert np.array_equal(cell, pixels[row * 10 + column].permute(1, 2, 0).numpy())
    assert (picture[32] == 255).all()


def test_samples_are_made_with_running_statistics_and_leave_the_generator_as_it_was(
    trained: tuple[Trainer, Path],
) -> None:
    generator = trained[0].generator
    assert generator.training
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    labels = torch.arange(10)
    made = generate(generator, labels, "gaussian", 8, 3)
    assert generator.training
    assert not difference(before, dict(generator.state_dict()))
    z, _ = sample_latents("gaussian", 10, 8, 1, torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(made, copy.deepcopy(generator).eval()(z, labels))
        assert not torch.allclose(made, copy.deepcopy(generator)(z, labels), atol=0.01)


def test_of_many_classes_a_grid_shows_some_from_head_to_tail() -> None:
    counts = list(range(100, 0, -1))
    shown = shown_classes(counts)
    assert len(shown) == 16
    assert shown[0] == 0
    assert shown[-1] == 99
    assert shown == sorted(shown)
    assert shown_classes(list(reversed(counts))) == [99 - label for label in shown]


def test_the_averaged_generator_makes_the_samples_where_there_is_one(tmp_path: Path) -> None:
    trainer = train(BIGGAN, options(tmp_path / "out", steps=3))
    assert trainer.averaged is not None
    drawn = {}
    for name, generator in (("averaged", trainer.averaged), ("current", trainer.generator)):
        save_grid(generator, COUNTS, "gaussian", 8, mixed(0, SAMPLES), tmp_path / f"{name}.png")
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["averaged"] != drawn["current"]
    assert (tmp_path / "out" / "samples" / "step=000003.png").read_bytes() == drawn["averaged"]


def test_the_newest_two_checkpoints_stay_with_the_regularizers_state(trained: tuple[Trainer, Path]) -> None:
    trainer, out = trained
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [6, 7]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step=6", "step=7"]
    saved = files(out / "checkpoints" / "step=7")
    assert set(saved) == {
        "model=G-current-weights-step=7.pth",
        "model=D-current-weights-step=7.pth",
        "native.pth",
    }
    g_file, d_file = saved["model=G-current-weights-step=7.pth"], saved["model=D-current-weights-step=7.pth"]
    gsr, lecam = g_file["regularizer"]
    assert (gsr["name"], gsr["acted"], lecam["name"], lecam["acted"]) == ("gsr", 7, "lecam", 14)
    assert not difference(g_file["regularizer"], trainer.regularization.state())
    assert "regularizer" not in d_file
    assert not difference(g_file["state_dict"], dict(trainer.generator.state_dict()))
    assert (d_file["step"], d_file["seed"]) == (7, 5)
    assert d_file["lecam_emas"]["D_real"] == lecam["state"]["averages"][0].item()
    assert saved["native.pth"]["drawn"] == 14


def test_more_may_be_logged_at_each_interval(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(PLAIN, options(out, steps=2), lambda trainer: {"rows": [trainer.steps], "twice": 2 * trainer.steps})
    assert [(line["rows"], line["twice"]) for line in log_lines(out)] == [([1], 2), ([2], 4)]


def test_a_seed_gives_the_same_run_again_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(SNGAN, options(tmp_path / name, steps=3, seed=seed))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")
    for step in (2, 3):
        place = f"checkpoints/step={step}"
        assert not difference(files(tmp_path / "a" / place), files(tmp_path / "b" / place))


# Going on.

STEPS = 9


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, Path]:
    """A run of each model that nothing disturbed."""
    children = {}
    for name in MODELS:
        argv = arguments(folder / f"{name}.yaml", folder / f"whole-{name}", OF_STEPS, str(STEPS))
        children[name] = start(folder, command, argv)
    for child in children.values():
        assert child.end() == 0, child.output
    return {name: folder / f"whole-{name}" for name in MODELS}


def same_run(out: Path, whole: Path) -> None:
    """The same losses in every line, the same last checkpoints to the bit, and nothing half-written left."""
    assert losses(out) == losses(whole)
    ours, theirs = checkpoints(out / "checkpoints"), checkpoints(whole / "checkpoints")
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        assert not difference(files(one), files(other))
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if "events" not in path.name)
    assert left == sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if "events" not in path.name)
    for picture in (whole / "samples").iterdir():
        assert (out / "samples" / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_killed_at_random_moments_a_run_ends_as_the_uninterrupted_one(
    name: str, folder: Path, uninterrupted: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    out, moments = tmp_path / "out", random.Random(seed)
    killed = 0
    argv = arguments(folder / f"{name}.yaml", out, OF_STEPS, str(STEPS), "--resume")
    for at_least in (0, 2, 4, 6):
        child = start(tmp_path, command, argv)
        child.wait_for_step(out, at_least)
        time.sleep(moments.uniform(0, 0.2))
        child.process.kill()
        killed += child.end() == -signal.SIGKILL
    assert killed >= 2
    assert run(tmp_path, command, argv).process.exitcode == 0
    same_run(out, uninterrupted[name])
    starts = [start["step"] for start in json.loads((out / "run.json").read_text())["starts"]]
    assert starts == sorted(starts)


@pytest.mark.slow
def test_killed_at_every_write_a_run_ends_as_the_uninterrupted_one(
    folder: Path, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    """Each attempt dies at a later flush: of the records, of each file of a checkpoint, of the folder."""
    out = tmp_path / "out"
    argv = arguments(folder / "SNGAN.yaml", out, OF_STEPS, str(STEPS), "--resume")
    for at in range(1, 14):
        child = run(tmp_path, command_that_dies, argv, at)
        if child.process.exitcode == 0:
            break
        assert child.process.exitcode == -signal.SIGKILL, child.output
        for _, path in checkpoints(out / "checkpoints"):
            files(path)  # whole
    assert at >= 10  # past two records and a first checkpoint
    assert run(tmp_path, command, argv).process.exitcode == 0
    same_run(out, uninterrupted["SNGAN"])


def group(child: Child) -> int:
    return -os.getpgid(child.pid)


@pytest.mark.parametrize(
    ("number", "to_all", "more"),
    [
        (signal.SIGTERM, False, ()),
        (signal.SIGINT, True, ("--stream", "--workers", "1")),
        (signal.SIGTERM, True, ("--stream", "--workers", "1")),
    ],
)
def test_a_signal_ends_a_run_with_a_checkpoint(
    number: int, to_all: bool, more: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """SIGINT reaches all processes of a terminal, SIGTERM all of a batch system's job."""
    out = tmp_path / "out"
    given = (folder / "BigGAN.yaml", out, "--print-freq", "1", "--save-freq", "1000", *more)
    child = start(tmp_path, command, arguments(*given, OF_STEPS, "1000"))
    child.wait_for_step(out, 2)
    os.kill(group(child) if to_all else child.pid, number)
    assert child.end() == FAILED, child.output
    line = child.output.splitlines()[-1]
    found = re.fullmatch(
        r"studiogan-gsr: stopped after step (\d+) of 1000, saved in (.*); --resume resumes the run", line
    )
    assert found, child.output
    assert "Traceback" not in child.output
    step = int(found[1])
    assert checkpoints(out / "checkpoints") == [(step, Path(found[2]))]
    total = str(step + 2)
    resumed = start(tmp_path, command, arguments(*given, OF_STEPS, total, "--resume"))
    whole = arguments(folder / "BigGAN.yaml", tmp_path / "whole", "--save-freq", "1000", OF_STEPS, total)
    assert run(tmp_path, command, whole).process.exitcode == 0
    assert resumed.end() == 0, resumed.output
    assert f"resuming from step {step}, {found[2]}" in resumed.output
    assert losses(out) == losses(tmp_path / "whole")
    last = f"checkpoints/step={total}"
    assert not difference(files(out / last), files(tmp_path / "whole" / last))


def test_workers_end_with_a_run_that_is_killed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = arguments(folder / "plain.yaml", out, OF_STEPS, "1000", "--stream", "--workers", "1")
    child = start(tmp_path, command_with_impatient_workers, argv)
    child.wait_for_step(out, 1)
    pid = child.pid
    child.process.kill()
    child.end()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a worker outlived its run")


def test_workers_end_with_a_run_that_ends(tmp_path: Path) -> None:
    trainer = train(PLAIN, options(tmp_path / "out", steps=1, stream=True, workers=1))
    assert not multiprocessing.active_children()
    assert trainer.steps == 1


def test_a_finished_run_has_nothing_to_do_until_it_is_given_more_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train(SNGAN, options(out, steps=3))
    before = losses(out)
    train(SNGAN, options(out, steps=3, resume=True))
    assert "nothing to do: the checkpoint is of step 3, the run ends at 3" in capsys.readouterr().out
    assert losses(out) == before
    train(SNGAN, options(out, steps=5, resume=True))
    train(SNGAN, options(tmp_path / "whole", steps=5))
    assert losses(out) == losses(tmp_path / "whole")
    assert read_configuration(yaml.safe_load((out / "config.yaml").read_text())).OPTIMIZATION.total_steps == 5


def test_resuming_takes_back_what_was_logged_after_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(SNGAN, options(out, steps=4))
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "d_loss": 1.0}\n{"step": 6, "d_l')  # killed while writing
    time.sleep(1.1)  # TensorBoard orders the files of one second by a counter, as text: 10 before 9
    train(SNGAN, options(out, steps=6, resume=True))
    train(SNGAN, options(tmp_path / "whole", steps=6))
    assert losses(out) == losses(tmp_path / "whole")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = events.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in read.Scalars("d_loss")] == [1, 2, 3, 4, 5, 6]


def test_a_run_from_a_checkpoint_elsewhere_goes_on_from_there_even_before_its_first_own(tmp_path: Path) -> None:
    train(SNGAN, options(tmp_path / "first", steps=2))
    origin = tmp_path / "first" / "checkpoints" / "step=2"
    argv = arguments(write(tmp_path / "sngan.yaml", SNGAN), tmp_path / "second", OF_STEPS, "5")
    died = run(tmp_path, command_that_dies, [*argv, "--resume", str(origin)], 3)  # after both records
    assert died.process.exitcode == -signal.SIGKILL
    assert not checkpoints(tmp_path / "second" / "checkpoints")
    train(SNGAN, options(tmp_path / "second", steps=5, resume=True))
    train(SNGAN, options(tmp_path / "whole", steps=5))
    assert losses(tmp_path / "second") == losses(tmp_path / "whole")[2:]


# Several processes.


def ranks_of(outs: list[Path], sections: Sections, **more: Any) -> list[tuple[Any, ...]]:
    """What `one_rank` takes, of each rank."""
    return [(sections, options(outs[0], **more), out) for out in outs]


def test_two_ranks_hold_the_same_networks_and_go_on_alike(folder: Path, tmp_path: Path) -> None:
    """A whole run by torchrun, and one in two parts by processes like torchrun's."""
    launch = ("torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    argv = arguments(folder / "BigGAN.yaml", tmp_path / "whole", OF_STEPS, "4", "--seed", "1")
    with ThreadPoolExecutor() as beside:
        torchrun = beside.submit(python, *launch, "-m", "studiogan_gsr", *argv)
        parts = tmp_path / "parts"
        parts.mkdir()
        out = parts / "run"
        for steps, resume in ((2, False), (4, True)):
            kept = [parts / f"{rank}-{steps}.pth" for rank in range(2)]
            given = [(BIGGAN, options(out, steps=steps, resume=resume, seed=1), path) for path in kept]
            ranks = start_ranks(parts, 2, one_rank, given)
            assert end_ranks(ranks) == [0, 0], "".join(child.output for child in ranks)
            assert ranks[0].output
            assert not ranks[1].output
            first, second = (torch.load(path, weights_only=True) for path in kept)
            for name in ("G", "D", "G_ema", "steps"):
                assert not difference(first[name], second[name])
            assert not torch.equal(first["noise"], second["noise"])
            assert torch.equal(first["ada"]["p"], second["ada"]["p"])
            assert not torch.equal(first["ada"]["signs"], second["ada"]["signs"])  # counted until the fifth step
    done = torchrun.result()
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in log_lines(tmp_path / "whole")] == [1, 2, 3, 4]  # by rank 0 alone
    assert done.stdout.count("training: step 1 ") == 1
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["starts"][0]["ranks"] == 2
    assert losses(out) == losses(tmp_path / "whole")
    last = "checkpoints/step=4"
    assert not difference(files(out / last), files(tmp_path / "whole" / last))


CONTRASTIVE = {
    "2C": {"cond_lambda": 1.0, "temperature": 0.7},
    "D2DCE": {"cond_lambda": 1.0, "temperature": 0.7, "m_p": 0.98},
    "AC": {"cond_lambda": 1.0},
}


@pytest.mark.parametrize("method", CONTRASTIVE)
def test_two_ranks_take_the_step_of_one_process_on_the_whole_batch(method: str, tmp_path: Path) -> None:
    """The discriminator's gradients, with LeCam at work, to float64's rounding."""
    embed = {} if method == "AC" else {"d_embed_dim": 6}
    sections = changed(SNGAN, MODEL={"d_cond_mtd": method, **embed}, LOSS=CONTRASTIVE[method], REGULARIZER=None)
    stream = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(2, 8, 3, 32, 32, dtype=torch.float64, generator=stream) for _ in range(2))
    labels = torch.randint(0, 3, (2, 8), generator=stream)
    wanted = discriminator_gradients(sections, real, fake, labels)
    kept = [tmp_path / f"{rank}.pth" for rank in range(2)]
    given = [(sections, real, fake, labels, path) for path in kept]
    ranks = start_ranks(tmp_path, 2, discriminator_work, given)
    assert end_ranks(ranks) == [0, 0], "".join(child.output for child in ranks)
    for path in kept:
        found = torch.load(path, weights_only=True)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    assert all(value.abs().max() > 0 for value in wanted.values())


def test_a_signal_to_one_rank_ends_all_with_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = arguments(folder / "plain.yaml", out, OF_STEPS, "1000", "--print-freq", "2", "--save-freq", "1000")
    ranks = start_ranks(tmp_path, 2, command, [(argv,)] * 2)
    ranks[0].wait_for_step(out, 2)
    os.kill(ranks[1].pid, signal.SIGTERM)
    for child in ranks:
        assert child.end() == FAILED, child.output
    ((step, path),) = checkpoints(out / "checkpoints")
    for child in ranks:
        assert f"stopped after step {step} of 1000, saved in {path}; --resume resumes the run" in child.output
    assert len(files(path)["native.pth"]["noise"]) == 2


def test_another_number_of_ranks_goes_on_with_new_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given = ranks_of([out, out], BIGGAN, steps=2)
    ranks = start_ranks(tmp_path, 2, one_rank, [(s, o, tmp_path / f"{i}.pth") for i, (s, o, _) in enumerate(given)])
    assert end_ranks(ranks) == [0, 0]
    trainer = train(BIGGAN, options(out, steps=4, resume=True))
    assert trainer.steps == 4
    assert "saved by 2 ranks, resumed by 1: their noise starts over" in capsys.readouterr().out


def test_ranks_that_do_not_divide_the_batch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": 9})
    given = [([*arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out")],)] * 2
    ranks = start_ranks(tmp_path, 2, command, given)
    assert end_ranks(ranks) == [WRONG_REQUEST] * 2
    assert "OPTIMIZATION.batch_size: found 9; allowed: a multiple of 2 (ranks)" in ranks[0].output


# Losses that are not finite.


def poison(trainer: Trainer, at: int, what: str) -> dict[str, Any]:
    if trainer.steps == at:
        network = trainer.generator if what.startswith("G") else trainer.discriminator
        tensors = network.named_buffers() if what.endswith("running_var") else network.named_parameters()
        value = float("inf") if what.startswith("G") else float("nan")
        next(tensor for name, tensor in tensors if what[2:] in name).data.flatten()[-1] = value
    return {}


def finite(content: Any) -> bool:
    if isinstance(content, torch.Tensor):
        return bool(content.isfinite().all())
    if isinstance(content, dict):
        return all(map(finite, content.values()))
    return not isinstance(content, list) or all(map(finite, content))


def test_a_learning_rate_too_high_stops_the_run_and_names_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(
        PLAIN,
        MODEL={"apply_d_sn": False, "d_cond_mtd": "W/O"},
        LOSS={"adv_loss": "wasserstein"},
        OPTIMIZATION={"d_lr": 1e4, "g_lr": 1e4, "d_updates_per_step": 1},
    )
    out = tmp_path / "out"
    argv = arguments(write(tmp_path / "c.yaml", sections), out, OF_STEPS, "50")
    assert main([*argv, "--save-freq", "1"]) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    last_good = checkpoints(out / "checkpoints")[-1][1]
    assert f"the last good checkpoint is {last_good}; a lower learning rate" in line
    assert re.search(r"a (loss was|weight or its moments are) NaN or Inf (by|at) step \d+", line)
    assert finite(files(last_good))


def test_a_loss_that_was_not_finite_between_print_intervals_is_seen_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    train(SNGAN, options(out, steps=2))

    def once(name: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return discriminator_loss(name, real, fake) * (float("nan") if calls == 3 else 1)

    calls = 0
    monkeypatch.setattr(training, "discriminator_loss", once)
    with pytest.raises(TrainingError, match=r"by step 6 .* last good checkpoint is .*step=2"):
        train(SNGAN, options(out, steps=9, resume=True, print_freq=6, save_freq=6))


@pytest.mark.parametrize("what", ["G:weight", "D:weight", "G:running_var"])
def test_weights_and_statistics_that_are_not_finite_are_never_saved(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"at step 4; the last good checkpoint is .*step=2"):
        train(PLAIN, options(out, steps=9), partial(poison, at=4, what=what))
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [2]
    assert finite(files(out / "checkpoints" / "step=2"))


def test_without_a_checkpoint_yet_it_says_so(tmp_path: Path) -> None:
    sections = changed(PLAIN, OPTIMIZATION={"d_lr": 1e30, "g_lr": 1e30})
    with pytest.raises(TrainingError, match="there is no checkpoint yet; a lower learning rate"):
        train(sections, options(tmp_path / "out"))
    assert not (tmp_path / "out" / "checkpoints").exists()


# Space and memory.


@pytest.mark.parametrize("of_files", ["model=G-", "model=D-", "native"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(
    of_files: str, folder: Path, uninterrupted: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(SNGAN, options(out, steps=2))
    old = out / "checkpoints" / "step=2"
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    argv = arguments(folder / "SNGAN.yaml", out, OF_STEPS, str(STEPS), "--resume")
    child = run(tmp_path, command_on_a_full_disk, argv, 4000, of_files)
    assert child.process.exitcode == FAILED, child.output
    line = child.output.splitlines()[-1]
    assert line.startswith(
        f"studiogan-gsr: the checkpoint of step 4 cannot be written to {out}/checkpoints: OSError: "
    )
    assert line.endswith(f"File too large; the last good one is {old}")
    assert "Traceback" not in child.output
    assert list((out / "checkpoints").iterdir()) == [old]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    if of_files == "native":
        assert run(tmp_path, command, argv).process.exitcode == 0
        assert losses(out) == losses(uninterrupted["SNGAN"])


@pytest.mark.parametrize("size", [500, 3000])
def test_a_full_disk_ends_a_run_at_its_records_or_its_first_picture(size: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = run(tmp_path, command_with_small_files, arguments(folder / "plain.yaml", out), size)
    assert child.process.exitcode == FAILED
    line = child.output.splitlines()[-1]
    assert line.startswith(f"studiogan-gsr: the run in {out} failed: OSError: ")
    assert line.endswith("File too large; there is no checkpoint yet")
    assert (size > 1000) == (out / "log.jsonl").is_file()


def test_a_batch_that_no_machine_holds_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = 200_000_000
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": size})
    since = time.perf_counter()
    message = rf"out of memory on cpu at OPTIMIZATION.batch_size {size} .* lower it to {size // 2} with "
    refused(capsys, arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out"), message, FAILED)
    assert time.perf_counter() - since < 3


@pytest.mark.parametrize(
    ("size", "remedy"),
    [
        (3, "; lower it to 1 with OPTIMIZATION.acml_steps 2 for about as many images per update, or lower "),
        (1, "; lower "),
    ],
)
def test_a_batch_of_one_image_cannot_be_lowered(size: int, remedy: str) -> None:
    configuration = read_configuration(changed(PLAIN, OPTIMIZATION={"batch_size": size}))
    message = f"out of memory on cpu at OPTIMIZATION.batch_size {size}{remedy}MODEL.g_conv_dim and d_conv_dim"
    with (
        pytest.raises(TrainingError, match=f"^{re.escape(message)}$"),
        memory_explained(configuration, torch.device("cpu")),
    ):
        raise MemoryError


def test_memory_that_runs_out_in_a_step_names_the_batch_size(tmp_path: Path) -> None:
    # So large that torch's own allocator is the first to fail: smaller libraries crash where they get nothing.
    sections = changed(PLAIN, OPTIMIZATION={"batch_size": 40_000})
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out")
    child = run(tmp_path, command_with_little_memory, argv, 600 * 2**20)
    assert child.process.exitcode == FAILED, child.output
    line = child.output.splitlines()[-1]
    assert "out of memory on cpu at OPTIMIZATION.batch_size 40000" in line, child.output
    assert "lower it to 20000 with OPTIMIZATION.acml_steps 2 for about as many images per update, or lower" in line
    assert "Traceback" not in child.output


# Wrong requests.


def test_a_folder_of_another_run_or_of_other_files_is_not_written_to(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "out", folder / "plain.yaml"
    train(PLAIN, options(out, steps=2))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    refused(capsys, arguments(plain, out), f"--out {out}: found a run at step 2; --resume resumes it")
    other = write(tmp_path / "other.yaml", changed(PLAIN, OPTIMIZATION={"g_lr": 0.0001}))
    message = r"--resume: OPTIMIZATION.g_lr is 0.0001, the run in .* has 0.0002; another .* needs another --out"
    refused(capsys, arguments(other, out, "--resume"), message)
    with_gsr = write(tmp_path / "gsr.yaml", changed(PLAIN, REGULARIZER={"name": "gsr"}))
    message = "--resume: this configuration has a section REGULARIZER, the run's has none"
    refused(capsys, arguments(with_gsr, out, "--resume"), message)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for more in ((), ("--resume",)):
        refused(capsys, arguments(plain, foreign, *more), "found other files there; name an empty or new folder")
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    file = tmp_path / "file"
    file.touch()
    refused(capsys, arguments(plain, file), f"--out {file}: found a file")


def test_a_folder_that_cannot_be_made_is_a_wrong_request(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    argv = arguments(folder / "plain.yaml", tmp_path / "file" / "out")
    refused(capsys, argv, f"--out {tmp_path}/file/out: cannot be made")


def test_resuming_an_empty_folder_starts_a_run_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    train(PLAIN, options(tmp_path / "out", steps=1, resume=True))
    assert "no checkpoint in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"DATA": {"num_classes": 9}}, (), "DATA.num_classes: found 9; Digits_LT_rho50 has 10 classes"),
        (
            {"DATA": {"img_size": 64}},
            (),
            r"DATA.img_size: found 64; image \d+ of Digits_LT_rho50 .* is 32 x 32 pixels",
        ),
        ({"DATA": {"name": "Digits_LT_rho9999"}}, (), "ratio: found 9999"),
        ({"MODEL": {"g_conv_dimm": 8}}, (), "MODEL.g_conv_dimm: found an unknown key.*did you mean g_conv_dim"),
        ({"REGULARIZER": {"name": "gsrr"}}, (), "REGULARIZER: found 'gsrr'; installed are .*did you mean gsr"),
        ({"OPTIMIZATION": {"g_lr": "1e-4"}}, (), "OPTIMIZATION.g_lr: found '1e-4'.*YAML reads this as text"),
        ({"DATA": {"name": "My_Digits"}}, (), "My_Digits: .* needs train/, with one folder of images per class"),
        ({"DATA": {"name": "Folder_LT_rho2"}}, (), "needs train/ and valid/"),
        ({}, ("--resume", "nowhere"), "nowhere: no file model=G-current-weights-step=.*no such folder"),
    ],
)
def test_wrong_requests_are_refused_in_a_line_before_anything_is_written(
    changes: Sections, more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(PLAIN, **changes)
    refused(capsys, arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out", *more), message)
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_configuration_lists_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, arguments(Path("CIFAR10_LT/SNGANN"), tmp_path / "out"), "CIFAR10_LT/SNGAN")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--device cuda: found no CUDA device; --device cpu runs on the CPU"):
        train(PLAIN, options(tmp_path / "out", device="cuda"))


def test_the_command_ends_with_its_status_and_one_line(tmp_path: Path) -> None:
    """As a user starts it."""

    sections = changed(PLAIN, DATA={"num_classes": 9})
    refused = python("studiogan_gsr", *arguments(write(tmp_path / "c.yaml", sections), tmp_path / "out"))
    assert refused.returncode == WRONG_REQUEST
    assert re.fullmatch(r"studiogan-gsr: DATA.num_classes: found 9; Digits_LT_rho50 has 10 .*\n", refused.stderr)
    assert not refused.stdout


def test_few_lines_of_progress_are_spread_over_a_resumed_run_too(capsys: pytest.CaptureFixture[str]) -> None:
    for done, shown in ((0, [25, 50, 75, 100]), (50, [75, 100])):
        with TrainingProgress("training", total=100, done=done, lines=4) as progress:
            for step in range(done + 1, 101):
                progress.show(step, 1.0, {}, 0.0)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines] == [f"training: step {step}" for step in shown]


def test_a_slow_run_shows_its_speed_between_the_print_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's lines remain those of the print intervals."""
    monkeypatch.setattr(progress_line, "LINE_EVERY", 0)
    train(PLAIN, options(tmp_path / "out", steps=3, print_freq=100))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("training: step ")]
    assert [line.split("  ")[0] for line in lines] == [f"training: step {step}" for step in (1, 1, 2, 3, 3)]
    assert re.fullmatch(r"training: step 2  \S+ \S+  0:0\d:\d\d left", lines[2])
    assert [line["step"] for line in log_lines(tmp_path / "out")] == [1, 3]


def test_a_slow_first_step_is_waited_for_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)
    original = Trainer.step

    def slow(trainer: Trainer) -> None:
        time.sleep(0.5)
        original(trainer)

    monkeypatch.setattr(Trainer, "step", slow)
    for lines, waits in ((None, True), (2, False)):  # a number of lines is a maximum
        train(PLAIN, options(tmp_path / f"out{lines}", steps=2, lines=lines))
        printed = capsys.readouterr().out
        assert ("training: first step: 0 s so far" in printed.partition("training: step 1 ")[0]) == waits
        assert "first step" not in printed.partition("training: step 1 ")[2]


def test_a_slow_runs_line_in_a_terminal_keeps_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(progress_line, "console", lambda: terminal)
    with TrainingProgress("training", total=100, done=0, lines=None) as progress:
        (row,) = progress._bar.tasks
        progress.advance()
        progress.show(1, 1.0, {"d_loss": 0.5}, 99.0)
        assert row.fields == {"speed": "1 steps/s", "numbers": "d_loss 0.5"}
        progress._shown_at -= 40  # seconds ago
        progress.advance(10)
        assert row.fields == {"speed": "4 s/step", "numbers": "d_loss 0.5"}
        assert row.completed == 11


def test_progress_off_a_terminal_is_a_line_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(PLAIN, options(tmp_path / "out", steps=3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Digits_LT_rho50: class counts 134 ")
    assert [line.split("  ")[0] for line in lines[1:]] == [f"training: step {step}" for step in (1, 2, 3)]
    assert re.fullmatch(r"training: step 3  [\d.e+]+ steps?/s\S*  0:00:00 left  d_loss \S+  g_loss \S+", lines[-1])
