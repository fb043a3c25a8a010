"""The real StudioGAN, from an unchanged checkout, with the plug-ins.

Every run is a process of its own, on handwritten digits (real images, no download) with networks of
eight channels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.identity import digest
from studiogan_gsr.hosts.studiogan import fid_weights
from studiogan_gsr.hosts.studiogan.checkout import PINNED, Checkout
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations
from support.host import DDP, DIGITS, Host, Outcome, configure, meeting, refused, write_configuration
from support.plugins import MakePackage

pytestmark = pytest.mark.host

COUNTS = "120 102 88 75 64 55 47 40 34 30"


@pytest.fixture(scope="module", params=["launched", "patched"])
def host(request: pytest.FixtureRequest, checkout: Checkout, patched: Checkout) -> Host:
    """Both ways in: one suite runs over both."""
    return Host(checkout) if request.param == "launched" else Host(patched, "alone")


@pytest.fixture(scope="module")
def trained(host: Host, digits: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Four steps of SNGAN with gSR, wandb as a user without an account has it."""
    folder = tmp_path_factory.mktemp("trained")
    environment = {"WANDB_MODE": "", "HOME": str(folder), "STUDIOGAN_ROOT": str(host.checkout.root)}
    configuration, out = configure(folder, steps=3), folder / "out"
    return host.run(configuration, digits, out, environment=environment, device=device.type, forked=False)


def test_a_run_ends_well_and_says_at_the_start_what_acts(trained: Outcome) -> None:
    assert trained.status == 0, trained.output
    line, proof, share = trained.lines("[studiogan-gsr] rank 0: gsr")
    assert re.fullmatch(r".* gsr: active in step 1, penalty 0\.\d*[1-9]\d*", proof)
    assert re.search(r"gsr of studiogan-gsr \d", line)
    assert re.search(r" gsr: in class 9 \(30 images, the rarest\) the penalty's gradient is about \d", share)
    assert "6 layers, 120 matrices of 4x8, weight 0.5, beta 0.999" in line
    assert line.endswith(f"class counts {COUNTS}")
    assert '"name": "gsr"' in trained.output  # among the settings that StudioGAN prints


def test_penalty_and_norms_are_in_the_log_line_of_every_print_interval(trained: Outcome) -> None:
    lines = trained.lines("Progress:")
    assert len(lines) == 4
    number = r"(\d+\.\d+)"
    pattern = f"gsr_penalty: {number} gsr_norm_head: {number} gsr_norm_middle: {number} gsr_norm_tail: {number}"
    values = [[float(x) for x in re.search(pattern, line).groups()] for line in lines]
    assert values[0][0] > values[-1][0] > 0
    (log,) = trained.save.glob("logs/*.log")
    assert log.read_text().count("gsr_penalty") == 4
    (norms,) = trained.save.glob("statistics/*/log.jsonl")
    kept = [json.loads(line) for line in norms.read_text().splitlines()]
    assert [line["step"] for line in kept] == [1, 2, 3, 4]
    assert ["gsr/gradient_share" in line for line in kept] == [True, False, False, False]
    largest = max(kept[-1]["class_norms"])
    assert largest == pytest.approx(
        max(float(x) for x in re.findall(number, lines[-1].split("norm_head")[1])), rel=0.02
    )


def test_wandb_gets_the_scalars_and_is_offline_without_a_login(trained: Outcome) -> None:
    assert "W&B syncing is set to `offline`" in trained.output
    (record,) = trained.save.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"gsr/penalty" in content
    assert b"gsr/norm_tail" in content


def test_the_checkpoint_carries_the_regularizers_state(trained: Outcome) -> None:
    (saved,) = trained.checkpoint()["regularizer"]
    assert (saved["name"], saved["acted"]) == ("gsr", 4)
    state = saved["state"]
    assert state["warm"]
    assert state["u_32"].shape == (12, 10, 4)
    assert "regularizer" not in trained.checkpoint("D")


def test_the_checkout_stays_clean(trained: Outcome, host: Host) -> None:
    command = ["git", "-C", host.checkout.root, "status", "--porcelain", "--ignored"]
    status = subprocess.run(command, capture_output=True, text=True, check=True)
    assert status.stdout == ("" if host.way == "launched" else " M src/main.py\n")


def from_copy(outcome: Outcome, folder: Path) -> tuple[str, str]:
    """Arguments that resume a run; StudioGAN goes on writing where it resumes from."""
    copy = shutil.copytree(outcome.checkpoint_folder, folder / f"checkpoint{len(list(folder.iterdir()))}")
    return "-ckpt", str(copy)


