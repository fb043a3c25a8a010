"""The section of a report about downstream accuracy: tables of ways and runs, and how they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from studiogan_gsr.pages import comma_separated, copyable, latex, notes, paragraph, table, wide
from studiogan_gsr.runs.downstream import terms_of
from studiogan_gsr.runs.downstream_table import ACCURACY, OVER_REAL, Results, cells, legend
from studiogan_gsr.runs.reported import ReportedRun

_ROWS = 40  # shown in a table; longer tables are cut in the middle, but their CSV and LaTeX copies are complete


def downstream_section(runs: Sequence[ReportedRun]) -> list[tuple[str, Markup]]:
    """Return the section about what `downstream` has measured; an empty list if it has measured no run.

    Results of other protocols than the newest that most runs share are left out, because they cannot be compared.
    """
    measured = [run for run in runs if run.downstream]
    if not measured:
        return []
    results, left_out = _comparable(measured)
    content, copies = Markup(), Markup()
    for what in (ACCURACY, OVER_REAL):
        header, rows = cells(results, what)
        shown = rows if len(rows) <= _ROWS else [*rows[: _ROWS // 2], ["..."] * len(header), *rows[-_ROWS // 2 :]]
        content += paragraph(f"{what[0].upper()}{what[1:]}:") + wide(table(header, shown))
        copies += copyable(f"CSV, {what}", comma_separated(header, rows))
        copies += copyable(f"LaTeX, {what}", latex(header, rows))
    texts = [*legend(results), *(_checkpoint(name, result["protocol"]) for name, result in results)]
    texts += [f"{name} was measured by another protocol, and is left out." for name in left_out]
    texts += [f"{run.name} has not been measured: studiogan-gsr downstream." for run in runs if not run.downstream]
    return [("Downstream accuracy", content + notes(texts) + copies)]


def _comparable(runs: Sequence[ReportedRun]) -> tuple[Results, list[str]]:
    """Return the results of the protocol that most runs share, of several the newest; and the names of other runs."""
    by_terms: dict[str, dict[int, dict[str, Any]]] = {}  # by place in `runs`, because names may be equal
    newest: dict[str, str] = {}
    for place, run in enumerate(runs):
        for result in run.downstream:  # oldest first
            terms = terms_of(result["protocol"])
            by_terms.setdefault(terms, {})[place] = result
            newest[terms] = max(newest.get(terms, ""), result["protocol"]["time"])
    shared = by_terms[max(by_terms, key=lambda terms: (len(by_terms[terms]), newest[terms]))]
    results = [(runs[place].name, result) for place, result in shared.items()]
    return results, [run.name for place, run in enumerate(runs) if place not in shared]


def _checkpoint(name: str, protocol: dict[str, Any]) -> str:
    return (
        f"{name}: step {protocol['step']} ({protocol['checkpoint_rule']}); images of seed {protocol['image_seed']}, "
        f"batch norm: {protocol['batch_norm']} statistics; averaged generator: "
        f"{'yes' if protocol['averaged_generator'] else 'no'}; classifiers: {'; '.join(protocol['devices'])}."
    )
