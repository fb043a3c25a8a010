"""The short form of a table, and what a table says of accuracies, from records that are made up of committed ones."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paths import EVIDENCE, README, RECORDS
from benchmarks.tables import make_command, records
from benchmarks.tables.content import content_of, gap_text, over_seeds
from benchmarks.tables.measured import keys_of, measured
from benchmarks.tables.rows import read_tables

TABLES = read_tables()
TABLE = TABLES.tables["cpu-study-2x2"]
# Rows of the study's 15,000 steps that were measured without a classifier, and the rows that have the same networks.
SOURCES = {"neither": "without gSR, 15,000 steps", "gSR": "weight 0.05, 15,000 steps"}
REAL = 12.0


def downstream(tail: float, step: int) -> dict[str, Any]:
    """What `studiogan-gsr downstream` would have measured; tail: accuracy in % of the way "filled"."""
    accuracies = {"real": REAL, "balanced": 20.0, "filled": tail, "generated": 9.0}
    ways = {
        way: {
            "all": {"mean": 0.5, "half_width": 0.01},
            "groups": {"tail": {"mean": accuracy / 100, "half_width": 0.01}},
            "description": f"images of the way {way}",
        }
        for way, accuracy in accuracies.items()
    }
    recipe = {"updates": 600, "width": 16, "batch_size": 128, "flip": True}
    protocol = {"recipe": recipe, "seeds": [0, 1, 2, 3, 4], "fill": 5000, "step": step, "data": "Folder_LT_rho100"}
    return {"ways": ways, "protocol": protocol, "training_images": [5000, 500, 50], "notes": []}


def kept(folder: Path, accuracies: dict[str, dict[int, float]]) -> Path:
    """Write a record for every accuracy of a row and a seed; return their folder.

    Everything else is that of the same run without a classifier.
    """
    for name, by_seed in accuracies.items():
        row, source = TABLE.rows[name], TABLES.tables["cpu-study-steps"].rows[SOURCES[name]]
        assert row.protocol is not None
        for seed, accuracy in by_seed.items():
            record = records.read(records.path_of(key := keys_of(source, "native")[seed], RECORDS), key)
            step = record.results["best"]["protocol"]["step"]
            made = dataclasses.replace(
                record,
                key=keys_of(row, "native")[seed],
                protocol=vars(row.protocol),
                hours={**record.hours, "downstream": 0.1},
                downstream=downstream(accuracy, step),
            )
            records.write(made, folder)
    return folder


def cells(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two of four rows, three and two of five seeds."""
    return kept(tmp_path_factory.mktemp("some"), {"neither": {0: 14.0, 1: 16.0, 2: 18.0}, "gSR": {0: 19.0, 2: 24.0}})


def test_a_summary_has_few_digits_and_says_what_is_missing(some: Path) -> None:
    found = measured(TABLE, some)
    lines = make_command.summary_lines(TABLE, TABLES, found, "")
    header = cells(lines[:1], "")
    assert header == [
        "", "FD", "FD of the tail", "recall of the tail", "diversity of the tail", "norm of the tail",
        "accuracy of the tail, %", "seeds", "FID in the paper",
    ]  # fmt: skip
    assert cells(lines, "neither")[6:] == ["16 ± 2", "3 of 5", "31.73 ± 0.08"]
    assert cells(lines, "gSR")[6:] == ["22 ± 4", "2 of 5", "27.85 ± 0.05"]
    assert cells(lines, "LeCam + DiffAug + gSR")[1:] == [*"------", "0 of 5", "18.58 ± 0.10"]
    assert cells(lines, "real images alone")[1:] == [*[""] * 5, "12", "", ""]
    assert cells(lines, "real images, classes drawn equally often")[1:] == [*[""] * 5, "20", "", ""]
    distances = found["neither"].values("best", "all", "frechet")
    assert cells(lines, "neither")[1] == over_seeds(distances, 1) == f"{sum(distances.values()) / 3:.0f} ± 4"
    norms = [record.norms["best"] for record in found["neither"].by_seed.values()]
    assert cells(lines, "neither")[5].startswith(f"{sum(sum(of[-3:]) / 3 for of in norms) / 3:.1f} ± ")
    assert "Preliminary: so far 5 of 20 runs have a record." in lines[-1]
    assert "gsr's weight 0.05, not 0.5" in lines[-1]
    assert "FD-EffNetLite0, not FID" in lines[-1]


def test_differences_in_a_summary_are_paired_and_bold_where_they_are_clear(some: Path, tmp_path: Path) -> None:
    lines = make_command.summary_lines(TABLE, TABLES, measured(TABLE, some), "")
    # Of the seeds 0 and 2: +5 and +6; t(0.975, 1) = 12.706, the deviation of the mean 0.5.
    assert cells(lines, "gSR, minus neither")[6:] == ["+5.5 [-0.9, +11.9]", "2 of 5", "-3.88"]
    assert cells(lines, "LeCam + DiffAug + gSR, minus LeCam + DiffAug")[6:] == ["-", "0 of 5", "-12.04"]
    closer = kept(tmp_path, {"neither": {0: 14.0, 2: 18.0}, "gSR": {0: 19.0, 2: 23.1}})
    lines = make_command.summary_lines(TABLE, TABLES, measured(TABLE, closer), "")
    assert cells(lines, "gSR, minus neither")[6] == "**+5.05 [+4.41, +5.69]**"


