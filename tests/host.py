"""Running the real StudioGAN in a process of its own, on small real images, with narrow networks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from studiogan_gsr.hosts.studiogan.checkout import Checkout

PLAIN = Path(__file__).with_name("plain_studiogan.py")
NARROW = {"MODEL": {"g_conv_dim": 8, "d_conv_dim": 8}, "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2}}


@dataclass(frozen=True)
class Outcome:
    """What a run printed and left behind."""

    status: int
    output: str
    save: Path

    def lines(self, word: str) -> list[str]:
        return [line for line in self.output.splitlines() if word in line]

    def losses(self) -> dict[str, list[float]]:
        (path,) = self.save.glob("statistics/*/losses.npy")
        return np.load(path, allow_pickle=True).item()

    def checkpoint(self, model: str = "G") -> dict[str, Any]:
        (path,) = self.save.glob(f"checkpoints/*/model={model}-current*.pth")
        return torch.load(path, map_location="cpu", weights_only=True)

    @property
    def checkpoint_folder(self) -> Path:
        (path,) = self.save.glob("checkpoints/*")
        return path


def write_configuration(path: Path, base: Path | None = None, **changes: Any) -> Path:
    """A shipped configuration (or none) narrowed, with sections changed; None removes a section."""
    sections = yaml.safe_load(base.read_text()) if base else {}
    for name, values in {**NARROW, **changes}.items():
        if values is None:
            sections.pop(name, None)
        elif isinstance(values, dict) and isinstance(sections.get(name), dict):
            sections[name] |= values
        else:
            sections[name] = dict(values) if isinstance(values, dict) else values
        for key in (name in changes and name in NARROW) * [*NARROW.get(name, {})]:
            sections[name].setdefault(key, NARROW[name][key])
    path.write_text(yaml.safe_dump(sections))
    return path


def _relative(path: Path, folder: Path) -> str:
    """Relative paths mean what they mean for main.py: every run here uses them."""
    return os.path.relpath(path, folder)


def run_studiogan(
    checkout: Checkout,
    configuration: Path,
    data: Path,
    save: Path,
    *arguments: str,
    launch: tuple[str, ...] = (),
    plain: bool = False,
    environment: dict[str, str] | None = None,
    train: bool = True,
) -> Outcome:
    """One run of main.py: through our launcher, or, `plain`, without it."""
    if plain:
        command = [sys.executable, str(PLAIN), str(checkout.source)]
    else:
        root = ("--root", str(checkout.root), "--device", "cpu")
        command = [sys.executable, "-m", "studiogan_gsr", "studiogan", "run", *root, *launch, "--"]
    command += ["-t"] if train else []
    for flag, path in (("-cfg", configuration), ("-data", data), ("-save", save)):
        command += [flag, _relative(path, save.parent)]
    command += ["--num_workers", "1"]
    if "-metrics" not in arguments:
        command += ["-metrics", "none"]
    if "--print_freq" not in arguments:
        command += ["--print_freq", "1", "--save_freq", "2"]
    if "--seed" not in arguments:
        command += ["--seed", "3"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=save.parent,
        env={**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    return Outcome(done.returncode, done.stdout, save)
