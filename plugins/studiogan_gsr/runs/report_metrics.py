"""The metrics section of a report: a chart, a table of groups and classes, and how they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from studiogan_gsr.charts import metric_chart
from studiogan_gsr.evaluation.measure import METRICS, SHOWN_TIMES, as_text
from studiogan_gsr.pages import chart, comma_separated, copyable, latex, notes, paragraph, table, wide
from studiogan_gsr.runs.evaluate import terms_of
from studiogan_gsr.runs.evaluation_table import few_references, given_groups, standard_groups, values_of
from studiogan_gsr.runs.reported import ReportedRun
from studiogan_gsr.runs.table_rows import table_rows

_ROWS = 40  # shown in a table; longer tables are cut in the middle, but their CSV and LaTeX copies are complete


@dataclass(frozen=True)
class Results:
    """Evaluations by one backbone.

    by_run: (name of the run, result of `evaluate`).  order: labels by falling number of training images.
    """

    by_run: list[tuple[str, dict[str, Any]]]
    order: Sequence[int]

    @property
    def column(self) -> str:
        """Name of the backbone's Fréchet distance, such as FID."""
        return str(self.by_run[0][1]["column"])

    @property
    def metrics(self) -> list[str]:
        """The metrics that are shown."""
        return [name for name in (*METRICS, "lpips") if any(name in result["all"] for _, result in self.by_run)]

    def title(self, metric: str) -> str:
        """Return what a metric is called on the page."""
        titles = {"frechet": self.column, "lpips": "LPIPS", "kernel": f"kernel distance x {SHOWN_TIMES['kernel']}"}
        return titles.get(metric, metric.replace("_", " "))


def metrics_section(runs: Sequence[ReportedRun], order: Sequence[int]) -> list[tuple[str, Markup]]:
    """Return the section about what `evaluate` has measured; order: labels by falling number of training images."""
    measured = _comparable([run for run in runs if run.evaluations])
    if not measured:
        text = Markup("No run has been measured: <code>studiogan-gsr evaluate RUN</code>.")
        return [("Metrics", paragraph(text, note=True))]
    column = measured[0][1]["column"]
    results = Results([(name, result) for name, result in measured if result["column"] == column], order)
    first = results.by_run[0][1]
    replaced = first["protocol"].get("groups_replaced", ())
    texts = [standard_groups(len(first["training_images"]), replaced)] if first["groups"] else []
    texts += few_references(first, "the kernel distance")
    texts += [protocol_text(name, result) for name, result in results.by_run]
    other = [(name, result["column"]) for name, result in measured if result["column"] != column]
    texts += [f"{name} was measured with {theirs}, not {column}, and is left out." for name, theirs in other]
    texts += [f"{run.name} has not been measured." for run in runs if not run.evaluations]
    header, cells = _cells(results)
    content = (
        _chart(results)
        + _table(results, cells)
        + notes([*_warnings(results), *texts])
        + copyable("CSV", comma_separated(header, cells))
        + copyable("LaTeX", latex(header, cells))
    )
    return [("Metrics", content)]


def _chart(results: Results) -> Markup:
    """Return a chart of the metrics per class; nothing if no class has any."""
    result = results.by_run[0][1]
    counts, names = result["training_images"], result["class_names"]
    series = {
        results.title(metric): {
            name: [_mean(result, label, metric) for label in results.order] for name, result in results.by_run
        }
        for metric in ("kernel", "diversity", "recall", "precision")
        if any(values[metric]["mean"] is not None for _, result in results.by_run for values in result["classes"])
    }
    if not series:
        return Markup()
    drawn = metric_chart(series, [counts[y] for y in results.order], [names[y] for y in results.order])
    return chart(drawn, "Per class, by falling number of training images. Diversity: 1 is that of real images.")


