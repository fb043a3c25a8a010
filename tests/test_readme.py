"""The README's promises that a machine can check."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from studiogan_gsr.contract import ROLES, Batch, roles_of
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.registry import DATASETS, REGULARIZERS, find_plugins
from studiogan_gsr.settings import regularizer_settings
from support import strangers_package

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
    shown = [settings for text in blocks("yaml") for settings in regularizer_settings(yaml.safe_load(text))]
    ours = [settings for settings in shown if settings.name not in strangers_package.ROLES]
    assert {settings.name for settings in ours} == {"gsr", "lecam"}
    for settings in ours:
        parameters = inspect.signature(find_regularizer(settings).factory).parameters
        for name, value in settings.options.items():
            default = parameters[name].default
            assert value == (list(default) if isinstance(default, tuple) else default)


def test_the_methods_shown_are_short_one_of_each_role_and_all_in_the_package() -> None:
    """That they work is tested in both hosts: test_strangers_package.py."""
    methods = [block for block in strangers_package.blocks("python") if "class " in block]
    assert all(len(block.splitlines()) < 15 for block in methods)
    namespace = run("\n".join(strangers_package.blocks("python")))
    (metadata,) = strangers_package.blocks("toml")
    entries = dict(re.findall(r'^(\w+) = "my_methods:(\w+)"$', metadata, flags=re.MULTILINE))
    assert {name: roles_of(namespace[value]) for name, value in entries.items()} == {
        name: (role,) for name, role in strangers_package.ROLES.items()
    }
    assert sorted(strangers_package.ROLES.values()) == sorted(ROLES)


def test_the_table_of_the_contract_names_every_role_and_field() -> None:
    table = "\n".join(line for line in strangers_package.SECTION.splitlines() if line.startswith("| `"))
    methods = re.findall(r"^\| `(\w+)\(", table, flags=re.MULTILINE)
    assert methods == [*ROLES, "scalars", "state_dict"]
    for field in fields(Batch):
        assert f"`{field.name}`" in table, field.name


def test_every_regularizer_is_in_the_readmes_table_with_its_page() -> None:
    for plugin in find_plugins(REGULARIZERS):
        if plugin.package == "studiogan-gsr":
            assert f"| [`{plugin.name}`](docs/methods/{plugin.name}.md) | " in README, plugin.name


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
