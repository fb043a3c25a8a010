"""Find how far back in StudioGAN's history the launcher works, and how it fails on older commits.

    python -m benchmarks.studies.host_drift [--root CHECKOUT] [--commits C ...] [--out FILE]

Each commit is cloned, unchanged, into a temporary folder, and trains SNGAN and BigGAN with `REGULARIZER: gsr` for
two steps on the CPU: scikit-learn's digits, eight channels, batches of eight, with checkpoints and without metrics.
A cell of the Markdown table says "trains" if the command exited with status 0 and logged a penalty above zero for
every step; otherwise it shows the penalties (status 0), the error message or the timeout.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from platform import python_version

import torch
import yaml

from studiogan_gsr.files import write_atomically
from studiogan_gsr.hosts.studiogan.checkout import Checkout, find_checkout
from studiogan_gsr.shipped import shipped_configuration

MODELS = ("SNGAN", "BigGAN")
# Newest first, all on the main line (git log --first-parent).
COMMITS = (
    "947b35e",  # the latest, for which the hooks were written; src/ is that of eb9cafb, 2022-10-13
    "49b322d",  # with -metrics none, the loader opens no data set for evaluation
    "6fcdd18",  # gives WORKER back the parameters that 5f21670 had lost
    "5f21670",  # a merge after which the loader and WORKER.__init__ disagree: trains nothing, with or without hooks
    "d251d69",  # the merge for v0.4.0: Dataset_ and make_hdf5 get `resizer`, --print_every becomes --print_freq
    "543b6a9",  # the commit before that merge
    "da05483",  # WORKER.save and log_train_statistics have `total_emission`
    "b65bf23",  # the first with config.py, data_util.py, utils/ckpt.py and the class WORKER as they are named today
    "0529b4b",  # the last commit before those names
    "7bad625",  # the last commit to change src/ before loader.py existed
)
STEPS, SECONDS = 2, 300
NARROW = {
    "DATA": {"name": "Digits_LT_rho4", "img_size": 32, "num_classes": 10},
    "MODEL": {"g_conv_dim": 8, "d_conv_dim": 8},
    # StudioGAN's loop takes one step more than total_steps.
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2, "total_steps": STEPS - 1},
}
# Flags to pass to main.py.  A line lists a flag's alternative names; the first that main.py has is passed, if any.
FLAGS = (
    (("-metrics", "none"),),
    (("--print_freq", "1"), ("--print_every", "1")),
    (("--save_freq", "2"), ("--save_every", "2")),
)
_PENALTY = re.compile(r"gsr_penalty: (\S+)")


def git(root: Path, *arguments: str) -> str:
    """Return what git prints, without surrounding white space; exit with its message if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def write_configuration(path: Path, model: str) -> None:
    """Write a small version (see NARROW) of the shipped configuration of a model with gSR."""
    sections = yaml.safe_load(shipped_configuration(f"CIFAR10_LT/{model}-gSR").read_text())
    for name, values in NARROW.items():
        sections[name] |= values
    path.write_text(yaml.safe_dump(sections))


def flags(checkout: Checkout) -> list[str]:
    """Return those of FLAGS that this checkout's main.py has."""
    known = checkout.main.read_text() if checkout.main.is_file() else ""
    chosen: list[str] = []
    for ways in FLAGS:
        chosen += next((way for way in ways if f'"{way[0]}"' in known), ())
    return chosen


def ending(status: int, output: str) -> str:
    """Return the table cell for a run with this exit status and output."""
    penalties = [float(penalty) for penalty in _PENALTY.findall(output)]
    if status == 0:
        acted = len(penalties) == STEPS and min(penalties) > 0
        return "trains" if acted else f"**status 0, but the penalties are {penalties}**"
    lines = [line for line in output.splitlines() if line.strip()] or [f"**status {status}, no output**"]
    messages = [line for line in lines if line.startswith("studiogan-gsr: ")] or lines
    mark = "**after a traceback**: " if "Traceback (most recent call last)" in output else ""
    return mark + messages[-1].removeprefix("studiogan-gsr: ")


def run(checkout: Checkout, model: str, folder: Path) -> str:
    """Train through the launcher in a subprocess, and return the table cell."""
    configuration = folder / f"{model}.yaml"
    write_configuration(configuration, model)
    command = [sys.executable, "-m", "studiogan_gsr", "studiogan", "run", "--root", str(checkout.root)]
    command += ["--device", "cpu", "--", "-t", "-cfg", str(configuration), "-data", str(folder), "-save"]
    command += [str(folder / model), "--num_workers", "1", "--seed", "3", *flags(checkout)]
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    environment["TORCH_EXTENSIONS_DIR"] = str(folder / "extensions")  # old commits compile an extension on import
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"**timed out after {SECONDS} seconds**"
    cell = ending(done.returncode, done.stdout)
    return cell.replace(str(checkout.root), "CHECKOUT").replace(str(folder), ".").replace("|", "\\|")


def row(source: Path, commit: str) -> str:
    """Return a row of the table: the commit, its date, and how each model's run ended."""
    cells = [git(source, "rev-parse", "--short=7", commit)]
    cells.append(git(source, "show", "--no-patch", "--format=%cd", "--date=short", commit))
    # Messages show resolved paths, and `run` replaces this folder's path in them.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        clone = folder / "PyTorch-StudioGAN"
        git(folder, "clone", "--quiet", "--no-checkout", str(source), str(clone))
        git(clone, "checkout", "--quiet", "--detach", cells[0])
        cells += [run(Checkout(clone), model, folder) for model in MODELS]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a clone with full history; default: the checkout in its default folder")
    parser.add_argument("--commits", nargs="+", default=COMMITS, metavar="C")
    parser.add_argument("--out", type=Path, help="the Markdown file, written when all commits have run")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    source = find_checkout(options.root).root
    command = shlex.join(["python", "-m", "benchmarks.studies.host_drift", *given])
    lines = [
        f"Made by `{command}` with Python {python_version()} and torch {torch.__version__}, {date.today()}.",
        "",
        "| commit | date | SNGAN | BigGAN |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for commit in options.commits:
        lines.append(row(source, commit))
        print(lines[-1], flush=True)
    if options.out is not None:
        write_atomically(options.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