def test_resuming_restores_the_state_and_says_so(trained: Outcome, host: Host, digits: Path, tmp_path: Path) -> None:
    resume = from_copy(trained, tmp_path)
    outcome = host.run(configure(tmp_path, steps=5), digits, tmp_path / "out", *resume)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("gsr: state restored from the checkpoint")
    assert not outcome.lines("gsr: in class")  # that line is of the first step
    others = configure(tmp_path, steps=5, REGULARIZER={"name": "gsr", "groups": 2, "beta": 0.9})
    resume = from_copy(trained, tmp_path)
    outcome = host.run(others, digits, tmp_path / "others", *resume)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("not of {'groups': 2, 'apply_to': ['gain', 'bias']}: they are recomputed")
    assert not outcome.lines("state restored")
    assert len(outcome.lines("gsr_penalty")) == 2  # steps 4 and 5 of 0 to 5


def test_resuming_with_and_without_the_plugin_says_what_is_missing(
    trained: Outcome, host: Host, digits: Path, tmp_path: Path
) -> None:
    configuration = configure(tmp_path, steps=3, REGULARIZER=None)
    resume = from_copy(trained, tmp_path)
    without = host.run(configuration, digits, tmp_path / "out", *resume)
    assert without.lines("holds the state of gsr, and this run has no regularizer")
    plain = host.run(configuration, digits, tmp_path / "plain")
    resume = ("-ckpt", str(plain.checkpoint_folder))
    outcome = host.run(configure(tmp_path, steps=5), digits, tmp_path / "again", *resume)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("gsr: the checkpoint holds no state of it (found: none); it starts over")


@pytest.mark.parametrize("model", ["SNGAN", "BigGAN", "ContraGAN"])
def test_ten_steps_are_equal_to_the_bit_whichever_way_they_are_started(
    model: str, checkout: Checkout, patched: Checkout, digits: Path, tmp_path: Path
) -> None:
    """An image folder under a name of StudioGAN's own, so that the plain program can read it."""
    base = shipped_configuration(f"CIFAR10_LT/{model}-DiffAug-LeCam")
    data = {**DIGITS, "name": "My_Digits"}
    none = configure(tmp_path, base, steps=9, DATA=data, REGULARIZER=None)
    watched, gsr = (
        write_configuration(tmp_path / f"{name}.yaml", none, DATA=data, REGULARIZER=section)
        for name, section in (("watched", {"name": "gsr", "weight": 0}), ("gsr", {"name": "gsr", "weight": 5.0}))
    )
    save = ("--print_freq", "1", "--save_freq", "10")
    launched, alone = Host(checkout), Host(patched, "alone")
    plain = Host(checkout, "alone").run(none, digits, tmp_path / "plain", *save)
    without = [host.run(none, digits, tmp_path / f"none-{host.way}", *save) for host in (launched, alone)]
    watching = launched.run(watched, digits, tmp_path / "watching", *save)
    # A patched checkout may be launched, too: the regularizer acts once, not twice.
    hosts = {"launched": launched, "alone": alone, "both": Host(patched)}
    with_gsr = [host.run(gsr, digits, tmp_path / f"gsr-{name}", *save) for name, host in hosts.items()]
    for outcome in (*without, watching, *with_gsr):
        assert outcome.status == 0, outcome.output
    assert len(plain.losses()["gen_loss"]) == 10
    assert not any(outcome.lines("[studiogan-gsr] rank") for outcome in without)
    assert all(outcome.losses() == plain.losses() for outcome in (*without, watching))
    first, *others = with_gsr
    assert first.losses() != plain.losses()
    for other in others:
        assert other.losses() == first.losses()
        penalties = [[line[line.index("gsr_penalty") :] for line in o.lines("Progress:")] for o in (first, other)]
        assert penalties[0] == penalties[1]
    # The plain program dies of today's wandb before its first checkpoint; the others have one.
    for group in ((*without, watching), with_gsr):
        for network in ("G", "D"):
            weights, *rest = (outcome.checkpoint(network)["state_dict"] for outcome in group)
            assert all(torch.equal(theirs[key], value) for theirs in rest for key, value in weights.items())


