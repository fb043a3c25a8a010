"""Notes under a table: sources of published values, how ours were measured, and how that differs from the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.tables.measured import Measured
from benchmarks.tables.published import Part
from benchmarks.tables.records import Record
from benchmarks.tables.rows import Protocol, Row, Table, Tables
from studiogan_gsr.evaluation.filled import CONFIDENCE
from studiogan_gsr.evaluation.protocols import OPTIONS, PRESETS, Preset
from studiogan_gsr.runs.downstream_table import legend
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration


def notes_of(table: Table, tables: Tables, found: dict[str, Measured]) -> list[str]:
    """Return notes: sources of published values, our protocol, and how it differs from the paper's."""
    rows = list(table.rows.values())
    values = [value for row in rows for of in (row, beside(row, tables)) if of for value in of.published.values()]
    sources = dict.fromkeys(value.source for value in values)
    notes = [f"Published, {name}: {tables.sources[name]}." for name in sources]
    if "poster" in sources:
        notes.append("Published deviations are over repeated sampling of one checkpoint, not over training seeds.")
    pairs = [f"{row.name}: {row.beside.row} of {row.beside.table}" for row in rows if row.beside is not None]
    if pairs:
        notes.append(f"Published beside, of other data, widths and steps: {'; '.join(pairs)}.")
    presets = dict.fromkeys(row.part.preset for row in rows if row.part is not None)
    notes += [preset_note(name, PRESETS[name]) for name in presets]
    kept = [record for ours in found.values() for record in ours.by_seed.values()]
    if kept:
        notes.append(
            "Ours: mean ± standard deviation over training seeds, each averaged over sampling seeds. Over the "
            f"baseline: mean paired difference [{CONFIDENCE:.0%} confidence interval, Student's t]; about one in "
            "twenty such intervals misses the true value. Lower distances (FID, FD, KID, KD) and higher IS, recall "
            "and diversity are better; for the few images of a tail, the kernel distance is the more reliable one."
        )
        notes.append(
            "Tail: the rarest third of the classes. Diversity in tail classes: 1 for real images. Norm of the tail: "
            "the largest exact spectral norm of a class over layers, gain and bias, averaged over the tail's classes."
        )
    notes += dict.fromkeys(_how(record, tables.protocols.get("paper")) for record in kept)
    with_accuracy = [record.downstream for record in kept if record.downstream is not None]
    notes += dict.fromkeys(line for result in with_accuracy for line in legend([("", result)]))
    notes += [f"Not as shipped: {text}." for text in _by_text(rows, overrides_of)]
    if changed := _by_text(rows, regularizers_of):
        notes.append(f"Regularizers, not as shipped: {'; '.join(changed)}.")
    if table.departures:
        notes.append(
            f"Not as the paper's program: {'; '.join(tables.departures[name] for name in table.departures)}."
        )
    if any(row.sections is not None and not found[row.name].by_seed for row in rows):
        notes.append("A row with 0 seeds has not been trained here.")
    notes += [f"{row.name}: {row.note}." for row in rows if row.note]
    return notes + [tables.notes[name] for name in table.notes]


