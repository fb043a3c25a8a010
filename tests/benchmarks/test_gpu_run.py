"""The command for a machine with a GPU: it loses no result, whatever a task does, and runs here in small."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.gpu_run import costs, cuda_tests, facts, page, steps, studiogan, training
from benchmarks.gpu_run.command import LIMIT, Call, size_of
from benchmarks.gpu_run.metadata import write_metadata
from benchmarks.gpu_run.plan import (
    EAGER,
    FLOAT32,
    GRAPHS,
    MODELS,
    MODES,
    PRECISIONS,
    PlannedPart,
    Task,
    planned_parts,
)
from benchmarks.gpu_run.record import DONE, FAILED, LEFT_OUT, SKIPPED, Outcome, Record
from benchmarks.gpu_run.settings import Partial, Settings, Skipped
from benchmarks.gpu_run.supervisor import Supervisor
from benchmarks.paths import REPOSITORY
from benchmarks.tables import cost, run_command
from studiogan_gsr.hosts.native.training import Trainer
from support.runs import last_step, one_thread

PLANTED = """
import os, signal, subprocess, sys, time
from pathlib import Path
from benchmarks.gpu_run.record import Record
from benchmarks.gpu_run.settings import Partial, Skipped

def measure(name, settings):
    out = Path(settings.out)
    if name == "segfault":
        print("before the crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "raise":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if name == "exit":
        sys.exit("a library gave up")
    if name == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen(["sleep", "600"])
        (out / "pids").write_text(f"{os.getpid()} {other.pid}")
        print("waiting for the device", flush=True)
        time.sleep(600)
    if name == "skip":
        raise Skipped("no checkout")
    if name == "partial":
        raise Partial("failed", "a run ended", {"some": 1})
    return {"pid": os.getpid(), "seen": Record(out / "parts" / "planted.json").names("done")}
"""


def planted(*tasks: Task, repeated: bool = False, function: str = "planted:measure") -> PlannedPart:
    return PlannedPart("planted", "Planted", 1, function, tasks, grace=0.3, repeated=repeated)


class Bench:
    """A folder of results, and a supervisor of planted tasks."""

    def __init__(self, out: Path) -> None:
        self.out, self.stop, self.said = out, threading.Event(), list[str]()
        (out / "planted.py").write_text(PLANTED)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(out)])}
        self.supervisor = Supervisor(out / "log.txt", environment, self.stop, self.said.append)

    def perform(self, part: PlannedPart, seconds: float = 60, again: bool = False) -> dict[str, Outcome]:
        settings = Settings("cpu", True, "", str(self.out), time.time() + seconds)
        record = Record(self.out / "parts" / "planted.json")
        self.supervisor.perform(part, settings, record, again)
        return Record(record.path).outcomes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def gone(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "Z (zombie)" in status.read_text()


def test_what_crashes_or_hangs_is_recorded_and_the_next_task_is_measured(bench: Bench) -> None:
    names = ["first", "segfault", "between", "raise", "second", "exit", "skip", "partial", "last"]
    found = bench.perform(planted(*map(Task, names), Task("hang", limit=1), Task("after")))
    states = {name: outcome.state for name, outcome in found.items()}
    assert states == {
        "first": DONE,
        "segfault": FAILED,
        "between": DONE,
        "raise": FAILED,
        "second": DONE,
        "exit": FAILED,
        "skip": SKIPPED,
        "partial": FAILED,
        "last": DONE,
        "hang": FAILED,
        "after": DONE,
    }
    assert found["segfault"].why == "its process ended by SIGSEGV"
    assert "before the crash" in found["segfault"].output
    assert found["raise"].why == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert any("in measure" in line for line in found["raise"].output)
    assert found["exit"].why == "SystemExit: a library gave up"
    assert found["skip"].why == "no checkout"
    assert found["partial"].result == {"some": 1}
    assert found["hang"].why == "it did not end in 1 s"
    assert found["hang"].output == ["waiting for the device"]
    assert all(gone(pid) for pid in (bench.out / "pids").read_text().split())
    # After a failure another process goes on; results are on the disk before the next task begins.
    done = ["first", "between", "second", "last", "after"]
    assert len({found[name].result["pid"] for name in done}) == len(done)
    assert found["second"].result["seen"] == ["first", "between"]
    assert any(line.startswith("planted: raise: failed") for line in bench.said)


def test_a_part_that_cannot_start_fails_once(bench: Bench) -> None:
    found = bench.perform(planted(Task("one"), Task("two"), function="no_such_module:measure"))
    assert {outcome.state for outcome in found.values()} == {FAILED}
    assert found["two"].why == "before the task began: its process ended with status 1"
    assert found["two"].output[-1] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert (bench.out / "log.txt").read_text().count("ModuleNotFoundError: ") == 1


def test_a_later_call_keeps_what_is_done_and_measures_what_found_no_time(bench: Bench) -> None:
    part = planted(Task("first", least=0), Task("raise", least=0), Task("long", least=50), Task("second", least=0))
    one = bench.perform(part, seconds=20)
    assert [outcome.state for outcome in one.values()] == [DONE, FAILED, LEFT_OUT, DONE]
    assert one["long"].why == "no time was left"
    two = bench.perform(part, seconds=90)
    assert two["long"].state == DONE
    for name in ("first", "raise", "second"):
        assert two[name] == one[name]
    three = bench.perform(part, seconds=90, again=True)
    assert three["first"].result["pid"] != two["first"].result["pid"]
    assert bench.perform(part, seconds=0, again=True)["first"].result == three["first"].result  # kept until replaced
    repeated = dataclasses.replace(part, repeated=True)
    assert bench.perform(repeated, seconds=90)["first"].result["pid"] != three["first"].result["pid"]


def test_a_stop_or_the_end_of_the_time_leaves_the_running_task_out(bench: Bench) -> None:
    threading.Timer(1, bench.stop.set).start()
    found = bench.perform(planted(Task("first"), Task("hang"), Task("last")))
    assert [(outcome.state, outcome.why) for outcome in found.values()] == [
        (DONE, ""),
        (LEFT_OUT, "stopped"),
        (LEFT_OUT, "stopped"),
    ]
    bench.stop.clear()
    found = bench.perform(planted(Task("first", least=0), Task("hang", least=0), Task("last", least=0)), seconds=1.5)
    assert (found["hang"].state, found["hang"].why) == (LEFT_OUT, "the time of its part was over")
    assert found["last"].state == LEFT_OUT
    assert all(gone(pid) for pid in (bench.out / "pids").read_text().split())


def test_a_damaged_record_is_put_aside(bench: Bench) -> None:
    path = bench.out / "parts" / "planted.json"
    path.parent.mkdir()
    path.write_text('{"first": {"state": "do')
    assert bench.perform(planted(Task("first")))["first"].state == DONE
    assert path.with_suffix(".damaged").read_text() == '{"first": {"state": "do'


def test_the_output_of_children_is_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_run.supervisor._LOG", 2000)
    (bench.out / "log.txt").write_text("x" * 5000 + "the end")
    bench.perform(planted(Task("first")))
    assert (bench.out / "log.txt").read_text() == "x" * 993 + "the end"


def test_metadata_without_an_installation_has_the_same_entry_points(tmp_path: Path) -> None:
    write_metadata(REPOSITORY / "setup.py", tmp_path)
    (made,) = metadata.distributions(path=[str(tmp_path)])
    real = metadata.distribution("studiogan-gsr")
    assert (made.name, made.version) == (real.name, real.version)
    assert {(e.group, e.name, e.value) for e in made.entry_points} == {
        (e.group, e.name, e.value) for e in real.entry_points
    }


# The parts.


def small(out: Path, data: str = "", seconds: float = 60) -> Settings:
    return Settings("cpu", True, data, str(out), time.time() + seconds)


def test_facts_of_a_cpu(tmp_path: Path) -> None:
    settings = small(tmp_path)
    assert facts.measure("machine", settings)["device"].startswith("CPU")
    for precision in ("float32", "bfloat16"):
        assert 0 < facts.measure(precision, settings)["teraflops"] < 1000
    assert 0 < facts.measure("copying memory", settings)["gigabytes_per_second"] < 10_000
    assert facts.nvidia_smi()  # a line, or why there is none


def write_tests(root: Path, source: str) -> None:
    (root / "tests").mkdir()
    (root / "pytest.ini").write_text("[pytest]\nmarkers = cuda\naddopts = --no-such-option\n")
    (root / "tests" / "test_planted.py").write_text(f"import time, pytest\n{source}")


@pytest.fixture
def planted_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda_tests, "REPOSITORY", tmp_path)
    return tmp_path


def test_cuda_tests_are_counted_and_failures_named(planted_tests: Path) -> None:
    mark = "@pytest.mark.cuda\n"
    write_tests(
        planted_tests,
        f"{mark}def test_good(): pass\n{mark}def test_bad(): assert 1 == 2\n"
        f"{mark}def test_none(): pytest.skip('no GPU')\ndef test_other(): assert False\n",
    )
    with pytest.raises(Partial, match="1 of 3 tests failed") as error:
        cuda_tests.measure("", small(planted_tests))
    assert error.value.state == FAILED
    found = error.value.result
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    (failure,) = found["failures"]
    assert failure["name"] == "tests.test_planted.test_bad"
    assert any("assert 1 == 2" in line for line in failure["lines"])
    assert (planted_tests / "tests.xml").is_file()


def test_cuda_tests_that_do_not_end_leave_their_report(planted_tests: Path) -> None:
    mark = "@pytest.mark.cuda\n"
    write_tests(planted_tests, f"{mark}def test_good(): pass\n{mark}def test_long(): time.sleep(600)\n")
    with pytest.raises(Partial, match=r"tests/test_planted\.py::test_long was running") as error:
        cuda_tests.measure("", small(planted_tests, seconds=cuda_tests._CLOSING + 4))
    assert error.value.state == LEFT_OUT
    assert error.value.result == {"counts": {"passed": 1}, "failures": []}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_module\n", "pytest ended with status 2, no test was running"),
        (
            "import os\n@pytest.mark.cuda\ndef test_crash(): os.abort()\n",
            r"pytest ended with status -6, tests/test_planted\.py::test_crash was running",
        ),
    ],
)
def test_cuda_tests_that_break_are_a_failure(planted_tests: Path, source: str, why: str) -> None:
    write_tests(planted_tests, source)
    with pytest.raises(Partial, match=why) as error:
        cuda_tests.measure("", small(planted_tests))
    assert error.value.state == FAILED


def test_without_pytest_or_tests_the_part_says_so(planted_tests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tests(planted_tests, "def test_other(): pass\n")
    with pytest.raises(Skipped, match="no test is marked with cuda"):
        cuda_tests.measure("", small(planted_tests))
    monkeypatch.setattr(cuda_tests, "find_spec", lambda name: None)
    with pytest.raises(Skipped, match="pytest is not installed"):
        cuda_tests.measure("", small(planted_tests))


@pytest.mark.parametrize("model", MODELS)
def test_steps_of_each_model_are_timed(model: str, tmp_path: Path) -> None:
    with one_thread():
        found = steps.measure(f"{model}; {EAGER}; {FLOAT32}", small(tmp_path))
    assert 0 < found["fastest"] <= found["seconds"] <= found["slowest"] < 60
    assert found["steps"] == 2
    assert 0 < found["first"] < 60


def test_steps_that_do_nothing_are_no_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(trainer: Trainer) -> None:
        trainer.steps += 1

    monkeypatch.setattr(Trainer, "step", idle)
    with pytest.raises(RuntimeError, match="8 of 8 steps, losses finite: True, unchanged networks: G, D"):
        steps.measure(f"SNGAN, 32 pixels; {EAGER}; {FLOAT32}", small(tmp_path))


def test_a_mode_differs_from_eager_by_what_it_computes_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = steps.configuration_of("SNGAN, 32 pixels", small=True)
    with one_thread():
        assert steps.difference(sections, "cpu", EAGER, 2) == 0
        trainer_of = steps.trainer_of
        monkeypatch.setattr(
            steps,
            "trainer_of",
            lambda sections, device, mode, precision: trainer_of(
                sections, device, EAGER, "bfloat16" if mode == GRAPHS else precision
            ),
        )
        assert 1e-6 < steps.difference(sections, "cpu", GRAPHS, 2) < 0.1


def test_graphs_that_would_run_eagerly_are_not_timed(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="CUDA graphs need a GPU"):
        steps.measure(f"SNGAN, 32 pixels; {GRAPHS}; {FLOAT32}", small(tmp_path))


def test_without_a_checkout_or_images_studiogan_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIOGAN_ROOT", str(tmp_path / "none"))
    with pytest.raises(Skipped, match="no PyTorch-StudioGAN at"):
        steps.measure("SNGAN, 32 pixels; StudioGAN; float32", small(tmp_path))
    with pytest.raises(Skipped, match="--data was not given"):
        studiogan.class_folders("")
    with pytest.raises(Skipped, match="found no folder of images train/<class>/"):
        studiogan.class_folders(str(tmp_path))


@pytest.mark.host
@pytest.mark.usefixtures("checkout")
def test_steps_of_studiogan_are_timed_at_a_size_that_the_images_do_not_have(tmp_path: Path, digits: Path) -> None:
    sections = steps.configuration_of("SNGAN, 32 pixels", small=True)
    sections["DATA"]["img_size"] = 64  # the images have 32
    settings = small(tmp_path, str(digits))
    found = studiogan.steps_of_studiogan(sections, "StudioGAN", FLOAT32, settings)
    assert found["steps"] == 3
    assert 0 < found["seconds"] < 60


def test_the_penalty_is_timed_for_one_generator(tmp_path: Path) -> None:
    found = costs.measure("SNGAN, CIFAR; 10 classes", small(tmp_path))
    ((generator, classes, *_),) = found["rows"]
    assert (generator, classes) == ("SNGAN, CIFAR", "10")
    others = ("loop over layers", "exact SVD")
    assert set(found["ratios"]) == {f"SNGAN, CIFAR, 10 classes: {other}" for other in others}


def test_the_runs_use_graphs_only_if_these_have_trained_the_network(tmp_path: Path) -> None:
    settings = small(tmp_path)
    assert not training.graphs_work(settings)
    record = Record(tmp_path / "parts" / "steps.json")
    for state, works in ((FAILED, False), (DONE, True)):
        record.outcomes = {"SNGAN, 32 pixels; graphs; bfloat16": Outcome(state)}
        record.write()
        assert training.graphs_work(settings) == works


# The page.

SECONDS = {
    "SNGAN, 32 pixels; eager; TF32": 0.04,
    "SNGAN, 32 pixels; graphs; TF32": 0.02,
    "SNGAN, 32 pixels; StudioGAN; TF32": 0.08,
}


def write_records(call: Call) -> None:
    """Records of a made-up run."""
    timing = {"steps": 200, "first": 1.5, "preparing": 2.0, "gigabytes": 3.0}
    outcomes = {
        "facts": {
            "machine": Outcome(DONE, result={"device": "NVIDIA H100 80GB HBM3", "torch": "2.11.0+cu130"}),
            "TF32": Outcome(DONE, result={"size": 8192, "teraflops": 400.0}),
        },
        "steps": {
            **{name: Outcome(DONE, result={"seconds": seconds, **timing}) for name, seconds in SECONDS.items()},
            "SNGAN, 32 pixels; operations": Outcome(DONE, result={"teraflop": 2.0}),
            "BigGAN, 128 pixels; graphs; TF32": Outcome(FAILED, why="OutOfMemoryError: CUDA out of memory"),
        },
    }
    for name, of in outcomes.items():
        record = Record(call.out / "parts" / f"{name}.json")
        record.outcomes = of
        record.write()


def made(out: Path, is_small: bool = False) -> Call:
    call = Call(out, planned_parts("cuda", is_small), is_small, "python benchmarks/gpu.py")
    write_records(call)
    call.write(os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")])})
    return call


def test_the_table_compares_with_studiogan_and_the_matrix_product(tmp_path: Path) -> None:
    made(tmp_path)
    text = (tmp_path / "table.md").read_text()
    cells = "SNGAN, 32 pixels | graphs | TF32 | 50.00 | 20.0 | 4.00x | 100 | 25% | 1.5 | 2.0 | 3.0 |"
    assert f"| {cells}" in text
    assert "* failed: BigGAN, 128 pixels; graphs; TF32: OutOfMemoryError: CUDA out of memory" in text
    assert "NVIDIA H100 80GB HBM3; torch 2.11.0+cu130" in text
    chart = (tmp_path / "table.svg").read_text()
    assert "SNGAN, 32 pixels: StudioGAN to graphs, TF32" in chart
    assert "4x" in chart


def test_the_published_file_has_the_cards_name_and_estimates_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = made(tmp_path / "out").keep(tmp_path)
    names = [f"speed-nvidia-h100-80gb-hbm3-2.11.0.{kind}" for kind in ("json", "md", "svg")]
    assert [path.name for path in paths] == names
    monkeypatch.setattr(cost, "RESULTS", tmp_path)
    given = ["lecam-diffaug", "--dry-run", "--records", str(tmp_path / "none"), "--seeds", "0"]
    assert run_command.main(given) == 0
    hours = 120_000 * 0.02 / 3600
    expected = f"SNGAN + LeCam + DiffAug + gSR, seed 0: 120,000 steps, {hours:.1f} h on NVIDIA H100 80GB HBM3"
    assert expected in capsys.readouterr().out
    made(tmp_path / "small", is_small=True)
    assert json.loads((tmp_path / "small" / "table.json").read_text())["steps"]["data"] == {}


def test_every_task_of_the_plan_has_a_part_of_the_page() -> None:
    for device in ("cuda", "cpu"):
        for part in planned_parts(device, small=False):
            assert part.name in page._TABLES
            names = [task.name for task in part.tasks]
            assert len(set(names)) == len(names)
    (tasks,) = (part.tasks for part in planned_parts("cuda", False) if part.name == "steps")
    assert {task.name for task in tasks} >= {
        f"{model}; {mode}; {precision}" for model in MODELS for mode in MODES for precision in PRECISIONS
    }


# The whole command.


def gpu(out: Path, *more: str) -> list[str]:
    script = str(REPOSITORY / "benchmarks" / "gpu.py")
    return [sys.executable, script, "--device", "cpu", "--out", str(out), "--minutes", "20", *more]


def environment(home: Path) -> dict[str, str]:
    """Without an installation, a checkout or weights."""
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STUDIOGAN_ROOT")}
    return {**bare, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def test_the_command_measures_once_and_prints_its_table(tmp_path: Path) -> None:
    def call(*more: str) -> subprocess.CompletedProcess[str]:
        command = gpu(tmp_path / "out", "--only", "facts", *more)
        return subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)

    first = call()
    assert first.returncode == 0, first.stderr
    assert "| matrix product of 256 x 256, bfloat16 |" in first.stdout
    assert "nothing failed" in first.stdout
    path = tmp_path / "out" / "parts" / "facts.json"
    before = path.read_text()
    assert call().returncode == 0
    assert json.loads(path.read_text()) == json.loads(before)
    assert call("--again", "facts").returncode == 0
    assert json.loads(path.read_text())["machine"]["since"] > json.loads(before)["machine"]["since"]


@pytest.mark.slow
def test_the_whole_command_in_small_goes_on_in_the_next_call(tmp_path: Path, digits: Path) -> None:
    out = tmp_path / "out"
    command = gpu(out, "--data", str(digits))
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for expected in (
        "skipped: SNGAN, 32 pixels; StudioGAN; float32: no PyTorch-StudioGAN at",
        "| ContraGAN, 32 pixels | eager | float32 |",
        "| BigGAN, iNaturalist 64 | 10 |",
        "| with gSR | 1 |",
        "FD-EffNetLite0",
    ):
        assert expected in done.stdout
    kept = json.loads((out / "table.json").read_text())
    assert list(kept) == ["facts", "tests", "steps", "costs", "training"]
    assert "tail" in (out / "norms.svg").read_text()
    assert size_of(out) < LIMIT / 4
    runs = [out / "runs" / name for name in ("with-gSR", "without-gSR")]
    assert all(len(list((run / "checkpoints").iterdir())) == 1 for run in runs)
    before = [last_step(run) for run in runs]
    # The next call goes on, until Ctrl-C ends it.
    with subprocess.Popen(
        [*command, "--only", "training"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 100
        while time.monotonic() < until and any(
            last_step(run) < step + 5 for run, step in zip(runs, before, strict=True)
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped" in printed
    for run, step in zip(runs, before, strict=True):
        assert last_step(run) > step
    again = json.loads((out / "table.json").read_text())
    assert again["costs"]["rows"] == kept["costs"]["rows"]
    assert max(again["training"]["data"]["with gSR"]["steps"]) >= before[0] + 5