def test_a_cell_of_fewer_seeds_than_its_row_says_so(some: Path) -> None:
    found = measured(TABLE, some)
    record = found["neither"].by_seed[0]
    best = {**record.results["best"], "groups": {}}
    without = dataclasses.replace(record, results={**record.results, "best": best})
    by_seed = {**found["neither"].by_seed, 0: without}
    found["neither"] = dataclasses.replace(found["neither"], by_seed=by_seed)
    row = cells(make_command.summary_lines(TABLE, TABLES, found, ""), "neither")
    assert row[2].endswith(" (2)")
    assert row[7] == "3 of 5"
    assert [i for i, cell in enumerate(row) if "(" in cell] == [2, 3]


def test_make_table_writes_the_summary_to_a_file_and_into_pages(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, out = tmp_path / "README.md", tmp_path / "tables"
    before, mark, short = "# Title\n\ntext\n", "<!-- summary: cpu-study-2x2 -->", "<!-- rows: cpu-study-2x2 -->"
    readme.write_text(f"{before}{mark}\nSTALE\n<!-- /summary -->\n{short}\nSTALE\n<!-- /rows -->\nafter\n")
    monkeypatch.setattr(make_command, "PAGES", [readme])
    monkeypatch.setattr(make_command, "TABLES", out)
    argv = ["cpu-study-2x2", "--records", str(some), "--out", str(out)]
    assert make_command.main(argv) == 0
    text = readme.read_text()
    assert text.startswith(f"{before}{mark}\n\n|  | FD | ")
    whole, rows = text.split(f"*\n\n<!-- /summary -->\n{short}\n")
    assert cells(rows.splitlines(), "gSR") == cells(whole.splitlines(), "gSR")
    assert rows.endswith("|\n<!-- /rows -->\nafter\n")
    assert "minus" not in rows
    assert "STALE" not in text
    assert "](tables/cpu-study-2x2.md)" in text
    page = (out / "cpu-study-2x2-summary.md").read_text()
    assert "](cpu-study-2x2.md)" in page
    assert cells(page.splitlines(), "gSR") == cells(whole.splitlines(), "gSR")
    assert make_command.main([*argv, "--check"]) == 0
    readme.write_text(text.replace("| 3 of 5 |", "| 4 of 5 |"))
    capsys.readouterr()
    assert make_command.main([*argv, "--check"]) == 1
    assert capsys.readouterr().out == f"stale: {readme}\n"
    (out / "cpu-study-steps-summary.md").touch()
    make_command.main([*argv, "--check"])
    assert "belongs to no table" in capsys.readouterr().out
    assert mark in EVIDENCE.read_text()  # which the test of committed tables compares
    assert short in README.read_text()


def test_accuracies_have_a_table_of_their_own_in_markdown_and_are_all_in_the_csv_file(some: Path) -> None:
    content = content_of(TABLE, TABLES, measured(TABLE, some))
    made = make_command.files(TABLE, TABLES, some)
    lines = make_command.markdown(TABLE, content).splitlines()
    headers = [lines[i - 1] for i, line in enumerate(lines) if line.startswith("|---")]
    ways = ["real", "balanced", "filled", "generated"]
    assert [header.count("|") for header in headers] == [15, 10, 12, 7]
    assert [header.count(", filled") for header in headers] == [0, 2, 0, 2]
    assert [header.count(", real") for header in headers] == [0, 2, 0, 0]  # no generator changes them
    first, *rows = csv.reader(io.StringIO(made["cpu-study-2x2.csv"] or ""))
    table = {row[0]: dict(zip(first, row, strict=True)) for row in rows}
    assert [table["gSR"][f"accuracy of the tail, {way}"] for way in ways] == ["12", "20", "21.5 ± 3.5", "9"]
    assert table["gSR"]["accuracy of the tail, filled, over the baseline"] == "+5.50 [-0.85, +11.85]"
    assert (made["cpu-study-2x2.tex"] or "").count("accuracy of the tail, ") == 2 * len(ways)


def test_a_table_without_records_is_titled_by_its_protocol(tmp_path: Path) -> None:
    assert "FD-EffNetLite0, best" in content_of(TABLE, TABLES, measured(TABLE, tmp_path)).header
    ada = TABLES.tables["ada"]
    assert "FID, best" in content_of(ada, TABLES, measured(ada, tmp_path)).header
    rows = {
        name: dataclasses.replace(row, protocol=dataclasses.replace(row.protocol, backbone="theirs"))
        for name, row in ada.rows.items()
        if row.protocol is not None
    }
    other = dataclasses.replace(ada, rows=rows)  # of a package that is not installed
    header = content_of(other, TABLES, measured(other, tmp_path)).header
    assert {"FD-theirs, best", "KD-theirs of the tail x 1000, best", "IS-theirs, best"} <= set(header)


def test_digits_follow_the_deviation_and_the_half_width() -> None:
    assert over_seeds({0: 35.4, 1: 37.4}, 1) == "36 ± 1"
    assert over_seeds({0: 0.89501, 1: 0.89601}, 1, places=2) == "0.90 ± 0.00"
    assert over_seeds({0: 0.89501}, 1) == "0.895"
    assert gap_text((-1.0915, 0.0624), 2, places=2) == "-1.09 [-1.15, -1.03]"
    assert gap_text((-21.4, 11.2), 2) == "-21 [-33, -10]"
