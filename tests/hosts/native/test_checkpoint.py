"""Checkpoints of the native host: damaged, foreign, of another architecture, and shared with StudioGAN."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from studiogan_gsr.cli import main
from studiogan_gsr.errors import CheckpointError
from studiogan_gsr.hosts.checkpoint_files import checkpoints, network_file, read_file
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.restore import load_checkpoint
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.settings import load_configuration
from support.host import Host
from support.runs import (
    BIGGAN,
    COUNTS,
    PLAIN,
    SNGAN,
    Sections,
    arguments,
    changed,
    command,
    difference,
    judged,
    losses,
    one_thread,
    regularizers_of,
    run,
    write,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


CPU = torch.device("cpu")


def fresh(sections: Sections, device: torch.device = CPU) -> Trainer:
    """A trainer that has not begun, without images."""
    return Trainer(read_configuration(sections), COUNTS, iter(()), device, 9, Speed())


def everything(trainer: Trainer) -> dict[str, Any]:
    """All that a checkpoint restores."""
    return copy.deepcopy(
        {
            "G": dict(trainer.generator.state_dict()),
            "D": dict(trainer.discriminator.state_dict()),
            "G_ema": trainer.averaged and dict(trainer.averaged.state_dict()),
            "optimizers": [moments(o.state_dict()) for o in (trainer.g_optimizer, trainer.d_optimizer)],
            "ada": trainer.ada and [trainer.ada.p, trainer.ada.signs],
            "noise": trainer.noise.get_state(),
            "regularizers": regularizers_of(trainer),
            "steps": trainer.steps,
        }
    )


def moments(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state, counters as numbers (they may be of any type and place)."""
    return {k: {**v, "step": float(v["step"])} for k, v in state["state"].items()}


def options(out: Path, **more: Any) -> TrainOptions:
    return TrainOptions(data="unused", out=out, **{"device": "cpu", "print_freq": 1, "save_freq": 2, **more})


RELEASED = {"name": "lecam", "weight": 0.1, "decay": 0.9, "released": True}
BOTH = {"SNGAN": SNGAN, "BigGAN": changed(BIGGAN, REGULARIZER={"name": "gsr", "weight": 0.5, "beta": 0.9})}


@pytest.fixture(scope="module", params=BOTH)
def saved(
    request: pytest.FixtureRequest, device: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sections, Trainer, Path]:
    """Three steps: the configuration, the trainer and the checkpoint's folder."""
    out = tmp_path_factory.mktemp("saved") / "run"
    sections = BOTH[request.param]
    return sections, train(sections, options(out, steps=3, device=device.type)), out / "checkpoints" / "step=3"


def copied(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "step=3")


def edited(folder: Path, to: Path, name: str, edit: Any) -> Path:
    """A copy with one file's content passed through `edit`."""
    made = copied(folder, to)
    path = made / "native.pth" if name == "native" else network_file(made, name)
    content = read_file(path)
    torch.save(edit(content) or content, path)
    return made


def test_everything_comes_back(saved: tuple[Sections, Trainer, Path]) -> None:
    sections, trainer, folder = saved
    other = fresh(sections, trainer.device)
    assert difference(everything(other), everything(trainer))
    restored = load_checkpoint(other, folder)
    assert not difference(everything(other), everything(trainer))
    assert (restored.step, restored.drawn) == (3, 6)
    assert restored.elapsed > 0
    names = ["gsr", "lecam"] if sections["LOSS"].get("apply_lecam") else ["gsr"]
    assert list(restored.messages) == [f"{name}: state restored from the checkpoint" for name in names]


def test_rates_and_switches_come_from_the_configuration(saved: tuple[Sections, Trainer, Path]) -> None:
    sections, trainer, folder = saved
    other = fresh(changed(sections, OPTIMIZATION={"g_lr": 0.5, "beta1": 0.3}), trainer.device)
    load_checkpoint(other, folder)
    (group,) = other.g_optimizer.param_groups
    assert (group["lr"], group["betas"][0]) == (0.5, 0.3)
    assert group["fused"]
    for name in "GD":
        (written,) = read_file(network_file(folder, name))["optimizer"]["param_groups"]
        assert (written["fused"], written["foreach"]) == (None, None)  # StudioGAN may have no such device


