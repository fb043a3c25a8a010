"""The page about runs side by side."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from studiogan_gsr.charts import correlation_chart, curves_chart, metric_chart, norms_chart
from studiogan_gsr.cli import main
from studiogan_gsr.evaluation.measure import METRICS
from studiogan_gsr.evaluation.selection import best
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.runs.report_metrics import _comparable
from studiogan_gsr.runs.reported import open_runs
from studiogan_gsr.runs.run_names import short_names
from studiogan_gsr.runs.table_rows import table_rows
from support.host import Host, configure
from support.runs import PLAIN, SNGAN, arguments, changed, one_thread, write


def reported(*runs: Path, out: Path) -> str:
    with one_thread():
        assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert not re.search(r'(src|href|url)\s*[=(]\s*"?https?:', page)  # needs no network
    assert page.count("<svg") == page.count("</svg>")
    return page


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_pair_of_runs_is_shown_side_by_side(pair: tuple[Path, Path], tmp_path: Path, pixels: str) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name) for run in pair]
    with one_thread():
        for run in runs:
            small = ["--images", "96", "--repeats", "2", "--device", "cpu"]
            assert main(["evaluate", str(run), "--backbone", pixels, *small]) == 0
    page = reported(*runs, out=tmp_path / "page")
    wanted = ["Configurations", "Losses", "Spectral norms by class", "Metrics", "Samples", "Nearest training images"]
    assert headings(page) == wanted
    assert "<td>REGULARIZER</td><td>-</td><td>gsr</td>" in page
    assert "<td>REGULARIZER.gsr.weight</td><td>-</td><td>0.5</td>" in page
    assert "<td>DATA.name</td>" not in page  # the same in both
    text = html.unescape(re.search("<summary>CSV</summary><pre>(.*?)</pre>", page, re.DOTALL)[1])
    header, *rows = csv.reader(io.StringIO(text))
    assert header[:4] == ["classes", "images", "FD-Pixels, plain", "FD-Pixels, gsr"]
    assert len(header) == 2 + 2 * len(METRICS)
    assert [row[0] for row in rows] == [
        "all",
        "medium",
        "few",
        "head",
        "middle",
        "tail",
        "0 (many)",  # the only class with over 100 images
        *map(str, range(1, 10)),
    ]
    result = json.loads(next((runs[1] / "evaluations").glob("step=4-pixels-*.json")).read_text())
    assert float(rows[0][3].split(" ± ")[0]) == pytest.approx(result["all"]["frechet"]["mean"], rel=1e-3)
    assert rows[6][1] == str(result["training_images"][0])
    latex = re.search("<summary>LaTeX</summary><pre>(.*?)</pre>", page, re.DOTALL)[1]
    assert latex.count("\\\\") == 1 + len(rows)
    assert page.count("<img ") == 2 + 2
    assert "class 9 (" in page
    assert "few: under 20 training images; head, middle, tail: thirds of the classes by number of" in page
    assert "A class has only 40 reference images" in page
    assert "with fewer than 50 reference images in a class they say little about it" in page


def test_classes_have_their_names_on_the_page_and_in_the_terminal(
    named: Path, tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(named, tmp_path / "run")
    with one_thread():
        argv = ["evaluate", str(run), "--backbone", pixels, "--images", "96", "--repeats", "1", "--device", "cpu"]
        assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "\nzero (label 9) " in printed
    page = reported(run, out=tmp_path / "page")
    assert "<td>zero (label 9)</td><td>30</td>" in page
    assert "\nzero (label 9),30," in html.unescape(page)  # in the copies, too
    assert "three (label 7, 40 images), two (label 8, 34 images), zero (label 9, 30 images)" in page
    assert "class zero (label 9, 30 images): median distance" in page
    assert "zero  30<" in page  # below the points of each metric
    assert ">30  zero<" in page  # in the legend of the norms


def test_a_kernel_distance_is_the_same_number_on_the_page_and_in_the_terminal(
    pair: tuple[Path, Path], tmp_path: Path, pixels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(pair[1], tmp_path / "run")
    with one_thread():
        argv = ["evaluate", str(run), "--backbone", pixels, "--images", "96", "--repeats", "2", "--device", "cpu"]
        assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "FD-Pixels" in line).split()
    every = next(line for line in lines if line.startswith("all ")).replace(" ± ", "±").split()
    kernel = every[header.index("KD-Pixels")].replace("±", " ± ")
    result = json.loads(next((run / "evaluations").glob("*.json")).read_text())["all"]["kernel"]
    assert kernel == f"{1000 * result['mean']:.4g} ± {1000 * result['deviation']:.2g}"
    page = reported(run, out=tmp_path / "page")
    assert f"<td>{kernel}</td>" in page
    assert '<th colspan="1">kernel distance x 1000</th>' in page
    assert ">kernel distance x 1000<" in page  # the chart's title


def test_runs_at_different_steps_are_pointed_out(pair: tuple[Path, Path], tmp_path: Path, pixels: str) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name) for run in pair]
    assert "at different steps" not in reported(*runs, out=tmp_path / "page")
    shutil.rmtree(runs[1] / "checkpoints" / "step=4")
    with one_thread():
        for run in runs:
            small = ["--images", "96", "--repeats", "1", "--device", "cpu"]
            assert main(["evaluate", str(run), "--backbone", pixels, *small]) == 0
    page = reported(*runs, out=tmp_path / "page")
    assert "The runs are at different steps: plain at 4, gsr at 2." in page
    assert "The runs were measured at different steps: plain at 4, gsr at 2." in page


def test_the_device_is_that_of_the_last_start_in_records_of_any_age(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = shutil.copytree(pair[0], tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["starts"] = [{"step": 0, "device": "an older card"}, {"step": 2, "device": "a newer card"}]
    record["device"] = "what an older version wrote"
    (run / "run.json").write_text(json.dumps(record))
    assert "device a newer card" in reported(run, out=tmp_path / "page")
    record["starts"] = [{"step": 0}]
    (run / "run.json").write_text(json.dumps(record))
    assert "device what an older version wrote" in reported(run, out=tmp_path / "page")


def test_a_run_that_was_not_measured_says_what_to_do(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page = reported(pair[0], out=tmp_path / "page")
    assert "No run has been measured: <code>studiogan-gsr evaluate RUN</code>" in page
    assert "<td>DATA.name</td><td>Digits_LT_rho50</td>" in page  # of one run, every key
    assert "Spectral norms by class" in headings(page)


@pytest.mark.parametrize("folder", ["evaluations", "downstream"])
@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"protocol": {}}', '{"protocol": {"time": "now"}}'])
def test_a_result_that_is_damaged_is_told(
    folder: str, content: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(pair[0], tmp_path / "run")
    (run / folder).mkdir()
    (run / folder / "result.json").write_text(content)
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / folder / 'result.json'}: damaged, or of another version" in line
    assert "move it away" in line
    assert not (tmp_path / "page").exists()


def test_runs_are_compared_by_a_protocol_that_they_have_in_common(
    pair: tuple[Path, Path], tmp_path: Path, pixels: str
) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name) for run in pair]

    def evaluated(run: Path, *options: str) -> None:
        with one_thread():
            argv = ["evaluate", str(run), "--backbone", pixels, "--repeats", "1", "--device", "cpu"]
            assert main([*argv, *options]) == 0

    warning = "measured in different ways, and their numbers cannot be compared"
    evaluated(runs[0], "--images", "40")
    evaluated(runs[1], "--images", "48")
    assert warning in reported(*runs, out=tmp_path / "page")
    evaluated(runs[0], "--images", "48", "--split", "test")
    assert warning in reported(*runs, out=tmp_path / "page")
    evaluated(runs[1], "--images", "40")
    evaluated(runs[1], "--images", "56")
    page = reported(*runs, out=tmp_path / "page")
    assert warning not in page
    assert page.count("(last); 40 images a repeat") == 2


def test_a_protocol_that_was_measured_again_is_the_newest(pair: tuple[Path, Path]) -> None:
    def evaluation(images: int, step: int) -> dict[str, Any]:
        return {"column": "FID", "protocol": {"images": images, "step": step}}

    (run,) = open_runs(pair[:1])
    run = dataclasses.replace(run, evaluations=[evaluation(1, 2), evaluation(2, 4), evaluation(1, 4)])
    ((_, newest),) = _comparable([run])
    assert newest == evaluation(1, 4)


def test_runs_that_were_measured_while_training_show_how_it_went(tmp_path: Path, pixels: str) -> None:
    runs = []
    for name, images in (("one", "24"), ("other", "24"), ("odd", "32")):
        more = ("--evaluate", images, "--backbone", pixels)
        with one_thread():
            assert main(arguments(write(tmp_path / "c.yaml", SNGAN), tmp_path / name, *more)) == 0
        runs.append(tmp_path / name)
    page = reported(*runs, out=tmp_path / "page")
    assert "FD-Pixels while training" in headings(page)
    assert "24 images an evaluation, against 200 of validation" in page
    chosen = best(runs[0])
    assert chosen is not None
    assert f"one: the best is step {chosen['step']}, {chosen['all']['frechet']:.4g}." in page
    assert "odd was measured by another rule while it trained, and is left out." in page
    lines = [json.loads(line) for line in (runs[1] / "selection.jsonl").read_text().splitlines()]
    for line in lines:
        del line["rule"]["batch_size"]  # of an older version
    (runs[1] / "selection.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for order in (runs, [runs[1], runs[0]]):
        left_out = f"{order[1].name} was measured by another rule while it trained, and is left out."
        assert left_out in reported(*order, out=tmp_path / "page")


def test_runs_on_different_data_are_not_compared(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "c.yaml", changed(PLAIN, DATA={"name": "Digits_LT_rho10"}))
    with one_thread():
        assert main(arguments(other, tmp_path / "other", "--steps", "1")) == 0
    capsys.readouterr()
    assert main(["report", str(pair[0]), str(tmp_path / "other"), "--out", str(tmp_path / "page")]) == 2
    assert "other: was trained on Digits_LT_rho10, plain on Digits_LT_rho50: compare like" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_runs_with_other_class_counts_of_one_name_are_not_compared(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(pair[1], tmp_path / "other")
    record = json.loads((other / "run.json").read_text())
    record["data"]["class_counts"][3] += 1
    (other / "run.json").write_text(json.dumps(record))
    argv = ["report", str(pair[0]), str(other), "--out", str(tmp_path / "page")]
    assert main(argv) == 2
    message = "other: class 3 had 37 training images, in plain 36 (both on Digits_LT_rho50): compare like runs"
    assert message in capsys.readouterr().err
    (other / "run.json").unlink()
    assert main(argv) == 2
    message = "other: its class counts are not recorded, those of plain are: compare like runs"
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_a_configuration_is_refused_without_an_option_that_a_report_lacks(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(pair[0] / "checkpoints" / "step=4", tmp_path / "alone")
    assert main(["report", str(alone), "--out", str(tmp_path / "page")]) == 2
    message = (
        f"{alone}: found a checkpoint without a config.yaml; copy the run's into this folder, or name it with "
        "--config, which evaluate, generate, export and spectrum have"
    )
    assert message in capsys.readouterr().err
    shutil.copy(pair[0] / "config.yaml", alone)
    assert "step 4 of 4; no regularizer" in reported(alone, out=tmp_path / "page")


def test_other_images_than_the_run_was_trained_on_are_not_shown_as_its_own(digits: Path, tmp_path: Path) -> None:
    images = shutil.copytree(digits, tmp_path / "images")
    sections = changed(PLAIN, DATA={"name": "Folder_LT_rho4"})
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run", "--steps", "1")
    argv[argv.index("--data") + 1] = str(images)
    with one_thread():
        assert main(argv) == 0
    assert "pairs of a sample and its nearest training image" in reported(tmp_path / "run", out=tmp_path / "page")
    (images / "train" / "9" / "000.png").rename(images / "train" / "9" / "other.png")
    page = reported(tmp_path / "run", out=tmp_path / "page")
    assert "pairs of a sample and its nearest training image" not in page
    assert f"run: no training images: {images}: found other training images than the run was trained on" in page


@pytest.mark.host
def test_a_run_of_studiogan_is_reported(checkout: Checkout, digits: Path, tmp_path: Path) -> None:
    outcome = Host(checkout).run(configure(tmp_path), digits, tmp_path / "out")
    assert outcome.status == 0, outcome.output
    page = reported(outcome.save, out=tmp_path / "page")
    assert "host studiogan; seed 3; device CPU, 1 thread" in page
    assert "Losses" in headings(page)
    (log,) = outcome.save.glob("statistics/*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    theirs = outcome.losses()
    for ours, name in (("g_loss", "gen_loss"), ("d_loss", "dis_loss")):
        assert [line[ours] for line in lines] == pytest.approx(theirs[name])
    assert "Spectral norms by class" in headings(page)  # the hooks wrote them
    assert "Nearest training images" in headings(page)


def test_a_group_with_the_classes_of_another_row_has_no_row_of_its_own() -> None:
    """With few classes, thirds and shots are often the same."""
    every = ["many", "medium", "few", "head", "middle", "tail"]
    assert table_rows(every, [300, 100, 40, 15], ["cat", "ship", "truck", "horse"]) == [
        ("all", "all"),
        ("medium", "medium"),
        ("head", "head"),
        (0, "cat (label 0, many)"),
        (1, "ship (label 1)"),
        (2, "truck (label 2, middle)"),
        (3, "horse (label 3, few, tail)"),
    ]
    shown = [group for group in every if group != "few"]  # no class has few images
    assert table_rows(shown, [300, 300, 50, 50, 40, 40], None) == [
        ("all", "all"),
        ("many", "many, head"),
        ("medium", "medium"),
        ("middle", "middle"),
        ("tail", "tail"),
    ]
    assert table_rows(["medium", "head"], [50], ["cat"]) == [("all", "all, medium, head"), (0, "cat (label 0)")]
    given = {"rare": [1, 2]}
    assert table_rows(["few", "rare"], [300, 9, 8], None, given) == [("all", "all"), ("few", "few, rare")]


def test_names_of_runs_are_short_and_different() -> None:
    def names(*paths: str) -> list[str]:
        return short_names([(Path(path), "Folder_LT") for path in paths])

    times = "2026_11_27_12_40_19", "2026_11_27_12_39_52"
    assert names(f"/s/Folder_LT-sg-plain-train-{times[0]}", f"/s/Folder_LT-sg-gsr-train-{times[1]}", "/runs/gsr") == [
        "sg-plain",
        "sg-gsr",
        "gsr",
    ]
    same = [f"/s/Folder_LT-gsr-train-{time}" for time in times]
    assert names(*same, "/runs/plain") == [*(f"gsr-{time}" for time in times), "plain"]
    assert names("/seed0/a/gsr", "/seed1/a/gsr", "/seed1/a/plain") == ["seed0/a/gsr", "seed1/a/gsr", "plain"]
    assert names("/a/gsr", "/a/gsr") == ["a/gsr", "a/gsr"]


def test_a_run_with_a_long_name_is_called_by_its_configuration(pair: tuple[Path, Path], tmp_path: Path) -> None:
    long = "Digits_LT_rho50-SNGAN-gSR-train-2026_11_27_12_39_52"
    page = reported(pair[0], shutil.copytree(pair[1], tmp_path / long), out=tmp_path / "page")
    assert "<h1>plain and SNGAN-gSR</h1>" in page
    assert f"<tr><th>SNGAN-gSR</th><td>folder {long}; step 4 of 4" in page
    assert page.count(long) == 1


def test_a_run_without_numbers_in_its_log_says_why(pair: tuple[Path, Path], tmp_path: Path) -> None:
    runs = [shutil.copytree(run, tmp_path / run.name) for run in pair]
    lines = (runs[0] / "log.jsonl").read_text().splitlines(keepends=True)
    (runs[0] / "log.jsonl").write_text(lines[-1])
    (runs[1] / "log.jsonl").write_text("")
    page = reported(*runs, out=tmp_path / "page")
    for what in ("losses", "norms"):
        assert f"No {what} in the log of gsr. Training logs them at every print interval (--print-freq, by" in page
    assert page.count("<svg") == 2  # of the run with a single line
    assert 'id="line2d_' in page
    (runs[0] / "log.jsonl").write_text("")
    page = reported(*runs, out=tmp_path / "page")
    assert page.count("<svg") == 0
    assert "No losses in the log of plain, gsr. " in page


def test_a_class_is_in_one_gallery_and_only_the_tail_is_compared_with_its_images(
    digits: Path, tmp_path: Path
) -> None:
    """Of three or four classes, all but one were called rare, and one was in head and tail."""
    data, counts = tmp_path / "data", {"cat": 60, "horse": 12, "ship": 30, "truck": 20}
    for digit, (name, number) in enumerate(counts.items()):
        for split in ("train", "valid"):
            shutil.copytree(digits / split / str(digit), data / split / name)
        for path in sorted((data / "train" / name).iterdir())[number:]:
            path.unlink()
    sections = changed(PLAIN, DATA={"name": "Folder_LT", "num_classes": 4})
    argv = arguments(write(tmp_path / "c.yaml", sections), tmp_path / "run", "--steps", "1")
    argv[argv.index("--data") + 1] = str(data)
    with one_thread():
        assert main(argv) == 0
    captions = re.findall("<figcaption>(.*?)</figcaption>", reported(tmp_path / "run", out=tmp_path / "page"))
    galleries = [re.findall(r"(\w+) \(label", caption) for caption in captions]
    assert galleries == [["cat", "ship", "truck", "horse"], ["horse"]]


def test_an_axis_of_zeros_begins_at_zero() -> None:
    zeros = {"plain": [0.0, 0.0, None], "gsr": [0.0, 0.0, 0.0]}
    for drawn in (
        metric_chart({"recall": zeros}, [5, 3, 1]),
        curves_chart([("run", [1, 2], {"d_loss": [0.0, 0.0]})], "loss"),
    ):
        axis = re.findall(r">(\N{MINUS SIGN}?[\d.]+)</text>", drawn.decode())
        assert "0.0" in axis or "0.00" in axis
        assert not [number for number in axis if number.startswith("\N{MINUS SIGN}")]


def test_charts_show_every_run_and_long_names_inside() -> None:
    runs = {f"a-run-with-a-name-that-is-very-long-indeed-{number}": [0.1, 0.2] for number in range(9)}
    drawn = metric_chart({"recall": runs}, [5, 3], ["a" * 60, "$b$"]).decode()
    assert len(set(re.findall(r"indeed-\d", drawn))) == 9
    assert "a" * 18 not in drawn
    assert ">$b$  3<" in drawn  # no formula
    panels = [(name * 3, [1, 2], [[0.1, 0.2], [0.3, 0.4]]) for name in runs]
    titles = re.findall(r">([^<]*)</text>", norms_chart(panels, [5, 3], "svg").decode())
    assert max(map(len, titles)) <= 40


def test_labels_of_one_matrix_do_not_run_into_the_next() -> None:
    drawn = correlation_chart([("one", [[1.0]]), ("other", [[1.0]])]).decode()
    panels = []
    for panel in re.findall(r'<g id="axes_\d+">.*?<path d="(.*?)"', drawn, re.DOTALL):
        across = [float(x) for x in re.findall(r"[ML] (\S+) \S+", panel)]
        panels.append((min(across), max(across)))
    upright = re.findall(r'<text[^>]*(?: x="|translate\()([\d.]+)[^>]*rotate\(-90[^>]*>group<', drawn)
    assert (len(panels), len(upright)) == (3, 2)  # the third is the scale's
    for place in map(float, upright):
        assert all(not left - 2 < place < right + 2 for left, right in panels)


@pytest.mark.parametrize("classes", [1, 10, 100, 1010])
def test_charts_take_any_number_of_classes(classes: int) -> None:
    counts = [1 + 5000 // (label + 1) for label in range(classes)]
    some = [None if label % 7 == 3 else label / classes for label in range(classes)]
    drawn = metric_chart({"recall": {"a": some, "b": some}, "one": {"a": some}, "two": {"a": some}}, counts)
    assert b"</svg>" in drawn
    norms = norms_chart([("run", [1, 2], [[0.1] * classes, [0.2] * classes])], counts, "svg").decode()
    legend = norms[norms.index('id="legend_1"') :]
    assert legend.count("<text") - 2 == min(classes, 10)  # beside its title of two lines


def test_names_with_markup_are_text_in_every_page(digits: Path, tmp_path: Path, pixels: str) -> None:
    data, name = tmp_path / "data", "two<b>&amp;"
    for split in ("train", "valid"):
        for label in range(4):
            shutil.copytree(digits / split / str(label), data / split / (name if label == 2 else str(label)))
    run = tmp_path / "run<b>&amp;"
    argv = arguments(
        write(tmp_path / "c.yaml", changed(SNGAN, DATA={"name": "Folder_LT_rho4", "num_classes": 4})), run
    )
    argv[argv.index("unused")] = str(data)
    with one_thread():
        assert main(argv) == 0
        assert main(["spectrum", str(run)]) == 0
        small = ["--images", "32", "--repeats", "1", "--device", "cpu"]
        assert main(["evaluate", str(run), "--backbone", pixels, *small]) == 0
    assert main(["data", "show", "Folder_LT_rho4", "--data", str(data), "--out", str(tmp_path / "show")]) == 0
    pages = {
        "spectrum": (run / "spectrum" / "index.html").read_text(),
        "show": (tmp_path / "show" / "index.html").read_text(),
    }
    pages["report"] = reported(run, out=tmp_path / "page")
    for kind, page in pages.items():
        assert "<b>" not in page, kind
        assert "&lt;b&gt;&amp;amp;" in page, kind
