"""When does a class collapse, and do the spectral norms tell in advance?

    python -m benchmarks.studies.collapse TABLE [TABLE ...]           prints the study
    python -m benchmarks.studies.collapse TABLE [TABLE ...] --keep    writes results/collapse.md and .svg

It reads the evaluations that the table's runs made while they trained.  In every one of them each class has the
largest exact spectral norm of its gains and biases, and the diversity of its generated images.

A class has collapsed at an evaluation if, from there to the end of the run, its diversity is below BELOW times that
of the run's median class.  Diversities are averaged over three neighbouring evaluations, because the images are few;
and the last two evaluations alone do not count, because one of few images can make both of them low.
An alarm at a threshold is the first evaluation at which `exploding` names the class.  It is in time if it is not
after the collapse, and false if the class has not collapsed by the end of the run, though it may later.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from benchmarks.paths import RECORDS, RESULTS
from benchmarks.tables.measured import measured
from benchmarks.tables.records import Record
from benchmarks.tables.rows import must_be, read_tables
from studiogan_gsr.charts import Band, bands_chart
from studiogan_gsr.errors import GSRError, RequestError, in_one_line
from studiogan_gsr.evaluation.filled import interval
from studiogan_gsr.files import write_atomically
from studiogan_gsr.regularizers.norms import THRESHOLD, exploding

BELOW = 0.8
BOUNDS = (0.7, 0.8, 0.9)  # of BELOW, to see how much rests on it
THRESHOLDS = tuple(round(1.05 + 0.05 * i, 2) for i in range(20))
SET_ON = (0, 1)  # the seeds that choose the threshold


@dataclass(frozen=True, eq=False)
class ClassCourse:
    """A class of one run over its evaluations.

    row, seed: the run.  label: the class.  images: its training images.  regularized: whether the run had gSR.
    steps: of the evaluations.  norms: the largest norm of each class, (steps, classes), and start: before training.
    diversity: of each class, (steps, classes).
    """

    row: str
    seed: int
    label: int
    images: int
    regularized: bool
    steps: Sequence[int]
    norms: Sequence[Sequence[float]]
    start: Sequence[float]
    diversity: Sequence[Sequence[float]]

    def own_norms(self) -> list[float]:
        return [norms[self.label] for norms in self.norms]

    def relative_diversity(self) -> list[float]:
        """Return the diversity over that of the median class, each averaged with its two neighbours in time."""
        single = [of_classes[self.label] / median(of_classes) for of_classes in self.diversity]
        return [mean(single[max(0, place - 1) : place + 2]) for place in range(len(single))]

    def collapse(self, below: float = BELOW) -> int | None:
        """Return the step of the first evaluation at which the class has collapsed; None if it has not."""
        relative = self.relative_diversity()
        low = 0
        while low < len(relative) and relative[-1 - low] < below:
            low += 1
        return self.steps[-low] if low > 2 else None

    def alarm(self, threshold: float) -> int | None:
        """Return the step of the first evaluation at which the class's norm explodes; None if it never does."""
        for step, norms in zip(self.steps, self.norms, strict=True):
            if self.label in exploding(norms, self.start, threshold):
                return step
        return None

    def half_way(self) -> tuple[float, float]:
        """Return the steps at which the norm has risen, and the diversity fallen, by half of what it does in all.

        The norm rises from its start to its highest; the diversity falls from its highest to its lowest after that.
        NaN for a norm that never rises.
        """
        norms, diversity = [self.start[self.label], *self.own_norms()], [math.nan, *self.relative_diversity()]
        steps = [0, *self.steps]
        top = norms.index(max(norms))
        peak = max(range(1, len(diversity)), key=lambda place: diversity[place])
        bottom = min(range(peak, len(diversity)), key=lambda place: diversity[place])
        return _crossing(steps[: top + 1], norms[: top + 1]), _crossing(
            steps[peak : bottom + 1], diversity[peak : bottom + 1]
        )