def _cells(results: Results) -> tuple[list[str], list[list[object]]]:
    """Return a header and rows: all images, the groups, the classes."""
    first = results.by_run[0][1]
    counts, names = first["training_images"], first["class_names"]
    rows = table_rows(first["groups"], counts, names, first["protocol"].get("groups"))
    columns = [(metric, name, result) for metric in results.metrics for name, result in results.by_run]
    header = ["classes", "images", *(f"{results.title(metric)}, {name}" for metric, name, _ in columns)]
    cells: list[list[object]] = [
        [
            title,
            counts[key] if isinstance(key, int) else "",
            *(as_text(values_of(result, key), metric) for metric, _, result in columns),
        ]
        for key, title in rows
    ]
    return header, cells


def _table(results: Results, cells: Sequence[Sequence[object]]) -> Markup:
    """Return the table; a table of more than _ROWS rows is cut in the middle."""
    names = [name for _ in results.metrics for name, _ in results.by_run]
    spans = {"": 2} | {results.title(metric): len(results.by_run) for metric in results.metrics}
    if len(cells) > _ROWS:
        cells = [*cells[: _ROWS // 2], ["..."] * (2 + len(names)), *cells[-_ROWS // 2 :]]
    return wide(table(["classes", "images", *names], cells, spans))


def _warnings(results: Results) -> list[str]:
    """Return why the numbers of these runs may not be comparable."""
    texts = []
    if len({result["protocol"]["step"] for _, result in results.by_run}) > 1:
        steps = ", ".join(f"{name} at {result['protocol']['step']:,}" for name, result in results.by_run)
        texts.append(f"The runs were measured at different steps: {steps}.")
    if len({terms_of(result["protocol"]) for _, result in results.by_run}) > 1:
        texts.append("The runs were measured in different ways, and their numbers cannot be compared:")
    return texts


def _comparable(runs: Sequence[ReportedRun]) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, evaluation) for each run: its newest one by the newest protocol that all runs share.

    If no protocol is shared, it is the run's newest evaluation.  "All runs" are those with an evaluation by the
    backbone of the first run's newest evaluation.
    """
    if not runs:
        return []
    column = runs[0].evaluations[-1]["column"]
    shared = None
    for run in runs:
        terms = {terms_of(result["protocol"]) for result in run.evaluations if result["column"] == column}
        if terms:
            shared = terms if shared is None else shared & terms

    def newest(run: ReportedRun) -> dict[str, Any]:
        common = [result for result in run.evaluations if terms_of(result["protocol"]) in (shared or ())]
        last = {terms_of(result["protocol"]): place for place, result in enumerate(runs[0].evaluations)}
        common.sort(key=lambda result: last[terms_of(result["protocol"])])
        return (common or run.evaluations)[-1]

    return [(run.name, newest(run)) for run in runs]


def _mean(result: dict[str, Any], label: int, metric: str) -> float | None:
    mean = result["classes"][label][metric]["mean"]
    return None if mean is None else float(mean) * SHOWN_TIMES.get(metric, 1)


def protocol_text(name: str, result: dict[str, Any]) -> str:
    """Return how a run was measured, as one sentence that begins with its name."""
    protocol = result["protocol"]
    reference, preset = protocol["reference"], protocol.get("preset")
    split = reference["split"] if reference["split"] != "full" else "the whole set, training images among them (full)"
    more = [] if preset is None else [f"Protocol {preset['name']}: {preset['source']}; here, {_departures(preset)}."]
    text = (
        f"{name}: step {protocol['step']} ({protocol['checkpoint_rule']}); {protocol['images']:,} images a repeat, "
        f"repeats over seeds of noise and labels: {protocol['repeats']}; {reference['images']:,} images of "
        f"{split}; {protocol['backbone']}; batch norm: {protocol['batch_norm']} statistics, batches of "
        f"{protocol['batch_size']}; k = {protocol['neighbours']}; averaged generator: "
        f"{'yes' if protocol['averaged_generator'] else 'no'}; seeds {', '.join(map(str, protocol['seeds']))}; "
        f"{protocol['device']}."
    )
    return " ".join([text, *given_groups(result), *more])


def _departures(preset: dict[str, Any]) -> str:
    unknown = [f"unknown there: {name}" for name in preset["unknown"]]
    return "; ".join([*preset["options"], *unknown]) or "all its options"
