"""The README's promises that a machine can check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import yaml

from studiogan_gsr.hosts.regularization import find_regularizer
from studiogan_gsr.registry import DATASETS, find_plugins
from studiogan_gsr.settings import regularizer_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).with_name("support") / "twenty_lines.py").read_text(encoding="utf-8")
PLACE = "# the README's lines go here"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(script: str) -> dict[str, Any]:
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "script"}
    exec(script, namespace)
    return namespace


def test_the_four_lines_regularize_a_script_of_twenty() -> None:
    (lines,) = [block for block in blocks("python") if "attach(" in block]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 4
    assert PLACE in SCRIPT
    without, with_gsr = run(SCRIPT), run(SCRIPT.replace(PLACE, lines))

    def largest_norm(namespace: dict[str, Any]) -> float:
        gain = namespace["generator"].gain.weight.detach()
        return float(torch.linalg.svdvals(gain.reshape(4, 4, 4)).max())

    assert largest_norm(with_gsr) < 0.9 * largest_norm(without)
    assert with_gsr["regularizer"].scalars()["penalty"] > 0


def test_the_configurations_shown_are_valid_and_show_the_defaults() -> None:
    for text in blocks("yaml"):
        settings = regularizer_settings(yaml.safe_load(text))
        assert settings is not None
        loaded = find_regularizer(settings.name, settings.options)
        import inspect

        parameters = inspect.signature(loaded.factory).parameters
        for name, value in settings.options.items():
            default = parameters[name].default
            assert value == (list(default) if isinstance(default, tuple) else default)


def test_files_that_the_readme_links_to_exist() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = re.findall(r"<!-- tests -->\n```sh\n(pip install .*)\n```\n<!-- /tests -->", README)
    assert command.count("&&") == 1
    assert "pytest" in command


def test_every_data_set_is_in_the_readmes_table() -> None:
    table = README[README.index("## Data sets") : README.index("A ratio may be followed by")]
    for plugin in find_plugins(DATASETS):
        if plugin.package == "studiogan-gsr" and not plugin.name.startswith("iNaturalist"):
            assert f"`{plugin.name}" in table, plugin.name
    assert "`iNaturalist2019`, `2018`, `2017`" in table
