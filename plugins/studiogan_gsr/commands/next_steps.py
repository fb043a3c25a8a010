"""The last line of each command: what a user may do next."""

from __future__ import annotations

import shlex
from pathlib import Path

from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import EXAMPLE, configuration_file


def command(*words: object) -> str:
    """Return a command of this program as text to copy; words: its name and arguments."""
    return f"`{shlex.join(['studiogan-gsr', *map(str, words)])}`"


def train_example() -> str:
    """Return the command that trains the example of the shipped configurations."""
    return command("train", EXAMPLE, "--data", "data", "--out", "runs/sngan-gsr")


def print_next(*steps: str) -> None:
    """Print what a user may do next, the most useful first; each step is a `command` or a few words."""
    print(f"Next: {', '.join(steps)}")


def with_generator(name: str, path: Path, config: str | None, *more: str) -> str:
    """Return the command `name` for a generator, or what comes before it for one that needs --config.

    more: further arguments of `name`.
    """
    if config is None:
        return command(name, path, *more)
    model = load_configuration(configuration_file(config)).get("MODEL") or {}
    if model.get("g_cond_mtd", "W/O") == "W/O":  # `export` refuses a generator without classes
        from studiogan_gsr.hosts.checkpoint_files import studiogan_checkpoint  # imports PyTorch

        folder = studiogan_checkpoint(path) or path  # the records of StudioGAN's runs are beside their checkpoints
        return f"copy the configuration to {folder / 'config.yaml'}, then {command(name, path, *more)}"
    return command("export", path, "--config", config, "--out", f"{path}-generator")