def _crossing(steps: Sequence[int], values: Sequence[float]) -> float:
    """Return the step at which values are first half-way from the first to the last, between evaluations linearly."""
    half = (values[0] + values[-1]) / 2
    if len(values) == 1:
        return math.nan
    rising = values[-1] > values[0]
    for place in range(1, len(values)):
        if (values[place] >= half) if rising else (values[place] <= half):
            share = (half - values[place - 1]) / ((values[place] - values[place - 1]) or 1)
            return steps[place - 1] + share * (steps[place] - steps[place - 1])
    return float(steps[-1])


@dataclass(frozen=True)
class Alarms:
    """Alarms at one threshold, counted over classes of runs.

    in_time, late, missed: of the classes that collapse.  false, quiet: of those that do not.
    ahead: steps from each alarm in time to the collapse.
    """

    threshold: float
    in_time: int
    late: int
    missed: int
    false: int
    quiet: int
    ahead: list[int]

    @property
    def score(self) -> float:
        """Share of collapses with an alarm in time, less the share of other classes with a false alarm."""
        collapses, others = self.in_time + self.late + self.missed, self.false + self.quiet
        return self.in_time / max(1, collapses) - self.false / max(1, others)


def alarms(courses: Sequence[ClassCourse], threshold: float, below: float = BELOW) -> Alarms:
    """Count the alarms at a threshold."""
    pairs = [(course.collapse(below), course.alarm(threshold)) for course in courses]
    ahead = [fell - rang for fell, rang in pairs if fell is not None and rang is not None]
    collapses = sum(fell is not None for fell, _ in pairs)
    false = sum(fell is None and rang is not None for fell, rang in pairs)
    return Alarms(
        threshold=threshold,
        in_time=sum(steps >= 0 for steps in ahead),
        late=sum(steps < 0 for steps in ahead),
        missed=collapses - len(ahead),
        false=false,
        quiet=len(pairs) - collapses - false,
        ahead=[steps for steps in ahead if steps >= 0],
    )


def best_threshold(courses: Sequence[ClassCourse], below: float = BELOW) -> float | None:
    """Return the threshold of the highest score, the lowest on a tie; None if no class collapses."""
    if all(course.collapse(below) is None for course in courses):
        return None
    return max(THRESHOLDS, key=lambda threshold: (alarms(courses, threshold, below).score, -threshold))


def courses_of(record: Record, row: str) -> list[ClassCourse]:
    """Return the courses of a run's classes; none of a record without diversities, which older ones are."""
    lines = record.course
    diversity = [line.get("class_diversity") or [None] for line in lines]
    if any(value is None for of_classes in diversity for value in of_classes):
        return []
    names = {regularizer["name"] for rank in record.ranks for regularizer in rank["regularizers"]}
    return [
        ClassCourse(
            row=row,
            seed=record.seed,
            label=label,
            images=images,
            regularized="gsr" in names,
            steps=[line["step"] for line in lines],
            norms=[line["class_norms"] for line in lines],
            start=record.norms["start"],
            diversity=diversity,
        )
        for label, images in enumerate(record.data["class_counts"])
    ]


# ------------------------------------------------------------------ the page


