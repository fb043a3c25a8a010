"""Reading configurations for the native host: what is read, what is refused, and how that is reported."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS as STUDIOGANS
from studiogan_gsr.hosts.native.configuration import ELSEWHERE, SECTIONS, read_configuration
from studiogan_gsr.settings import RegularizerSettings, load_configuration
from studiogan_gsr.shipped import shipped_configuration, shipped_configurations

Sections = dict[str, Any]
KEYS = [(name, field) for name, section in SECTIONS.items() for field in dataclasses.fields(section)]
UNSUPPORTED = {
    name: {
        key: found.default
        for key, found in keys.items()
        if key not in getattr(SECTIONS.get(name), "__annotations__", {})
    }
    for name, keys in STUDIOGANS.items()
}
EVERY_KEY = pytest.mark.parametrize(("section", "field"), KEYS, ids=[f"{s}.{f.name}" for s, f in KEYS])


def refusal(sections: Sections) -> ConfigurationError:
    """The error, whose message is one line and survives pickling."""
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(sections)
    error = caught.value
    text = str(error)
    assert len(text.splitlines()) == 1
    assert str(pickle.loads(pickle.dumps(error))) == text
    assert text.startswith(f"{error.path}: found {error.found}; ")
    return error


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("name", shipped_configurations())
def test_shipped_configurations_are_read_and_written_back(name: str) -> None:
    sections = load_configuration(shipped_configuration(name))
    configuration = read_configuration(sections)
    again = configuration.sections()
    assert read_configuration(again) == configuration
    for section, values in sections.items():
        if section in SECTIONS:
            assert {key: again[section][key] for key in values} == values
    assert again.get("REGULARIZER") == sections.get("REGULARIZER")


def test_nothing_is_studiogans_default_and_is_written_back_whole() -> None:
    configuration = read_configuration({})
    for name, section in SECTIONS.items():
        assert getattr(configuration, name) == section()
    assert configuration.regularizers == ()
    again = configuration.sections()
    assert [*again] == [*SECTIONS]
    assert read_configuration(again) == configuration


def test_lists_and_a_regularizer_survive_being_written_back() -> None:
    sections = {
        "MODEL": {"apply_attn": True, "attn_g_loc": [2, 1], "attn_d_loc": [4]},
        "REGULARIZER": {"name": "gsr", "weight": 0.5},
    }
    configuration = read_configuration(sections)
    assert (configuration.MODEL.attn_g_loc, configuration.MODEL.attn_d_loc) == ((2, 1), (4,))
    assert configuration.regularizers == (RegularizerSettings("gsr", {"weight": 0.5}),)
    again = configuration.sections()
    assert again["MODEL"]["attn_g_loc"] == [2, 1]
    assert read_configuration(again) == configuration


@EVERY_KEY
def test_a_key_takes_its_default_and_not_available_is_unset(section: str, field: dataclasses.Field[Any]) -> None:
    written = "N/A" if field.default is None else field.default
    configuration = read_configuration({section: {field.name: written}})
    assert getattr(getattr(configuration, section), field.name) == field.default
    if field.default is None:
        assert read_configuration({section: {field.name: None}}) == configuration


@pytest.mark.parametrize("section", UNSUPPORTED)
def test_keys_that_are_not_supported_may_stand_at_their_defaults(section: str) -> None:
    values = {key: "N/A" if default is None else default for key, default in UNSUPPORTED[section].items()}
    assert read_configuration({section: values}) == read_configuration({})


def test_a_configuration_cannot_be_changed() -> None:
    configuration = read_configuration({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration.MODEL.z_dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("OPTIMIZATION", "g_lr", 1),
        ("LOSS", "m_p", -0.5),
        ("AUG", "ada_target", -1),
        ("AUG", "ada_initial_augment_p", 0),
        ("AUG", "ada_initial_augment_p", 1.0),
        ("MODEL", "g_ema_start", 0),
        ("MODEL", "g_ema_decay", 0.9999),
        ("MODEL", "attn_g_loc", []),
    ],
)
def test_values_at_the_edge_are_taken(section: str, key: str, value: Any) -> None:
    found = getattr(getattr(read_configuration({section: {key: value}}), section), key)
    assert found == (tuple(value) if isinstance(value, list) else value)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in UNSUPPORTED.items() for key in keys]
)
def test_every_unsupported_key_is_refused_with_advice(section: str, key: str) -> None:
    default = UNSUPPORTED[section][key]
    for value in (not default if isinstance(default, bool) else "something", 7, {"a": 1}):
        error = refusal({section: {key: value}})
        assert (error.path, error.found, error.allowed) == (f"{section}.{key}", repr(value), ELSEWHERE)
    assert "studiogan-gsr studiogan run" in ELSEWHERE


def test_zero_does_not_stand_for_false() -> None:
    assert refusal({"LOSS": {"apply_gp": 0}}).path == "LOSS.apply_gp"
    assert refusal({"MODEL": {"apply_g_sn": 0}}).path == "MODEL.apply_g_sn"


@pytest.mark.parametrize(
    ("sections", "path", "message"),
    [
        ({"MODLE": {}}, "MODLE", "did you mean MODEL?"),
        ({"REGULARISER": "gsr"}, "REGULARISER", "did you mean REGULARIZER?"),
        ({"optimization": {}}, "optimization", "did you mean OPTIMIZATION?"),
        ({"Z": {}}, "Z", "allowed: DATA, MODEL, LOSS"),
        ({"RUN": {"seed": 1}}, "RUN", "on the command line"),
        ({"MODEL": {"z_dims": 3}}, "MODEL.z_dims", "MODEL has no such key; did you mean z_dim?"),
        ({"LOSS": {"apply_fn": True}}, "LOSS.apply_fn", "did you mean apply_fm?"),
        ({"AUG": {"diffaug": True}}, "AUG.diffaug", "AUG has no such key"),
        ({"DATA": {"z_dim": 3}}, "DATA.z_dim", "DATA has no such key"),
        ({"MODEL": {3: 4}}, "MODEL.3", "MODEL has no such key"),
        ({"MODEL": None}, "MODEL", "expected: a mapping of keys"),
        ({"LOSS": ["hinge"]}, "LOSS", "expected: a mapping of keys"),
        ({"STYLEGAN": "N/A"}, "STYLEGAN", "expected: a mapping of keys"),
        ({"REGULARIZER": 3}, "REGULARIZER", "a plug-in's name"),
    ],
)
def test_unknown_sections_and_keys_are_refused_with_a_near_miss(sections: Sections, path: str, message: str) -> None:
    error = refusal(sections)
    assert error.path == path
    assert message in error.allowed


@pytest.mark.parametrize("value", [{"a": 1}, {}, [[1]], math.nan, math.inf, b"bytes", "no such value"], ids=str)
@EVERY_KEY
def test_no_key_takes_what_has_no_meaning(section: str, field: dataclasses.Field[Any], value: Any) -> None:
    if field.name == "name" and isinstance(value, str):
        return
    error = refusal({section: {field.name: value}})
    assert (error.path, error.found) == (f"{section}.{field.name}", repr(value))
    assert "allowed: " in error.allowed


@EVERY_KEY
def test_a_key_with_a_default_cannot_be_unset_and_kinds_do_not_mix(
    section: str, field: dataclasses.Field[Any]
) -> None:
    if field.default is not None:
        assert refusal({section: {field.name: "N/A"}}).found == "'N/A'"
    is_flag = isinstance(field.default, bool) or field.name == "nesterov"
    wrong: list[Any] = [1, 0, "true"] if is_flag else [True, False]
    for value in wrong:
        assert refusal({section: {field.name: value}}).path == f"{section}.{field.name}"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("OPTIMIZATION", "g_lr", "2e-4", "YAML reads this as text, write 2.0e-04"),
        ("OPTIMIZATION", "batch_size", "64", "YAML reads this as text, write 64"),
        ("LOSS", "cond_lambda", "1e-1", "a number, 0 or more, or N/A; YAML reads this as text"),
        ("OPTIMIZATION", "g_lr", 0, "a number above 0"),
        ("OPTIMIZATION", "g_lr", -0.1, "a number above 0"),
        ("OPTIMIZATION", "g_lr", [0.1], "a number above 0"),
        ("OPTIMIZATION", "d_weight_decay", -1, "a number, 0 or more"),
        ("OPTIMIZATION", "batch_size", 64.0, "a positive integer"),
        ("OPTIMIZATION", "batch_size", 0, "a positive integer"),
        ("OPTIMIZATION", "beta1", 1, "a number from 0 to below 1"),
        ("OPTIMIZATION", "type_", "adam", "one of Adam, SGD, RMSprop"),
        ("LOSS", "temperature", 0, "a number above 0"),
        ("LOSS", "lecam_released", True, "REGULARIZER: {name: lecam, released: true, "),
        ("LOSS", "lecam_released", False, "in place of the LOSS.lecam keys"),
        ("LOSS", "lecam_ema_start_iter", -1, "an integer, 0 or more"),
        ("LOSS", "adv_loss", "MH", "one of vanilla, logistic"),
        ("MODEL", "g_ema_decay", 1.0, "a number from 0 to below 1"),
        ("MODEL", "attn_g_loc", 2, "a list of block numbers, from 1"),
        ("MODEL", "attn_g_loc", [0], "a list of block numbers, from 1"),
        ("MODEL", "attn_g_loc", [True], "a list of block numbers, from 1"),
        ("MODEL", "attn_d_loc", [2, 2], "a list of block numbers, from 1"),
        ("MODEL", "attn_d_loc", [1.0], "a list of block numbers, from 1"),
        ("MODEL", "backbone", "stylegan2", "studiogan run"),
        ("MODEL", "g_cond_mtd", "cAdaIN", "studiogan run"),
        ("MODEL", "d_cond_mtd", "MH", "studiogan run"),
        ("DATA", "img_size", 256, "one of 16, 32, 64, 128; StudioGAN has more: `studiogan-gsr studiogan run`"),
        ("DATA", "img_size", 32.0, "one of 16, 32, 64, 128"),
        ("DATA", "name", "", "a data set's name"),
        ("AUG", "ada_aug_type", "bgcfnc", "studiogan run"),
        ("AUG", "ada_initial_augment_p", 1.1, "a number from 0 to 1"),
        ("AUG", "ada_target", -1.5, "a number from -1 to 1"),
        ("AUG", "ada_interval", 0, "a positive integer, or N/A"),
        ("PRE", "apply_rflip", "yes", "true or false"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(section: str, key: str, value: Any, message: str) -> None:
    error = refusal({section: {key: value}})
    assert (error.path, error.found) == (f"{section}.{key}", repr(value))
    assert message in error.allowed


_ADA = {"apply_ada": True, "ada_aug_type": "bgc", "ada_initial_augment_p": 0.0}
_CONTRAST = {"d_embed_dim": 4}
TOGETHER: list[tuple[Sections, str, str]] = [
    ({"MODEL": {"backbone": "big_resnet", "g_cond_mtd": "cBN"}}, "MODEL.g_shared_dim", "N/A"),
    ({"MODEL": {"backbone": "big_resnet", "z_dim": 90}}, "MODEL.z_dim", "90"),
    ({"DATA": {"img_size": 64}, "MODEL": {"backbone": "big_resnet", "z_dim": 128}}, "MODEL.z_dim", "128"),
    ({"MODEL": {"g_shared_dim": 8}}, "MODEL.g_shared_dim", "8"),
    ({"MODEL": {"apply_attn": True}}, "MODEL.attn_g_loc", "N/A"),
    ({"MODEL": {"apply_attn": True, "attn_d_loc": []}}, "MODEL.attn_g_loc", "N/A"),
    ({"MODEL": {"apply_attn": True, "attn_g_loc": [], "attn_d_loc": []}}, "MODEL.attn_g_loc", "[]"),
    ({"MODEL": {"apply_attn": True, "attn_g_loc": [4], "attn_d_loc": [1]}}, "MODEL.attn_g_loc", "[4]"),
    ({"MODEL": {"apply_attn": True, "attn_g_loc": [3], "attn_d_loc": [1, 5]}}, "MODEL.attn_d_loc", "[1, 5]"),
    ({"MODEL": {"apply_g_ema": True, "g_ema_start": 1}}, "MODEL.g_ema_decay", "N/A"),
    ({"MODEL": {"apply_g_ema": True, "g_ema_decay": 0.9}}, "MODEL.g_ema_start", "N/A"),
    ({"MODEL": {"d_cond_mtd": "AC"}}, "LOSS.cond_lambda", "N/A"),
    ({"MODEL": {"d_cond_mtd": "2C", **_CONTRAST}, "LOSS": {"temperature": 1}}, "LOSS.cond_lambda", "N/A"),
    ({"MODEL": {"d_cond_mtd": "2C"}, "LOSS": {"temperature": 1, "cond_lambda": 1}}, "MODEL.d_embed_dim", "N/A"),
    ({"MODEL": {"d_cond_mtd": "2C", **_CONTRAST}, "LOSS": {"cond_lambda": 1}}, "LOSS.temperature", "N/A"),
    (
        {"MODEL": {"d_cond_mtd": "D2DCE", **_CONTRAST}, "LOSS": {"cond_lambda": 1, "temperature": 1}},
        "LOSS.m_p",
        "N/A",
    ),
    (
        {
            "MODEL": {"d_cond_mtd": "2C", **_CONTRAST},
            "LOSS": {"cond_lambda": 1, "temperature": 1},
            "OPTIMIZATION": {"batch_size": 1},
        },
        "OPTIMIZATION.batch_size",
        "1",
    ),
    ({"LOSS": {"apply_wc": True}}, "LOSS.wc_bound", "N/A"),
    *(
        (
            {"LOSS": {"apply_lecam": True, **{key: 0 for key in _keys if key != missing}}},
            f"LOSS.{missing}",
            "N/A",
        )
        for _keys in [("lecam_lambda", "lecam_ema_start_iter", "lecam_ema_decay")]
        for missing in _keys
    ),
    ({"OPTIMIZATION": {"type_": "SGD", "nesterov": False}}, "OPTIMIZATION.momentum", "N/A"),
    ({"OPTIMIZATION": {"type_": "SGD", "momentum": 0.9}}, "OPTIMIZATION.nesterov", "N/A"),
    ({"OPTIMIZATION": {"type_": "RMSprop", "alpha": 0.9}}, "OPTIMIZATION.momentum", "N/A"),
    ({"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.9}}, "OPTIMIZATION.alpha", "N/A"),
    ({"AUG": {**_ADA, "apply_diffaug": True, "diffaug_type": "diffaug"}}, "AUG", "apply_diffaug and apply_ada"),
    ({"AUG": {"apply_diffaug": True}}, "AUG.diffaug_type", "W/O"),
    ({"AUG": {**_ADA, "ada_aug_type": "W/O"}}, "AUG.ada_aug_type", "W/O"),
    ({"AUG": {"apply_ada": True, "ada_aug_type": "bg"}}, "AUG.ada_initial_augment_p", "N/A"),
    ({"AUG": {**_ADA, "ada_target": 0.6, "ada_interval": 4}}, "AUG.ada_kimg", "N/A"),
    ({"AUG": {**_ADA, "ada_target": 0.6, "ada_kimg": 500}}, "AUG.ada_interval", "N/A"),
]


def test_what_a_key_needs_does_not_name_the_value_that_is_refused() -> None:
    error = refusal({"AUG": {"apply_diffaug": True}})
    assert error.found == "W/O"
    assert error.allowed == "AUG.apply_diffaug: True needs one of cr, diffaug"


@pytest.mark.parametrize(("sections", "path", "found"), TOGETHER, ids=[f"{i}-{t[1]}" for i, t in enumerate(TOGETHER)])
def test_keys_that_contradict_each_other_are_refused(sections: Sections, path: str, found: str) -> None:
    error = refusal(sections)
    assert (error.path, error.found) == (path, found)


@pytest.mark.parametrize(
    "sections",
    [
        {"MODEL": {"backbone": "big_resnet", "g_cond_mtd": "cBN", "g_shared_dim": 8}},
        {"MODEL": {"backbone": "big_resnet", "g_shared_dim": 8}},
        {"DATA": {"img_size": 128}, "MODEL": {"apply_attn": True, "attn_g_loc": [5], "attn_d_loc": [6]}},
        {"MODEL": {"apply_g_ema": True, "g_ema_decay": 0.9, "g_ema_start": 0}},
        {"MODEL": {"apply_attn": True, "attn_d_loc": [1]}},
        {"MODEL": {"d_cond_mtd": "D2DCE", **_CONTRAST}, "LOSS": {"cond_lambda": 1, "temperature": 1, "m_p": 0.9}},
        {"OPTIMIZATION": {"type_": "SGD", "momentum": 0.9, "nesterov": True}},
        {"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0, "alpha": 0.9}},
        {"AUG": _ADA},
        {"AUG": {**_ADA, "ada_target": 0.6, "ada_kimg": 500, "ada_interval": 4}},
        {"MODEL": {"d_cond_mtd": "PD"}, "OPTIMIZATION": {"batch_size": 1}},
    ],
    ids=str,
)
def test_keys_that_agree_are_read(sections: Sections) -> None:
    configuration = read_configuration(sections)
    for section, values in sections.items():
        for key, value in values.items():
            wanted = tuple(value) if isinstance(value, list) else value
            assert getattr(getattr(configuration, section), key) == wanted


def test_nesterov_without_momentum_is_refused() -> None:
    error = refusal({"OPTIMIZATION": {"type_": "SGD", "momentum": 0, "nesterov": True}})
    assert error.path == "OPTIMIZATION.momentum"
