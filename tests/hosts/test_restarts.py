"""StudioGAN killed, resumed, fine-tuned, and given files that are no checkpoints."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from studiogan_gsr.files import claim
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.hosts.studiogan.hooked.checkpoints import CheckpointHooks
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun
from studiogan_gsr.shipped import shipped_configuration
from support.host import Host, Outcome, configure, refused
from support.plugins import MakePackage

pytestmark = pytest.mark.host

# Tells u, v and the penalty of the weights where it is saved and where it is loaded.
KILLING = """
import copy, os, pathlib, signal
from studiogan_gsr import GroupSpectralRegularizer
count = [0]
replace, unlink = pathlib.Path.replace, pathlib.Path.unlink
def dying(original):
    def call(*args, **kwargs):
        count[0] += "model=" in str(args[0])
        if count[0] > int(os.environ["WRITES"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return call
if "WRITES" in os.environ:
    pathlib.Path.replace, pathlib.Path.unlink = dying(replace), dying(unlink)
class Told(GroupSpectralRegularizer):
    def tell(self, word):
        state = copy.deepcopy(super().state_dict())
        vectors = {k: v.double().sum().item() for k, v in state.items() if k[0] in "uv"}
        penalty = self.penalty().item()
        super().load_state_dict(state)
        print(f"{word}: {vectors}, penalty {penalty!r}", flush=True)
    def state_dict(self):
        self.tell("saved")
        return super().state_dict()
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.tell("loaded")
"""


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(12))
def test_killed_at_any_write_of_a_checkpoint_a_run_goes_on_from_a_whole_one(
    writes: int, checkout: Checkout, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    """BigGAN has three files a step, so that a first save makes three writes, and a later one six."""
    site = make_package("kills", "studiogan.regularizers", {"told": "kills:Told"}, {"kills": KILLING})
    base = shipped_configuration("CIFAR10_LT/BigGAN-gSR")
    configuration = configure(tmp_path, base, steps=5, REGULARIZER={"name": "told", "weight": 0.5, "beta": 0.99})
    environment = {"PYTHONPATH": str(site)}
    host, out = Host(checkout), tmp_path / "out"
    killed = host.run(configuration, digits, out, environment={**environment, "WRITES": str(writes)})
    assert killed.status == -signal.SIGKILL
    again = host.run(
        configuration,
        digits,
        tmp_path / "again",
        "-ckpt",
        str(killed.checkpoint_folder),
        environment=environment,
    )
    if writes < 3:
        refused(again, r"no complete current checkpoint: found G of .*, D of .*, G_ema of no step")
        return
    assert again.status == 0, again.output
    whole = 2 + 2 * (writes >= 6) + 2 * (writes >= 12)
    (first, *_) = again.lines("Progress:")
    assert int(re.search(r"Step: +(\d+)", first)[1]) == whole + 1
    assert again.lines("told: state restored from the checkpoint")
    assert states_of(again, "loaded") == [states_of(killed, "saved")[whole // 2 - 1]]
    left = sorted(path.name for path in killed.checkpoint_folder.glob("model=*"))
    assert left == [f"model={n}-current-weights-step=6.pth" for n in ("D", "G", "G_ema")]


def states_of(outcome: Outcome, word: str) -> list[str]:
    """What was saved or loaded, without the trial before the first step, when u and v are still zero."""
    lines = [line.removeprefix(f"{word}: ") for line in outcome.output.splitlines() if line.startswith(f"{word}: ")]
    return [line for line in lines if "'u_32': 0.0" not in line]


@pytest.mark.slow
def test_killed_at_random_moments_a_run_comes_to_its_end(
    checkout: Checkout, digits: Path, tmp_path: Path, make_package: MakePackage, seed: int
) -> None:
    """KILLS in the environment: how often; between what was killed and what goes on, nothing whole is lost."""
    site = make_package("kills", "studiogan.regularizers", {"told": "kills:Told"}, {"kills": KILLING})
    kills, last = int(os.environ.get("KILLS", "8")), 0
    chance = random.Random(seed)
    saved: dict[int, str] = {}
    resume: tuple[str, ...] = ()
    for attempt in range(kills + 1):
        total = last + 10**6 if attempt < kills else last + 1
        configuration = configure(tmp_path, steps=total, REGULARIZER={"name": "told", "weight": 0.5, "beta": 0.99})

        def kill(process: int) -> None:
            time.sleep(chance.uniform(0.5, 5))
            os.killpg(process, signal.SIGKILL)

        outcome = Host(checkout).run(
            configuration,
            digits,
            tmp_path / f"out{attempt}",
            *("--print_freq", "1", "--save_freq", "1", *resume),
            environment={"PYTHONPATH": str(site)},
            on_start=kill if attempt < kills else lambda process: None,
        )
        if loaded := states_of(outcome, "loaded"):
            assert loaded == [saved[last]]
        step = last
        lines = outcome.output.splitlines()
        assert not [line for line in lines if line.startswith("studiogan-gsr: ")], outcome.output
        steps = [int(found[1]) for line in lines if (found := re.search(r"Step: +(\d+)", line))]
        assert not steps or steps == list(range(last + 1, last + 1 + len(steps)))
        for step, state in enumerate(states_of(outcome, "saved"), last + 1):
            saved[step] = state
        folder = Path(resume[1]) if resume else next((tmp_path / f"out{attempt}").glob("checkpoints/*"), None)
        whole = whole_step(folder)
        # What was being saved when the run was killed may be there or not; all before it is.
        assert whole in (step, step - 1) or whole == last
        if folder is not None and whole:
            resume = ("-ckpt", str(folder))
        last = whole
    assert outcome.status == 0, outcome.output
    assert len(states_of(outcome, "loaded")) == 1


def whole_step(folder: Path | None) -> int:
    """The newest step of which both networks are there; 0 if there is none."""
    steps = [
        {int(path.stem.split("=")[-1]) for path in (folder.glob(f"model={n}-current*") if folder else ())}
        for n in "GD"
    ]
    return max(steps[0] & steps[1], default=0)


@pytest.fixture(scope="module")
def trained(checkout: Checkout, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Four steps of SNGAN with gSR."""
    folder = tmp_path_factory.mktemp("trained")
    outcome = Host(checkout).run(configure(folder, steps=3), digits, folder / "out")
    assert outcome.status == 0, outcome.output
    return outcome


def test_two_runs_never_save_in_one_folder(
    trained: Outcome, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    """The second of two that go on from one checkpoint is refused, and the files stay as they are."""
    folder = shutil.copytree(trained.checkpoint_folder, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lock = claim(folder)
    assert lock is not None
    configuration, argv = configure(tmp_path, steps=6), ("-ckpt", str(folder))
    second = Host(checkout).run(configuration, digits, tmp_path / "second", *argv)
    lock.release()
    refused(second, "copy: another process trains there; wait until it ends, or give -ckpt a copy of it")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert Host(checkout).run(configuration, digits, tmp_path / "third", *argv).status == 0


def test_an_image_that_cannot_be_read_late_names_it_and_a_checkpoint(checkout: Checkout, tmp_path: Path) -> None:
    """Workers wrap an error in the text of a traceback, of which the user reads the last line."""
    stream = np.random.default_rng(0)
    for split, label in product(("train", "valid"), "ab"):
        (tmp_path / split / label).mkdir(parents=True)
        for i in range(12):
            pixels = stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / label / f"{i:02}.png")
    broken = tmp_path / "train" / "b" / "07.png"
    whole = broken.read_bytes()
    configuration = configure(tmp_path, steps=1, DATA={"name": "Folder_LT", "img_size": 32, "num_classes": 2})
    first = Host(checkout).run(configuration, tmp_path, tmp_path / "out")
    assert first.status == 0, first.output
    broken.write_bytes(whole[:60])
    longer = configure(tmp_path, steps=40, DATA={"name": "Folder_LT", "img_size": 32, "num_classes": 2})
    argv = ("-ckpt", str(first.checkpoint_folder))
    second = Host(checkout).run(longer, tmp_path, tmp_path / "again", *argv)
    assert second.status == 1, second.output
    (line,) = second.lines("studiogan-gsr: ")
    step = whole_step(first.checkpoint_folder)
    assert re.match(r"studiogan-gsr: image 19 of Folder_LT \(\S*train/b/07.png\) cannot be read: OSError: ", line), (
        line
    )
    assert line.endswith(f"; repair or remove it; -ckpt {first.checkpoint_folder} resumes from step {step}"), line
    broken.unlink()
    assert Host(checkout).run(longer, tmp_path, tmp_path / "third", *argv).status == 0


def test_the_records_beside_a_checkpoint_say_which_regularizer_acted_on_which_images(trained: Outcome) -> None:
    """Every option, though the configuration names some; and the images of each start."""
    folder = trained.checkpoint_folder
    options = yaml.safe_load((folder / "config.yaml").read_text())["REGULARIZER"]
    assert (options["power_iterations"], options["apply_to"]) == (4, ["gain", "bias"])
    record = json.loads((folder / "run.json").read_text())
    assert record["data"]["classes"] == [str(digit) for digit in range(10)]
    assert [start["images_sha256"] for start in record["starts"]] == [record["data"]["images_sha256"]]


def test_fine_tuning_with_frozen_layers_starts_the_state_anew_and_says_so(
    trained: Outcome, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    arguments = ("-ckpt", str(trained.checkpoint_folder), "--freezeD", "1")
    outcome = Host(checkout).run(configure(tmp_path), digits, tmp_path / "out", *arguments)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("gsr: fine-tuning starts with a new state; the one in the checkpoint is ignored")
    assert outcome.lines("gsr: active in step 1")
    assert outcome.checkpoint()["regularizer"][0]["state"]["warm"]
    before, after = trained.checkpoint("D")["state_dict"], outcome.checkpoint("D")["state_dict"]
    frozen = [name for name in before if torch.equal(before[name], after[name]) and "weight_orig" in name]
    assert any(name.startswith("blocks.0.") for name in frozen)


def test_adaptive_augmentation_cannot_be_switched_on_where_nothing_was_adapted(
    trained: Outcome, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    ada = {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0, "ada_target": 0.6}
    configuration = configure(tmp_path, steps=5, AUG={**ada, "ada_kimg": 500, "ada_interval": 4})
    folder = shutil.copytree(trained.checkpoint_folder, tmp_path / "checkpoint")
    outcome = Host(checkout).run(configuration, digits, tmp_path / "out", "-ckpt", str(folder))
    refused(outcome, "checkpoint: the run was trained without ADA or APA, so there is no p to resume")


@pytest.mark.parametrize(
    ("files", "loaded", "said"),
    [
        ({"G": [2, 4], "D": [2], "G_ema": [2]}, 2, ""),  # killed while step 4 was being saved as the best
        ({"G": [2, 4], "D": [2, 4], "G_ema": [2, 4]}, 4, ""),  # or before step 2 was removed
        ({"G": [4], "D": [2]}, None, "no best checkpoint is complete: the last weights are kept"),
    ],
)
def test_the_best_networks_are_of_one_step(
    files: dict[str, list[int]], loaded: int | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for network, steps in files.items():
        for step in steps:
            (tmp_path / f"model={network}-best-weights-step={step}.pth").touch()
    for network in ("G", "D", "G_ema"):
        (tmp_path / f"model={network}-current-weights-step=6.pth").touch()
    asked: list[int | None] = []
    hooks = CheckpointHooks(HookedRun())

    def original(**arguments: object) -> int:
        asked.append(hooks.run.step_to_load)
        return 0

    found = hooks.load_best(original, ckpt_dir=str(tmp_path), apply_g_ema=True)
    assert asked == ([] if loaded is None else [loaded])
    assert found == (6 if loaded is None else 0)
    assert said in capsys.readouterr().out
    assert hooks.run.step_to_load is None


class Evil:
    """What a file may do to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("network", ["G", "D"])
@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}], ids=["", "forced"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(
    network: str,
    environment: dict[str, str],
    trained: Outcome,
    checkout: Checkout,
    digits: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(trained.checkpoint_folder, tmp_path / "checkpoint")
    (path,) = folder.glob(f"model={network}-current*")
    torch.save({**torch.load(path, weights_only=True), "evil": Evil(tmp_path / "done")}, path)
    outcome = Host(checkout).run(
        configure(tmp_path, steps=5), digits, tmp_path / "out", "-ckpt", str(folder), environment=environment
    )
    refused(outcome, r"checkpoint: the current checkpoint of step 4 cannot be loaded: .*Weights only load failed")
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "text", "half"])
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes | None, trained: Outcome, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained.checkpoint_folder, tmp_path / "checkpoint")
    (path,) = folder.glob("model=G-current*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    outcome = Host(checkout).run(configure(tmp_path, steps=5), digits, tmp_path / "out", "-ckpt", str(folder))
    refused(outcome, r"checkpoint: the current checkpoint of step 4 cannot be loaded: ")
