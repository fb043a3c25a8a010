"""The pages of docs/methods: their tables, their configurations, and the files that they name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from studiogan_gsr.contract import roles_of_factory
from studiogan_gsr.errors import PluginError
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.registry import REGULARIZERS, find_plugins, load_plugin
from studiogan_gsr.settings import regularizer_settings
from support.host import Host, configure, narrowed
from support.runs import COUNTS, PLAIN

FOLDER = Path(__file__).parents[1] / "docs" / "methods"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
METHODS = [name for name in PAGES if name != "README"]
HEADINGS = ["Use", "Options", "Suggested settings", "What was tested here", "Attribution"]


def configurations(page: str) -> list[Any]:
    """What a page shows as REGULARIZER."""
    texts = re.findall(r"```yaml\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return [yaml.safe_load(text)["REGULARIZER"] for text in texts]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading; its first row is left out."""
    part = PAGES[page].split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def make(regularizer: Any) -> Trainer:
    """A trainer of the native host, with all trials that come before the first step."""
    configuration = read_configuration({**PLAIN, "REGULARIZER": regularizer})
    return Trainer(configuration, COUNTS, iter(()), torch.device("cpu"), 0, Speed())


def test_every_regularizer_has_a_page_with_all_parts() -> None:
    ours = [plugin.name for plugin in find_plugins(REGULARIZERS) if plugin.package == "studiogan-gsr"]
    assert sorted(ours) == METHODS
    for name in METHODS:
        headings = re.findall(r"^## (.*)$", PAGES[name], flags=re.MULTILINE)
        assert [heading for heading in headings if heading in HEADINGS] == HEADINGS, name
        assert any("differently" in heading for heading in headings), name


@pytest.mark.parametrize("name", METHODS)
def test_the_table_of_options_is_the_factorys_signature(name: str) -> None:
    parameters = inspect.signature(load_plugin(REGULARIZERS, name).factory).parameters
    hosts = ("generator", "class_counts", "discriminator")
    options = {key: p.default for key, p in parameters.items() if key not in hosts}
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    shown = {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in rows(name, "Options")}
    assert list(shown.items()) == list(options.items())


@pytest.mark.parametrize("page", [page for page in PAGES if page != "noisytwins"])
def test_the_configurations_shown_can_be_trained_in_the_native_host(page: str) -> None:
    shown = configurations(page)
    assert shown
    for regularizer in shown:
        names = make(regularizer).regularization.names
        assert page == "README" or page in names
        assert len(names) == (len(regularizer) if isinstance(regularizer, list) else 1)


LAST = {page: len(configurations(page)) - 1 for page in PAGES if page != "noisytwins"}
IN_STUDIOGAN = [
    pytest.param(page, place, id=f"{page}-{place}", marks=() if place == last else pytest.mark.slow)
    for page, last in LAST.items()
    for place in range(last + 1)
]


@pytest.mark.host
@pytest.mark.parametrize(("page", "place"), IN_STUDIOGAN)
def test_the_configurations_shown_train_in_studiogan(
    page: str, place: int, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    """The last of each page, which is the longest; the others are slow tests."""
    regularizer = configurations(page)[place]
    configuration = configure(tmp_path, steps=2, REGULARIZER=regularizer)
    outcome = Host(checkout).run(configuration, digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    active = re.findall(r"rank 0: (\w+): active in step 1, ", outcome.output)
    assert active == [settings.name for settings in regularizer_settings({"REGULARIZER": regularizer})]


def test_the_native_host_refuses_noisytwins_as_its_page_says() -> None:
    for regularizer in configurations("noisytwins"):
        with pytest.raises(PluginError, match=r"no mapping network with a class embedding; .*StyleGAN2"):
            make(regularizer)


@pytest.mark.host
@pytest.mark.parametrize("place", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_a_configuration_of_noisytwins_trains_in_studiogan(
    place: int, checkout: Checkout, digits: Path, tmp_path: Path
) -> None:
    regularizer = configurations("noisytwins")[place]
    sections = narrowed(checkout.source / "configs" / "CIFAR10" / "StyleGAN2.yaml") | {"REGULARIZER": regularizer}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    outcome = Host(checkout, narrow_stylegan=True).run(tmp_path / "config.yaml", digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    (line,) = outcome.lines("noisytwins: active in step 1")
    twins = not isinstance(regularizer, dict) or regularizer["weight"] > 0
    assert ("generator_loss" in line) == twins
    assert "draw called for" in line
    assert bool(outcome.lines("noisytwins_loss: ")) == twins


def test_every_configuration_of_noisytwins_is_tested() -> None:
    assert len(configurations("noisytwins")) == 3


def test_the_overview_names_every_page_with_its_roles() -> None:
    table = PAGES["README"].split("# Methods\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\): [^|]* \| ([^|]*) \|", table, flags=re.MULTILINE)
    assert {name: file for name, file, _ in found} == {name: name for name in METHODS}
    for name, _, roles in found:
        assert tuple(re.findall(r"`(\w+)`", roles)) == roles_of_factory(load_plugin(REGULARIZERS, name).factory), name


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    root = FOLDER.parents[1]
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGES[page]):
        assert (root / path).is_file(), path
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page]):
        assert (FOLDER / link).exists(), link
