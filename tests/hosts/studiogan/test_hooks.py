"""What the hooks do without StudioGAN: class counts from whatever data is in use."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from studiogan_gsr import progress
from studiogan_gsr.class_groups import listed
from studiogan_gsr.errors import DamagedImage, DataError, TrainingError
from studiogan_gsr.hosts.checkpoint_files import file_name
from studiogan_gsr.hosts.studiogan.hooked.data import DataHooks, check_data, class_counts, class_names
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun


def dataset(data: object, hdf5_path: Path | None = None) -> SimpleNamespace:
    return SimpleNamespace(data=data, hdf5_path=hdf5_path, data_name="Some_Set")


def test_class_counts_come_from_a_plugins_counts_or_from_targets_or_from_an_hdf5_file(tmp_path: Path) -> None:
    assert class_counts(dataset(SimpleNamespace(class_counts=[3, 1]))) == [3, 1]
    assert class_counts(dataset(SimpleNamespace(targets=[0, 2, 0]))) == [2, 0, 1]  # CIFAR and image folders
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w") as file:
        file["labels"] = np.array([1, 1, 0], dtype=np.int64)
        file["imgs"] = np.zeros((3, 4, 4, 3), dtype=np.uint8)
    assert class_counts(dataset(None, path)) == [1, 2]
    assert class_names(dataset(None, path)) == ["0", "1"]


def test_class_names_are_the_data_sets_own_if_they_match_its_labels() -> None:
    named = dataset(SimpleNamespace(targets=[0, 1, 0], classes=["cat", "dog"]))
    assert class_names(named) == ["cat", "dog"]
    assert class_names(dataset(SimpleNamespace(targets=[0, 2, 0], classes=["cat", "dog"]))) == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"has 2 classes \(images: cat 2, dog 1\); write num_classes: 2"):
        check_data(named, "Some_Set", SimpleNamespace(num_classes=3))


def test_class_counts_that_cannot_be_had_are_an_error_never_a_default() -> None:
    with pytest.raises(DataError, match=r"Some_Set: TensorDataset has neither class_counts nor targets"):
        class_counts(dataset(TensorDataset()))
    with pytest.raises(DataError, match=r"no training set was opened"):
        class_counts(None)


@pytest.mark.parametrize("rank_has_folder", [True, False])
def test_every_rank_names_the_checkpoint_to_resume_from(rank_has_folder: bool, tmp_path: Path) -> None:
    """Without -ckpt, StudioGAN sets RUN.ckpt_dir on rank 0 only."""

    def fails(worker: SimpleNamespace) -> None:
        raise DamagedImage("image 3 cannot be read")

    folder = tmp_path / "checkpoints" / "name"
    worker = SimpleNamespace(
        RUN=SimpleNamespace(save_dir=str(tmp_path), ckpt_dir=str(folder) if rank_has_folder else None),
        MODEL=SimpleNamespace(apply_g_ema=False),
        run_name="name",
    )
    hooks = DataHooks(HookedRun())
    with pytest.raises(TrainingError, match="3 cannot be read; repair or remove it; there is no checkpoint yet"):
        hooks.sample(fails, worker)
    folder.mkdir(parents=True)
    for network in "GD":
        torch.save({}, folder / file_name(network, "current", 4))
    with pytest.raises(TrainingError, match=f"-ckpt {folder} resumes from step 4"):
        hooks.sample(fails, worker)


def test_slow_updates_of_the_first_step_are_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.02)
    run = HookedRun()
    for began, step, waits in ((None, 5, True), ((5, 0.0), 5, True), ((5, 0.0), 6, False)):
        run.began = began
        with run.updating("generator", step):
            time.sleep(0.5)
        line = "[studiogan-gsr] rank 0: first updates of the generator: 0 s so far\n"
        assert (line in capsys.readouterr().out) == waits


def test_many_classes_are_summed_up() -> None:
    assert listed([5, 3, 1]) == "5 3 1"
    assert listed(list(range(1, 1011))) == "1010 to 1 in 1010 classes"


def test_class_counts_are_listed_with_the_names_of_the_classes() -> None:
    assert listed([5, 3, 1], ["cat", "grey whale", "7"]) == "cat 5, grey whale 3, 7 1"
    assert listed([5, 3, 1], ["0", "1", "2"]) == "5 3 1"  # no names
    assert listed(list(range(1, 31)), [f"c{n}" for n in range(1, 31)]) == (
        "30 to 1 in 30 classes: c30 30, c29 29, c28 28, ..., c3 3, c2 2, c1 1"
    )
