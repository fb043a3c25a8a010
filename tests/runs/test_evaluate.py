"""Evaluation: what goes in, what comes out, and what is refused, on tiny runs and with a network of no weights."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from studiogan_gsr.cli import main
from studiogan_gsr.datasets.by_name import open_images
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import CheckpointError, EvaluationError, PluginError, WeightsError
from studiogan_gsr.evaluation import backbones, cache, reference
from studiogan_gsr.evaluation import measure as measuring
from studiogan_gsr.evaluation import perceptual as perceptual_module
from studiogan_gsr.evaluation.backbones import (
    EffNetLite0,
    Inception,
    downloaded,
    find_backbone,
    make_backbone,
)
from studiogan_gsr.evaluation.cache import cached
from studiogan_gsr.evaluation.features import Sample, extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.measure import METRICS, Reference, inception_score, measure, metrics, summarise
from studiogan_gsr.evaluation.perceptual import Album, Perceptual
from studiogan_gsr.evaluation.reference import choose_backbone, measure_real, open_reference
from studiogan_gsr.files import sha256
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.machine import arithmetic
from studiogan_gsr.runs.trained import load_trained
from support.evaluation import error_of, evaluated
from support.host import DIGITS, Host, configure
from support.plugins import MakePackage
from support.runs import BIGGAN, PLAIN, SNGAN, arguments, changed, one_thread, write

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of an SNGAN with gSR."""
    return shutil.copytree(pair[1], tmp_path_factory.mktemp("run") / "run")


# ------------------------------------------------------------------ the command


def test_a_run_is_measured_and_everything_that_made_the_numbers_is_beside_them(
    run: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(run)
    protocol = result["protocol"]
    assert (protocol["step"], protocol["images"], protocol["repeats"], protocol["seeds"]) == (4, 96, 3, [0, 1, 2])
    assert (protocol["batch_norm"], protocol["batch_size"], protocol["neighbours"]) == ("batch", 8, 5)
    assert protocol["reference"]["split"] == "reference"
    assert protocol["reference"]["images"] == sum(result["reference_images"]) == 400
    assert "not training seeds" in protocol["repeats_are_over"]
    assert protocol["backbone"] == "pixels"
    assert 0 < protocol["network_share_of_time"] < 1
    assert result["column"] == "FD-Pixels"
    assert len(result["classes"]) == len(result["training_images"]) == 10
    assert set(result["groups"]) == {"many", "medium", "few", "head", "middle", "tail"}
    assert set(result["all"]) == set(METRICS)
    assert result["all"]["frechet"]["mean"] > 0 < result["all"]["frechet"]["deviation"]
    printed = capsys.readouterr().out
    assert "FD-Pixels" in printed
    assert "FID" not in printed
    # 40 reference images of each class are fewer than the features and than ten times the neighbours.
    assert "mostly sampling error; compare classes by KD-Pixels." in printed
    assert "Precision, recall, density and coverage look at 5 nearest neighbours" in printed
    evaluated(run, "--neighbours", "4")
    printed = capsys.readouterr().out
    assert "mostly sampling error; compare classes by KD-Pixels, precision and coverage." in printed
    assert "nearest neighbours" not in printed


def test_the_same_seeds_give_the_same_numbers_and_others_do_not(run: Path, pixels: str) -> None:
    first, again, other = evaluated(run), evaluated(run), evaluated(run, "--seed", "7")
    assert first["all"] == again["all"] != other["all"]
    assert evaluated(run, "--repeats", "1")["all"]["frechet"]["deviation"] is None
    for option in (("--batch-norm", "running"), ("--batch-norm", "standing"), ("--batch-size", "4")):
        assert evaluated(run, *option)["all"] != first["all"]


def test_the_training_images_may_be_the_reference_and_no_result_overwrites_another(run: Path, pixels: str) -> None:
    result = evaluated(run, "--split", "train")
    assert result["reference_images"] == result["training_images"]
    small = ["evaluate", str(run), "--backbone", "pixels", "--images", "8", "--repeats", "1", "--device", "cpu"]
    with one_thread():
        for options in ([], ["--split", "train"], ["--batch-norm", "running"], []):
            assert main([*small, *options]) == 0
    assert len(list(run.glob("evaluations/step=4-pixels-*.json"))) == 3


def test_batch_norm_sees_the_whole_last_batch_and_the_generator_is_left_alone(run: Path) -> None:
    trained = load_trained(run)
    before = {name: tensor.clone() for name, tensor in trained.generator.state_dict().items()}
    for mode in ("batch", "running", "standing"):
        made, whole = (
            torch.cat([some for some, _ in generated(trained.generator, trained.configuration, n, 8, 3, mode, CPU)])
            for n in (13, 16)
        )
        assert made.shape == (13, 3, 32, 32)
        assert torch.equal(made, whole[:13])
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.generator.state_dict().items())