def _by_text(rows: Iterable[Row], described: Callable[[Row], str]) -> list[str]:
    """Return each text that describes rows, with the names of these rows."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if text := described(row):
            names.setdefault(text, []).append(row.name)
    return [f"{text} ({'; '.join(of)})" for text, of in names.items()]


def beside(row: Row, tables: Tables) -> Row | None:
    """Return the row of another table whose published values are shown beside a row; None without one."""
    return None if row.beside is None else tables.tables[row.beside.table].rows[row.beside.row]


def part_note(part: Part) -> str:
    """Return a sentence on a part: data set, protocol, groups of classes, source."""
    groups = "; ".join(f"{name}-shot: {_labels(labels)}" for name, labels in part.groups().items())
    return (
        f"Our data set: `{part.data}`. Protocol: `{part.preset}`{f'; {groups}' if groups else ''}. "
        f"Source: {part.source}." + (f" {part.note[0].upper()}{part.note[1:]}." if part.note else "")
    )


def _labels(labels: Sequence[int]) -> str:
    """Return the labels of a group, a run of them by its ends, as in `part_note`."""
    if len(labels) > 2 and labels[-1] - labels[0] == len(labels) - 1:
        return f"labels {labels[0]} to {labels[-1]}"
    return f"label{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels))}"


def preset_note(name: str, preset: Preset) -> str:
    """Return sentences on a protocol of others: options, what is unknown, and what differs from ours."""
    options = {option: getattr(preset, option) for option in OPTIONS}
    known = {option: value for option, value in options.items() if value is not None}
    told = [
        f"{option} {value:,}" if isinstance(value, int) else f"{option} {value}" for option, value in known.items()
    ]
    unknown = f"; unknown: {', '.join(preset.unknown)}" if preset.unknown else ""
    return (
        f"Protocol {name}, {preset.source}; {preset.generator}; {', '.join(told)}{unknown}. "
        f"How ours differs with the same options: {' '.join(preset.differs)}"
    )


def overrides_of(row: Row) -> str:
    """Return keys that differ from the shipped configuration, except REGULARIZER's; "" for none."""
    if row.sections is None or row.configuration is None:
        return ""
    shipped = load_configuration(shipped_configuration(row.configuration))
    lecam = next((settings for settings in regularizer_settings(row.sections) if settings.name == "lecam"), None)

    def described(path: str, value: object, before: object) -> str:
        if path == "LOSS.apply_lecam" and lecam is not None:
            return "LeCam as released" if lecam.options.get("released") else "LeCam under REGULARIZER"
        return f"{path} {value}, not {before}"

    return ", ".join(
        described(f"{section}.{key}", value, shipped.get(section, {}).get(key, "the default"))
        for section, values in row.sections.items()
        for key, value in (values.items() if section != "REGULARIZER" else ())
        if shipped.get(section, {}).get(key) != value
    )


def regularizers_of(row: Row) -> str:
    """Return the regularizers' options that the shipped configuration does not have; "" for none.

    LeCam in place of the host's is not among them: `overrides_of` has it.
    """
    if row.sections is None or row.configuration is None:
        return ""
    shipped = load_configuration(shipped_configuration(row.configuration))
    before = {settings.name: settings.options for settings in regularizer_settings(shipped)}
    points = []
    for settings in regularizer_settings(row.sections):
        if settings.name in before:
            theirs = before[settings.name]
            points += [
                f"{settings.name}'s {option} {value}, not {theirs.get(option, 'the default')}"
                for option, value in settings.options.items()
                if theirs.get(option, ...) != value
            ]
        elif settings.options and not shipped.get("LOSS", {}).get("apply_lecam"):
            options = ", ".join(f"{option} {value}" for option, value in settings.options.items())
            points.append(f"{settings.name} with {options}")
    return ", ".join(points)


def _how(record: Record, paper: Protocol | None) -> str:
    """Return how a record's numbers were made, and how that differs from the paper's program."""
    protocol, measured, rank = record.protocol, record.results["best"]["protocol"], record.ranks[0]
    reference = measured["reference"]
    points = []
    for key, value in vars(paper).items() if paper is not None else ():
        if key != "name" and protocol.get(key) != value:
            points.append(f"{key} {protocol.get(key)}, not {value}")
    versions = ", ".join(f"{name} {number}" for name, number in rank["packages"].items())
    return (
        f"Ours: {record.data['name']}, {sum(record.data['class_counts']):,} images of {reference['size']} pixels; "
        f"{_host(record)}, {record.steps:,} steps; {rank['device']}; "
        f"{measured['repeats']} x {measured['images']:,} images, "
        f"against {reference['images']:,} of {reference['split']}, by {measured['backbone']}; best: of every "
        f"{protocol['every']:,} steps, on {protocol['images_while_training']:,} images against "
        f"{protocol['select_on']}; {versions}."
        + (f" Not the paper's protocol: {'; '.join(points)}." if points else "")
    )


def _host(record: Record) -> str:
    host = record.host
    if host["name"] == "native":
        return "native host"
    changed = f", changed in {', '.join(host['changed_files'])}" if host["changed_files"] else ""
    return f"StudioGAN {str(host['commit'])[:7]}{changed}"
