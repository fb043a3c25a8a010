"""The paper's tables as data."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.paths import BENCHMARKS, TABLES_FILE
from benchmarks.tables.notes import overrides_of
from benchmarks.tables.plan import reason_against
from benchmarks.tables.published import METRICS
from benchmarks.tables.rows import overlaid, read_tables
from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

TABLES = read_tables()


def test_every_table_that_the_paper_has_and_those_that_go_beyond_it_are_there() -> None:
    assert set(TABLES.tables) == {
        "lecam-diffaug", "cifar10-lt", "lsun-lt", "ada", "inaturalist-2019", "lsun-128", "contragan", "ablation",
        "cpu-study", "cpu-study-weights", "cpu-study-steps", "cpu-study-width", "cpu-study-2x2", "cpu-study-methods",
        "cpu-study-biggan", "later-work",
    }  # fmt: skip
    for name in ("cifar10-lt", "lsun-lt"):
        run = [row.sections for row in TABLES.tables[name].rows.values() if row.sections is not None]
        kinds = [(s["DATA"]["name"].rpartition("_rho")[2], s["MODEL"]["backbone"]) for s in run]
        assert set(kinds) == {(ratio, backbone) for ratio in ("100", "1000") for backbone in ("resnet", "big_resnet")}
        assert len(kinds) == 8


def test_overrides_of_a_regularizer_that_is_a_name_alone() -> None:
    made = overlaid({"REGULARIZER": "gsr"}, {"REGULARIZER": {"weight": 2}})
    assert made == {"REGULARIZER": {"name": "gsr", "weight": 2}}


def test_an_override_that_is_a_list_replaces_the_regularizers() -> None:
    listed = ["lecam", {"name": "gsr", "beta": 0.9}]
    made = overlaid({"REGULARIZER": {"name": "gsr", "weight": 2}}, {"REGULARIZER": listed})
    assert made == {"REGULARIZER": listed}
    assert made["REGULARIZER"][1] is not listed[1]


def test_rows_of_the_released_lecam_are_as_shipped_but_for_lecam() -> None:
    for name in ("LeCam as released, without gSR", "LeCam as released, gSR"):
        row = TABLES.tables["ablation"].rows[name]
        assert row.sections is not None
        assert row.configuration is not None
        shipped = load_configuration(shipped_configuration(row.configuration))
        loss, section = shipped["LOSS"], shipped.get("REGULARIZER")
        settings = {"released": True, "weight": loss["lecam_lambda"], "decay": loss["lecam_ema_decay"]}
        lecam = {"name": "lecam", **settings}
        assert row.sections["REGULARIZER"] == (lecam if section is None else [section, lecam])
        assert row.sections["LOSS"] == {**loss, "apply_lecam": False}
        apart = ("LOSS", "REGULARIZER")
        assert all(row.sections[key] == values for key, values in shipped.items() if key not in apart)
        assert overrides_of(row) == "LeCam as released"
        assert reason_against("studiogan", row) == ""


def test_lecam_under_regularizer_is_not_described_as_off() -> None:
    row = TABLES.tables["ablation"].rows["without gSR"]
    assert row.sections is not None
    sections = overlaid(row.sections, {"LOSS": {"apply_lecam": False}})
    assert overrides_of(dataclasses.replace(row, sections=sections)) == "LOSS.apply_lecam False, not True"
    sections["REGULARIZER"] = ["lecam"]
    assert overrides_of(dataclasses.replace(row, sections=sections)) == "LeCam under REGULARIZER"


def test_published_values_are_those_that_were_read() -> None:
    rows = TABLES.tables["lecam-diffaug"].rows.values()
    assert [row.published["fid"].value for row in rows] == ["31.73", "27.85", "30.62", "18.58"]
    assert [row.published["is"].value for row in rows] == ["7.18", "7.09", "6.80", "7.80"]
    unread = ("lsun-lt", "ada", "inaturalist-2019", "lsun-128", "contragan", "ablation")
    assert not any(row.published for name in unread for row in TABLES.tables[name].rows.values())
    assert not any(row.published for row in TABLES.tables["cifar10-lt"].rows.values() if "1000" in row.name)
    assert all(row.sections is None for row in TABLES.tables["later-work"].rows.values())
    for table in TABLES.tables.values():
        for row in table.rows.values():
            assert set(row.published) <= set(METRICS)


def test_tables_depart_from_the_papers_program_where_their_rows_do() -> None:
    for table in TABLES.tables.values():
        sections = [row.sections for row in table.rows.values() if row.sections is not None]
        lecam = any(r.name == "lecam" for s in sections for r in read_configuration(s).all_regularizers())
        lsun = any(s["DATA"]["name"].startswith("LSUN") for s in sections)
        of_data = {name for name, there in (("lecam", lecam), ("lsun", lsun)) if there}
        assert set(table.departures) & {"lecam", "lsun"} == of_data, table.name
        assert {"seeds", "bias"} <= set(table.departures) or not sections


def test_the_benchmarks_readme_lists_every_table() -> None:
    text = (BENCHMARKS / "README.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(TABLES.tables)


def test_a_row_and_its_baseline_differ_in_the_regularizer_alone() -> None:
    compared = 0
    for table in TABLES.tables.values():
        for row in table.rows.values():
            if row.baseline is None or row.sections is None:
                continue
            other = table.rows[row.baseline]
            assert other.sections is not None
            without = [{k: v for k, v in r.sections.items() if k != "REGULARIZER"} for r in (row, other)]  # type: ignore[union-attr]
            assert without[0] == without[1], (table.name, row.name)
            assert row.sections != other.sections
            assert (row.protocol, row.seeds) == (other.protocol, other.seeds)
            compared += 1
    assert compared > 20


def test_the_papers_protocol_is_the_papers() -> None:
    protocol = TABLES.tables["cifar10-lt"].rows["SNGAN, ratio 100"].protocol
    assert protocol is not None
    assert (protocol.every, protocol.images_while_training, protocol.select_on) == (2000, 10_000, "reference")
    assert (protocol.images, protocol.repeats, protocol.batch_norm, protocol.neighbours) == (50_000, 3, "batch", 5)


def test_an_override_replaces_keys_and_leaves_the_shipped_one_alone() -> None:
    sections = {"DATA": {"name": "a", "img_size": 32}}
    assert overlaid(sections, {"DATA": {"name": "b"}, "LOSS": {"x": 1}}) == {
        "DATA": {"name": "b", "img_size": 32}, "LOSS": {"x": 1},
    }  # fmt: skip
    assert sections == {"DATA": {"name": "a", "img_size": 32}}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("tables.ada.rows.SNGAN + ADA.configuration", "CIFAR10_LT/SNGAN-AD", "did you mean CIFAR10_LT/SNGAN-ADA"),
        (
            "tables.ada.rows.SNGAN + ADA.baseline",
            "SNGAN + AD",
            "did you mean SNGAN + ADA + gSR",
        ),
        (
            "tables.ada.rows.SNGAN + ADA.overrides",
            {"MODEL": {"z_dimm": 3}},
            "MODEL has no such key; did you mean z_dim",
        ),
        ("tables.ada.rows.SNGAN + ADA.overrides", {"MODEL": 3}, "a mapping with text keys"),
        ("tables.ada.rows.SNGAN + ADA.overrides", {"LOSS": ["hinge"]}, "a mapping with text keys"),
        (
            "tables.ada.rows.SNGAN + ADA.overrides",
            {"REGULARIZER": ["gsr", {"name": "lecam", "decay": 2}]},
            "REGULARIZER[1].decay: found 2",
        ),
        ("tables.ada.rows.SNGAN + ADA.overrides", {"REGULARIZER": []}, "an empty list"),
        (
            "tables.ada.rows.SNGAN + ADA.overrides",
            {"LOSS": {"lecam_released": True}},
            "REGULARIZER: {name: lecam, released: true, ",
        ),
        ("tables.ada.rows.SNGAN + ADA + gSR.overrides", {"REGULARIZER": {"weight": -1}}, "weight"),
        ("tables.ada.rows.SNGAN + ADA.seed", [1], "did you mean seeds"),
        ("tables.ada.rows.SNGAN + ADA.seeds", [1, 1], "integers from 0 to 2147483647, each once"),
        ("tables.ada.rows.SNGAN + ADA.published", {"fid": {"value": 3.0, "source": "memory"}}, "allowed: poster"),
        ("tables.ada.rows.SNGAN + ADA.published", {"fid": {"value": "low", "source": "poster"}}, "a number"),
        ("tables.ada.rows.SNGAN + ADA.published", {"fid": {"value": 37.2, "source": "poster"}}, "in quotes"),
        ("tables.ada.rows.SNGAN + ADA.published", {"kid": {"value": 1, "source": "poster"}}, "an unknown metric"),
        ("tables.ada.protocol", "papers", "allowed: paper, validation"),
        ("tables.later-work.rows.StyleGAN2-ADA, CIFAR10-LT.seeds", [0], "only a row with configuration has it"),
        ("protocols.paper.select_on", "test", "one of validation, reference"),
        ("protocols.paper.images", 0, "a positive integer"),
        ("protocols.paper.preset", "utol", "allowed: paper, utlo, timilsina, noisytwins, cbdm; did you mean utlo?"),
        ("tables.ada.rows.SNGAN + ADA.baseline", "SNGAN + ADA", "another row of this table"),
        ("tables.ada.rows.SNGAN + ADA.baseline", ["x"], "another row of this table"),
        ("tables.ada.departures", ["network", "nothing"], "allowed: a list of network, "),
        ("tables.ada.rows.SNGAN + ADA.seeds", [[1]], "integers from 0 to 2147483647, each once"),
        ("tables.ada.protocol", ["paper"], "allowed: paper, validation"),
        ("tables.ada.rows.SNGAN + ADA.published", {"fid": {"value": 3.0, "source": {}}}, "allowed: poster"),
        ("tables.../x", {"rows": {}}, "lowercase letters, digits and -"),
        ("protocols", None, "a mapping with text keys"),
        ("version", "1", "a positive integer"),
        ("table", {}, "did you mean tables"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(place: str, value: Any, message: str, tmp_path: Path) -> None:
    content = yaml.safe_load(TABLES_FILE.read_text())
    inner, keys = content, place.split(".", 1 if "/" in place else -1)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        read_tables(path)
    named = (
        keys[-2] if keys[-1] in ("overrides", "configuration") else keys[-1]
    )  # their values have places of their own
    assert named in str(caught.value)
