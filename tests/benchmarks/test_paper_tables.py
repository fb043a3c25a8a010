"""The paper's tables as data."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.paths import BENCHMARKS, TABLES_FILE
from benchmarks.tables import make_command
from benchmarks.tables.content import content_of
from benchmarks.tables.measured import measured
from benchmarks.tables.notes import overrides_of, part_note, regularizers_of
from benchmarks.tables.plan import reason_against
from benchmarks.tables.published import METRICS
from benchmarks.tables.rows import Table, overlaid, read_tables
from studiogan_gsr.datasets.counts import long_tailed_counts
from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.evaluation.protocols import PRESETS
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

TABLES = read_tables()


def test_every_table_that_the_paper_has_and_those_that_go_beyond_it_are_there() -> None:
    assert set(TABLES.tables) == {
        "lecam-diffaug", "cifar10-lt", "lsun-lt", "ada", "inaturalist-2019", "lsun-128", "contragan", "ablation",
        "cpu-study", "cpu-study-weights", "cpu-study-steps", "cpu-study-width", "cpu-study-2x2", "cpu-study-methods",
        "cpu-study-hosts", "cpu-study-long", "cpu-study-biggan", "later-work",
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


def test_later_work_has_its_values_with_data_set_and_protocol() -> None:
    rows = TABLES.tables["later-work"].rows
    parts = {row.part.name: row.part for row in rows.values() if row.part is not None}
    assert [(part.data, part.preset) for part in parts.values()] == [
        ("AnimalFaces_LT_rho25", "timilsina"), ("CIFAR100_LT_rho100_reversed", "timilsina"),
        ("CIFAR10_LT_rho100_reversed", "timilsina"), ("Flowers102_LT_rho100", "timilsina"),
        ("ImageNet_LT", "noisytwins"), ("iNaturalist2019", "noisytwins"),
    ]  # fmt: skip
    assert len(rows) == 4 * 6 + 2 * 5
    for row in rows.values():
        assert row.part is not None
        few = row.part.preset == "timilsina"
        metrics = (
            ["fid_few", "fid", "kid_few", "kid"] if few else ["fid", "fid_clip", "ifid_clip", "precision", "recall"]
        )
        assert list(row.published) == metrics
        assert {value.source for value in row.published.values()} == {row.part.source}
    published = rows["StyleGAN2-ADA + UTLO, CIFAR100-LT"].published
    assert [value.value for value in published.values()] == ["27.5", "11.7", "10.5", "5.8"]
    published = rows["StyleGAN2, iNaturalist-2019"].published
    assert [value.value for value in published.values()] == ["19.34", "3.33", "38.24", "0.74", "0.17"]
    # Sums over the values in the sources: a value that is changed by mistake changes one.
    sums = [sum(float(row.published[m].value) for row in rows.values() if m in row.published) for m in METRICS]
    assert sums == pytest.approx([707.45, 878.7, 170.8, 308.7, 0, 54.61, 392.28, 6.89, 4.53])


def test_few_shot_classes_of_later_work_are_the_rarest_of_our_data_sets() -> None:
    parts = {row.part.name: row.part for row in TABLES.tables["later-work"].rows.values() if row.part is not None}
    counts = long_tailed_counts(5000, 10, 100)[::-1]  # of `_reversed`
    assert parts["CIFAR10-LT"].groups() == {"few": [0, 1, 2, 3]}
    assert parts["CIFAR10-LT"].groups() == PRESETS["utlo"].groups("CIFAR10_LT", counts)
    assert parts["AnimalFaces-LT"].groups() == {"few": [*range(10, 20)]}
    assert parts["ImageNet-LT"].groups() == {}
    assert "few-shot: labels 0 to 29. Source" in part_note(parts["CIFAR100-LT"])


def test_what_a_note_says_of_gsr_in_later_work_follows_from_the_values() -> None:
    rows = TABLES.tables["later-work"].rows

    def worse(part: str, *metrics: str) -> set[bool]:
        pair = [rows[f"StyleGAN2-ADA{with_gsr}, {part}"].published for with_gsr in (" + gSR", "")]
        return {float(pair[0][metric].value) > float(pair[1][metric].value) for metric in metrics}

    for part in ("AnimalFaces-LT", "CIFAR100-LT", "Flowers-LT"):
        assert worse(part, "fid", "fid_few") == {True}
    assert worse("CIFAR10-LT", "fid", "fid_few") == {False}
    assert worse("AnimalFaces-LT", "kid", "kid_few") == {False}
    assert worse("ImageNet-LT", "fid", "fid_clip", "ifid_clip") == {False}
    assert worse("iNaturalist-2019", "fid") == {True}
    assert worse("iNaturalist-2019", "fid_clip") == {False}


def test_a_part_shows_the_columns_that_it_has_values_in(tmp_path: Path) -> None:
    table = TABLES.tables["later-work"]
    text = str(make_command.files(table, TABLES, tmp_path)["later-work.md"])
    part = text[text.index("## ImageNet-LT") : text.index("## iNaturalist-2019")]
    assert "|  | FID | FID_CLIP | iFID_CLIP | precision | recall |\n" in part
    assert "\n| StyleGAN2-ADA + gSR | 24.78 | 8.21 | 44.42 | 0.63 | 0.35 |\n" in part
    assert (
        "Our data set: `ImageNet_LT`. Protocol: `noisytwins`. Source: noisytwins. The README does not give " in part
    )
    assert "unknown |" not in text
    assert f"Protocol timilsina, {PRESETS['timilsina'].source}; " in text
    assert "split full, images 50,000, backbone inception; unknown: repeats, batch_norm, neighbours." in text
    assert all(sentence in text for sentence in PRESETS["noisytwins"].differs)
    assert TABLES.notes["stylegan2-gsr"] in text


def test_options_of_regularizers_that_are_not_as_shipped_are_described() -> None:
    rows = {**TABLES.tables["cpu-study-methods"].rows, **TABLES.tables["ablation"].rows}
    assert regularizers_of(rows["none of them"]) == regularizers_of(rows["LeCam as released, gSR"]) == ""
    assert regularizers_of(rows["weight 0.05"]) == "gsr's weight 0.05, not 0.5"
    assert regularizers_of(rows["all classes alike"]) == "gsr's beta None, not 0.999"
    assert regularizers_of(rows["exact norms"]) == "gsr's power_iterations 0, not the default"
    assert regularizers_of(rows["LeCam"]) == "lecam with weight 0.3, decay 0.99, start 1000"


def test_values_beside_a_row_are_another_rows(tmp_path: Path) -> None:
    study, papers = TABLES.tables["cpu-study-2x2"], TABLES.tables["lecam-diffaug"]
    content = content_of(study, TABLES, measured(study, tmp_path))
    place = content.header.index("published FID, beside")
    found = [row[place].partition(" ")[0] for row in content.rows]
    assert found == [row.published["fid"].value for row in papers.rows.values()]
    assert any("neither: SNGAN of lecam-diffaug; gSR: SNGAN + gSR of lecam-diffaug" in note for note in content.notes)


def row_protocols(table: Table) -> set[str]:
    return {row.protocol.name for row in table.rows.values() if row.protocol is not None}


def test_tables_depart_from_the_papers_program_where_their_rows_do() -> None:
    for table in TABLES.tables.values():
        sections = [row.sections for row in table.rows.values() if row.sections is not None]
        lecam = any(r.name == "lecam" for s in sections for r in read_configuration(s).all_regularizers())
        lsun = any(s["DATA"]["name"].startswith("LSUN") for s in sections)
        spectral = any(s["MODEL"].get("apply_g_sn") for s in sections)
        of_data = {name for name, there in (("lecam", lecam), ("lsun", lsun), ("spectral", spectral)) if there}
        assert set(table.departures) & {"lecam", "lsun", "spectral"} == of_data, table.name
        few = any(s["DATA"]["name"].startswith("CIFAR10_LT") for s in sections)
        assert ("few" in table.notes) == few
        assert ("paper" in table.notes) == (row_protocols(table) == {"paper"})
        assert {"seeds", "bias"} <= set(table.departures) or not sections


def test_departures_name_the_rows_that_are_as_released() -> None:
    found = {"released": set(), "released_bias_update": set()}
    for table in TABLES.tables.values():
        for row in table.rows.values():
            for settings in [] if row.sections is None else read_configuration(row.sections).all_regularizers():
                for option, rows in found.items():
                    if settings.options.get(option):
                        rows.add((table.name, row.name))
    assert found == {
        "released": {("ablation", f"LeCam as released, {gsr}") for gsr in ("gSR", "without gSR")},
        "released_bias_update": {("ablation", "the released bias update")},
    }
    assert "rows `LeCam as released` of the table `ablation`" in TABLES.departures["lecam"]
    assert "row `the released bias update` of the table `ablation`" in TABLES.departures["bias"]


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
        (
            "tables.ada.rows.SNGAN + ADA.published",
            {"fid_fev": {"value": "1", "source": "poster"}},
            "an unknown metric; allowed: fid, fid_few, kid, kid_few, is, fid_clip, ifid_clip, precision, recall; did "
            "you mean fid_few?",
        ),
        ("tables.ada.protocol", "papers", "allowed: paper, validation"),
        ("tables.cifar10-lt.rows.StyleGAN2.seeds", [0], "only a row with configuration has it"),
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
        ("tables.x-summary", {"rows": {}}, "not ending in -summary"),
        ("tables.ada.notes", ["papr"], "did you mean paper?"),
        ("tables.ada.summary", "yes", "true or false"),
        ("tables.cifar10-lt.summary", True, "only if every row has a configuration"),
        ("tables.ada.rows.SNGAN + ADA.beside", {"tabel": "lecam-diffaug"}, "did you mean table?"),
        ("tables.ada.rows.SNGAN + ADA.beside", {"table": "lecam-difaug"}, "did you mean lecam-diffaug?"),
        ("tables.ada.rows.SNGAN + ADA.beside", {"table": "lecam-diffaug", "row": "SNGN"}, "did you mean SNGAN?"),
        ("tables.ada.rows.SNGAN + ADA.beside", {"table": "ada", "row": "SNGAN + ADA"}, "allowed: nothing"),
        ("tables.later-work.parts.CIFAR10-LT.preset", "timilsnia", "did you mean timilsina?"),
        ("tables.later-work.parts.CIFAR10-LT.source", "timilsnia", "did you mean timilsina?"),
        ("tables.later-work.parts.CIFAR10-LT.data", "CIFAR10_LT_rho100_revrsed", "the form is <data set>_rho<ratio>"),
        ("tables.later-work.parts.CIFAR10-LT.data", "CIFAR10", "a long-tailed data set of this package"),
        (
            "tables.later-work.parts.CIFAR10-LT.dataset",
            "CIFAR10_LT",
            "an unknown key; allowed: data, preset, source, ",
        ),
        ("tables.later-work.parts.CIFAR10-LT.rows", {"gSR": {"fidd": "1"}}, "did you mean fid?"),
        ("tables.later-work.parts.CIFAR10-LT.rows", {"gSR": {"fid": 8.9}}, "allowed: a number in quotes"),
        ("tables.later-work.rows", {"StyleGAN2-ADA, CIFAR10-LT": {}}, "StyleGAN2-ADA, CIFAR10-LT exists"),
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
    if place.startswith(("tables.", "protocols.")):  # the others are right, and take time
        read = (keys[1], "ada", "lecam-diffaug")
        content["tables"] = {name: table for name, table in content["tables"].items() if name in read}
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        read_tables(path)
    assert "\n" not in str(caught.value)
    named = (
        keys[-2] if keys[-1] in ("overrides", "configuration") else keys[-1]
    )  # their values have places of their own
    assert named in str(caught.value)
