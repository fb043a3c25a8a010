"""What measures speed: that it runs, keeps what it found, and that dry runs reckon with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paths import RESULTS
from benchmarks.speed import command as speed
from benchmarks.speed import evaluation as speed_evaluation
from benchmarks.speed import hosts as speed_hosts
from benchmarks.speed.findings import keep
from benchmarks.speed.operations import RULE, OperationCounts
from benchmarks.speed.part import Part, as_markdown
from benchmarks.studies import gradient_shares, norms_over_time
from benchmarks.tables import cost, run_command
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.machine import device_name
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configurations


def test_what_was_measured_is_kept_beside_what_was_measured_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = Part("Penalty"), Part("Steps")
    one.columns("classes", "ms")
    one.row(10, "1.5")
    one.note("a note")
    one.ratios["loop over layers"] = 3.25
    other.columns("configuration", "s")
    other.data["CIFAR10_LT/SNGAN"] = 2.0
    keep({"penalty": one}, "cpu", "first", tmp_path)
    keep({"steps": other}, "cpu", "second", tmp_path)
    kept = json.loads((tmp_path / "speed-cpu.json").read_text())
    assert [kept[name]["made"]["command"] for name in ("penalty", "steps")] == ["first", "second"]
    assert kept["penalty"]["rows"] == [["10", "1.5"]]
    text = (tmp_path / "speed-cpu.md").read_text()
    for line in ("| classes | ms |", "| 10 | 1.5 |", "* a note", "`first`", "`second`"):
        assert line in text
    # By it a speed in bfloat16 may differ by ten times.
    assert all(kept[name]["made"]["instruction_set"] in kept[name]["made"]["device"] for name in kept)
    assert text.count(kept["steps"]["made"]["instruction_set"]) == 2
    chart = (tmp_path / "speed-cpu.svg").read_text()
    assert "loop over layers" in chart
    assert "3.25x" in chart
    assert "| 10 | 1.5 |" in capsys.readouterr().out  # as it was found


def test_the_published_page_is_what_is_kept_and_says_where_the_instruction_set_is_not_known() -> None:
    kept = json.loads((RESULTS / "speed-cpu.json").read_text())
    page = (RESULTS / "speed-cpu.md").read_text()
    assert page == as_markdown(kept, "cpu")
    unknown = [part for part in kept.values() if "instruction_set" not in part["made"]]
    assert page.count("instruction set not recorded") == len(unknown)


def test_a_dry_run_reckons_with_measured_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Part("Steps")
    part.columns("configuration", "s")
    part.data["CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR"] = {"seconds": 0.03, "teraflop": 1.5}
    keep({"steps": part}, "cpu", "steps", tmp_path)
    monkeypatch.setattr(cost, "RESULTS", tmp_path)
    assert run_command.main(["lecam-diffaug", "--dry-run", "--records", str(tmp_path / "none"), "--seeds", "0"]) == 0
    printed = capsys.readouterr().out
    device = f"{device_name('cpu')} without evaluation"
    # 120,000 steps; without gSR a step is reckoned to be as long.
    assert f"SNGAN + LeCam + DiffAug, seed 0: 120,000 steps, 1.0 h on {device}" in printed
    assert f"2 of these 4 runs, the others not timed there: 2.0 h on {device}, one run at a time" in printed
    assert "operations of training: 0.36 EFLOP (2 runs not counted), 10.0 h at 10 TFLOP/s" in printed
    released = ["ablation", "--only", "LeCam as released, gSR"]  # LeCam under REGULARIZER, not under LOSS
    assert run_command.main([*released, "--dry-run", "--records", str(tmp_path / "none"), "--seeds", "0"]) == 0
    assert f"LeCam as released, gSR, seed 0: 120,000 steps, 1.0 h on {device}" in capsys.readouterr().out


def test_steps_of_the_native_host_are_timed_without_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "DATA": {"num_classes": 4},
        "MODEL": {"g_conv_dim": 4, "d_conv_dim": 4, "g_cond_mtd": "cBN", "d_cond_mtd": "PD"},
        "OPTIMIZATION": {"batch_size": 12, "d_updates_per_step": 1, "total_steps": 3600},
        "REGULARIZER": "gsr",
    }
    monkeypatch.setattr("benchmarks.speed.hosts.load_configuration", lambda path: small)
    monkeypatch.setattr(sys, "argv", ["speed.py", "steps", "CIFAR10_LT/SNGAN", "--device", "cpu"])
    speed.main()
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| CIFAR10_LT/SNGAN |"))
    steps, operations, seconds, _, hours = [cell.strip() for cell in row.split("|")][2:7]
    assert steps == "3,600"
    with FlopCounterMode(display=False) as counter:
        speed_hosts.new_trainer(small, "cpu", Speed(folded=False)).step()
    assert float(operations) == pytest.approx(counter.get_total_flops() / 1e12, rel=0.01)
    assert 0 < float(seconds) < 10
    assert float(hours) == pytest.approx(float(seconds), abs=0.06)


def test_generation_is_timed_with_and_without_storing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "DATA": {"num_classes": 4},
        "MODEL": {"g_conv_dim": 4, "d_conv_dim": 4, "g_cond_mtd": "cBN", "d_cond_mtd": "PD"},
    }
    monkeypatch.setattr("benchmarks.speed.generation.load_configuration", lambda path: small)
    options = ["--images-of-a-class", "3", "--turns", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["speed.py", "generation", *options])
    speed.main()
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in printed.splitlines() if "|" in line}
    assert list(rows)[-4:] == ["generator alone", "folder", "hdf5", "npz"]
    assert all(float(rows[name].replace(",", "")) > 0 for name in list(rows)[-4:])
    assert printed.count("12 generated images") == 6  # a warm-up and a turn of three formats


def test_operations_are_counted_without_views_and_allocations() -> None:
    x = torch.ones(4, requires_grad=True)
    with OperationCounts() as counted:
        (x.view(2, 2) * torch.empty(2, 2)).sum().backward()
    # The backward pass is ones of the loss's shape, and a product.
    assert counted.counts == {"mul": 2, "sum": 1, "ones_like": 1}


# Operations of a step today, with the fused and with the plain Adam; a number may only be lowered.
MOST_OPERATIONS = {
    "CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR": (2576, 3923),
    "CIFAR10_LT/BigGAN-DiffAug-LeCam-gSR": (3597, 5223),
}


@pytest.mark.parametrize("name", MOST_OPERATIONS)
def test_a_step_dispatches_no_more_operations_than_it_did(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def narrow(path: Path) -> dict[str, Any]:  # widths do not change the number
        sections = load_configuration(path)
        return {**sections, "MODEL": {**sections["MODEL"], "g_conv_dim": 8, "d_conv_dim": 8}}

    monkeypatch.setattr("benchmarks.speed.operations.load_configuration", narrow)
    monkeypatch.setattr(sys, "argv", ["speed.py", "operations", name])
    assert speed.main() == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith(f"| {name} |"))
    *numbers, frequent = (cell.strip() for cell in row.split("|")[2:5])
    for number, most in zip(numbers, MOST_OPERATIONS[name], strict=True):
        assert 1000 < int(number.replace(",", "")) <= most
    assert len(frequent.split(", ")) == 10
    assert RULE in lines


def test_all_shapes_are_timed_by_default() -> None:
    families = {name.split("-")[0] for name in shipped_configurations()}
    assert {name.split("-")[0] for name in speed._default_configurations()} == families


TINY = {
    "DATA": {"num_classes": 4},
    "MODEL": {"g_conv_dim": 4, "d_conv_dim": 4, "g_cond_mtd": "cBN", "d_cond_mtd": "PD"},
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 1},
}


def tiny(regularizers: object, **model: object) -> Trainer:
    sections = {**TINY, "MODEL": {**TINY["MODEL"], **model}, "REGULARIZER": regularizers}
    speed = Speed(folded=False)
    return Trainer(read_configuration(sections), [9, 6, 3, 1], iter(()), torch.device("cpu"), 0, speed)


def test_gradient_shares_are_of_gsr_alone() -> None:
    alone = gradient_shares.shares(tiny("gsr"), 2)
    assert all(penalty > 0 for _, penalty in alone)
    assert gradient_shares.shares(tiny(["lecam", "gsr"]), 2) == alone


def test_gradient_shares_are_of_the_columns_of_an_sngans_weights() -> None:
    trainer = tiny("gsr")
    columns = [p for name, p in trainer.generator.named_parameters() if ".bn" in name and p.shape[-1] == 4]
    gsr = trainer.regularization.methods[0].regularizer

    def by_class(value: torch.Tensor) -> list[float]:
        return torch.cat(torch.autograd.grad(value, columns)).norm(dim=0).tolist()

    found = gradient_shares.shares(tiny("gsr"), 1)
    assert [penalty for _, penalty in found] == pytest.approx(by_class(gsr.penalty()), rel=1e-4)
    trainer.generator.train()
    _, labels, images = trainer._generate(8, "generator")
    trainer.discriminator.train().requires_grad_(False)
    loss = -trainer._judge(images, labels).logits.mean()
    assert [adversarial for adversarial, _ in found] == pytest.approx(by_class(loss), rel=1e-4)


def test_gradient_shares_of_a_shared_embedding() -> None:
    found = gradient_shares.shares(tiny("gsr", backbone="big_resnet", g_shared_dim=6, z_dim=8), 2)
    assert all(adversarial > 0 and penalty > 0 for adversarial, penalty in found)


def test_gradient_shares_follow_weight_and_class(capsys: pytest.CaptureFixture[str]) -> None:
    def penalties(row: str) -> list[float]:
        assert gradient_shares.main(["cpu-study-weights", row, "--batches", "4"]) == 0
        rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
        assert [cells[1].strip() for cells in rows][::9] == ["5,000", "50"]
        assert all(float(cells[2]) > 0 for cells in rows)
        return [float(cells[3]) for cells in rows]

    strong, weak, alike = map(penalties, ("gSR, weight 0.5", "weight 0.05", "weight 0.05, all classes alike"))
    assert [a / b for a, b in zip(strong, weak, strict=True)] == pytest.approx([10] * 10, rel=0.02)
    assert strong[9] > 10 * strong[0]
    assert max(alike) < 2 * min(alike)
    for table, row, message in (
        ("cpu-study-weights", "without gSR", "it has no gsr"),
        ("ablation", "LeCam as released, without gSR", "it has no gsr"),
        ("cpu-study", "SNGAN, ratio 1000", "did you mean SNGAN, ratio 100?"),
        ("cpu-studi", "SNGAN", "did you mean cpu-study?"),
        ("inaturalist-2019", "BigGAN + gSR", "DATA.name without its ratio: found iNaturalist2019"),
    ):
        assert gradient_shares.main([table, row]) == 2
        assert message in capsys.readouterr().err


def test_gradient_shares_of_the_rarest_class_by_width_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    row = ["cpu-study-weights", "gSR, weight 0.5", "--batches", "2"]
    assert gradient_shares.main(row) == 0
    rarest = capsys.readouterr().out.splitlines()[-1].split("|")[4].strip()
    assert gradient_shares.main([*row, "--times", "1", "2", "--sizes", "16", "32", "--seeds", "0"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| channels of G, D | 16 pixels | 32 pixels |"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows]
    assert [line[0] for line in cells] == ["8, 16", "16, 32"]
    assert cells[0][1] == rarest
    assert len({cell for line in cells for cell in line[1:]}) == 4


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("CIFAR10_LT_rho100_step", [5000, 5000, 50, 50]),
        ("CIFAR10_LT_rho25_reversed", [200, 584, 1709, 5000]),
        ("CIFAR10_LT_rho100_step_reversed_seed3", [50, 50, 5000, 5000]),
        ("Folder_LT", [5000, 5000, 5000, 5000]),
    ],
)
def test_gradient_shares_are_of_the_classes_of_the_named_variant(name: str, counts: list[int]) -> None:
    assert gradient_shares._class_counts(name, 4) == counts


def test_only_devices_that_are_waited_for_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "_PARTS", {"penalty": lambda options: Part("")})
    monkeypatch.setattr(sys, "argv", ["speed.py", "penalty", "--device", "cuda:0"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "argument --device: invalid choice: 'cuda:0'" in capsys.readouterr().err


def test_the_comparison_of_prdc_says_that_it_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def timed(command: str, name: str, images: str, device: str) -> dict[str, float]:
        devices.append(device)
        return {"seconds": {"ours": 2.0, "prdc": 5.0}[name], "mb": 30.0}

    monkeypatch.setattr(speed_evaluation, "in_a_process", timed)
    part = Part("An evaluation, a GPU")
    speed_evaluation._compare_prdc(part, 1000)
    assert devices == ["cpu", "cpu"]
    assert part.notes == [
        "PRDC of 1,000 x 1,000 on the CPU, ours: 2.0 s, 30 MB more.",
        "PRDC of 1,000 x 1,000 on the CPU, prdc: 5.0 s, 30 MB more.",
    ]
    assert part.ratios == {"PRDC of 1,000 x 1,000 on the CPU: the package prdc": 2.5}


def test_records_of_norms_are_drawn_with_their_class_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(name: str, *lines: object) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return f"{name}={path}"

    line = {"step": 0, "class_counts": [9, 3], "norms": [1.0, 2.0]}
    picture = tmp_path / "norms.png"
    plain, other = record("plain", line, {**line, "step": 50}), record("other", {**line, "class_counts": [9, 4]})
    assert norms_over_time.main([str(picture), plain, plain.replace("plain=", "a = b=")]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    for records, message in (
        ([plain, other], f"found class_counts [9, 4] at step 0 in {tmp_path}/other.jsonl, and [9, 3] in "),
        (
            [record("grown", line, {**line, "step": 50, "class_counts": [9, 5]})],
            "found class_counts [9, 5] at step 50",
        ),
        ([f"{tmp_path}/plain.jsonl"], f"TITLE=RECORD: found {tmp_path}/plain.jsonl; allowed: "),
        ([record("empty")], "empty.jsonl has no line; expected: JSON lines with step, class_counts and norms"),
        ([record("short", {"step": 0})], "short.jsonl has a line without these keys"),
        ([record("list", [0])], "list.jsonl cannot be read: AttributeError: "),
        ([f"gone={tmp_path}/gone.jsonl"], "gone.jsonl cannot be read: FileNotFoundError: "),
    ):
        assert norms_over_time.main([str(picture), *records]) == 2
        assert message in capsys.readouterr().err
