"""The model card of an exported generator: Markdown with the header that a model hub reads.

Everything in it is from the run's records; what they do not say is not in the card, or is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from studiogan_gsr.evaluation.samples import shown_classes
from studiogan_gsr.hosts.studiogan.generators import StudioGANGenerator
from studiogan_gsr.runs.evaluation_table import table_cells, table_notes
from studiogan_gsr.runs.exported import CONFIGURATION, RECORD, SAMPLES
from studiogan_gsr.runs.report_metrics import protocol_text
from studiogan_gsr.runs.trained import Trained

_LISTED = 20  # up to this many classes, each has a row in the table of training images
_LICENSE = "license: unknown"


def model_card(trained: Trained, record: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> str:
    """Return the card.

    record: the content of export.json.  evaluations: results of `evaluate` for this generator.
    """
    name = (trained.run or trained.folder).resolve().name
    data, model = trained.configuration.DATA, trained.configuration.MODEL
    sections = [
        _header(trained, record),
        f"# {_text(name)}",
        f"A class-conditional GAN for {_text(data.name)}: backbone {_text(model.backbone)}, {data.img_size} x "
        f"{data.img_size} pixels, {data.num_classes} classes. Exported by studiogan-gsr {version('studiogan-gsr')}.",
        f"![Generated images]({SAMPLES})",
        _caption(trained),
        "## Use",
        _use(trained),
        "## Training images",
        *_training_images(trained),
        "## Regularizers",
        *_regularizers(trained, record),
        "## Metrics",
        *_metrics(evaluations),
        "## Training",
        _training(trained, record),
        "## Limits",
        _limits(trained),
    ]
    return "\n\n".join(sections) + "\n"


def _header(trained: Trained, record: dict[str, Any]) -> str:
    tags = ["gan", "class-conditional-image-generation", "long-tailed", str(trained.configuration.MODEL.backbone)]
    content = {
        "library_name": "studiogan-gsr",
        "license": "unknown",
        "tags": [*tags, *dict.fromkeys(entry["name"] for entry in record["regularizers"])],
        "datasets": [trained.configuration.DATA.name],
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"---\n{text.replace(_LICENSE, f'{_LICENSE}  # choose one before you publish')}---"


def _caption(trained: Trained) -> str:
    counts = trained.data.get("class_counts")
    labels = shown_classes(counts or [0] * len(trained.classes))
    rows = [_text(trained.classes[y]) + (f" ({counts[y]:,})" if counts else "") for y in labels]
    what = "classes, with their numbers of training images" if counts else "classes"
    return f"Not selected: the first ten images of each class shown. From the top, the {what}: {', '.join(rows)}."


def _use(trained: Trained) -> str:
    """Return how to load the generator: three lines of Python."""
    size = trained.configuration.DATA.img_size
    labels = [0, trained.configuration.DATA.num_classes - 1]
    lines = [
        "```python",
        "from studiogan_gsr import load_generator",
        'generator = load_generator("DIR")  # this folder',
        f"images = generator({labels}, seed=0)  # uint8 (2, 3, {size}, {size}), of labels or names of classes",
        "```",
        "",
        "`studiogan-gsr generate DIR --out IMAGES --images 100` writes images of every class to files.",
    ]
    if isinstance(trained.generator, StudioGANGenerator):
        lines[-1] += (
            " The network is built by PyTorch-StudioGAN, of which a checkout is needed: "
            "`studiogan-gsr studiogan fetch`."
        )
    return "\n".join(lines)


def _training_images(trained: Trained) -> list[str]:
    data, counts, classes = trained.data, trained.data.get("class_counts"), trained.classes
    name = ("data set", trained.configuration.DATA.name)
    if not counts:
        return [_facts([name]), "The numbers of training images are not recorded."]
    facts = [
        name,
        ("images", f"{sum(counts):,}"),
        (
            "largest and smallest class",
            f"{max(counts):,} and {min(counts):,} images, ratio {max(counts) / max(1, min(counts)):.4g}",
        ),
        ("SHA-256 of their names and labels", data.get("images_sha256", "not recorded")),
        ("preprocessing", ", ".join(f"{key} {value}" for key, value in data.get("preprocessing", {}).items())),
    ]
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    if len(order) > _LISTED:
        ends = (f"{_text(classes[y])} ({counts[y]:,})" for y in (*order[:5], *order[-5:]))
        return [_facts(facts), f"The five largest and the five smallest: {', '.join(ends)}; all are in `{RECORD}`."]
    return [_facts(facts), _table(["label", "class", "images"], [[y, classes[y], f"{counts[y]:,}"] for y in order])]


def _regularizers(trained: Trained, record: dict[str, Any]) -> list[str]:
    parts = [
        f"`{entry['name']}` ({_text(entry['plugin'].partition(' [')[0])}):\n\n{_facts(entry['options'].items())}"
        for entry in record["regularizers"]
    ]
    sections = trained.configuration.sections()
    switched_on = [
        f"`{section}.{key}`"
        for section in ("LOSS", "AUG")
        for key, value in sections.get(section, {}).items()
        if key.startswith("apply_") and value is True
    ]
    parts = parts or ["None." if "regularizers" in trained.record else "Not recorded."]
    return [
        *parts,
        f"Switched on in `{CONFIGURATION}`: {', '.join(switched_on) or 'no further loss, no augmentation'}.",
    ]


def _metrics(evaluations: Sequence[dict[str, Any]]) -> list[str]:
    if not evaluations:
        return ["This generator has not been measured (`studiogan-gsr evaluate`)."]
    parts = []
    for result in evaluations:
        header, *rows = table_cells(result)
        parts.append(_table(["classes", *header[1:]], rows))
        parts.append("\n".join(f"- {_text(note)}" for note in table_notes(result)))
        parts.append(_text(protocol_text("Protocol", result)))
    return parts


def _training(trained: Trained, record: dict[str, Any]) -> str:
    optimization, starts, log = trained.configuration.OPTIMIZATION, record["starts"], trained.log
    facts = [
        ("checkpoint", f"step {trained.step:,} of {optimization.total_steps:,}; {_rule(trained)}"),
        ("generator", "the average of the weights (EMA)" if trained.averaged else "as trained, not an average"),
        ("batch size", optimization.batch_size),
        ("seed", "not recorded" if record["seed"] is None else record["seed"]),
        ("host", record["host"] or "not recorded"),
    ]
    if log and "seconds" in log[-1]:
        facts.append(("time", f"{log[-1]['seconds'] / 3600:.2g} hours"))
    for start in starts:
        used = ", ".join(f"{name} {number}" for name, number in start.get("versions", {}).items())
        facts.append((f"from step {start['step']:,}", f"{start.get('device', 'unknown device')}; {used}"))
        if "checkpoint" in start:
            facts[-1] = (facts[-1][0], f"{facts[-1][1]}; started from {start['checkpoint']}")
    return _facts(facts)


def _rule(trained: Trained) -> str:
    if trained.rule != "best":
        return "the last" if trained.rule == "last" else "named by the user"
    if trained.chosen is None:
        return "the best by the metrics that StudioGAN trained with"
    rule = trained.chosen["rule"]
    return (
        f"the best of the evaluations while training: {rule['best']}, {rule['images']:,} images against "
        f"{rule['reference']['images']:,} of {rule['select_on']}"
    )


def _limits(trained: Trained) -> str:
    counts = trained.data.get("class_counts")
    lines = [
        "Running batch-norm statistics make these images; metrics may use those of each batch (see their protocol).",
        "One training run: another seed gives other numbers.",
        "Nothing was checked beyond the metrics above. The images inherit the biases and the terms of the data set.",
    ]
    if counts and len(set(counts)) > 1:
        rarest = _text(trained.classes[counts.index(min(counts))])
        lines.insert(
            0,
            f"Images of classes with few training images ({rarest} has the fewest, {min(counts):,}) may resemble one "
            "another, or be copies of training images; `studiogan-gsr report` shows the nearest ones.",
        )
    return "\n".join(f"- {line}" for line in lines)


def _facts(pairs: Iterable[tuple[str, object]]) -> str:
    return _table(
        ["", ""], [[name, ", ".join(map(str, value)) if isinstance(value, list) else value] for name, value in pairs]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a text in one line, its Markdown escaped."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(str(value).split()))
