"""Configurations: what REGULARIZER may be, and how a wrong file, section, key or value is reported."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.settings import (
    RegularizerSettings,
    check_keys,
    load_configuration,
    regularizer_section,
    regularizer_settings,
)

Write = Callable[[str], Path]

KNOWN = {"DATA": SimpleNamespace(name="CIFAR10", num_classes=10), "MODEL": SimpleNamespace(backbone="resnet")}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "configuration.yaml"
        path.write_text(text)
        return path

    return write


def message_of(error: ConfigurationError) -> str:
    """The message, which is one line and survives pickling."""
    text = str(error)
    assert len(text.splitlines()) == 1
    assert str(pickle.loads(pickle.dumps(error))) == text
    return text


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("DATA: {name: CIFAR10}", ()),
        ("REGULARIZER: gsr", (RegularizerSettings("gsr"),)),
        ("REGULARIZER: {name: gsr}", (RegularizerSettings("gsr"),)),
        (
            "REGULARIZER:\n  weight: 0.5\n  name: gsr\n  beta: null\n  apply_to: [gain]",
            (RegularizerSettings("gsr", {"weight": 0.5, "beta": None, "apply_to": ["gain"]}),),
        ),
        ("REGULARIZER: [gsr]", (RegularizerSettings("gsr"),)),
        (
            "REGULARIZER: [gsr, {name: lecam, weight: 0.1}]",
            (RegularizerSettings("gsr"), RegularizerSettings("lecam", {"weight": 0.1})),
        ),
    ],
    ids=["absent", "name", "mapping", "options", "list of one", "list"],
)
def test_regularizers_are_absent_a_name_a_mapping_or_a_list(
    text: str, settings: tuple[RegularizerSettings, ...], write: Write
) -> None:
    sections = load_configuration(write(text))
    found = regularizer_settings(sections)
    assert found == settings
    paths = [f"REGULARIZER[{i}]" for i in range(len(found))]
    assert [entry.path for entry in found] == (paths if "[gsr" in text else ["REGULARIZER"] * len(found))
    if found:
        assert regularizer_settings({"REGULARIZER": regularizer_section(found)}) == found


@pytest.mark.parametrize(
    ("section", "path", "found"),
    [
        ("null", "REGULARIZER", "found None"),
        ("", "REGULARIZER", "found None"),
        ("[]", "REGULARIZER", "found an empty list"),
        ("[gsr, 3]", "REGULARIZER[1]", "found 3"),
        ("[null]", "REGULARIZER[0]", "found None"),
        ("[gsr, [lecam]]", "REGULARIZER[1]", "found ['lecam']"),
        ("[gsr, {}]", "REGULARIZER[1]", "found the keys none"),
        ("[gsr, {weight: 1}]", "REGULARIZER[1]", "found the keys weight"),
        ("[gsr, {name: 3}]", "REGULARIZER[1].name", "found 3"),
        ("[gsr, '']", "REGULARIZER[1].name", "found ''"),
        ("[gsr, {name: lecam, 1: 2}]", "REGULARIZER[1].1", "found int"),
        ("[gsr, lecam, {name: gsr, weight: 0}]", "REGULARIZER[2]", "found gsr"),
        ("3", "REGULARIZER", "found 3"),
        ("false", "REGULARIZER", "found False"),
        ("{weight: 1, beta: 0}", "REGULARIZER", "found the keys weight, beta"),
        ("{}", "REGULARIZER", "found the keys none"),
        ("{name: 3}", "REGULARIZER.name", "found 3"),
        ("{name: null}", "REGULARIZER.name", "found None"),
        ("{name: [gsr]}", "REGULARIZER.name", "found ['gsr']"),
        ("{name: ''}", "REGULARIZER.name", "found ''"),
        ("''", "REGULARIZER.name", "found ''"),
        ("{name: gsr, 1: 2}", "REGULARIZER.1", "found int"),
    ],
)
def test_any_other_regularizer_is_refused_with_what_was_found(
    section: str, path: str, found: str, write: Write
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        regularizer_settings(load_configuration(write(f"REGULARIZER: {section}\n")))
    assert message_of(caught.value).startswith(f"{path}: {found}; allowed: ")


@pytest.mark.parametrize(
    ("text", "found", "part"),
    [
        ("A: !!python/object/apply:os.getcwd []", "bad YAML", "python/object"),
        ("A: !!python/name:os.system", "bad YAML", "python/name"),
        ("A: {x: 1}\nB: {}\nA: {x: 2}", "bad YAML", "the key A stands twice"),
        ("A:\n  x: 1\n  x: 1\n", "bad YAML", "the key x stands twice"),
        ("A: [{x: 1, x: 1}]", "bad YAML", "the key x stands twice"),
        ("? [x]\n: 1", "bad YAML", "is no name"),
        ("A: {x: 1", "bad YAML", "expected"),
        ("A: *missing", "bad YAML", "undefined alias"),
        ("A: \0", "bad YAML", "special characters are not allowed"),
        ("- A\n- B", "list", "sections such as DATA:"),
        ("DATA", "str", "sections such as DATA:"),
        ("", "NoneType", "sections such as DATA:"),
    ],
)
def test_a_file_that_is_not_plain_unambiguous_yaml_is_refused(text: str, found: str, part: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    assert (caught.value.path, caught.value.found) == (str(path), found)
    assert part in message_of(caught.value)


@pytest.mark.parametrize("scalar", ["2023-02-30", "!!int many", "!!bool perhaps"])
def test_a_scalar_that_is_not_what_its_form_says_is_refused(scalar: str, write: Write) -> None:
    path = write(f"A: {scalar}")
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    assert message_of(caught.value).startswith(f"{path}: ")


def test_refused_yaml_runs_nothing(tmp_path: Path, write: Write) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ConfigurationError):
        load_configuration(write(f"A: !!python/object/apply:os.mkdir [{trace}]"))
    assert not trace.exists()


def test_an_error_in_yaml_is_told_with_its_line(write: Write) -> None:
    with pytest.raises(ConfigurationError, match="line 3"):
        load_configuration(write("A:\n  x: 1\n  x: 2\n"))


def test_a_merged_mappings_keys_may_be_overridden(write: Write) -> None:
    sections = load_configuration(write("A: &a {x: 1, y: 1}\nB:\n  <<: *a\n  y: 2\n"))
    assert sections == {"A": {"x": 1, "y": 1}, "B": {"x": 1, "y": 2}}


def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path: Path) -> None:
    binary = tmp_path / "weights.pth"
    binary.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    for path, found in (
        (tmp_path / "missing.yaml", "FileNotFoundError"),
        (tmp_path, "IsADirectoryError"),
        (binary, "UnicodeDecodeError"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_configuration(path)
        assert message_of(caught.value) == f"{path}: found {found}; expected: a readable YAML file"


def test_sections_and_keys_that_the_host_has_pass() -> None:
    check_keys({"DATA": {"name": "CIFAR10", "num_classes": 10}, "MODEL": {}}, KNOWN)


@pytest.mark.parametrize(
    ("sections", "path", "part"),
    [
        ({"REGULARISER": "gsr"}, "REGULARISER", "; did you mean REGULARIZER?"),
        ({"Data": {}}, "Data", "allowed: DATA, MODEL, REGULARIZER; did you mean DATA?"),
        ({"ZZZZZZ": {}}, "ZZZZZZ", "found an unknown section; allowed: DATA, MODEL, REGULARIZER"),
        ({1: {}}, "1", "found an unknown section"),
        ({"DATA": {"num_class": 10}}, "DATA.num_class", "DATA has no such key; did you mean num_classes?"),
        ({"MODEL": {"Backbone": "resnet"}}, "MODEL.Backbone", "; did you mean backbone?"),
        ({"MODEL": {2: 3}}, "MODEL.2", "found an unknown key"),
        ({"DATA": None}, "DATA", "found None; expected: a mapping of keys"),
        ({"DATA": ["name"]}, "DATA", "found ['name']; expected: a mapping of keys"),
    ],
)
def test_sections_and_keys_that_the_host_does_not_have_are_refused_with_the_nearest(
    sections: dict[Any, Any], path: str, part: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_keys(sections, KNOWN)
    assert caught.value.path == path
    assert part in message_of(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 0, "beta": 0, "power_iterations": 0, "groups": 1, "apply_to": "bias"},
        {"weight": 10.0, "beta": None, "power_iterations": 16, "groups": "square", "apply_to": ["bias", "gain"]},
        {"beta": 0.9999, "groups": 16, "apply_to": ["gain"], "released_bias_update": False},
        {"released_bias_update": True, "power_iterations": 1},
    ],
)
def test_options_that_gsr_allows_pass(options: dict[str, Any]) -> None:
    assert find_regularizer(RegularizerSettings("gsr", options)).plugin.name == "gsr"


WRONG_OPTIONS: dict[str, list[Any]] = {
    "weight": [-0.1, float("nan"), float("inf"), "0.5", "heavy", True, None, [1.0], {}],
    "beta": [1, 1.5, -0.1, float("nan"), "0.99", True, [0.99]],
    "power_iterations": [-1, 33, 2.0, True, "4", None, [4]],
    "groups": [0, -4, 2.5, "round", True, None, [4]],
    "apply_to": [[], "gian", ["gain", "gain"], ["weight"], ["gain", "scale"], [["gain"]], {"gain": 1}, 1, None],
    "released_bias_update": [1, "true", None, [True]],
}


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in WRONG_OPTIONS.items() for value in values]
)
def test_a_wrong_value_of_a_gsr_option_is_told_by_its_path(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_regularizer(RegularizerSettings("gsr", {option: value}))
    assert caught.value.path == f"REGULARIZER.{option}"
    assert message_of(caught.value).startswith(f"REGULARIZER.{option}: found {value!r}; allowed: ")


@pytest.mark.parametrize("other", [{"apply_to": ["gain"]}, {"apply_to": "bias"}, {"power_iterations": 0}])
def test_gsr_options_that_exclude_each_other_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_regularizer(RegularizerSettings("gsr", {"released_bias_update": True, **other}))
    assert caught.value.path == "REGULARIZER.released_bias_update"


def test_an_option_that_gsr_does_not_have_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"REGULARIZER\.wieght: found 1; .*did you mean weight\?"):
        find_regularizer(RegularizerSettings("gsr", {"wieght": 1}))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("weight", "1e-4"),
        ("weight", "125e-6"),
        ("weight", "1.25e4"),
        ("weight", "'0.5'"),
        ("power_iterations", "'4'"),
    ],
)
def test_a_number_that_yaml_reads_as_text_comes_with_a_way_to_write_it(option: str, text: str, write: Write) -> None:
    (settings,) = regularizer_settings(load_configuration(write(f"REGULARIZER: {{name: gsr, {option}: {text}}}")))
    with pytest.raises(ConfigurationError) as caught:
        find_regularizer(settings)
    hint = re.search(r"YAML reads this as text, write (\S+)$", message_of(caught.value))
    assert hint is not None
    better = yaml.safe_load(hint[1])
    assert better == float(text.strip("'"))
    find_regularizer(RegularizerSettings("gsr", {option: better}))


@pytest.mark.parametrize("text", ["heavy", "nan", "inf", "''"])
def test_text_that_is_no_finite_number_gets_no_such_hint(text: str, write: Write) -> None:
    (settings,) = regularizer_settings(load_configuration(write(f"REGULARIZER: {{name: gsr, weight: {text}}}")))
    with pytest.raises(ConfigurationError) as caught:
        find_regularizer(settings)
    assert "YAML" not in message_of(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([{"name": "gsr"}, {"name": "lecam", "weight": -1}], "REGULARIZER[1].weight: found -1; allowed: a finite"),
        (["lecam", {"name": "gsr", "decay": 0.9}], "REGULARIZER[1].decay: found 0.9; gsr has the keys weight, beta"),
        ([{"name": "lecam", "beta": 0.9}], "did you mean decay?"),
        (["gsr", "mode_seekin"], "REGULARIZER[1]: found 'mode_seekin'; installed are "),
        (["gsr", "mode_seekin"], "did you mean mode_seeking?"),
        ([{"name": "mode_seeking", "weight": "1e-2"}], "REGULARIZER[0].weight: found '1e-2'; "),
        ([{"name": "class_balance", "power": 11}], "REGULARIZER[0].power: found 11; allowed: a number from 0"),
    ],
)
def test_an_entry_of_a_list_is_blamed_by_its_place(section: list[Any], message: str) -> None:
    found = regularizer_settings({"REGULARIZER": section})
    with pytest.raises(ConfigurationError) as caught:
        list(map(find_regularizer, found))
    assert message in message_of(caught.value)


def test_one_name_twice_is_refused_with_both_places() -> None:
    with pytest.raises(ConfigurationError) as caught:
        regularizer_settings({"REGULARIZER": ["gsr", "lecam", {"name": "gsr", "weight": 0}]})
    found = "REGULARIZER[2]: found gsr; allowed: each regularizer once; REGULARIZER[0] is gsr, too"
    assert message_of(caught.value) == found
