"""What a resumed run of the native host keeps, refuses and records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from studiogan_gsr.cli import main
from studiogan_gsr.errors import FAILED, WRONG_REQUEST, CheckpointError, PluginError, RequestError
from studiogan_gsr.hosts.checkpoint_files import checkpoint_files, checkpoints
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.restore import load_checkpoint, read_checkpoint
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.starts import changes, choose_start
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.regularization.method import Method
from support.runs import (
    BIGGAN,
    COUNTS,
    PLAIN,
    SNGAN,
    arguments,
    changed,
    command,
    command_that_dies,
    difference,
    files,
    losses,
    noise_folder,
    one_thread,
    run,
    start,
    write,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def sngan(tmp_path: Path) -> Path:
    return write(tmp_path / "sngan.yaml", SNGAN)


def trained(configuration: Path, out: Path, *more: str) -> None:
    assert main(arguments(configuration, out, *more)) == 0


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], message: str, status: int = WRONG_REQUEST) -> None:
    capsys.readouterr()
    assert main(argv) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line, line


def starts(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "run.json").read_text())["starts"]
    return found


# ------------------------------------------------------------------ what is kept


def test_a_run_keeps_its_seed_and_its_options(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--resume` alone continues a killed run to the bit, to the step that it was to end at."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    given = ["--seed", "3", "--steps", "6", "--save-freq", "3", "--print-freq", "2", "--no-fold"]
    given += ["--stream", "--workers", "1"]
    trained(sngan, whole, *given)
    died = run(tmp_path, command_that_dies, arguments(sngan, out, *given), 11)  # in the second checkpoint
    assert died.process.exitcode == -signal.SIGKILL, died.output
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [3]
    capsys.readouterr()
    assert main(["train", str(sngan), "--data", "unused", "--out", str(out), "--resume"]) == 0
    message = "seed 3, steps 6, workers 1, in_memory False, print_freq 2, save_freq 3, folded False"
    assert f"kept from the run: {message}\n" in capsys.readouterr().out
    assert losses(out) == losses(whole)
    assert not difference(*(files(path / "checkpoints" / "step=6") for path in (out, whole)))
    first, second = starts(out)
    varying = {"step", "time", "checkpoint"}
    assert {key for key in {**first, **second} if first.get(key) != second.get(key)} == varying
    assert (first["step"], second["step"]) == (0, 3)
    assert json.loads((out / "run.json").read_text())["seed"] == 3


def test_steps_without_a_number_are_the_configurations_unless_the_run_had_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration, out = write(tmp_path / "c.yaml", PLAIN), tmp_path / "out"  # 4 steps
    trained(configuration, out, "--steps", "2")
    trained(configuration, out, "--resume")
    assert "nothing to do: the checkpoint is of step 2, the run ends at 2 (--steps N trains to step N)" in (
        capsys.readouterr().out
    )
    other = tmp_path / "other"
    trained(configuration, other)
    longer = write(tmp_path / "longer.yaml", changed(PLAIN, OPTIMIZATION={"total_steps": 6}))
    trained(longer, other, "--resume")
    assert [step for step, _ in checkpoints(other / "checkpoints")] == [4, 6]
    assert yaml.safe_load((other / "config.yaml").read_text())["OPTIMIZATION"]["total_steps"] == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--seed", "4"), "--resume: found --seed 4; the run in "),
        (("--resizer", "lanczos"), "--resume: found --resizer lanczos; the run in "),
    ],
)
def test_what_a_run_cannot_change_is_refused(
    option: tuple[str, str], message: str, sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2", "--seed", "3")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refused(capsys, arguments(sngan, out, "--steps", "4", "--resume", *option), message)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    trained(sngan, out, "--steps", "4", "--resume", "--seed", "3")  # the same is no contradiction


def test_every_start_has_its_own_speed_ranks_and_threads(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2")
    capsys.readouterr()
    trained(sngan, out, "--steps", "4", "--resume", "--no-channels-last", "--workers", "0", "--threads", "2")
    changed_line = "from step 2 on: threads 2 (before 1), steps 4 (before 2), workers 0 (before 4), "
    assert f"{changed_line}channels_last False (before True)" in capsys.readouterr().out
    first, second = starts(out)
    assert (first["threads"], first["speed"]["channels_last"]) == (1, True)
    assert (second["threads"], second["speed"]["channels_last"]) == (2, False)
    record = json.loads((out / "run.json").read_text())
    assert not {"speed", "threads", "ranks", "device", "versions"} & set(record)


def test_a_run_of_an_older_version_keeps_its_seed_and_precision(sngan: Path, tmp_path: Path) -> None:
    """Which wrote seed, ranks, threads and speed once, and the options that were given alone."""
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2", "--seed", "3", "--no-fused")
    record = json.loads((out / "run.json").read_text())
    (only,) = record["starts"]
    old = {key: only[key] for key in ("step", "time", "device", "versions")}
    record |= {"starts": [old], **{key: only[key] for key in ("ranks", "threads", "speed", "device", "versions")}}
    (out / "run.json").write_text(json.dumps(record))
    sections = yaml.safe_load((out / "config.yaml").read_text())
    sections["REGULARIZER"] = dict(SNGAN["REGULARIZER"])
    (out / "config.yaml").write_text(yaml.safe_dump(sections))
    trained(sngan, out, "--steps", "4", "--resume")
    assert (starts(out)[-1]["seed"], starts(out)[-1]["speed"]["fused"]) == (3, False)
    trained(sngan, tmp_path / "whole", "--steps", "4", "--seed", "3", "--no-fused")
    assert losses(out) == losses(tmp_path / "whole")


def test_another_machines_versions_and_devices_are_said() -> None:
    before = {"device_type": "cuda", "ranks": 2, "threads": 8, "versions": {"torch": "2.4.0", "numpy": "2.1.0"}}
    now = {"device_type": "cpu", "ranks": 2, "threads": 1, "versions": {"torch": "2.5.0", "numpy": "2.1.0"}}
    message = "device_type cpu (before cuda), threads 1 (before 8), torch 2.5.0 (before 2.4.0)"
    assert changes(before, now) == message
    assert not changes(before, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_run_of_a_gpu_resumes_on_the_cpu_where_there_is_none(tmp_path: Path) -> None:
    options = TrainOptions(data="unused", out=tmp_path)
    assert choose_start(options, {"device_type": "cuda", "seed": 5}, 1).device_type == "cpu"
    assert (
        choose_start(TrainOptions(data="unused", out=tmp_path, device="cuda"), {}, 1).device_type == "cuda"
    )  # refused later


def test_evaluations_are_kept_and_can_be_switched_off(tmp_path: Path) -> None:
    before = {"evaluate": 500, "select_on": "reference", "backbone": "effnetlite0"}
    kept = choose_start(TrainOptions(data="unused", out=tmp_path), before, 1)
    assert (kept.evaluate, kept.select_on, kept.backbone) == (500, "reference", "effnetlite0")
    assert choose_start(TrainOptions(data="unused", out=tmp_path, evaluate=0), before, 1).evaluate == 0


# ------------------------------------------------------------------ devices


def test_noise_of_another_device_starts_anew_and_says_so(tmp_path: Path) -> None:
    """A generator on CUDA has a state of 16 bytes, one on the CPU of some thousand."""
    train(SNGAN, TrainOptions("unused", tmp_path / "run", steps=2, device="cpu"))
    folder = tmp_path / "run" / "checkpoints" / "step=2"
    native = torch.load(folder / "native.pth", weights_only=True)
    assert native["device"] == "cpu"
    drawn = []
    for device in ("cuda", None):  # older checkpoints do not name it
        made = {**native, "noise": [torch.zeros(16, dtype=torch.uint8)]}
        del made["device"]
        torch.save({**made, **({"device": device} if device else {})}, folder / "native.pth")
        trainer = Trainer(read_configuration(SNGAN), COUNTS, iter(()), torch.device("cpu"), 9, Speed())
        restored = load_checkpoint(trainer, folder)
        assert restored.step == trainer.steps == 2
        (noise,) = [message for message in restored.messages if "noise" in message]
        there = device or "another device"
        assert noise == f"saved on {there}, resumed on cpu: noise starts over, as RNGs differ by device"
        drawn.append(torch.randn(3, generator=trainer.noise))
        assert not torch.equal(drawn[-1], torch.randn(3, generator=torch.Generator().manual_seed(9)))
    assert torch.equal(*drawn)


def test_a_regularizer_that_refuses_its_state_leaves_networks_and_moments_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(SNGAN, TrainOptions("unused", tmp_path / "run", steps=2, device="cpu"))
    trainer = Trainer(read_configuration(SNGAN), COUNTS, iter(()), torch.device("cpu"), 9, Speed())
    before = {name: tensor.clone() for name, tensor in trainer.generator.state_dict().items()}

    def refuse(self: Method, saved: Any, source: str) -> str:
        raise PluginError(str(self.plugin), "load_state_dict() failed")

    monkeypatch.setattr(Method, "restore", refuse)
    with pytest.raises(PluginError, match="load_state_dict"):
        load_checkpoint(trainer, tmp_path / "run" / "checkpoints" / "step=2")
    assert not difference(before, dict(trainer.generator.state_dict()))
    assert not trainer.g_optimizer.state
    assert trainer.steps == 0


def test_moments_of_another_shape_are_refused_before_anything_is_restored(tmp_path: Path) -> None:
    train(PLAIN, TrainOptions("unused", tmp_path / "run", steps=2, device="cpu"))
    folder = tmp_path / "run" / "checkpoints" / "step=2"
    path = folder / "model=D-current-weights-step=2.pth"
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][3]["exp_avg"] = torch.zeros(1, 2)
    torch.save(content, path)
    trainer = Trainer(read_configuration(PLAIN), COUNTS, iter(()), torch.device("cpu"), 9, Speed())
    with pytest.raises(CheckpointError, match=r"exp_avg of parameter 3 has shape \(1, 2\), expected \("):
        load_checkpoint(trainer, folder)
    assert not trainer.g_optimizer.state


# ------------------------------------------------------------------ new runs from checkpoints


def test_steps_are_a_total_of_a_run_from_a_checkpoint_too(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(sngan, tmp_path / "first", "--steps", "3")
    argv = arguments(sngan, tmp_path / "second", "--resume", str(tmp_path / "first"), "--steps", "2")
    message = "--steps: found 2, the step to train to; the checkpoint "
    refused(capsys, argv, message)
    refused(capsys, argv, "step=3 is of step 3: --steps 5 trains 2 more")
    assert not (tmp_path / "second").exists()
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "the step to train to, counting those before --resume" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("way", ["run", "folder", "file of G", "file of D"])
def test_a_run_begins_from_a_run_a_folder_or_a_file(way: str, tmp_path: Path) -> None:
    configuration = write(tmp_path / "biggan.yaml", BIGGAN)
    trained(configuration, tmp_path / "first", "--steps", "2", "--seed", "3")
    folder = tmp_path / "first" / "checkpoints" / "step=2"
    sources = {
        "run": tmp_path / "first",
        "folder": folder,
        "file of G": folder / "model=G-current-weights-step=2.pth",
        "file of D": folder / "model=D-current-weights-step=2.pth",
    }
    trained(configuration, tmp_path / "second", "--resume", str(sources[way]), "--steps", "4")
    trained(configuration, tmp_path / "whole", "--steps", "4", "--seed", "3")
    assert losses(tmp_path / "second") == losses(tmp_path / "whole")[2:]
    (only,) = starts(tmp_path / "second")
    assert (only["seed"], only["checkpoint"]) == (3, str(folder))


def test_a_run_begins_from_a_checkpoint_with_another_seed_and_says_so(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(sngan, tmp_path / "first", "--steps", "2", "--seed", "3")
    for name, seed in (("second", "4"), ("third", "3")):
        trained(sngan, tmp_path / name, "--resume", str(tmp_path / "first"), "--steps", "4", "--seed", seed)
        message = "the seed differs from the checkpoint's: noise and the order of images start over"
        assert (message in capsys.readouterr().out) == (seed == "4")
    trained(sngan, tmp_path / "fourth", "--resume", str(tmp_path / "first"), "--steps", "4", "--no-fused")
    assert "from step 2 on: steps 4 (before 2), fused False (before True)" in capsys.readouterr().out
    assert losses(tmp_path / "second") != losses(tmp_path / "third")
    assert starts(tmp_path / "second")[0]["seed"] == 4


def test_the_runs_own_folder_named_again_is_resumed(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2")
    trained(sngan, out, "--steps", "4", "--resume", str(out))
    assert [start["step"] for start in starts(out)] == [0, 2]


def test_another_number_of_classes_is_called_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sections in (SNGAN, changed(BIGGAN, MODEL={"apply_attn": False})):
        name = sections["MODEL"]["backbone"]
        configuration = write(
            tmp_path / f"{name}.yaml", changed(sections, DATA={"name": "Folder_LT", "num_classes": 3})
        )
        for classes in (3, 5):
            for label in range(classes):
                folder = tmp_path / str(classes) / "train" / f"class{label}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(4):
                    Image.new("RGB", (32, 32), (label, i, 0)).save(folder / f"{i}.png")
        argv = ["train", str(configuration), "--data", str(tmp_path / "3"), "--out", str(tmp_path / name)]
        assert main([*argv, "--steps", "1", "--device", "cpu"]) == 0
        more = write(tmp_path / f"{name}5.yaml", changed(sections, DATA={"name": "Folder_LT", "num_classes": 5}))
        argv = ["train", str(more), "--data", str(tmp_path / "5"), "--out", str(tmp_path / f"{name}5")]
        message = (
            "the checkpoint has 3 classes, but DATA.num_classes is 5; class-conditional weights cannot be transferred"
        )
        refused(capsys, [*argv, "--resume", str(tmp_path / name), "--steps", "4", "--device", "cpu"], message)


def test_networks_of_different_steps_are_never_mixed(tmp_path: Path) -> None:
    """StudioGAN writes its files one after the other; a killed save leaves a folder of two steps."""
    train(PLAIN, TrainOptions("unused", tmp_path / "run", steps=4, save_freq=2, device="cpu"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    for step, networks in ((2, "GD"), (4, "G")):
        for network in networks:
            name = f"model={network}-current-weights-step={step}.pth"
            shutil.copy(tmp_path / "run" / "checkpoints" / f"step={step}" / name, folder)
    assert read_checkpoint(folder, averaged=False).step == 2
    (folder / "model=D-current-weights-step=2.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no file model=D-current-weights"):
        checkpoint_files(folder, ["G", "D"])
    shutil.copy(tmp_path / "run/checkpoints/step=2/model=D-current-weights-step=2.pth", folder)
    (folder / "model=G-current-weights-step=2.pth").unlink()
    with pytest.raises(CheckpointError, match="no step has all of G, D; found D of step 2, G of step 4"):
        checkpoint_files(folder, ["G", "D"])
    with pytest.raises(CheckpointError, match="no current checkpoint of step 4 has all of G, D"):
        checkpoint_files(folder / "model=G-current-weights-step=4.pth", ["G", "D"])


def test_noise_of_a_folder_that_studiogan_has_saved_in_since_is_not_taken(tmp_path: Path) -> None:
    """StudioGAN's -ckpt takes our folder and writes beside native.pth, which is then of an older step."""
    train(PLAIN, TrainOptions("unused", tmp_path / "run", steps=4, save_freq=2, device="cpu"))
    two, four = (tmp_path / "run" / "checkpoints" / f"step={step}" for step in (2, 4))
    for path in four.glob("model=*"):
        shutil.copy(path, two)
    saved = read_checkpoint(two, averaged=False)
    assert saved.step == 4
    assert saved.native is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such folder"),
        ("sngan.yaml", "not a file of a checkpoint; give the folder of a run or a checkpoint, or one of"),
        ("empty", "found nothing"),
        ("several", "found 2 runs of StudioGAN; name the checkpoints of one of them instead, oldest first: "),
    ],
)
def test_what_is_no_checkpoint_is_named(
    source: str, message: str, sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for run_name in ("a", "b"):
        folder = tmp_path / "several" / "checkpoints" / run_name
        folder.mkdir(parents=True)
        (folder / "model=G-current-weights-step=2.pth").touch()
    argv = arguments(sngan, tmp_path / "out", "--resume", str(tmp_path / source))
    refused(capsys, argv, message)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ images


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of two classes, and a configuration for it."""
    sections = changed(PLAIN, DATA={"name": "Folder_LT", "num_classes": 2}, OPTIMIZATION={"total_steps": 30})
    return noise_folder(tmp_path / "data"), write(tmp_path / "folder.yaml", sections)


@pytest.mark.parametrize("repair", ["leave out", "replace"])
def test_a_damaged_image_met_late_has_a_way_on(
    repair: str, images: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, configuration = images
    out, broken = tmp_path / "out", data / "train" / "b" / "07.png"
    argv = ["train", str(configuration), "--data", str(data), "--out", str(out), "--device", "cpu"]
    more = ["--stream", "--workers", "1", "--save-freq", "1", "--print-freq", "1"]
    assert main([*argv, *more, "--steps", "1"]) == 0
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    message = f"({broken}) cannot be read: "
    refused(capsys, [*argv, "--resume", "--steps", "20"], message, FAILED)
    reached, last = checkpoints(out / "checkpoints")[-1]
    refused(capsys, [*argv, "--resume", "--steps", "20"], f"the last good checkpoint is {last}", FAILED)
    remedy = "repair the images and --resume, with --allow-changed-images where"
    refused(capsys, [*argv, "--resume", "--steps", "20"], remedy, FAILED)
    if repair == "replace":  # the same name: nothing to allow
        broken.write_bytes(whole)
        assert main([*argv, "--resume", "--steps", "20"]) == 0
        assert len({start["images_sha256"] for start in starts(out)}) == 1
        return
    broken.unlink()
    refused(capsys, [*argv, "--resume", "--steps", "20"], "--allow-changed-images resumes on these")
    assert main([*argv, "--resume", "--steps", "20", "--allow-changed-images"]) == 0
    assert "other images than before (images_sha256 " in capsys.readouterr().out
    first, last_start = starts(out)[0], starts(out)[-1]
    assert first["images_sha256"] != last_start["images_sha256"]
    assert last_start["step"] == reached
    assert json.loads((out / "run.json").read_text())["data"]["class_counts"] == [12, 11]
    assert main([*argv, "--resume", "--steps", "21"]) == 0  # on these, no further word is needed


@pytest.mark.parametrize("place", ["data/train/run", "data/valid", "data/other/../train/new"])
def test_a_run_is_not_written_among_the_images(
    place: str, images: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There it would be a class of the next run."""
    data, configuration = images
    (data / "other").mkdir()
    before = sorted(data.rglob("*"))
    argv = ["train", str(configuration), "--data", str(data), "--out", str(tmp_path / place), "--steps", "1"]
    refused(capsys, [*argv, "--device", "cpu"], "found a folder of images, ")
    assert sorted(data.rglob("*")) == before
    assert main([*argv[:-3], str(data / "runs" / "one"), "--steps", "1", "--device", "cpu"]) == 0


# ------------------------------------------------------------------ two at once


def test_one_process_at_a_time_trains_in_a_folder(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = arguments(sngan, out, "--steps", "100000", "--save-freq", "100000")
    first = start(tmp_path, command, long)
    first.wait_for_step(out, 1)
    second = run(tmp_path, command, [*long, "--resume"])
    assert second.process.exitcode == WRONG_REQUEST, second.output
    assert f"--out {out}: another process trains there; wait until it ends, or name another --out" in second.output
    os.kill(first.pid, signal.SIGTERM)
    assert first.end() == FAILED
    step = checkpoints(out / "checkpoints")[-1][0]
    assert [line["step"] for line in losses(out)] == list(range(1, step + 1))
    trained(sngan, out, "--resume", "--steps", str(step + 1))


def test_two_that_begin_at_once_in_a_new_folder_are_told_apart(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    children = [start(tmp_path, command, arguments(sngan, out, "--steps", "4")) for _ in range(2)]
    ended = sorted(child.end() for child in children)
    assert ended == [0, WRONG_REQUEST], [child.output for child in children]
    assert [line["step"] for line in losses(out)] == [1, 2, 3, 4]


def test_a_run_that_was_killed_does_not_hold_its_folder(sngan: Path, tmp_path: Path) -> None:
    """Its workers have inherited the lock, and take some seconds to notice."""
    out = tmp_path / "out"
    child = start(tmp_path, command, arguments(sngan, out, "--steps", "1000", "--stream", "--workers", "1"))
    child.wait_for_step(out, 3)
    child.process.kill()
    child.end()
    since = time.monotonic()
    trained(sngan, out, "--resume", "--steps", "3")
    assert time.monotonic() - since < 60


# ------------------------------------------------------------------ the configuration that is kept


def test_the_folders_configuration_has_every_option_of_the_regularizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    trained(write(tmp_path / "gsr.yaml", changed(PLAIN, REGULARIZER={"name": "gsr"})), out, "--steps", "2")
    written = yaml.safe_load((out / "config.yaml").read_text())["REGULARIZER"]
    assert written == {
        "name": "gsr",
        "weight": 0.5,
        "beta": 0.99,
        "power_iterations": 4,
        "groups": "square",
        "apply_to": ["gain", "bias"],
        "released_bias_update": False,
    }
    stronger = write(tmp_path / "stronger.yaml", changed(PLAIN, REGULARIZER={"name": "gsr", "weight": 2.0}))
    message = "--resume: REGULARIZER.weight is 2.0, the run in "
    refused(capsys, arguments(stronger, out, "--resume"), message)
    refused(capsys, arguments(stronger, out, "--resume"), " has 0.5; another configuration needs another --out")
    written_out = write(tmp_path / "same.yaml", changed(PLAIN, REGULARIZER=written))
    trained(written_out, out, "--resume", "--steps", "3")


def test_a_folder_with_a_broken_record_is_refused(
    sngan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2")
    for content in ("{", "[]", "{}", '{"starts": 3, "data": {}}'):
        (out / "run.json").write_text(content)
        refused(capsys, arguments(sngan, out, "--resume", "--steps", "4"), "found no record of a run: ")


def test_a_folder_without_its_record_resumes_with_the_checkpoints_seed(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2", "--seed", "3")
    (out / "run.json").unlink()
    trained(sngan, out, "--steps", "4", "--resume")
    trained(sngan, tmp_path / "whole", "--steps", "4", "--seed", "3")
    assert losses(out) == losses(tmp_path / "whole")
    assert [start["seed"] for start in starts(out)] == [3]


def test_a_run_that_was_killed_as_it_began_leaves_no_start(sngan: Path, tmp_path: Path) -> None:
    """Between its two records; a run that begins there is a new one."""
    out = tmp_path / "out"
    died = run(tmp_path, command_that_dies, arguments(sngan, out, "--steps", "2", "--seed", "3"), 2)
    assert died.process.exitcode == -signal.SIGKILL
    assert (out / "run.json").is_file()
    assert not (out / "config.yaml").is_file()
    resumed = shutil.copytree(out, tmp_path / "resumed")
    trained(sngan, out, "--steps", "2")
    assert [start["seed"] for start in starts(out)] == [0]
    trained(sngan, resumed, "--resume")  # means the one that was to begin
    assert [(start["seed"], start["steps"]) for start in starts(resumed)] == [(3, 2), (3, 2)]


def test_a_runs_own_configuration_resumes_it(sngan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained(sngan, out, "--steps", "2")
    trained(out / "config.yaml", out, "--resume", "--steps", "4")
    assert [step for step, _ in checkpoints(out / "checkpoints")] == [2, 4]


def test_a_fixed_option_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"--seed 4; the run in x has 3: leave --seed out"):
        choose_start(TrainOptions(data="unused", out=Path("x"), seed=4), {"seed": 3}, 1)