def page(names: Sequence[str], courses: Sequence[ClassCourse], set_on: Sequence[int] = SET_ON) -> str:
    """Return the study as Markdown.  set_on: the seeds that choose the threshold; the others test it."""
    without = [course for course in courses if not course.regularized]
    chosen = [course for course in without if course.seed in set_on]
    tested = [course for course in without if course.seed not in set_on]
    threshold = best_threshold(chosen)
    lines = [
        "# When classes collapse, and whether the norms tell",
        "",
        f"From the evaluations of the runs of {', '.join(f'`{name}`' for name in names)} while they trained, every "
        f"{courses[0].steps[0]:,} steps. A class has collapsed from the first evaluation after which the diversity "
        f"of its images, averaged over three evaluations, stays below {BELOW} times that of the run's median class.",
        "",
        "## Which classes collapse",
        "",
        "By training images: in how many of the runs, and from which step, on average.",
        "",
        *_collapses(courses),
        "",
        "## Which comes first",
        "",
        "In the collapsed classes: the step at which the norm has risen by half of what it rises in all, and that "
        "at which the diversity has fallen by half. The 95 % interval is of the mean over runs, each the mean of its "
        "classes; from three runs on. A norm that never rose before a collapse would contradict the paper.",
        "",
        *_order(courses),
        "",
        "## Whether the norm is a warning",
        "",
        f"In the runs without gSR. The threshold is chosen on seeds {_listed(set_on)}: the largest share of "
        "collapses with an alarm in time, less the share of the other classes with a false alarm; these may collapse "
        f"after the end of the run. The program's threshold is {THRESHOLD}.",
        "",
        *_grid(["threshold", "seeds", "in time", "late", "missed", "false", "other classes", "steps ahead, median"]),
    ]
    for of_seeds in (chosen, tested):
        seeds = sorted({course.seed for course in of_seeds})
        shown = THRESHOLDS[::2] if of_seeds is chosen else ()
        for value in sorted({*shown, THRESHOLD, *([] if threshold is None else [threshold])}):
            lines += _alarm_line(alarms(of_seeds, value), seeds, chosen=value == threshold) if of_seeds else []
    lines += [] if tested else ["", "No other seed tests the threshold yet."]
    lines += ["", f"How much rests on the definition of a collapse; in time and late are alarms at {THRESHOLD}:", ""]
    lines += _grid(
        ["below", "collapses without gSR", "with gSR", "threshold chosen", "in time", "late", "steps ahead"]
    )
    for below in BOUNDS:
        collapsed = [course.regularized for course in courses if course.collapse(below) is not None]
        found, rung = best_threshold(chosen, below), alarms(without, THRESHOLD, below)
        cells = [collapsed.count(False), collapsed.count(True), "-" if found is None else found]
        lines.append(f"| {below} | {' | '.join(map(str, [*cells, rung.in_time, rung.late, _median(rung.ahead)]))} |")
    command = f"python -m benchmarks.studies.collapse {' '.join(names)} --keep"
    return "\n".join([*lines, "", f"Written by `{command}` from benchmarks/results/records; not by hand.", ""])


def _grid(header: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]


def _collapses(courses: Sequence[ClassCourse]) -> list[str]:
    images = sorted({(-course.images, course.label) for course in courses})
    lines = _grid(["", "runs", *(f"{-count:,}" for count, _ in images)])
    for row, of_row in _by_row(courses).items():
        cells = []
        for _, label in images:
            falls = [fell for c in of_row if c.label == label and (fell := c.collapse()) is not None]
            cells.append(f"{len(falls)} from {mean(falls):,.0f}" if falls else "-")
        lines.append(f"| {row} | {len({course.seed for course in of_row})} | {' | '.join(cells)} |")
    return lines


def _order(courses: Sequence[ClassCourse]) -> list[str]:
    lines = _grid(["", "collapses", "norm", "diversity", "norm ahead by", "norm first", "norm never rose"])
    for row, of_row in _by_row(courses).items():
        pairs = {c: c.half_way() for c in of_row if c.collapse() is not None}
        risen = {c: halves for c, halves in pairs.items() if not math.isnan(halves[0])}
        if not risen:
            lines.append(f"| {row} | {len(pairs)} | - | - | - | - | {len(pairs)} |")
            continue
        norm, diversity = (mean(values) for values in zip(*risen.values(), strict=True))
        ahead = {c: fallen - rose for c, (rose, fallen) in risen.items()}
        of_runs = [mean(ahead[c] for c in ahead if c.seed == seed) for seed in sorted({c.seed for c in ahead})]
        first = f"{sum(steps > 0 for steps in ahead.values())} of {len(ahead)}"
        never = len(pairs) - len(risen)
        cells = f"{norm:,.0f} | {diversity:,.0f} | {_interval(of_runs)} | {first} | {never}"
        lines.append(f"| {row} | {len(pairs)} | {cells} |")
    return lines


