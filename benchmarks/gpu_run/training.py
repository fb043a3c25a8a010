"""Train SNGAN with LeCam and DiffAugment on the images of --data, without and with gSR, both at once.

The runs are ordinary runs of `studiogan-gsr train` in OUT/runs, so that the next call resumes them.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks.gpu_run.plan import BFLOAT16, EVALUATION, GRAPHS, RUNS, SMALLER, TRAINING
from benchmarks.gpu_run.record import DONE, FAILED, LEFT_OUT, Record
from benchmarks.gpu_run.settings import Partial, Settings
from benchmarks.gpu_run.studiogan import class_folders
from studiogan_gsr.class_groups import frequency_thirds
from studiogan_gsr.evaluation.backbones import INCEPTION_URL, weights_folder
from studiogan_gsr.files import lines_by_step
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

_SAVING = 20  # seconds for both runs to end their step and save a checkpoint
_EVALUATING = 60  # seconds that are kept for the evaluations if there is twice as much time for training
_POINTS = 400  # print intervals that the results keep


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Train both runs, or evaluate one."""
    if name == TRAINING:
        return train(settings)
    return evaluate(settings.runs / _folder(name.removeprefix(f"{EVALUATION} ")), settings)


def train(settings: Settings) -> dict[str, Any]:
    """Train both runs at the same time until the clock or SIGTERM ends them; return the `course` of each.

    Raises Partial, with the courses so far, if a run fails, if there was no time for a step, or after SIGTERM.
    """
    classes = class_folders(settings.data)
    left = settings.until - time.time()
    seconds = left - _SAVING - (_EVALUATING if left > 200 else 10)
    until = time.time() + (min(0.5 * left, 30) if settings.small else seconds)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())  # the runs end as they do by the clock
    processes = {run: _start(run, len(classes), settings) for run in RUNS}
    while any(process.poll() is None for process in processes.values()) and time.time() < until:
        if asked.wait(0.1):
            break
    failed = [run for run, process in processes.items() if process.poll()]
    for process in processes.values():
        if process.poll() is None:
            process.terminate()  # the host saves a checkpoint
    for process in processes.values():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SAVING)
        process.kill()
        process.wait()
    folders = {run: settings.runs / _folder(run) for run in RUNS}
    for folder in folders.values():
        keep_newest(folder / "checkpoints")
    found = {run: course(folder) for run, folder in folders.items() if (folder / "log.jsonl").is_file()}
    if failed:
        raise Partial(FAILED, f"{failed[0]}: {_ending(folders[failed[0]])}", found)
    if asked.is_set():
        raise Partial(LEFT_OUT, "stopped", found)
    if any(last_step(folder) == 0 for folder in folders.values()):
        raise Partial(LEFT_OUT, "no time was left for a step and its checkpoint", found)
    return found


def _folder(run: str) -> str:
    return run.replace(" ", "-")


def _start(run: str, classes: int, settings: Settings) -> subprocess.Popen[bytes]:
    """Start or resume a run; its output goes to a file beside its folder."""
    sections = load_configuration(shipped_configuration(RUNS[run]))
    sections["DATA"] |= {"name": "Folder_LT_rho100", "num_classes": classes}
    if settings.small:
        sections["MODEL"] |= {"g_conv_dim": 4, "d_conv_dim": 4}
        sections["OPTIMIZATION"] |= {"batch_size": 4, "d_updates_per_step": 1}
    settings.runs.mkdir(parents=True, exist_ok=True)
    out = settings.runs / _folder(run)
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(sections, sort_keys=False))
    command = [sys.executable, "-m", "studiogan_gsr", "train", str(file), "--data", settings.data, "--out", str(out)]
    command += ["--resume", "--device", settings.device, "--save-freq", "10000", "--workers", "4"]
    command += ["--print-freq", "5" if settings.small else "100"]
    if settings.device == "cuda":
        command += ["--precision", "bfloat16", "--graphs" if graphs_work(settings) else "--no-graphs"]
    with out.with_suffix(".txt").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def graphs_work(settings: Settings) -> bool:
    """Return whether the part `steps` has trained this network in this precision as CUDA graphs."""
    outcome = Record(Path(settings.out) / "parts" / "steps.json").outcomes.get(f"{SMALLER[0]}; {GRAPHS}; {BFLOAT16}")
    return outcome is not None and outcome.state == DONE


def last_step(folder: Path) -> int:
    """Return the step of a run's newest checkpoint; 0 if there is none."""
    saved = checkpoints(folder / "checkpoints")
    return saved[-1][0] if saved else 0


def keep_newest(folder: Path) -> None:
    """Remove all checkpoints of a run but the newest, from which the next call resumes it."""
    for _, path in checkpoints(folder)[:-1]:
        shutil.rmtree(path)


def _ending(folder: Path) -> str:
    """Return the last line that a run printed."""
    lines = folder.with_suffix(".txt").read_text(errors="replace").split("\n")
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "")


def course(folder: Path) -> dict[str, Any]:
    """Return class counts, steps and time of a run, and by step the mean norm of head, middle and tail.

    A class's norm is the largest exact spectral norm over layers, gain and bias.
    """
    counts = json.loads((folder / "run.json").read_text())["data"]["class_counts"]
    thirds = {third: labels for third, labels in frequency_thirds(counts).items() if labels}
    lines = [line for line in lines_by_step(folder / "log.jsonl") if "class_norms" in line]
    kept = [line for place, line in enumerate(lines) if place % (1 + len(lines) // _POINTS) == 0 or line is lines[-1]]
    return {
        "class_counts": counts,
        "steps": [line["step"] for line in kept],
        "norms": {
            third: [mean(line["class_norms"][label] for label in labels) for line in kept]
            for third, labels in thirds.items()
        },
        "class_norms": kept[-1]["class_norms"] if kept else [],
        "seconds": lines[-1]["seconds"] if lines else 0.0,
        "last step": lines[-1]["step"] if lines else 0,
        "ended": _ending(folder),
    }


def evaluate(folder: Path, settings: Settings) -> dict[str, Any]:
    """Measure a run's newest checkpoint by the backbone that is available; return its main numbers."""
    backbone = "inception" if (weights_folder() / INCEPTION_URL.rpartition("/")[2]).is_file() else "effnetlite0"
    images = 100 if settings.small else 10_000
    out = folder / "evaluations" / "last.json"
    command = [sys.executable, "-m", "studiogan_gsr", "evaluate", str(folder), "--backbone", backbone, "--no-lpips"]
    command += ["--images", str(images), "--repeats", "1", "--device", settings.device, "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout)
    if done.returncode:
        raise RuntimeError(f"evaluate ended with status {done.returncode}: {done.stdout.strip().splitlines()[-1]}")
    result = json.loads(out.read_text())
    return {
        "step": result["protocol"]["step"],
        "images": images,
        "column": result["column"],
        "all": result["all"]["frechet"]["mean"],
        "groups": {name: result["groups"][name]["frechet"]["mean"] for name in ("head", "middle", "tail")},
    }