def test_every_devices_checkpoint_is_restored_on_the_cpu(saved: tuple[Sections, Trainer, Path]) -> None:
    sections, trainer, folder = saved
    other = fresh(sections)
    restored = load_checkpoint(other, folder)
    assert any("noise starts over" in message for message in restored.messages) != (trainer.device == CPU)
    for network, same in ((trainer.generator, other.generator), (trainer.discriminator, other.discriminator)):
        for name, tensor in network.state_dict().items():
            assert torch.equal(same.state_dict()[name], tensor.cpu()), name
    assert all(tensor.is_cpu for state in other.g_optimizer.state.values() for tensor in state.values())


def test_a_file_truncated_anywhere_is_named_and_changes_nothing(
    saved: tuple[Sections, Trainer, Path], tmp_path: Path
) -> None:
    sections, _, folder = saved
    trainer = fresh(sections)
    before = everything(trainer)
    whole = sorted(path.name for path in folder.iterdir())
    assert len(whole) == (4 if trainer.averaged else 3)
    for name in whole:
        size = (folder / name).stat().st_size
        for length in (0, 1, 100, size // 3, size // 2, size - 100, size - 1):
            made = copied(folder, tmp_path / f"{name}-{length}")
            with (made / name).open("r+b") as file:
                file.truncate(length)
            with pytest.raises(CheckpointError, match=f"{name}: damaged, or not a checkpoint: "):
                load_checkpoint(trainer, made)
            shutil.rmtree(made)
    assert not difference(everything(trainer), before)


def test_the_command_says_so_in_a_line(
    saved: tuple[Sections, Trainer, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it resumes its own run, and where it starts from another's checkpoint."""
    sections, _, folder = saved
    out = shutil.copytree(folder.parent.parent, tmp_path / "run")
    for path in (out / "checkpoints" / "step=3").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    configuration = write(tmp_path / "c.yaml", sections)
    elsewhere = ("--resume", str(out / "checkpoints" / "step=3"))
    for where, more in ((out, ("--resume",)), (tmp_path / "new", elsewhere)):
        assert main(arguments(configuration, where, *more, "--steps", "5")) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"studiogan-gsr: {out}/checkpoints/step=3/model=G-current-weights-step=3.pth: damaged")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MODEL": {"g_conv_dim": 16}},
            r"model=G-.*: another architecture: .* is \(.*\) in the checkpoint and \(.*\) in this",
        ),
        ({"MODEL": {"d_conv_dim": 6}}, "model=D-.*: another architecture: "),
        ({"MODEL": {"z_dim": 12}}, "model=G-.*: another architecture: "),
        ({"DATA": {"num_classes": 7}}, "model=G-.*: the checkpoint has 10 classes, but DATA.num_classes is 7"),
        ({"MODEL": {"apply_d_sn": False}}, "model=D-.*: another architecture: .* missing"),
        ({"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.5, "alpha": 0.9}}, "model=G-.*: its optimizer differs"),
        ({"OPTIMIZATION": {"type_": "SGD", "momentum": 0.5, "nesterov": False}}, "model=G-.*: its optimizer differs"),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(
    changes: Sections, message: str, saved: tuple[Sections, Trainer, Path]
) -> None:
    sections, _, folder = saved
    other = changed(sections, REGULARIZER=None, **changes)
    trainer = fresh(other)
    before = everything(trainer)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(trainer, folder)
    assert not difference(everything(trainer), before)


def test_an_averaged_generator_that_is_missing_is_named(tmp_path: Path) -> None:
    train(BIGGAN, options(tmp_path / "run", steps=1))
    folder = tmp_path / "run" / "checkpoints" / "step=1"
    network_file(folder, "G_ema").unlink()
    with pytest.raises(CheckpointError, match=r"no file model=G_ema-current-weights-step=\*\.pth; found \['model=D"):
        load_checkpoint(fresh(BIGGAN), folder)


def swap(folder: Path) -> None:
    g_file, d_file = (network_file(folder, name) for name in "GD")
    content = g_file.read_bytes()
    g_file.write_bytes(d_file.read_bytes())
    d_file.write_bytes(content)


class Harm:
    """What a checkpoint from a stranger may hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harmed"),))


def test_files_that_are_no_checkpoints_are_refused(
    saved: tuple[Sections, Trainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections, _, folder = saved
    trainer = fresh(sections)
    before = everything(trainer)
    monkeypatch.chdir(tmp_path)
    contents = {
        "a list": ("G", lambda content: [1, 2], "found list; a checkpoint holds a mapping"),
        "weights alone": (
            "G",
            lambda content: content["state_dict"],
            "not a checkpoint of this host or of StudioGAN",
        ),
        "no step": ("D", lambda content: content.pop("step") and content, "not a checkpoint of this host"),
        "code": ("D", lambda content: {**content, "topk": Harm()}, "damaged, or not a checkpoint"),
        "no optimizer": (
            "D",
            lambda content: content.pop("optimizer") and content,
            "no optimizer in the file; images",
        ),
        "other numbers": ("native", lambda content: {"step": 3}, "native.pth: not a checkpoint of this host"),
    }
    for name, (network, edit, message) in contents.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(trainer, edited(folder, tmp_path / name, network, edit))
    swapped = copied(folder, tmp_path / "swapped")
    swap(swapped)
    with pytest.raises(CheckpointError, match=r"model=D-.*: not a checkpoint of this host or of StudioGAN"):
        load_checkpoint(trainer, swapped)
    for place, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, r"found \['a list', ")):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(trainer, place)
    assert not (tmp_path / "harmed").exists()
    assert not difference(everything(trainer), before)


def test_a_checkpoint_with_and_without_a_regularizer_says_what_is_missing(tmp_path: Path) -> None:
    with_gsr = changed(PLAIN, REGULARIZER={"name": "gsr"})
    for name, sections in (("plain", PLAIN), ("gsr", with_gsr)):
        train(sections, options(tmp_path / name, steps=1))
    plain, gsr = (tmp_path / name / "checkpoints" / "step=1" for name in ("plain", "gsr"))
    assert load_checkpoint(fresh(with_gsr), plain).messages == (
        "gsr: the checkpoint holds no state of it (found: none); it starts over",
    )
    assert load_checkpoint(fresh(PLAIN), gsr).messages == (
        "the checkpoint holds the state of gsr, and this run has no regularizer",
    )


# StudioGAN's.


class Exchange:
    """A run of one model in three parts: by StudioGAN, by this host, by StudioGAN again."""

    def __init__(self, sections: Sections, folder: Path, checkout: Checkout) -> None:
        self.sections, self.out, self.copy = sections, folder / "ours", folder / "copy"

        def until(step: int) -> Path:
            return write(folder / f"{step}.yaml", changed(sections, OPTIMIZATION={"total_steps": step}))

        # StudioGAN's runs end with the step of that number, ours before it.
        self.theirs = Host(checkout).run(until(3), folder, folder / "theirs")
        origin = str(self.theirs.checkpoint_folder)
        self.ours = run(folder, command, arguments(until(8), self.out, "--resume", origin))
        shutil.copytree(self.out / "checkpoints" / "step=8", self.copy)  # StudioGAN writes where it resumes from
        self.again = Host(checkout).run(until(9), folder, folder / "again", "-ckpt", str(self.copy))


@pytest.fixture(scope="module")
def exchanges(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exchange]:
    """Both models, side by side."""
    with ThreadPoolExecutor() as pool:
        made = {
            name: pool.submit(Exchange, sections, tmp_path_factory.mktemp(name), checkout)
            for name, sections in BOTH.items()
        }
    return {name: future.result() for name, future in made.items()}


@pytest.mark.host
@pytest.mark.parametrize("name", BOTH)
def test_this_host_goes_on_from_studiogans_checkpoint_and_studiogan_from_ours(
    name: str, exchanges: dict[str, Exchange]
) -> None:
    exchange = exchanges[name]
    theirs = exchange.theirs
    assert theirs.status == 0, theirs.output
    trainer = fresh(exchange.sections)
    restored = load_checkpoint(trainer, theirs.checkpoint_folder)
    g_file, d_file = (read_file(network_file(theirs.checkpoint_folder, network)) for network in "GD")
    found = everything(trainer)
    assert (restored.step, trainer.steps) == (4, 4) == (d_file["step"], d_file["step"])
    assert restored.messages[0] == "gsr: state restored from the checkpoint"
    assert restored.messages[-1].startswith("a checkpoint of StudioGAN: noise and the order of images start over")
    assert not difference(found["G"], dict(g_file["state_dict"]))
    assert not difference(found["D"], dict(d_file["state_dict"]))
    assert not difference(found["optimizers"], [moments(file["optimizer"]) for file in (g_file, d_file)])
    assert found["optimizers"][0][0]["step"] == 4
    assert found["optimizers"][1][0]["step"] == 8
    (of_gsr,) = g_file["regularizer"]
    assert not difference(found["regularizers"]["gsr"], of_gsr)
    has_lecam = exchange.sections["LOSS"].get("apply_lecam", False)
    assert ("lecam" in found["regularizers"]) == has_lecam
    if has_lecam:
        averages = d_file["lecam_emas"]
        read = found["regularizers"]["lecam"]["state"]["averages"].tolist()
        assert read == [averages["D_real"], averages["D_fake"]] != [7777, 7777]
    if trainer.ada is not None:
        assert trainer.ada.p.item() == pytest.approx(float(d_file["aa_p"]))
        assert trainer.ada.p.item() != exchange.sections["AUG"]["ada_initial_augment_p"]
    if trainer.averaged is not None:
        averaged = read_file(network_file(theirs.checkpoint_folder, "G_ema"))
        assert not difference(found["G_ema"], dict(averaged["state_dict"]))

    assert exchange.ours.process.exitcode == 0, exchange.ours.output
    lines = losses(exchange.out)
    assert [line["step"] for line in lines] == [5, 6, 7, 8]
    for line in lines:
        norms = line.pop("class_norms", [])
        assert torch.tensor([*line.values(), *norms]).isfinite().all()
    ours = read_file(network_file(checkpoints(exchange.out / "checkpoints")[-1][1], "D"))
    assert set(ours) >= set(d_file)

    again = exchange.again
    assert again.status == 0, again.output
    assert again.lines("gsr: state restored from the checkpoint")
    assert not again.lines("recomputed")
    assert len(again.lines("Progress:")) == 2  # steps 8 and 9
    last = read_file(network_file(exchange.copy, "D"))
    assert last["step"] == 10
    assert moments(last["optimizer"])[0]["step"] == 20
    assert moments(read_file(network_file(exchange.copy, "G"))["optimizer"])[0]["step"] == 10
    if has_lecam:
        # LeCam's averages (decay 0.9, four discriminator updates since) remember ours.
        before, after = ours["lecam_emas"]["D_real"], last["lecam_emas"]["D_real"]
        assert after != before
        assert abs(after) < 7777 * 0.9**4


def test_lecam_begins_anew_from_a_checkpoint_that_knows_no_averages(tmp_path: Path, device: torch.device) -> None:
    """StudioGAN's placeholder for averages that were never taken would make a penalty of millions."""
    train(PLAIN, options(tmp_path / "run", steps=2, device=device.type))
    lecam = {"apply_lecam": True, "lecam_lambda": 0.3, "lecam_ema_start_iter": 0, "lecam_ema_decay": 0.99}
    trainer = fresh(changed(PLAIN, LOSS=lecam), device)
    restored = load_checkpoint(trainer, tmp_path / "run" / "checkpoints" / "step=2")
    assert restored.messages == ("lecam: the checkpoint holds no state of it (found: none); it starts over",)
    (method,) = trainer.regularization.methods
    batch = judged(torch.full((4,), 2.0, device=device), torch.full((4,), -1.0, device=device), trainer.steps)
    term = method.regularizer.discriminator_loss(batch)
    assert method.regularizer.averages.tolist() == [2.0, -1.0]
    assert term.item() == pytest.approx(0.3 * 18)


def test_the_released_lecam_goes_on_with_its_averages(tmp_path: Path) -> None:
    sections = {**changed(SNGAN, LOSS={"apply_lecam": False}), "REGULARIZER": ["gsr", RELEASED]}
    whole = train(sections, options(tmp_path / "whole", steps=4))
    train(sections, options(tmp_path / "parts", steps=2))
    parts = train(sections, options(tmp_path / "parts", steps=4, resume=True))
    assert not difference(everything(parts), everything(whole))
    averages = regularizers_of(parts)["lecam"]["state"]["averages"]
    assert averages.shape == (2, 8)
    assert averages.unique().numel() > 8  # of single logits, not of means
    other = fresh(sections)
    train(PLAIN, options(tmp_path / "plain", steps=2))
    message = load_checkpoint(other, tmp_path / "plain" / "checkpoints" / "step=2").messages
    assert "lecam: the checkpoint holds no state of it (found: none); it starts over" in message
    written = load_configuration(tmp_path / "parts" / "config.yaml")["REGULARIZER"]
    assert written[1] == {**RELEASED, "start": 1000}
