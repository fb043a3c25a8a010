"""The regularizer `lecam` and StudioGAN's LOSS.apply_lecam: the same numbers, never both, each resumes the other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from studiogan_gsr.hosts.checkpoint_files import checkpoints, network_file, read_file
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from support.host import DDP, Host, Outcome, configure, meeting, refused
from support.runs import one_thread

pytestmark = pytest.mark.host


def lecam(own: bool, weight: float, decay: float, start: int, **more: Any) -> dict[str, Any]:
    """Sections with StudioGAN's LeCam or with the regularizer, and with others."""
    if own:
        keys = {"lecam_lambda": weight, "lecam_ema_decay": decay, "lecam_ema_start_iter": start}
        return {"LOSS": {"apply_lecam": True, **keys}, "REGULARIZER": None, **more}
    return {"REGULARIZER": [{"name": "lecam", "weight": weight, "decay": decay, "start": start}], **more}


def done(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.output
    return outcome


def far(one: Outcome, other: Outcome) -> float:
    """The largest difference of two runs' weights.

    Without the biases of the generator's convolutions before batch norm, and the running means, which take them up:
    the gradients of these biases are rounding alone, and Adam's steps from them as large as from any others.
    """
    pairs = [(n, one.checkpoint(n)["state_dict"], other.checkpoint(n)["state_dict"]) for n in ("G", "D")]
    return max(
        (a[key].double() - b[key].double()).abs().max().item()
        for network, a, b in pairs
        for key in a
        if not (network == "G" and re.search(r"^blocks.*conv2d\d\.bias$|running_mean$", key))
    )


def test_ten_steps_with_lecam_by_name_are_studiogans_own(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    optimization = {"batch_size": 8, "d_updates_per_step": 2, "acml_steps": 2, "total_steps": 9}
    sections = {
        "own": lecam(True, 0.7, 0.9, 2),
        "named": lecam(False, 0.7, 0.9, 2),
        "stronger": lecam(False, 0.8, 0.9, 2),
    }
    runs = {
        name: done(
            Host(checkout).run(
                configure(tmp_path, OPTIMIZATION=optimization, **changes),
                digits,
                tmp_path / name,
                *("--print_freq", "1", "--save_freq", "10"),
            )
        )
        for name, changes in sections.items()
    }
    assert far(runs["own"], runs["named"]) < 1e-6
    assert far(runs["own"], runs["stronger"]) > 1e-5
    own, named = runs["own"].losses(), runs["named"].losses()
    for key in ("gen_loss", "dis_loss"):
        assert own[key] == pytest.approx(named[key], abs=1e-5)
    theirs, ours = (runs[name].checkpoint("D")["lecam_emas"] for name in ("own", "named"))
    assert [ours[key] for key in ("D_real", "D_fake")] == pytest.approx(
        [theirs["D_real"], theirs["D_fake"]], abs=1e-6
    )
    (state,) = runs["named"].checkpoint()["regularizer"]
    assert state["state"]["averages"].tolist() == [ours["D_real"], ours["D_fake"]]


@pytest.mark.slow
def test_in_two_ranks_studiogans_own_is_divided_by_two(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    """It differentiates the mean over all ranks' logits by this rank's alone, and DDP takes the mean once more."""
    runs = {}
    for name, own, weight in (("own", True, 2.0), ("named", False, 1.0), ("undivided", False, 2.0)):
        optimization = {"batch_size": 16, "d_updates_per_step": 2, "total_steps": 3}
        path = configure(tmp_path, OPTIMIZATION=optimization, **lecam(own, weight, 0.9, 1))
        given = {"ranks": 2, "environment": meeting(), "forked": False}
        runs[name] = done(Host(checkout).run(path, digits, tmp_path / name, *DDP, **given))
    assert far(runs["own"], runs["named"]) < 1e-6
    assert far(runs["own"], runs["undivided"]) > 1e-5


@pytest.mark.slow
def test_each_of_two_ranks_resumes_with_its_own_averages(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    """The released LeCam has an average for each image of a rank's batch; gSR's penalty is the same on all ranks."""

    def trained(name: str, decay: float, *arguments: str) -> Outcome:
        released = {"name": "lecam", "released": True, "decay": decay}
        optimization = {"batch_size": 16, "d_updates_per_step": 2, "total_steps": 4 if arguments else 2}
        path = configure(tmp_path, OPTIMIZATION=optimization, REGULARIZER=["gsr", released])
        given = {"ranks": 2, "environment": meeting(), "forked": False}
        return done(Host(checkout).run(path, digits, tmp_path / name, *DDP, *arguments, **given))

    def averages_of_ranks(folder: Path) -> list[torch.Tensor]:
        found = read_file(network_file(folder, "G"))["regularizers_of_ranks"]
        return [states[1]["state"]["averages"] for states in found]

    first = trained("first", 0.5)
    before = averages_of_ranks(first.checkpoint_folder)
    assert [tuple(averages.shape) for averages in before] == [(2, 8), (2, 8)]
    assert (before[0] - before[1]).abs().max() > 1e-2
    copy = shutil.copytree(first.checkpoint_folder, tmp_path / "copy")  # StudioGAN writes where it resumes from
    again = trained("again", 1 - 1e-6, "-ckpt", str(copy))
    assert len(again.lines("lecam: state restored from the checkpoint")) == 2
    for old, new in zip(before, averages_of_ranks(copy), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("regularizers", "message"),
    [
        ("lecam", "LOSS.apply_lecam: found lecam; allowed: each regularizer once; REGULARIZER is lecam, too"),
        (
            ["gsr", {"name": "lecam", "released": True}],
            r"LOSS.apply_lecam: found lecam; allowed: each regularizer once; REGULARIZER\[1\] is lecam, too",
        ),
    ],
)
def test_both_are_refused(regularizers: Any, message: str, checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    changes = {**lecam(True, 0.3, 0.9, 1), "REGULARIZER": regularizers}
    refused(Host(checkout).run(configure(tmp_path, **changes), digits, tmp_path / "out"), message)


# ------------------------------------------------------------------ resumed by one another

# With this decay the averages stay those of the first step, over all restarts that restore them.
KEPT = {"weight": 0.3, "decay": 1 - 1e-7, "start": 1}


def averages(folder: Path) -> list[float]:
    """StudioGAN's averages in a checkpoint."""
    found = read_file(network_file(folder, "D"))["lecam_emas"]
    return [found["D_real"], found["D_fake"]]


def saved_by(
    host: str, own: bool, steps: int, checkout: Checkout, digits: Path, folder: Path, origin: Path | None
) -> Path:
    """Train until a step, from a checkpoint or from the start; return the last checkpoint's folder."""
    # StudioGAN's runs end with the step of that number, the native host's before it.
    changes = lecam(own, **KEPT)
    changes["REGULARIZER"] = ["gsr", *(changes["REGULARIZER"] or [])]
    path = configure(folder, steps=steps - (host == "studiogan"), **changes)
    out = folder / f"{host}-{own}-{steps}"
    if host == "native":
        given = {} if origin is None else {"resume": origin}
        with one_thread():
            train(
                yaml.safe_load(path.read_text()),
                TrainOptions(str(digits), out, device="cpu", print_freq=1, save_freq=2, **given),
            )
        return checkpoints(out / "checkpoints")[-1][1]
    if origin is None:
        return done(Host(checkout).run(path, digits, out)).checkpoint_folder
    copy = shutil.copytree(origin, folder / f"copy-{own}-{steps}")  # StudioGAN writes where it resumes from
    outcome = done(Host(checkout).run(path, digits, out, "-ckpt", str(copy)))
    assert own or outcome.lines("rank 0: lecam: state restored from the checkpoint")
    assert outcome.lines("rank 0: gsr: state restored from the checkpoint")
    assert not outcome.lines("ignored")
    return copy


@pytest.mark.parametrize("first", ["native", "studiogan"])
@pytest.mark.parametrize("own", [True, False], ids=["key", "named"])
def test_averages_survive_a_change_of_host_and_of_spelling(
    first: str, own: bool, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    """One host saves with one of both spellings; the others resume it with both."""
    start = saved_by(first, own, 2, checkout, digits, tmp_path, None)
    kept = averages(start)
    assert max(map(abs, kept)) < 100  # not StudioGAN's 7777 of a run without averages
    for host in ("native", "studiogan"):
        for spelling in (True, False):
            last = saved_by(host, spelling, 4, checkout, digits, tmp_path, start)
            assert read_file(network_file(last, "D"))["step"] == 4
            assert averages(last) == pytest.approx(kept, abs=1e-5)


def test_a_resumed_run_continues_with_the_averages_and_logs_them(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    regularizers = ["gsr", {"name": "lecam", **KEPT}, "mode_seeking"]
    begun = done(
        Host(checkout).run(configure(tmp_path, steps=1, REGULARIZER=regularizers), digits, tmp_path / "begun")
    )
    states = {entry["name"]: entry["state"] for entry in begun.checkpoint()["regularizer"]}
    assert list(states) == ["gsr", "lecam", "mode_seeking"]
    kept = states["lecam"]["averages"].tolist()
    copy = shutil.copytree(begun.checkpoint_folder, tmp_path / "copy")
    environment = {"WANDB_MODE": "offline"}
    again = done(
        Host(checkout).run(
            configure(tmp_path, steps=3, REGULARIZER=regularizers),
            digits,
            tmp_path / "again",
            *("-ckpt", str(copy)),
            environment=environment,
        )
    )
    for name in states:
        assert again.lines(f"rank 0: {name}: state restored from the checkpoint")
        assert again.lines(f"rank 0: {name}: active in step 3")
    (path,) = again.save.glob("statistics/*/log.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
    for line, printed in zip(lines, again.lines("Progress:"), strict=True):
        assert [line["lecam/real_average"], line["lecam/fake_average"]] == pytest.approx(kept, abs=1e-5)
        scalars = {key: value for key, value in line.items() if "/" in key}
        assert {key.split("/")[0] for key in scalars} == set(states)
        assert "".join(f"{key.replace('/', '_')}: {value:<.4} " for key, value in scalars.items()) in printed
    (record,) = again.save.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert all(key.encode() in content for key in scalars)
    record = json.loads((copy / "run.json").read_text())
    assert [(entry["name"], entry["acted"], entry["roles"]) for entry in record["regularizers"]] == [
        ("gsr", 4, ["penalty"]),
        ("lecam", 8, ["discriminator_loss"]),
        ("mode_seeking", 4, ["generator_loss", "draw"]),
    ]
    again_states = {entry["name"]: entry["state"] for entry in torch.load(network_file(copy, "G"))["regularizer"]}
    assert again_states["lecam"]["averages"].tolist() == pytest.approx(kept, abs=1e-5)
