"""The parts of a run on a GPU: their tasks, in the order of their importance, and their shares of the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODELS = {
    "SNGAN, 32 pixels": "CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR",
    "BigGAN, 32 pixels": "CIFAR10_LT/BigGAN-DiffAug-LeCam-gSR",
    "ContraGAN, 32 pixels": "CIFAR10_LT/ContraGAN-DiffAug-LeCam-gSR",
    "BigGAN, 128 pixels": "LSUN_LT/BigGAN128-DiffAug-LeCam-gSR",
}
SMALLER = [name for name in MODELS if "32 pixels" in name]
OPERATIONS, STUDIOGAN, STUDIOGAN_MIXED, DIFFERS = "operations", "StudioGAN", "StudioGAN -mpc", "differs by"
FLOAT32, TF32, BFLOAT16 = "float32", "TF32", "bfloat16"
PRECISIONS = (FLOAT32, TF32, BFLOAT16)
EAGER, GRAPHS, COMPILED, BOTH = "eager", "graphs", "compiled", "graphs and compiled"
# The switches of `hosts.native.training.Speed` in each mode.
MODES: dict[str, dict[str, Any]] = {
    EAGER: {"graphs": False, "compiled": False},
    GRAPHS: {"graphs": True, "compiled": False},
    COMPILED: {"graphs": False, "compiled": True},
    BOTH: {"graphs": True, "compiled": True},
}
# The generators of speed/penalty.py, and numbers of classes.
GENERATORS = ("SNGAN, CIFAR", "BigGAN, CIFAR", "BigGAN, iNaturalist 64")
CLASSES = (10, 100, 1010)
COPY = "copying memory"
EVALUATION = "evaluation"
# The two runs of the last part, by name: their shipped configurations.
RUNS = {
    "without gSR": "CIFAR10_LT/SNGAN-DiffAug-LeCam",
    "with gSR": "CIFAR10_LT/SNGAN-DiffAug-LeCam-gSR",
}
TRAINING = "training"


@dataclass(frozen=True)
class Task:
    """A measurement.  limit: the most seconds it may take.  least: it is not begun with fewer seconds left."""

    name: str
    limit: float = 60
    least: float = 5


@dataclass(frozen=True)
class PlannedPart:
    """A part of the run.

    share: its share of the time, relative to the shares of the parts after it; time that it leaves is theirs.
    function: module:function, called with a task's name and the `Settings`; returns plain data.
    grace: seconds between SIGTERM and SIGKILL when it has to end.
    repeated: whether a later call performs it again, to go on.
    """

    name: str
    title: str
    share: float
    function: str
    tasks: tuple[Task, ...]
    grace: float = 3
    repeated: bool = False


def planned_parts(device: str, small: bool) -> list[PlannedPart]:
    """Return the parts; device: "cuda" or "cpu"; small: with tasks that need little time."""
    here = f"{__package__}."
    parts = [
        PlannedPart("facts", "The machine", 8, f"{here}facts:measure", _facts()),
        PlannedPart(
            "tests", "Tests on CUDA", 15, f"{here}cuda_tests:measure", (Task("pytest -m cuda", 240, 20),), 10
        ),
        PlannedPart("steps", "Steps a second", 42, f"{here}steps:measure", _steps(device)),
        PlannedPart("costs", "Penalty and evaluation", 10, f"{here}costs:measure", _costs()),
        PlannedPart("training", "Training", 25, f"{here}training:measure", _training(), 20, True),
    ]
    if not small:
        return parts
    return [_without_least(part) for part in parts]


def _facts() -> tuple[Task, ...]:
    return (Task("machine"), *(Task(precision, 30) for precision in PRECISIONS), Task(COPY, 30))


def _steps(device: str) -> tuple[Task, ...]:
    if device == "cpu":
        chosen = [(model, mode) for model in MODELS for mode in (OPERATIONS, f"{EAGER}; {FLOAT32}")]
        chosen += [(SMALLER[0], f"{STUDIOGAN}; {FLOAT32}"), (SMALLER[0], f"{EAGER}; {BFLOAT16}")]
        chosen += [(SMALLER[0], f"{EAGER}; {DIFFERS}")]
        return tuple(Task(f"{model}; {mode}", 120, 10) for model, mode in chosen)
    tasks = [_step(model, mode, TF32) for model in MODELS for mode in (EAGER, GRAPHS)]
    tasks += [_step(model, GRAPHS, BFLOAT16) for model in MODELS]
    tasks += [Task(f"{model}; {OPERATIONS}", 30) for model in MODELS]
    tasks += [Task(f"{SMALLER[0]}; {mode}; {DIFFERS}", 90, 20) for mode in (EAGER, GRAPHS)]
    tasks += [Task(f"{model}; {STUDIOGAN}; {TF32}", 90, 30) for model in SMALLER]
    tasks += [_step(model, BOTH, BFLOAT16) for model in MODELS]
    tasks += [_step(model, EAGER, BFLOAT16) for model in MODELS]
    tasks += [_step(model, mode, FLOAT32) for mode in (EAGER, GRAPHS) for model in MODELS]
    tasks += [_step(model, mode, TF32) for mode in (COMPILED, BOTH) for model in MODELS]
    tasks += [Task(f"{model}; {STUDIOGAN_MIXED}; float16", 90, 30) for model in SMALLER]
    tasks += [Task(f"{model}; {mode}; {DIFFERS}", 240, 45) for model in SMALLER for mode in (COMPILED, BOTH)]
    tasks += [Task(f"{model}; {mode}; {DIFFERS}", 90, 20) for model in SMALLER[1:] for mode in (EAGER, GRAPHS)]
    tasks += [Task(f"BigGAN, 128 pixels; {STUDIOGAN}; {TF32}", 120, 45)]
    tasks += [_step(model, COMPILED, BFLOAT16) for model in MODELS]
    tasks += [_step(model, mode, FLOAT32) for mode in (COMPILED, BOTH) for model in MODELS]
    return tuple(tasks)


def _step(model: str, mode: str, precision: str) -> Task:
    """Return the task of one timing; compilation takes minutes."""
    limit, least = (240, 45) if MODES[mode]["compiled"] else (60, 15)
    return Task(f"{model}; {mode}; {precision}", limit, least)


def _costs() -> tuple[Task, ...]:
    penalties = [Task(f"{generator}; {classes} classes", 40) for classes in CLASSES for generator in GENERATORS]
    return (Task(EVALUATION, 120, 20), *penalties)


def _training() -> tuple[Task, ...]:
    return (Task(TRAINING, 24 * 3600, 30), *(Task(f"{EVALUATION} {run}", 180, 15) for run in RUNS))


def _without_least(part: PlannedPart) -> PlannedPart:
    tasks = tuple(Task(task.name, task.limit, 1) for task in part.tasks)
    return PlannedPart(part.name, part.title, part.share, part.function, tasks, min(10, part.grace), part.repeated)