@pytest.mark.parametrize("name", [name for name in shipped_configurations() if name.endswith("-gSR")])
def test_every_shipped_gsr_configuration_trains(name: str, host: Host, digits: Path, tmp_path: Path) -> None:
    configuration = configure(tmp_path, shipped_configuration(name), steps=1)
    outcome = host.run(configuration, digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    assert len(outcome.lines("gsr_penalty")) == 2
    assert len(outcome.lines("the penalty's gradient is ")) == 1


def test_strangers_plugins_run_in_the_real_benchmark(
    host: Host, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    pull = """
import torch
class Pull:
    def __init__(self, generator, class_counts, strength):
        self.parameters, self.strength, self.calls = list(generator.parameters()), strength, 0
        self.class_counts = class_counts
    def penalty(self):
        self.calls += 1
        return self.strength * sum(p.square().sum() for p in self.parameters)
    def scalars(self):
        return {"calls": float(self.calls), "classes": float(len(self.class_counts))}
    def state_dict(self):
        return {"calls": self.calls}
    def load_state_dict(self, state):
        self.calls = state["calls"]
"""
    stripes = """
from PIL import Image
class Stripes:
    def __init__(self, root, split, ratio, profile="exp", seed=0):
        self.class_counts = [16, 16 // ratio]
        self.targets = [0] * 16 + [1] * (16 // ratio)
        self.classes = ["dark", "light"]
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, index):
        return Image.new("RGB", (32, 32), (index, 200 * self.targets[index], 0)), self.targets[index]
"""
    site = make_package("pulls", "studiogan.regularizers", {"pull": "pull:Pull"}, {"pull": pull})
    striped = make_package("stripes", "studiogan.datasets", {"Stripes": "stripes:Stripes"}, {"stripes": stripes})
    configuration = configure(
        tmp_path,
        DATA={"name": "Stripes_rho4", "num_classes": 2},
        REGULARIZER={"name": "pull", "strength": 0.5, "weight": None, "beta": None},
    )
    text = configuration.read_text().replace("  beta: null\n", "").replace("  weight: null\n", "")
    configuration.write_text(text)
    environment = {"PYTHONPATH": f"{site}:{striped}"}
    outcome = host.run(configuration, digits, tmp_path / "out", environment=environment)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("pull of pulls 1.0: <pull.Pull object")[0].endswith("class counts 16 4")
    assert "pull_calls: 3.0 pull_classes: 2.0" in outcome.lines("Progress:")[-1]  # attached before step 1
    assert outcome.checkpoint()["regularizer"] == [{"name": "pull", "state": {"calls": 2}, "acted": 2}]  # at step 2
    resume = ("-ckpt", str(outcome.checkpoint_folder))
    again = host.run(configuration, digits, tmp_path / "again", *resume, environment=environment)
    assert "pull_calls: 3.0" in again.lines("Progress:")[0]  # two calls restored, one made


@pytest.mark.parametrize("in_memory", [False, True])
def test_hdf5_files_are_used_counted_and_refused_when_cut_or_of_another_set(
    host: Host, digits: Path, tmp_path: Path, in_memory: bool
) -> None:
    data = tmp_path / "data"
    data.symlink_to(digits)  # the file is written beside the images
    flags = ("-hdf5", "-l") if in_memory else ("-hdf5",)
    name = "Folder_LT_rho4_seed7" if in_memory else "Folder_LT_rho4_seed8"
    configuration = configure(tmp_path, DATA={**DIGITS, "name": name})
    outcome = host.run(configuration, data, tmp_path / "out", *flags)
    assert outcome.status == 0, outcome.output
    assert outcome.lines(f"class counts {COUNTS}")
    (path,) = digits.glob(f"{name}_*.hdf5")
    (line,) = outcome.lines(f"{path.name}: 655 images, head class 0, the middle square, not resized; images_sha256 ")
    assert digest(folder_lt(str(digits), "train", 4, seed=7 if in_memory else 8)) in line
    if in_memory:
        os.truncate(path, path.stat().st_size - 1)
        message = f"{path.name} is cut off: .* bytes; copy it again, or move it away and pack it again"
    else:
        path.rename(digits / "Folder_LT_rho4_seed9_32_wo_resize_train.hdf5")
        configuration = configure(tmp_path, DATA={**DIGITS, "name": "Folder_LT_rho4_seed9"})
        message = "name is 'Folder_LT_rho4_seed8', expected 'Folder_LT_rho4_seed9'; move it away"
    again = host.run(configuration, data, tmp_path / "again", *flags)
    refused(again, message)
    assert not again.lines("Progress:")
    for left in digits.glob("*seed*.hdf5"):
        left.unlink()


PACK = """
import sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from utils.hdf5 import make_hdf5
settings = SimpleNamespace(name="My_Digits", num_workers=1, data_dir=sys.argv[2])
make_hdf5("My_Digits", 32, True, 32, sys.argv[2], "wo_resize", settings, settings)
"""


def test_studiogans_own_sets_are_packed_alike_and_a_half_written_file_is_refused(
    host: Host, digits: Path, tmp_path: Path
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        folder.mkdir()
        for part in ("train", "valid"):
            (folder / part).symlink_to(digits / part)
    configuration = configure(tmp_path, DATA={**DIGITS, "name": "My_Digits"})
    name = "My_Digits_32_wo_resize_train.hdf5"
    subprocess.run([sys.executable, "-B", "-c", PACK, str(host.checkout.source), str(theirs)], check=True)
    for folder in (theirs, ours):  # a whole file of StudioGAN's own packer is used as it is
        before = (folder / name).read_bytes() if folder is theirs else None
        outcome = host.run(configuration, folder, tmp_path / f"out-{folder.name}", "-hdf5")
        assert outcome.status == 0, outcome.output
        assert before is None or (folder / name).read_bytes() == before
    with h5py.File(theirs / name) as one, h5py.File(ours / name) as other:
        assert np.array_equal(one["imgs"][:], other["imgs"][:])
        assert np.array_equal(one["labels"][:], other["labels"][:])
        assert one["imgs"].dtype == other["imgs"].dtype
    # Alone, without the images it was made of, it cannot be compared with them; StudioGAN itself needs no more.
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "valid").symlink_to(digits / "valid")
    shutil.copy(theirs / name, alone)
    outcome = host.run(configuration, alone, tmp_path / "out-alone", "-hdf5")
    assert outcome.status == 0, outcome.output
    assert outcome.lines(f"{name} is not compared with its images, as they cannot be opened: FileNotFoundError")
    # As its packer leaves a file when it is killed after the first two batches of 500.
    with h5py.File(theirs / name, "a") as file:
        for key in ("imgs", "labels"):
            file[key].resize(1000, axis=0)
    again = host.run(configuration, theirs, tmp_path / "again", "-hdf5")
    refused(again, "is incomplete, or holds other images: it has 1000 images, My_Digits has 1200; move it away")


def test_a_generated_file_is_a_training_set_of_studiogan(
    host: Host, digits: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("--format", "hdf5", "--fill", "20", "--with-real", "--out", tmp_path / "filled", "--device", "cpu")
    assert host.command("generate", pair[1], *options, folder=tmp_path).status == 0
    data = tmp_path / "data"
    data.mkdir()
    (data / "valid").symlink_to(digits / "valid")
    (data / "Filled_32_wo_resize_train.hdf5").symlink_to(tmp_path / "filled" / "train.hdf5")
    outcome = host.run(configure(tmp_path, DATA={**DIGITS, "name": "Filled"}), data, tmp_path / "out", "-hdf5")
    assert outcome.status == 0, outcome.output
    assert outcome.lines("class counts 134 86 56 36 23 20 20 20 20 20")


def test_class_counts_have_the_names_of_the_classes(host: Host, named: Path, tmp_path: Path) -> None:
    for regularizer in ("gsr", None):
        outcome = host.run(
            configure(tmp_path, REGULARIZER=regularizer), named.parent, tmp_path / f"out-{regularizer}"
        )
        assert outcome.status == 0, outcome.output
        assert outcome.lines("rank 0: Folder_LT_rho4: class counts eight 120, five 102, ")
        assert len(outcome.lines("rank 0: no regularizer")) == (regularizer is None)


COMPARE = """
import sys
from pathlib import Path
import numpy as np
from studiogan_gsr.hosts.studiogan.launcher import Setup
Setup(Path(sys.argv[1]), "cpu", 1, ()).prepare()
from data_util import Dataset_
from studiogan_gsr.hosts.native.training_set import open_training_set
for resizer in ("wo_resize", "lanczos"):
    native = open_training_set(sys.argv[3], sys.argv[2], 3, 24, resizer).pixels
    theirs = Dataset_(sys.argv[3], sys.argv[2], True, True, 24, resizer, False, False)
    assert len(native) == len(theirs) > 20
    for i in range(len(native)):
        assert np.array_equal(native[i][0].numpy(), theirs[i][0].numpy()), i
        assert native[i][1] == theirs[i][1]
    reference = Dataset_(sys.argv[3], sys.argv[2], False, True, 24, resizer, False, False)
    assert len(reference) == 60 and reference[0][0].shape == (3, 24, 24)
print("equal")
"""


@pytest.mark.parametrize("name", ["AnimalFaces_LT_rho4", "Folder_LT", "My_Animals"])
def test_both_hosts_prepare_equal_pixels(name: str, checkout: Checkout, tmp_path: Path) -> None:
    """A set with its own way of preparing images, a folder whose orientation tags count, and StudioGAN's own way."""
    stream = np.random.RandomState(0)
    for label in range(3):
        for part, number in (("train", 60), ("valid", 20), ("Image", 80)):
            folder = tmp_path / part / f"kind{label}"
            folder.mkdir(parents=True)
            for i in range(number):
                height, exif = 30 + i % 3 if name[0] == "A" else 24, Image.Exif()
                exif[0x0112] = i % 9
                pixels = stream.randint(0, 256, (height, 24 + label, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png", exif=exif)
    if name[0] == "M":
        script = COMPARE.replace('("wo_resize", "lanczos")', '("lanczos", "bicubic", "nearest")')
    else:
        script = COMPARE
    command = [sys.executable, "-B", "-c", script, str(checkout.source), str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("equal\n"), done.stderr


def test_class_counts_of_studiogans_own_sets_come_from_the_data(host: Host, digits: Path, tmp_path: Path) -> None:
    configuration = configure(tmp_path, DATA={**DIGITS, "name": "My_Digits"})
    for flags in ((), ("-hdf5",)):
        outcome = host.run(configuration, digits, tmp_path / f"out{len(flags)}", *flags)
        assert outcome.status == 0, outcome.output
        assert outcome.lines("class counts 120 120 120 120 120 120 120 120 120 120")


def test_accumulation_and_several_generator_updates_are_penalised_once_an_update(
    host: Host, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    counting = """
from studiogan_gsr import GroupSpectralRegularizer
class Counting(GroupSpectralRegularizer):
    calls = 0
    def penalty(self):
        self.calls += 1
        return super().penalty()
    def scalars(self):
        return {"calls": self.calls}
"""
    site = make_package("counts", "studiogan.regularizers", {"count": "counting:Counting"}, {"counting": counting})
    optimization = {
        "total_steps": 1,
        "batch_size": 8,
        "d_updates_per_step": 1,
        "acml_steps": 2,
        "g_updates_per_step": 3,
    }
    configuration = configure(tmp_path, OPTIMIZATION=optimization, REGULARIZER={"name": "count"})
    outcome = host.run(configuration, digits, tmp_path / "out", "-mpc", environment={"PYTHONPATH": str(site)})
    assert outcome.status == 0, outcome.output
    # One trial at the start, three updates in each of two steps.
    assert [line.split("count_calls: ")[1].split()[0] for line in outcome.lines("Progress:")] == ["4.0", "7.0"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    def penalty(self): return 3.0", r"bad 1.0 .* bad = bad:Bad: penalty\(\) returned float"),
        ("    def penalty(self): return {}['gone']", r"bad 1.0 .* bad = bad:Bad: penalty\(\) failed: KeyError"),
        ("    def scalars(self): return {'a': 'b'}", r"bad 1.0 .* bad = bad:Bad: scalars\(\) failed: ValueError"),
        ("    def penalty(self): exit()", r"bad 1.0 .* bad = bad:Bad: penalty\(\) failed: SystemExit"),
        (
            "    def penalty(self):\n        p = next(self.generator.parameters())\n        p.data.mul_(2)\n"
            "        return p.sum()",
            r"bad 1.0 .* bad = bad:Bad: penalty\(\) changes the generator",
        ),
        (
            "    def penalty(self): return next(self.generator.parameters()).detach().sum()",
            r"bad 1.0 .* bad = bad:Bad: penalty\(\) returned a tensor without gradient",
        ),
        (
            "    def penalty(self): return next(self.generator.parameters()).sum() * float('nan')",
            r"bad 1.0 .* bad = bad:Bad: penalty\(\) or its gradient is not finite",
        ),
        (
            "    def penalty(self): return next(self.generator.parameters()).sum().to('meta')",
            r"bad 1.0 .* bad = bad:Bad: penalty\(\) returned a tensor on meta; the parameters are on cpu",
        ),
        (
            "    def class_norms(self): return [1.0]",
            r"bad 1.0 .* bad = bad:Bad: class_norms\(\) failed: AttributeError",
        ),
        ("    def state_dict(self): return {'a': self}", r"bad 1.0 .* bad = bad:Bad: state_dict\(\) cannot be saved"),
    ],
)
def test_a_strangers_faults_are_blamed_before_the_first_step(
    body: str, message: str, host: Host, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    base = """
class Bad:
    def __init__(self, generator, class_counts):
        self.generator = generator
    def penalty(self):
        return sum(p.square().sum() for p in self.generator.parameters())
    def scalars(self):
        return {}
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
"""
    site = make_package("bad", "studiogan.regularizers", {"bad": "bad:Bad"}, {"bad": base + body + "\n"})
    configuration = configure(tmp_path, REGULARIZER="bad")
    environment = {"PYTHONPATH": str(site)}
    refused(host.run(configuration, digits, tmp_path / "out", environment=environment), message)


def test_a_plugin_that_changes_the_generator_later_is_stopped_in_that_step(
    host: Host, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    sly = """
from studiogan_gsr import GroupSpectralRegularizer
class Sly(GroupSpectralRegularizer):
    calls = 0
    def penalty(self):
        self.calls += 1
        if self.calls == 3:
            next(iter(self.matrices.parameters())).data.add_(0)
        return super().penalty()
"""
    site = make_package("sly", "studiogan.regularizers", {"sly": "sly:Sly"}, {"sly": sly})
    configuration = configure(tmp_path, REGULARIZER="sly")
    outcome = host.run(configuration, digits, tmp_path / "out", environment={"PYTHONPATH": str(site)})
    assert outcome.status == 1
    assert outcome.lines(r"studiogan-gsr: sly 1.0")
    assert len(outcome.lines("Progress:")) == 1


def test_a_regularizer_that_stops_acting_stops_the_run(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    """A checkout that makes itself another optimizer after the hooks attached to the first."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    loader = clone / "src" / "loader.py"
    made = "cfgs.define_optimizer(Gen, Dis)"
    again = "cfgs.OPTIMIZATION.g_optimizer = __import__('torch').optim.Adam(Gen.parameters(), lr=1e-4)"
    loader.write_text(loader.read_text().replace(made, f"{made}; {again}"))
    outcome = Host(Checkout(clone)).run(configure(tmp_path), digits, tmp_path / "out", forked=False)
    assert outcome.status == 1
    message = "this Adam moves parameters that it regularizes, and it is attached to another optimizer"
    assert re.search(rf"studiogan-gsr: studiogan-gsr .* gsr = .*: {message}", outcome.output)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"num_classes": 9}, "DATA.num_classes: found 9; Folder_LT_rho4_seed9 has 10 classes"),
        ({"img_size": 64}, "DATA.img_size: found 64; image 0 of Folder_LT_rho4_seed9 .* is 32 x 32"),
    ],
)
def test_a_contradicting_data_set_is_refused_before_it_is_packed(
    data: dict[str, object], message: str, host: Host, digits: Path, tmp_path: Path
) -> None:
    configuration = configure(tmp_path, DATA={**DIGITS, "name": "Folder_LT_rho4_seed9", **data})
    refused(host.run(configuration, digits, tmp_path / "out", "-hdf5"), message)
    assert not list(digits.glob("*seed9*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"REGULARIZER": {"wieght": 1}}, "REGULARIZER.wieght: found 1; gsr has the keys .* did you mean weight"),
        ({"REGULARIZER": {"beta": 1}}, r"REGULARIZER.beta: found 1; allowed: a number in \[0, 1\)"),
        ({"REGULARIZER": {"name": "gsrr"}}, "REGULARIZER: found 'gsrr'; installed are .*gsr.*did you mean gsr"),
        ({"REGULARIZER": {"groups": 5}}, "gsr.*refused: OptionError: groups: found 5; .* a divisor of 32"),
        ({"REGULARISER": "gsr"}, "REGULARISER: found an unknown section; .* did you mean REGULARIZER"),
        ({"MODEL": {"g_conv_dimm": 8}}, "MODEL.g_conv_dimm: found an unknown key; .* did you mean g_conv_dim"),
        ({"DATA": {"name": "Folder_LT_step_rho4"}}, "DATA.name: found 'Folder_LT_step_rho4'; the form is"),
        ({"DATA": {"num_classes": 9}}, "DATA.num_classes: found 9; Folder_LT_rho4 has 10 classes"),
        ({"DATA": {"img_size": 64}}, "DATA.img_size: found 64; image 0 of Folder_LT_rho4 .* is 32 x 32"),
        ({"DATA": {"name": "Folder_LT_rho9999"}}, "DATA.name: found ratio: found 9999; allowed: at most 120"),
        ({"DATA": {"name": "../../elsewhere"}}, "DATA.name: found '../../elsewhere'; allowed: a data set's name of"),
        ({"LOSS": {"apply_cr": True}}, "LOSS.cr_lambda: found N/A; LOSS.apply_cr: True needs a number, 0 or more"),
        (
            {
                "LOSS": {f"apply_{kind}": True for kind in ("gp", "dra", "maxgp")}
                | {f"{kind}_lambda": 1 for kind in ("gp", "dra", "maxgp")}
            },
            "LOSS.apply_maxgp, LOSS.apply_gp, LOSS.apply_dra: found True, True, True; .*simultaneously",
        ),
        ({"LOSS": {"cond_lambda": "1e-1"}}, "LOSS.cond_lambda: found '1e-1'; allowed: a number, .* write 1.0e-01"),
        ({"MODEL": {"g_ema_start": None}}, "MODEL.g_ema_start: found null; allowed: an integer, 0 or more, or N/A"),
        (
            {"AUG": {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0}},
            "AUG.ada_target: found N/A; apply_ada needs a number",
        ),
        (
            {"LOSS": {"apply_topk": True, "topk_gamma": 0.5, "topk_nu": 0.01}},
            "LOSS.topk_nu: found 0.01; it would leave no image",
        ),
        (
            {"OPTIMIZATION": {"batch_size": 12}},
            "OPTIMIZATION.batch_size: found 12; a multiple of 8",
        ),
        ({"OPTIMIZATION": {"acml_steps": 99}}, "acml_steps, .*: found 8 x 99 x 2; a step takes 1584 .* are 655"),
        (
            {"MODEL": {"attn_g_loc": [1], "attn_d_loc": [1], "apply_attn": True}, "DATA": {"img_size": 8}},
            "DATA.img_size: found 8; the StyleGANs take",
        ),
        ({"MODEL": {"g_cond_mtd": "W/O"}}, "gsr.*refused: GeneratorError: Generator has no class-conditional"),
    ],
)
def test_wrong_configurations_are_refused_before_the_first_step(
    changes: dict[str, object], message: str, host: Host, digits: Path, tmp_path: Path
) -> None:
    configuration = write_configuration(tmp_path / "wrong.yaml", configure(tmp_path), **changes)
    refused(host.run(configuration, digits, tmp_path / "out"), message)


@pytest.mark.parametrize(
    ("backbone", "remedy"),
    [
        (
            "InceptionV3_tf",
            r"put https://\S+ at {home}/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth, or train",
        ),
        ("Swin-T_torch", "train with -metrics none and measure with `studiogan-gsr evaluate`$"),
    ],
)
def test_without_network_the_file_of_its_own_fid_is_named_with_its_place(
    backbone: str, remedy: str, host: Host, digits: Path, tmp_path: Path
) -> None:
    environment = {"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}  # where nothing listens
    arguments = ("-metrics", "fid", "-ref", "valid", "--eval_backbone", backbone)
    outcome = host.run(configure(tmp_path), digits, tmp_path / "out", *arguments, environment=environment)
    cause = f"--eval_backbone {backbone}: StudioGAN cannot download its weights .URLError: .*; "
    refused(outcome, cause + remedy.format(home=tmp_path))


@pytest.mark.slow
def test_a_missing_or_changed_surface_is_named_before_the_first_step(
    checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    config = clone / "src" / "config.py"
    text = config.read_text()
    for name, replacement, message in (
        ("def define_optimizer(self, Gen, Dis)", "def make_optimizer(self, Gen, Dis)", "define_optimizer is missing"),
        ("def define_optimizer(self, Gen, Dis)", "def define_optimizer(self, G, D)", "has the parameters self, G, D"),
        (
            "def define_optimizer(self, Gen, Dis)",
            "def define_optimizer(self, Gen, Dis, more=0)",
            "has the parameters more, which the hooks do not know",
        ),
    ):
        config.write_text(text.replace(name, replacement))
        outcome = Host(Checkout(clone)).run(configure(tmp_path), digits, tmp_path / "out", forked=False)
        refused(outcome, f"StudioGAN's config.Configurations.*{message}")
    config.write_text(text)
    worker = clone / "src" / "worker.py"
    worker.write_text(worker.read_text().replace("LOG_FORMAT", "LINE_FORMAT"))
    outcome = Host(Checkout(clone)).run(configure(tmp_path), digits, tmp_path / "out", forked=False)
    refused(outcome, r"StudioGAN's worker.LOG_FORMAT is missing")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("loader.py", "import umap", "loader needs the module umap, .*this checkout does: pip install umap-learn$"),
        (
            "worker.py",
            "import of_this_fork",
            "the module of_this_fork, .*pip install of_this_fork, or the package that .*requirements name for it$",
        ),
        ("main.py", "import umap.plot", "StudioGAN needs the module umap, .*: pip install umap-learn$"),
        (
            "loader.py",
            "from utils.of_this_fork import x",
            "utils.of_this_fork, which is not in .*src/utils: ",
        ),
    ],
)
def test_what_a_fork_imports_is_named_with_what_brings_it(
    file: str, line: str, message: str, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    path = clone / "src" / file
    path.write_text(f"{line}\n{path.read_text()}")
    outcome = Host(Checkout(clone)).run(configure(tmp_path), digits, tmp_path / "out", forked=False)
    refused(outcome, message)
    assert "studiogan-gsr[studiogan]" not in outcome.output


def test_without_its_shim_the_old_breakage_is_back(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    """Two of the shims mend a run; tests/test_shims.py has the others."""
    configuration = configure(tmp_path, steps=1)
    off = ("--no-shim", "best-checkpoint")
    outcome = Host(checkout).run(configuration, digits, tmp_path / "best", launch=off)
    assert outcome.status == 1
    (line,) = outcome.lines("studiogan-gsr: the run failed")
    assert "IndexError: list index out of range (at ckpt.py" in line
    off = ("--no-shim", "wandb-image")
    environment = {"WANDB_MODE": "offline"}
    outcome = Host(checkout).run(configuration, digits, tmp_path / "image", launch=off, environment=environment)
    assert outcome.status == 1
    assert "the run failed: " in outcome.output


@pytest.mark.parametrize("model", ["SNGAN", pytest.param("BigGAN", marks=pytest.mark.slow)])
def test_two_spawned_ranks_both_regularize_alike(model: str, host: Host, digits: Path, tmp_path: Path) -> None:
    """BigGAN's generator has spectral norm, whose vectors each of StudioGAN's ranks draws for itself."""
    base = shipped_configuration(f"CIFAR10_LT/{model}-gSR")
    optimization = {"total_steps": 5, "batch_size": 16, "d_updates_per_step": 1}
    configuration = configure(tmp_path, base, OPTIMIZATION=optimization)
    outcome = host.run(configuration, digits, tmp_path / "out", *DDP, ranks=2, environment=meeting(), forked=False)
    assert outcome.status == 0, outcome.output
    # A rank's line may start in the middle of another's: rank 0 prints its networks at that time.
    reports = re.findall(r"\[studiogan-gsr\] rank (\d): (gsr of .*)", outcome.output)
    assert sorted(rank for rank, _ in reports) == ["0", "1"], outcome.output
    assert reports[0][1] == reports[1][1]
    proofs = re.findall(r"\[studiogan-gsr\] rank (\d): gsr: active in step 1, (penalty .*)", outcome.output)
    assert sorted(rank for rank, _ in proofs) == ["0", "1"]
    assert proofs[0][1] == proofs[1][1]
    assert proofs[0][1].endswith("the same on all 2 ranks")
    assert outcome.output.count("the penalty's gradient is ") == 1
    assert len(outcome.lines("gsr_penalty")) == 6  # at each of them all ranks are compared


@pytest.mark.parametrize("arguments", [(), ("-sync_bn",)], ids=["", "sync_bn"])
def test_data_parallel_regularizes_once_a_step(
    arguments: tuple[str, ...], checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    """On the CPU DataParallel wraps the networks and splits nothing; converted batch norms hold for one device."""
    base = shipped_configuration("CIFAR10_LT/BigGAN-gSR")
    for ranks in (1, 2):
        path = configure(tmp_path, base)
        outcome = Host(checkout).run(path, digits, tmp_path / str(ranks), *arguments * (ranks - 1), ranks=ranks)
        assert outcome.status == 0, outcome.output
        penalties = [line.split("gsr_penalty: ")[1].split()[0] for line in outcome.lines("Progress:")]
        if ranks == 1:
            alone = penalties
    assert penalties == alone
    assert len(outcome.lines("rank 0: gsr: active in step 1")) == 1


@pytest.mark.parametrize("method", [pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_data_workers_are_started_in_any_way(
    method: str, host: Host, digits: Path, tmp_path: Path, make_package: MakePackage
) -> None:
    """A plug-in's module is imported before the first worker starts."""
    started = f"""
import multiprocessing
if multiprocessing.parent_process() is None:
    multiprocessing.set_start_method("{method}", force=True)
from studiogan_gsr import GroupSpectralRegularizer as Same
"""
    site = make_package("started", "studiogan.regularizers", {"same": "started:Same"}, {"started": started})
    configuration = configure(tmp_path, REGULARIZER="same")
    environment = {"PYTHONPATH": str(site)}
    outcome = host.run(configuration, digits, tmp_path / "out", environment=environment, forked=False)
    assert outcome.status == 0, outcome.output
    assert outcome.lines("same: active in step 1")
    assert len(outcome.lines("Progress:")) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "inserted", "message"),
    [
        (
            "    if cfgs.RUN.distributed_data_parallel:\n        global_rank",
            "    if local_rank == 1: del cfgs.super_cfgs['REGULARIZER']\n",
            "before the first step: rank 0 has one regularizer, rank 1 has no regularizer; the run is stopped",
        ),
        (
            "    if cfgs.RUN.distributed_data_parallel:\n        global_rank",
            "    if local_rank == 1: cfgs.super_cfgs['REGULARIZER'].weight = 0.25\n",
            r"before the first step: rank 0 and rank 1 are regularized differently: .*'weight': 0.5.* and .*0.25.*;",
        ),
        (
            "    # load the generator and the discriminator from a checkpoint if possible",
            "    if local_rank == 1: cfgs.OPTIMIZATION.g_optimizer = torch.optim.Adam(Gen.parameters())\n",
            "gsr = .*: this Adam moves parameters that it regularizes, and it is attached to another optimizer",
        ),
    ],
    ids=["none", "another", "idle"],
)
def test_a_rank_that_is_not_regularized_ends_the_run(
    place: str, inserted: str, message: str, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", checkout.root, clone], check=True)
    loader = clone / "src" / "loader.py"
    text = loader.read_text()
    assert text.count(place) == 1
    loader.write_text(text.replace(place, inserted + place))
    configuration = configure(tmp_path, OPTIMIZATION={"total_steps": 2, "batch_size": 16, "d_updates_per_step": 1})
    host = Host(Checkout(clone))
    outcome = host.run(configuration, digits, tmp_path / "out", *DDP, ranks=2, environment=meeting(), forked=False)
    assert outcome.status == 1
    (line,) = outcome.lines("studiogan-gsr: ")
    assert re.search(message, line), line
    assert not outcome.lines("Step:")


def test_studiogan_has_the_address_and_the_name_of_its_fid_network(checkout: Checkout) -> None:
    metrics = checkout.source / "metrics"
    assert f"'{fid_weights.URL}'" in (metrics / "inception_net.py").read_text()
    assert f'== "{fid_weights.NETWORK}":' in (metrics / "preparation.py").read_text()
    assert f"default='{fid_weights.NETWORK}'" in checkout.main.read_text()


def test_the_hooks_and_the_patch_were_written_for_this_commit(checkout: Checkout) -> None:
    if checkout.commit() != PINNED:
        pytest.skip(f"the checkout is at {checkout.commit()}")
    assert checkout.changed_files() == []