def _interval(values: Sequence[float]) -> str:
    """Return the mean, and from three values on its confidence interval."""
    if len(values) < 3:
        return f"{mean(values):+,.0f}"
    of_mean = interval(values)
    middle, width = of_mean["mean"], of_mean["half_width"]
    assert middle is not None
    assert width is not None
    return f"{middle:+,.0f} [{middle - width:+,.0f}, {middle + width:+,.0f}]"


def _alarm_line(found: Alarms, seeds: Sequence[int], chosen: bool) -> list[str]:
    threshold = f"**{found.threshold}**" if chosen else f"{found.threshold}"
    numbers = [found.in_time, found.late, found.missed, found.false, found.false + found.quiet]
    return [f"| {threshold} | {_listed(seeds)} | {' | '.join(map(str, numbers))} | {_median(found.ahead)} |"]


def _median(steps: Sequence[int]) -> str:
    return f"{median(steps):,.0f}" if steps else "-"


def _by_row(courses: Sequence[ClassCourse]) -> dict[str, list[ClassCourse]]:
    return {row: [c for c in courses if c.row == row] for row in dict.fromkeys(course.row for course in courses)}


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def chart(courses: Sequence[ClassCourse]) -> str:
    """Draw the rarest class's norm and diversity over training as SVG, a band of runs for each row."""
    rarest = min(courses, key=lambda course: course.images).label
    panels: dict[str, list[Band]] = {
        "spectral norm of the rarest class": [],
        "its diversity, over the median class's (mean of three)": [],
    }
    for color, (row, of_row) in enumerate(_by_row(courses).items()):
        of_class = [course for course in of_row if course.label == rarest]
        series = [[c.own_norms() for c in of_class], [c.relative_diversity() for c in of_class]]
        for bands, values in zip(panels.values(), series, strict=True):
            bands.append(Band(row, of_class[0].steps, values, color // 2, dashed=not of_class[0].regularized))
    return bands_chart([("", panels)], "generator step").decode()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="+", metavar="TABLE", help="tables of tables.yaml, all of runs of equal length"
    )
    parser.add_argument("--set-on", type=int, nargs="+", default=SET_ON, metavar="SEED", help="seeds that choose")
    parser.add_argument("--records", metavar="DIR", type=Path, default=RECORDS)
    parser.add_argument("--keep", action="store_true", help="write results/collapse.md and collapse.svg")
    options = parser.parse_args(argv)
    try:
        courses = read_courses(options.tables, options.records)
        text = page(options.tables, courses, options.set_on)
        if options.keep:
            write_atomically(RESULTS / "collapse.md", text)
            write_atomically(RESULTS / "collapse.svg", chart(courses))
        print(text)
    except GSRError as error:
        print(f"collapse.py: {in_one_line(error).text}", file=sys.stderr)
        return error.exit_status
    return 0


def read_courses(names: Sequence[str], folder: Path) -> list[ClassCourse]:
    """Return the courses of all classes of the tables' recorded runs.

    Raises RequestError if a table is unknown, or if no record has what the study needs.
    """
    tables, found = read_tables().tables, []
    for name in names:
        must_be("TABLE", name, tables)
        for row, of_row in measured(tables[name], folder).items():
            found += [course for record in of_row.by_seed.values() for course in courses_of(record, row)]
    if not found:
        raise RequestError(f"TABLE: no record of {', '.join(names)} has diversities; make them by benchmarks/run.py")
    return found


if __name__ == "__main__":
    sys.exit(main())
