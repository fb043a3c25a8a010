"""docs/commands.md and docs/configuration.md: the generated parts are current, and the text around them is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from docs import configuration, generate
from docs.commands import command_parts, parsers
from docs.markdown import plain, with_parts
from studiogan_gsr.datasets.names import GRAMMAR, parse_variant, variant_name
from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.registry import DATASETS, REGULARIZERS, find_plugins
from studiogan_gsr.settings import regularizer_settings

PAGES = generate.pages()
CONFIGURATION = (generate.FOLDER / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_generated_parts_are_current(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert with_parts(text, PAGES[path]) == text, "run python -m docs.generate"
    assert re.findall(r"<!-- generated: (\w+) -->", text) == list(PAGES[path])


def test_no_part_depends_on_the_terminal_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("os.cpu_count", lambda: 1000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert command_parts() == PAGES[generate.FOLDER / "commands.md"]
    assert str(generate.FOLDER.parent) not in "".join(line for lines in command_parts().values() for line in lines)


def test_every_command_has_a_section_that_the_tables_link_to() -> None:
    page = (generate.FOLDER / "commands.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", page, flags=re.MULTILINE)
    assert headings == list(parsers())
    anchors = {re.sub(r"[/.]", "", heading).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([\w-]+)\)", page)
    assert len(links) > 20
    assert set(links) <= anchors


def test_every_data_set_and_regularizer_of_this_package_is_there() -> None:
    for group, form in ((DATASETS, "\n| `{}"), (REGULARIZERS, "\n### {}\n")):
        for plugin in find_plugins(group):
            if plugin.package == "studiogan-gsr":
                assert form.format(plugin.name) in CONFIGURATION


def test_every_key_is_there_and_a_key_that_is_only_in_studiogan_is_refused() -> None:
    for section, keys in KEYS.items():
        part = CONFIGURATION.split(f"\n### {section}\n")[1].split("\n### ")[0]
        only = re.findall(r"`(\w+)`", part.partition("Only in StudioGAN:")[2])
        assert sorted(re.findall(r"^\| `(\w+)`", part, flags=re.MULTILINE) + only) == sorted(keys)
        for key in only:
            with pytest.raises(ConfigurationError, match=f"{section}.{key}"):
                read_configuration({section: {key: "another"}})


def test_the_grammar_of_names_is_the_programs() -> None:
    form = GRAMMAR.split(",")[0]
    assert f"`{form}`" in CONFIGURATION
    assert form == "<data set>" + configuration.PARTS["ratio"] + "".join(
        f"[{part}]" for option, part in configuration.PARTS.items() if option != "ratio"
    )
    options = {"ratio": 100, "profile": "step", "reversed": True, "released": True, "seed": 3}
    name = "X" + "".join(configuration.PARTS.values()).replace("<ratio>", "100").replace("<k>", "3")
    assert name == variant_name("X", options)
    assert parse_variant(name, "X") == options
    for part in configuration.PARTS.values():
        assert f"\n| `{part}` |" in CONFIGURATION


def test_the_configurations_shown_are_valid() -> None:
    shown = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", CONFIGURATION, flags=re.DOTALL)]
    read_configuration(shown[0])
    forms = [type(sections["REGULARIZER"]) for sections in shown]
    assert forms == [str, str, dict, list]
    for sections in shown:
        for settings in regularizer_settings(sections):
            find_regularizer(settings)


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), link


def test_words_that_markdown_would_change_become_code() -> None:
    assert plain("DIR/<class>/0.png, or --name X; a_b.") == "`DIR/<class>/0.png`, or `--name` X; `a_b`."
    assert plain("`--fill 3` of a (b_c) and x-hdf5") == "`--fill 3` of a (`b_c`) and x-hdf5"
