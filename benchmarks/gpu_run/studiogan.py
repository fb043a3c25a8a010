"""Steps of StudioGAN itself, each measurement in its own process: StudioGAN runs once in a process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gpu_run.plan import FLOAT32, STUDIOGAN_MIXED, TF32
from benchmarks.gpu_run.settings import Settings, Skipped
from benchmarks.speed.hosts import timed_studiogan
from studiogan_gsr.errors import HostError
from studiogan_gsr.hosts.studiogan.checkout import find_checkout
from studiogan_gsr.machine import cores

_MOST_WORKERS = 16
_WARM_UP = 5


def steps_of_studiogan(sections: dict[str, Any], mode: str, precision: str, settings: Settings) -> dict[str, Any]:
    """Return the median seconds of StudioGAN's step on the images of `settings.data`; Skipped without a checkout.

    A step is timed with the wait for its images, which are read by up to 16 processes.
    """
    try:
        find_checkout()
    except HostError as error:
        raise Skipped(str(error)) from error
    classes = class_folders(settings.data)
    size = int(sections["DATA"]["img_size"])
    steps = 4 if settings.small else 20 if size > 32 else 60
    data = {**sections["DATA"], "name": "Folder_LT_rho100", "num_classes": len(classes)}
    # StudioGAN trains one step more than total_steps.
    optimization = {**sections["OPTIMIZATION"], "total_steps": steps - 1}
    environment = os.environ | {"WANDB_MODE": "disabled"}
    if precision == FLOAT32:
        environment["NVIDIA_TF32_OVERRIDE"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "configuration.yaml"
        file.write_text(yaml.safe_dump({**sections, "DATA": data, "OPTIMIZATION": optimization}))
        arguments = ["-data", settings.data, "-save", folder, "--num_workers", str(min(_MOST_WORKERS, cores()))]
        arguments += ["--pre_resizer", "nearest" if size > 32 else "wo_resize"]
        arguments += ["-mpc"] if mode == STUDIOGAN_MIXED else []
        given = json.dumps([str(file), arguments, settings.device, precision])
        command = [sys.executable, "-m", __name__, given]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        print(done.stderr)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"StudioGAN ended with status {done.returncode}: {last}")
    times = json.loads(done.stdout.splitlines()[-1])
    timed = times[1 if settings.small else _WARM_UP :]
    return {"seconds": statistics.median(timed), "steps": len(timed), "first": times[0]}


def class_folders(data: str) -> list[str]:
    """Return the names of the classes in DATA/train; Skipped if there are none."""
    if not data:
        raise Skipped("--data was not given")
    folder = Path(data) / "train"
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        raise Skipped(f"--data {data}: found no folder of images train/<class>/")
    return found


def main(given: str) -> None:
    """Train in StudioGAN, in this process; print the seconds of each step as JSON."""
    configuration, arguments, device, precision = json.loads(given)
    torch.backends.cudnn.allow_tf32 = precision == TF32
    print(json.dumps(timed_studiogan(configuration, arguments, device)))


if __name__ == "__main__":
    main(sys.argv[1])
