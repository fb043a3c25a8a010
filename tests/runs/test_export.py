"""Exported generators: written whole, read back to the bit by every command, with a card made of records alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load, load_file, save, save_file

from studiogan_gsr import load_generator
from studiogan_gsr.cli import main
from studiogan_gsr.errors import WRONG_REQUEST
from studiogan_gsr.files import sha256
from studiogan_gsr.hosts.checkpoint_files import network_file, read_file
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.runs import export as exporting
from studiogan_gsr.runs.export import _is_of
from studiogan_gsr.runs.exported import RECORD, WEIGHTS
from studiogan_gsr.runs.reported import results_of
from studiogan_gsr.runs.trained import load_trained
from support.host import Host, narrowed
from support.runs import BIGGAN, PLAIN, arguments, changed, difference, one_thread


def command(*argv: object) -> int:
    with one_thread():
        return main([str(part) for part in argv])


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The command is refused in one line."""
    capsys.readouterr()
    assert command(*argv) == WRONG_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def runs(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of an SNGAN with gSR, and of a BigGAN with attention, spectral norm and an averaged generator."""
    folder = tmp_path_factory.mktemp("runs")
    with one_thread():
        train(BIGGAN, TrainOptions(data="unused", out=folder / "biggan", device="cpu", seed=3, save_freq=2))
    return {"sngan": shutil.copytree(pair[1], folder / "sngan"), "biggan": folder / "biggan"}


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SNGAN's export."""
    out = tmp_path_factory.mktemp("exported") / "sngan"
    assert command("export", runs["sngan"], "--out", out) == 0
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "sngan")


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.parametrize(
    ("name", "options"), [("sngan", []), ("biggan", []), ("biggan", ["--no-ema", "--checkpoint", "2"])]
)
def test_an_exported_generator_is_read_back_to_the_bit(
    name: str, options: list[str], runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "export"
    assert command("export", runs[name], "--out", out, *options) == 0
    averaged = False if options else None
    before, after = (
        load_trained(runs[name], averaged=averaged, checkpoint="2" if options else "last"),
        load_trained(out),
    )
    assert not difference(dict(before.generator.state_dict()), dict(after.generator.state_dict()))
    assert not difference(load_file(out / WEIGHTS), dict(after.generator.state_dict()))
    assert (
        (after.step, after.averaged)
        == (before.step, before.averaged)
        == ((2, False) if options else (4, name == "biggan"))
    )
    assert (after.seed, after.classes, after.rule) == (before.seed, before.classes, before.rule)
    assert after.configuration == before.configuration
    labels = [3, 0, 3, 9]
    with one_thread():
        images = [
            load_generator(path, checkpoint, averaged=averaged)(labels, seed=1)
            for path, checkpoint in ((runs[name], before.step), (out, "last"))
        ]
    assert torch.equal(*images)
    assert images[0].float().std() > 0
    assert command("spectrum", out, "--out", tmp_path / "spectrum") == 0  # of a run, it takes the one not averaged


def test_every_command_reads_it_as_the_run(runs: dict[str, Path], copied: Path, tmp_path: Path, pixels: str) -> None:
    results, spectra, made = [], [], []
    small = ["--backbone", pixels, "--images", "40", "--repeats", "1", "--device", "cpu", "--data", "unused"]
    for name, path in (("run", runs["sngan"]), ("export", copied)):
        out = tmp_path / name
        assert command("evaluate", path, *small, "--out", out / "result.json") == 0
        assert command("spectrum", path, "--out", out / "spectrum") == 0
        assert command("generate", path, "--out", out / "images", "--images", "3") == 0
        results.append(json.loads((out / "result.json").read_text()))
        spectra.append(json.loads((out / "spectrum" / "spectrum.json").read_text()))
        made.append(pictures(out / "images"))
    assert results[0]["all"] == results[1]["all"]
    assert results[0]["training_images"] == results[1]["training_images"]
    assert results[0]["protocol"]["checkpoint_rule"] == results[1]["protocol"]["checkpoint_rule"]
    for key in ("norms", "start", "training_images", "start_is_the_runs_own"):
        assert spectra[0][key] == spectra[1][key], key
    assert made[0] == made[1]
    assert len(made[0]) == 30
    assert command("evaluate", copied, *small) == 0  # into the folder itself, which stays readable
    assert len(results_of(load_trained(copied), "evaluations")) == 1


@pytest.mark.host
@pytest.mark.parametrize("name", ["BigGAN-Deep", pytest.param("StyleGAN2", marks=pytest.mark.slow)])
def test_a_generator_that_the_checkout_builds_is_read_back_to_the_bit(
    name: str, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    sections = narrowed(checkout.source / "configs" / "CIFAR10" / f"{name}.yaml")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    host = Host(checkout, narrow_stylegan=True)
    outcome = host.run(tmp_path / "config.yaml", digits, tmp_path / "run")
    assert outcome.status == 0, outcome.output
    out = tmp_path / "export"
    elsewhere = {"HOME": str(tmp_path), "STUDIOGAN_ROOT": str(checkout.root)}

    def done(*argv: object) -> None:
        ended = host.command(*argv, folder=tmp_path, environment=elsewhere)
        assert ended.status == 0, ended.output

    done("export", outcome.save, "--out", out)
    saved = read_file(network_file(outcome.checkpoint_folder, "G_ema"))["state_dict"]
    assert not difference(load_file(out / WEIGHTS), saved)
    for images, path in (("first", outcome.save), ("second", out)):
        done("generate", path, "--out", tmp_path / images, "--images", "2")
    assert pictures(tmp_path / "first") == pictures(tmp_path / "second")
    record = json.loads((out / RECORD).read_text())
    assert record["host"] == "studiogan"
    run = json.loads((outcome.checkpoint_folder / "run.json").read_text())
    assert record["data"]["class_counts"] == run["data"]["class_counts"]
    assert "of which a checkout is needed" in (out / "README.md").read_text()
    done("spectrum", out, "--out", tmp_path / "spectrum")


def test_tied_strided_and_expanded_tensors_are_saved_each_by_itself() -> None:
    generator = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    generator[1].weight = generator[0].weight
    generator[0].bias = torch.nn.Parameter(torch.arange(8.0)[::2])
    generator.register_buffer("strided", torch.arange(6.0).reshape(2, 3).T)
    generator.register_buffer("expanded", torch.tensor([float("nan"), -0.0]).expand(3, 2))
    generator.register_buffer("empty", torch.empty(0, 2, dtype=torch.float16))
    state = exporting._state(SimpleNamespace(generator=generator))  # type: ignore[arg-type]
    found = load(save(state))
    expected = generator.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.detach().numpy().tobytes(), name


# The card.


def test_the_card_has_the_runs_facts_and_only_this_checkpoints_metrics(
    runs: dict[str, Path], tmp_path: Path, pixels: str
) -> None:
    run = shutil.copytree(runs["sngan"], tmp_path / "a_run")
    small = ["--backbone", pixels, "--images", "40", "--repeats", "2", "--device", "cpu"]
    assert command("evaluate", run, *small) == 0
    (file,) = (run / "evaluations").iterdir()
    result = json.loads(file.read_text())
    result["protocol"]["step"], result["all"]["frechet"]["mean"] = 2, 123456.0
    (run / "evaluations" / "of_another_step.json").write_text(json.dumps(result))
    result["protocol"] |= {"step": 4, "averaged_generator": True}
    (run / "evaluations" / "of_another_generator.json").write_text(json.dumps(result))
    assert command("export", run, "--out", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "studiogan-gsr",
        "license": "unknown",
        "tags": ["gan", "class-conditional-image-generation", "long-tailed", "resnet", "gsr", "lecam"],
        "datasets": ["Digits_LT_rho50"],
    }
    plain = body.replace("\\", "")
    record = json.loads((run / "run.json").read_text())
    assert f"| SHA-256 of their names and labels | {record['data']['images_sha256']} |" in plain
    assert "| 9 | 9 | 2 |" in plain
    assert "| weight | 0.5 |" in plain  # gSR's
    assert "| apply_to | gain, bias |" in plain
    assert "`AUG.apply_diffaug`" in plain
    measured = json.loads(file.read_text())
    (line,) = [line for line in plain.splitlines() if line.startswith("| all |")]
    for metric in ("frechet", "precision"):
        assert f"| {measured['all'][metric]['mean']:.4g} ± " in line
    assert "123456" not in plain
    assert "1.235e+05" not in plain
    assert "Protocol: step 4 (last); 40 images a repeat" in plain
    assert "mostly sampling error" in plain
    assert "| checkpoint | step 4 of 4; the last |" in plain
    assert f"| from step 0 | {record['starts'][0]['device']}; python " in plain


def test_without_an_evaluation_the_card_says_so_and_shows_the_samples_of_the_run(
    runs: dict[str, Path], exported: Path
) -> None:
    assert "This generator has not been measured" in (exported / "README.md").read_text()
    shown, saved = (
        np.asarray(Image.open(path))
        for path in (exported / "samples.png", runs["sngan"] / "samples" / "step=000004.png")
    )
    assert shown.shape == saved.shape
    assert np.abs(shown.astype(int) - saved).max() <= 1  # the trainer's memory format rounds otherwise


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_an_exported_folder_is_not_trained_on(
    options: tuple[str, ...], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exported, tmp_path / "exported")
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    assert main(arguments(folder / "config.yaml", folder, *options)) == 2
    assert "found an exported generator, which is not trained on" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_the_cards_lines_load_the_generator(exported: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), flags=re.DOTALL)
    assert len(lines.splitlines()) == 3
    namespace: dict[str, Any] = {}
    with one_thread():
        exec(lines.replace('"DIR"', repr(str(exported))), namespace)
    assert namespace["images"].shape == (2, 3, 32, 32)
    assert namespace["images"].dtype == torch.uint8


def test_no_path_of_this_machine_is_in_the_files(runs: dict[str, Path], tmp_path: Path, pixels: str) -> None:
    run = tmp_path / "second"
    with one_thread():
        given = {"data": str(tmp_path / "data"), "device": "cpu", "resume": runs["sngan"], "evaluate": 40}
        train(
            load_trained(runs["sngan"]).configuration.sections(),
            TrainOptions(out=run, steps=6, backbone=pixels, **given),
        )
    small = ["--backbone", pixels, "--images", "40", "--repeats", "1", "--device", "cpu"]
    assert command("evaluate", run, *small) == 0
    assert command("export", run, "--out", tmp_path / "out", "--checkpoint", "best") == 0
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["chosen"]["step"] == 6
    assert record["starts"][0]["checkpoint"] == "sngan/checkpoints/step=4"
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        for private in (tmp_path, runs["sngan"], Path.cwd(), Path.home()):
            assert str(private).encode() not in content, path
    assert (
        "the best of the evaluations while training: lowest FD-Pixels" in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    "name", ["a|b", "line\nbreak", "*bold*", "<script>", "`code`", "[link](x)", "Zürich 鳥", "a\\|b"]
)
def test_any_class_name_is_shown_as_it_is(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown_it")
    run = shutil.copytree(runs["sngan"], tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["data"]["classes"][9] = name
    (run / "run.json").write_text(json.dumps(record))
    assert command("export", run, "--out", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)[2]
    tokens = markdown.MarkdownIt("gfm-like", {"linkify": False}).parse(card)
    cells = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    place = cells.index("2", cells.index("label"))
    assert ["9", " ".join(name.split()), "2"] in [cells[i : i + 3] for i in range(place, len(cells))]
    assert load_trained(tmp_path / "out").classes[9] == name


def test_a_hubs_own_parser_reads_the_header(exported: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported / "README.md").data
    assert (data.license, data.library_name, data.datasets) == ("unknown", "studiogan-gsr", ["Digits_LT_rho50"])


# What is refused.


def test_nothing_of_somebody_else_is_written_over(
    runs: dict[str, Path], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert "found files there; name a new folder" in refused(
        capsys, "export", runs["sngan"], "--out", tmp_path / "theirs"
    )
    assert "found a file; name a new folder" in refused(capsys, "export", runs["sngan"], "--out", tmp_path / "file")
    assert "found files there" in refused(capsys, "export", runs["sngan"], "--out", exported)
    assert "found an exported generator; copy the folder" in refused(
        capsys, "export", exported, "--out", tmp_path / "new"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "theirs"]
    assert (tmp_path / "theirs" / "README.md").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_no_folder_and_the_command_can_be_repeated(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "save_grid", full)
        assert "cannot be written: OSError: [Errno 28]" in refused(
            capsys, "export", runs["sngan"], "--out", tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
    assert command("export", runs["sngan"], "--out", tmp_path / "x") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_generator_without_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = changed(PLAIN, MODEL={"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"})
    with one_thread():
        train(sections, TrainOptions(data="unused", out=tmp_path / "run", device="cpu", steps=1))
    assert "images have no classes" in refused(capsys, "export", tmp_path / "run", "--out", tmp_path / "out")


def damage(folder: Path, what: str) -> None:
    record, weights = folder / RECORD, folder / WEIGHTS
    if what == "record":
        record.write_text("{")
    elif what == "foreign record":
        record.write_text('{"model_type": "gan"}')
    elif what == "newer":
        record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    elif what == "keys":
        record.write_text(record.read_text().replace('"step": 4', '"step": "four"'))
    elif what == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    elif what in ("no safetensors", "other networks"):
        if what == "other networks":
            save_file({"weight": torch.zeros(2)}, weights)
        else:
            weights.write_bytes(b"PK" * 100)
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "weights_sha256": sha256(weights)}))
    else:
        (folder / what).unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("record", "export.json: damaged, or not of an exported generator: JSONDecodeError"),
        ("foreign record", "export.json: damaged, or not of an exported generator: KeyError"),
        ("newer", "export.json: found format 2; this version of studiogan-gsr reads 1"),
        ("keys", "export.json: damaged: step is 'four'"),
        ("cut off", "damaged, or not the weights that export.json describes: SHA-256"),
        ("pointer", "found a pointer of Git LFS, not the file; `git lfs pull` downloads it"),
        ("no safetensors", "generator.safetensors: not a safetensors file"),
        ("other networks", "another architecture: "),
        ("config.yaml", "found an exported generator without config.yaml; copy all its files"),
        ("export.json", "found an exported generator without export.json; copy all its files"),
        ("generator.safetensors", "without generator.safetensors; copy all its files"),
    ],
)
def test_damaged_and_foreign_files_are_told_in_a_line(
    what: str, message: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied, what)
    assert message in refused(capsys, "spectrum", copied)


@pytest.mark.parametrize(
    "options", [["--ema"], ["--checkpoint", "best"], ["--checkpoint", "4"], ["--config", "CIFAR10_LT/SNGAN"]]
)
def test_options_that_choose_another_generator_are_refused(
    options: list[str], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "generate", exported, "--out", tmp_path / "images", *options)
    assert (
        f"{options[0]}: found an exported folder, {exported}; it has only a generator, not averaged, of step 4"
        in line
    )


def test_evaluations_of_other_weights_are_not_in_the_card(runs: dict[str, Path]) -> None:
    trained = load_trained(runs["sngan"])
    protocol = {"step": trained.step, "averaged_generator": trained.averaged}
    for digest, expected in ((None, True), (trained.sha256, True), ("0" * 64, False)):
        assert _is_of(trained, {**protocol, "checkpoint_sha256": digest}) is expected
    assert not _is_of(trained, {**protocol, "step": trained.step + 1})