def test_the_averaged_generator_is_measured_where_there_is_one(tmp_path: Path, pixels: str) -> None:
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", BIGGAN), tmp_path / "run")) == 0
    averaged, plain = evaluated(tmp_path / "run"), evaluated(tmp_path / "run", "--no-ema")
    assert averaged["protocol"]["averaged_generator"]
    assert not plain["protocol"]["averaged_generator"]
    assert averaged["all"] != plain["all"]
    folder = tmp_path / "run" / "checkpoints" / "step=4"
    for name, ema in (("G", False), ("G_ema", True)):
        (path,) = folder.glob(f"model={name}-*")
        state = torch.load(path, weights_only=True)["state_dict"]
        found = load_trained(tmp_path / "run", averaged=ema).generator.state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())


def test_a_folder_with_several_runs_of_studiogan_is_refused_with_what_to_type(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """StudioGAN's -save takes any number of runs."""
    save = tmp_path / "my runs"
    for age, name in ((10, "gsr-train-2026_01_02"), (1000, "plain-train-2026_01_01")):
        folder = shutil.copytree(pair[0] / "checkpoints" / "step=4", save / "checkpoints" / name)
        shutil.copy(pair[0] / "config.yaml", folder)
        os.utime(folder, (time.time() - age,) * 2)
        if age == 10:
            assert load_trained(save).folder == folder  # the only run
    for argv in (["evaluate", save], ["report", save, "--out", tmp_path / "page"], ["generate", save, "--out", "x"]):
        assert main(list(map(str, argv))) != 0
        (line,) = capsys.readouterr().err.splitlines()
        message, _, given = line.partition(" instead, oldest first: ")
        assert message.endswith("my runs: found 2 runs of StudioGAN; name the checkpoints of one of them")
        older, newer = (Path(shlex.split(path)[0]) for path in given.split(" or "))
        assert (older.name, newer.name) == ("plain-train-2026_01_01", "gsr-train-2026_01_02")
        assert load_trained(newer).step == 4


def test_of_a_killed_save_the_newest_whole_step_is_read(tmp_path: Path) -> None:
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", BIGGAN), tmp_path / "run")) == 0
    folder = shutil.copytree(tmp_path / "run" / "checkpoints" / "step=4", tmp_path / "saves")
    for network in ("G", "D", "G_ema"):
        (path,) = folder.glob(f"model={network}-*")
        for step in (9000, 10000) if network == "G_ema" else (9000, 10000, 11000):
            shutil.copy(path, folder / f"model={network}-current-weights-step={step}.pth")
    configuration = str(tmp_path / "run" / "config.yaml")
    for averaged in (True, False):
        assert load_trained(folder, configuration, averaged).step == 10000
    theirs = shutil.copytree(folder, tmp_path / "save" / "checkpoints" / "Digits-biggan-train-2026_01_01_00_00_00")
    native, metrics = "`train --evaluate`", "StudioGAN's `-metrics fid`"
    for place, measures in (
        (folder, f"{native} or {metrics}"),
        (theirs, metrics),
        (tmp_path / "run" / "checkpoints" / "step=4", native),
    ):
        with pytest.raises(
            CheckpointError, match=rf"no best .* while it trained \({measures}\); choose the last one"
        ):
            load_trained(place, configuration, checkpoint="best")
    for network in ("G", "G_ema"):
        path = folder / f"model={network}-current-weights-step=9000.pth"
        shutil.copy(path, folder / f"model={network}-best-weights-step=9000.pth")
    assert load_trained(folder, configuration, checkpoint="best").step == 9000
    for step, rule in (("9000", "named"), ("10000", "last")):
        assert load_trained(folder, configuration, checkpoint=step).step == int(step)
        assert load_trained(folder, configuration, checkpoint=step).rule == rule
    with pytest.raises(CheckpointError, match="has the steps 4, 9000, 10000"):
        load_trained(folder, configuration, checkpoint="11000")


def test_images_without_classes_are_measured_as_a_whole(
    tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    with one_thread():
        assert main(arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run")) == 0
    result = evaluated(tmp_path / "run")
    assert "images have no classes" in capsys.readouterr().out
    assert result["groups"] == {}
    assert result["classes"][0]["kernel"]["mean"] is None
    assert result["all"]["kernel"]["mean"] is not None


@pytest.mark.host
def test_a_checkpoint_of_studiogan_is_measured(checkout: Checkout, digits: Path, tmp_path: Path, pixels: str) -> None:
    configuration = configure(tmp_path)
    outcome = Host(checkout).run(configuration, digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    by_name = ("--config", str(configuration), "--data", str(digits))
    for path, options in ((outcome.save, ()), (outcome.checkpoint_folder, ()), (outcome.save, by_name)):
        result = evaluated(path, *options)
        assert result["protocol"]["data"] == DIGITS["name"]
        assert result["training_images"] == [120, 102, 88, 75, 64, 55, 47, 40, 34, 30]
        assert result["reference_images"] == [4] * 10
        assert result["classes"][0]["precision"]["mean"] is None  # of four images no five neighbours
        assert result["classes"][0]["kernel"]["mean"] is not None


# ------------------------------------------------------------------ what is refused


def test_what_cannot_be_measured_is_told_in_one_line(
    run: Path, pixels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "without checkpoints" in error_of(capsys, str(tmp_path))
    assert "none: found no such folder; name a run's" in error_of(capsys, str(tmp_path / "none"))
    assert f"it contains the runs {run.name}; name a run's folder or" in error_of(capsys, str(run.parent))
    assert "did you mean pixels?" in error_of(capsys, str(run), "--backbone", "pixel")
    alone = shutil.copytree(run / "checkpoints" / "step=4", tmp_path / "alone")
    assert "alone: found a checkpoint without a config.yaml; copy " in error_of(capsys, str(alone))
    configuration = str(run / "config.yaml")
    assert "--data is needed" in error_of(capsys, str(alone), "--backbone", "pixels", "--config", configuration)
    other = write(tmp_path / "other.yaml", changed(SNGAN, MODEL={"g_conv_dim": 12}))
    assert "another architecture" in error_of(capsys, str(alone), "--backbone", "pixels", "--config", str(other))
    assert "no averaged generator" in error_of(capsys, str(run), "--backbone", "pixels", "--ema")


def test_a_generator_that_gives_nan_is_named(
    run: Path, pixels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    (path,) = (broken / "checkpoints" / "step=4").glob("model=G-*")
    state = torch.load(path, weights_only=True)
    state["state_dict"]["linear0.bias"].fill_(math.nan)
    torch.save(state, path)
    line = error_of(capsys, str(broken), "--backbone", "pixels", "--images", "8")
    assert "step=4: the generator gives images that are not finite" in line
    assert not list((broken).glob("evaluations/*"))


def test_a_result_that_could_not_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for out, found in ((tmp_path, "a folder"), (tmp_path / "file" / "a.json", f"{tmp_path}/file, a file")):
        message = error_of(capsys, str(tmp_path / "nowhere"), "--out", str(out))
        assert message == f"studiogan-gsr: --out {out}: found {found}; name a file in a folder that can be written to"


def test_images_in_both_parts_or_not_those_of_the_run_are_refused(
    tmp_path: Path, digits: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    sections = changed(SNGAN, DATA={"name": "My_Digits"})  # of our own names, the data sets see to it
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run")
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 0
    options = ("--backbone", "pixels", "--images", "8", "--repeats", "1")
    chosen = min((data / "train" / "3").iterdir())
    again = min((data / "valid" / chosen.parent.name).iterdir())
    kept = again.read_bytes()
    again.unlink()
    again.hardlink_to(chosen)
    message = error_of(capsys, str(tmp_path / "run"), *options)
    names = f"{again.relative_to(data)} (training: {chosen.relative_to(data)})"
    assert message == (
        f"studiogan-gsr: My_Digits: 1 of 40 reference images are training images, the first is {names}; "
        "take them out of one of the two"
    )
    again.unlink()
    shutil.copy(chosen, again)  # another file of equal bytes
    assert error_of(capsys, str(tmp_path / "run"), *options) == message
    evaluated(tmp_path / "run", "--split", "train")
    assert "The real images are the training images (--split train)" in capsys.readouterr().out
    again.write_bytes(kept)
    extra = data / "valid" / "3" / "extra.png"
    Image.new("RGB", (32, 32), "red").save(extra)
    found = evaluated(tmp_path / "run")
    note = (
        "the reference is not balanced: class 0 has 4 images, class 3 has 5; "
        "overall metrics weight frequent classes more"
    )
    assert found["reference_notes"] == [note]
    printed = capsys.readouterr().out
    assert f"Real images: {note}." in printed
    assert "All classes have equally many training images: head, middle and tail only follow the labels." in printed
    extra.unlink()
    (data / "valid" / "3").rename(data / "valid" / "zz")
    message = error_of(capsys, str(tmp_path / "run"), *options)
    assert "the training images have class 3 where the reference has 4" in message
    (data / "valid" / "zz").rename(data / "valid" / "3")
    chosen.rename(chosen.with_name("renamed.png"))
    message = error_of(capsys, str(tmp_path / "run"), *options)
    assert "found other training images than the run was trained on" in message
    chosen.with_name("renamed.png").rename(chosen)
    (data / "valid").rename(data / "elsewhere")  # trained without a reference
    assert error_of(capsys, str(tmp_path / "run"), *options).endswith(
        "; --split train measures against the training images"
    )
    data.rename(tmp_path / "moved")
    message = error_of(capsys, str(tmp_path / "run"), *options)
    assert message.endswith("; --data names the folder, if the run's images have moved")
    measured = evaluated(tmp_path / "run", "--split", "train", "--data", str(tmp_path / "moved"))
    assert measured["protocol"]["reference"]["split"] == "train"


# ------------------------------------------------------------------ features and their cache


def batches(number: int, size: int) -> list[tuple[Tensor, Tensor]]:
    pixels = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return list(zip(pixels.split(size), torch.arange(number).split(size), strict=True))


def test_features_do_not_depend_on_the_batches() -> None:
    with one_thread():
        backbone = EffNetLite0(CPU)
        one, other = (extract(backbone, batches(6, size), 6, "some") for size in (6, 4))
    assert one.features.shape == (6, 1280)
    assert one.logits.shape == (6, 1000)
    torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-5)
    assert one.labels.tolist() == other.labels.tolist() == list(range(6))
    assert 0 < one.seconds[0] <= one.seconds[1]


def test_the_wheels_network_is_the_packages() -> None:
    """Logits are those of the package's own forward pass, of images that need no resizing."""
    backbone = EffNetLite0(CPU)
    image = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode(), one_thread():
        theirs = backbone.network((image.float() - 127) / 128)
        _, logits = backbone(image)
    torch.testing.assert_close(logits, theirs, rtol=1e-4, atol=1e-4)


def test_nan_features_and_wrong_numbers_of_images_are_refused() -> None:
    def broken(images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(images), 2), math.nan), torch.zeros(len(images), 2)

    with pytest.raises(EvaluationError, match="reference: features are not finite"):
        extract(broken, batches(4, 2), 4, "reference")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="found 4 images where 5"):
        extract(lambda images: (images.float().mean((2, 3)),) * 2, batches(4, 2), 5, "some")  # type: ignore[arg-type]


def test_variants_of_one_set_share_their_reference_and_not_their_training_images(pixels: str) -> None:
    _, backbone = choose_backbone(pixels, CPU)
    keys, calls = [], []
    for name in ("Digits_LT_rho50", "Digits_LT_rho10"):
        trained_on = Prepared(open_images(name, "unused", "train"), name, 32)
        for dataset, split in (
            (open_reference(trained_on, "unused", "wo_resize"), "reference"),
            (trained_on, "train"),
        ):
            real = measure_real(dataset, split, backbone, CPU)
            assert real.record["name"] == name
            keys.append(real.key)
            calls.append(backbone.calls)  # type: ignore[attr-defined]
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3
    assert calls[0] < calls[1] == calls[2] < calls[3]


def test_features_are_kept_for_each_device_and_with_and_without_tf32(
    pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, backbone = choose_backbone(pixels, CPU)
    dataset = Prepared(open_images("Digits_LT_rho50", "unused", "train"), "Digits_LT_rho50", 32)
    keys = [measure_real(dataset, "train", backbone, CPU).key for _ in range(2)]
    assert keys[0] == keys[1]
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        found = arithmetic(torch.device("cuda"))
        monkeypatch.setattr(reference, "arithmetic", lambda device, found=found: found)
        keys.append(measure_real(dataset, "train", backbone, CPU).key)
    assert len(set(keys)) == 3


def test_a_changed_reference_image_is_seen_again(
    digits: Path, tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new image has the same name and size in bytes."""
    data = tmp_path / "data"
    for source in digits.rglob("*.png"):
        target = (data / source.relative_to(digits)).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(target)
    argv = arguments(write(tmp_path / "c.yaml", changed(SNGAN, DATA={"name": "My_Digits"})), tmp_path / "run")
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 0
    first = evaluated(tmp_path / "run")
    for path in (data / "valid").rglob("*.bmp"):
        Image.eval(Image.open(path), lambda value: 255 - value).save(path)
    second = evaluated(tmp_path / "run")
    assert first["protocol"]["reference_cache"] != second["protocol"]["reference_cache"]
    assert first["all"]["frechet"] != second["all"]["frechet"]


def test_a_run_on_a_packed_file_is_measured_without_its_images(digits: Path, tmp_path: Path, pixels: str) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    assert main(["data", "prepare", "Folder_LT_rho4", "--data", str(data), "--workers", "1"]) == 0
    argv = arguments(write(tmp_path / "c.yaml", changed(SNGAN, DATA={"name": "Folder_LT_rho4"})), tmp_path / "run")
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 0
    shutil.rmtree(data / "train")
    (data / "train").mkdir()
    result = evaluated(tmp_path / "run", "--split", "train")
    assert result["training_images"] == [120, 102, 88, 75, 64, 55, 47, 40, 34, 30]


def test_of_many_images_so_many_are_compared_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metrics(Reference(sample(300, 3)), sample(240, 3, seed=1), None)
    monkeypatch.setattr(measuring, "MOST", 100)
    few = metrics(Reference(sample(300, 3)), sample(240, 3, seed=1), None)
    assert few["frechet"] == whole["frechet"]
    assert few["inception_score"] == whole["inception_score"]
    assert all(few[name] != whole[name] for name in ("kernel", "recall", "coverage", "diversity"))


def test_reference_features_are_made_once_for_equal_terms_alone(tmp_path: Path) -> None:
    made = []

    def make() -> Sample:
        made.append(1)
        return Sample(torch.ones(3, 2), torch.zeros(3, 4), torch.arange(3))

    terms = {"backbone": "a", "images": {"size": 32}}
    one, key = cached(terms, make, tmp_path)
    again, same = cached(dict(reversed(terms.items())), make, tmp_path)
    assert (len(made), key) == (1, same)
    assert torch.equal(one.features, again.features)
    for change in ({"backbone": "b"}, {"images": {"size": 64}}):
        assert cached(terms | change, make, tmp_path)[1] != key
    assert len(made) == 3
    path = tmp_path / f"{key}.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(cached(terms, make, tmp_path)[0].labels, torch.arange(3))

    assert len(made) == 4
    assert len([file for file in tmp_path.iterdir() if file.suffix != ".lock"]) == 3  # nothing half-written


def test_runs_that_start_together_compute_features_once(tmp_path: Path) -> None:
    begun, made = threading.Event(), []

    def make() -> Sample:
        made.append(1)
        begun.set()
        time.sleep(0.3)  # the other has time to find no file
        return Sample(torch.ones(3, 2), None, torch.arange(3))

    with ThreadPoolExecutor() as threads:
        one = threads.submit(cached, {"backbone": "a"}, make, tmp_path)
        assert begun.wait(10)
        other = threads.submit(cached, {"backbone": "a"}, make, tmp_path)
        assert torch.equal(one.result()[0].features, other.result()[0].features)
    assert len(made) == 1


# ------------------------------------------------------------------ backbones


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of the FID network behind a URL of their own."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(extractor, "load_state_dict", lambda self, state: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        torch.manual_seed(0)
        state = extractor("inception-v3-compat", ["2048"], feature_extractor_weights_path="none").state_dict()
    path = tmp_path / "server" / "weights.pth"
    path.parent.mkdir()
    torch.save(state, path)
    monkeypatch.setattr(backbones, "INCEPTION_URL", path.as_uri())
    monkeypatch.setattr(backbones, "INCEPTION_SHA256", sha256(path)[:8])
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path / "weights"))
    return path


def test_inception_is_torch_fidelitys_and_downloaded_once(weights: Path, tmp_path: Path) -> None:
    with one_thread():
        ours = Inception(CPU)
        weights.unlink()
        again = Inception(CPU)  # from the folder
        theirs = type(ours.network)(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(tmp_path / "weights" / weights.name)
        )
        some = batches(2, 2)[0][0]
        with torch.inference_mode():
            features, logits = ours(some)
            torch.testing.assert_close(features, theirs(some)[0], rtol=1e-5, atol=1e-6)
    assert features.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    assert ours.digest == again.digest
    assert (ours.column, EffNetLite0.column) == ("FID", "FD-EffNetLite0")


def test_weights_that_cannot_be_had_or_are_not_right_are_told(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = backbones.INCEPTION_SHA256
    with pytest.raises(
        WeightsError, match=r"weights.pth: cannot be downloaded from .*invalid hash value.*put the file"
    ):
        downloaded(weights.as_uri(), "00000000")
    assert [p.name for p in (tmp_path / "weights").iterdir() if p.suffix == ".pth"] == []
    path = Path(downloaded(weights.as_uri(), digest))
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match=r"its SHA-256 is [0-9a-f]{16}\.\.\., not .*remove the file"):
        downloaded(weights.as_uri(), digest)
    path.unlink()
    weights.unlink()
    with pytest.raises(WeightsError, match="or use another backbone"):
        downloaded(weights.as_uri(), digest)


def test_without_inception_the_wheels_network_measures_and_says_so(
    weights: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.unlink()
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "references")
    small = ["--images", "8", "--repeats", "1", "--device", "cpu"]
    monkeypatch.setattr(backbones, "_EFFNET_SIZE", 32)  # of a size that takes no minutes
    with one_thread():
        assert main(["evaluate", str(run), *small]) == 0
    printed = capsys.readouterr().out
    assert "measuring with effnetlite0, whose distances are not FID" in printed
    assert list((run / "evaluations").glob("step=4-effnetlite0-*.json"))


# ------------------------------------------------------------------ LPIPS


@pytest.fixture
def alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet without its weights, which cannot be had everywhere."""
    networks = pytest.importorskip("lpips").pretrained_networks
    torch.manual_seed(0)
    network = networks.tv.alexnet()
    monkeypatch.setattr(networks.tv, "alexnet", lambda pretrained: network)
    monkeypatch.setattr(perceptual_module, "find_spec", find_spec)


def test_lpips_is_the_packages_over_all_pairs_of_a_class(alexnet: None) -> None:
    perceptual = Perceptual(CPU)
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 32, 32), dtype=torch.uint8, generator=stream)
    labels = [0, 1, 2, 2] * 6
    album = Album(4)
    passed = list(album.watching((images[i : i + 5], torch.tensor(labels[i : i + 5])) for i in range(0, 24, 5)))
    assert torch.equal(torch.cat([some for some, _ in passed]), images)
    with one_thread():
        found = perceptual.by_class(album)
        some = images[1::4].float() / 127.5 - 1
        pairs = [(a, b) for i, a in enumerate(some) for b in some[i + 1 :]]
        theirs = [float(perceptual.network(a[None], b[None])) for a, b in pairs]
    assert found[1] == pytest.approx(sum(theirs) / len(theirs), rel=1e-5)
    assert found[3] is None
    assert perceptual.mean_distance(images[:1].expand(3, -1, -1, -1)) == pytest.approx(0, abs=1e-6)
    assert len(list(album)[2]) == 12
    album.keep(images, [2] * 24)
    assert len(list(album)[2]) == 20


def test_lpips_of_classes_and_groups_is_in_the_result(
    run: Path, pixels: str, alexnet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(run, "--repeats", "2")
    assert result["protocol"]["lpips"]["network"] == "alex"
    of_classes = [values["lpips"]["mean"] for values in result["classes"]]
    assert all(value > 0 for value in of_classes)
    assert result["all"]["lpips"]["mean"] == pytest.approx(sum(of_classes) / 10)
    assert result["groups"]["tail"]["lpips"]["mean"] == pytest.approx(sum(of_classes[-3:]) / 3)
    assert result["all"]["lpips"]["deviation"] > 0
    assert len(result["lpips_of_real_images"]) == 10
    printed = capsys.readouterr().out
    assert re.search(r"diversity +lpips\n", printed)
    assert re.search(r"LPIPS: of two images of a class, AlexNet; .*Real ones: 0\.\d+\.", printed)
    without = evaluated(run, "--repeats", "2", "--no-lpips")
    assert without["protocol"]["lpips"] is None
    assert "lpips" not in without["all"]
    assert without["all"]["frechet"] == result["all"]["frechet"]


def test_where_lpips_cannot_be_had_it_is_left_out_or_refused_if_asked_for(
    run: Path, pixels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(pretrained: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(pytest.importorskip("lpips").pretrained_networks.tv, "alexnet", nowhere)
    monkeypatch.setattr(perceptual_module, "find_spec", find_spec)
    small = ("--backbone", "pixels", "--images", "8", "--repeats", "1")
    assert "alexnet-owt-7be5be79.pth" in error_of(capsys, str(run), *small, "--lpips")
    assert evaluated(run)["protocol"]["lpips"] is None
    assert "measuring without LPIPS: LPIPS needs torchvision's AlexNet" in capsys.readouterr().out
    monkeypatch.setattr(perceptual_module, "find_spec", lambda name: None)
    assert "LPIPS needs the package lpips: pip install lpips" in error_of(capsys, str(run), *small, "--lpips")
    assert "lpips" not in evaluated(run)["all"]
    assert "LPIPS" not in capsys.readouterr().out


def test_a_strangers_object_that_is_no_backbone_is_refused(make_package: MakePackage) -> None:
    make_package("odd", "studiogan.backbones", {"odd": "odd:make"}, {"odd": "def make(device):\n    return 3\n"})
    with pytest.raises(PluginError, match=r"odd = odd:make: returned int, no backbone: it is missing column, digest"):
        make_backbone(find_backbone("odd"), CPU)


# ------------------------------------------------------------------ measures


def sample(count: int, classes: int, seed: int = 0, scale: float = 1.0) -> Sample:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = torch.randn(count, 6, generator=stream) * scale + labels[:, None]
    return Sample(features, torch.randn(count, 5, generator=stream), labels)


def test_the_inception_score_is_torch_fidelitys() -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_isc").isc_features_to_metric
    logits = 3 * sample(257, 3).logits
    assert inception_score(logits, 10) == pytest.approx(
        theirs(logits, splits=10, shuffle=False)["inception_score_mean"], rel=1e-5
    )
    assert inception_score(torch.eye(4) * 100, 1) == pytest.approx(4)
    assert inception_score(torch.zeros(7, 4), 1) == pytest.approx(1)


def test_classes_and_groups_are_measured_on_their_own_images() -> None:
    reference, fake = Reference(sample(300, 3)), sample(240, 3, seed=1)
    counts = [500, 50, 5]
    found = measure(reference, fake, counts)
    alone = measure(Reference(sample(300, 3).of([1])), fake.of([1]), counts)
    assert found["groups"]["medium"] == found["groups"]["middle"] == found["classes"][1]
    for name, value in alone["all"].items():
        if name != "inception_score":  # over ten parts there, over one here
            assert found["classes"][1][name] == pytest.approx(value)
    assert set(found["groups"]) == {"many", "medium", "few", "head", "middle", "tail"}
    assert "few" not in measure(reference, fake, [500, 400, 300])["groups"]


def test_what_so_few_images_do_not_give_is_left_open() -> None:
    reference = Reference(sample(300, 3).of([0, 1]))
    fake = Sample(*(x[:4] for x in (sample(4, 2).features, sample(4, 2).logits, sample(4, 2).labels)))
    found = measure(reference, fake, [3, 3, 3])
    assert found["classes"][2] == dict.fromkeys(METRICS)
    assert found["all"]["precision"] is None
    assert found["all"]["frechet"] is not None
    summary = summarise([found, found])
    assert summary["classes"][2]["frechet"] == {"mean": None, "deviation": None}
    assert summary["all"]["frechet"] == {"mean": found["all"]["frechet"], "deviation": 0.0}


def test_a_collapsed_class_shows_in_its_own_numbers_and_hardly_in_all() -> None:
    real, good = sample(1200, 12), sample(1200, 12, seed=1)
    collapsed = Sample(good.features.clone(), good.logits, good.labels)
    tail = collapsed.labels == 11
    collapsed.features[tail] = collapsed.features[tail][:1] + 0.01 * collapsed.features[tail]
    counts = [1000 - 85 * y for y in range(12)]
    healthy, ill = (measure(Reference(real), fake, counts) for fake in (good, collapsed))
    assert ill["classes"][11]["diversity"] < 0.1 < 0.8 < healthy["classes"][11]["diversity"]
    assert ill["classes"][11]["recall"] < 0.2 < 0.6 < healthy["classes"][11]["recall"]
    assert ill["all"]["recall"] == pytest.approx(healthy["all"]["recall"], abs=0.1)
    assert ill["classes"][3] == healthy["classes"][3]


def test_a_folder_without_reference_images_of_a_class_is_refused(
    digits: Path, tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(digits, tmp_path / "data")
    argv = arguments(write(tmp_path / "c.yaml", changed(SNGAN, DATA={"name": "My_Digits"})), tmp_path / "run")
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 0
    for path in (data / "valid" / "4").iterdir():
        path.unlink()
    message = error_of(capsys, str(tmp_path / "run"), "--backbone", "pixels")
    assert (
        "needs valid/, with one folder of images per class; in valid/: no image of 4 (the folders are empty)"
        in message
    )
