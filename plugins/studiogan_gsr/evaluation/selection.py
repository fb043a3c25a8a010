"""Measure while training, and select the best checkpoint.

Each line of `selection.jsonl` in the run's folder is one evaluation and the rule that it followed.  The best
checkpoint has the lowest Fréchet distance over all images.  By default it is selected on one half of the reference,
so that it can be measured on the other half.  The paper's program selects on the same reference that it reports;
`select_on: reference` does so too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.features import Sample, extract
from studiogan_gsr.evaluation.generation import generated
from studiogan_gsr.evaluation.measure import Reference, groups, metrics
from studiogan_gsr.evaluation.reference import choose_backbone, measure_real
from studiogan_gsr.files import lines_by_step
from studiogan_gsr.regularizers.norms import largest_class_norms
from studiogan_gsr.seeds import EVALUATION, mixed
from studiogan_gsr.settings import Configured, is_number

FILE = "selection.jsonl"
_METRICS = ("frechet", "inception_score")  # cheap compared with generating the images


class _Interrupted(Exception):
    pass


class Selection:
    """Evaluates a run while it trains, and adds each evaluation to its file.

    images: number of images to generate per evaluation.  select_on: one of `choices.SELECT_ON`.
    backbone: its name; None: the default.  device: where to generate and measure.
    seed: seeds the evaluation noise of a new run; a resumed run keeps the seed of its first evaluation.
    Raises WeightsError if the backbone's weights are missing, DataError if the reference or its half has fewer than
    two images, and RequestError if the run in `folder` was measured by another rule before.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Configured,
        class_counts: list[int],
        reference: Prepared,
        images: int,
        select_on: str,
        backbone: str | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.path, self.configuration, self.counts, self.device = folder / FILE, configuration, class_counts, device
        before = evaluations(folder)
        name, self.backbone = choose_backbone(backbone, device)
        real = measure_real(reference, select_on, self.backbone, device)
        self.reference = Reference(real.sample.to(device))
        self.rule: dict[str, Any] = {
            "best": f"lowest {self.backbone.column} of all images",
            "select_on": select_on,
            "reference": real.record,
            "backbone": name,
            "backbone_digest": self.backbone.digest,
            "images": images,
            "seed": before[0]["rule"].get("seed", seed) if before else seed,
            "batch_size": configuration.OPTIMIZATION.batch_size,
            "batch_norm": "batch",
            "averaged_generator": configuration.MODEL.apply_g_ema,
        }
        for line in before:
            for key, now in self.rule.items():
                if (then := line["rule"].get(key)) != now:
                    raise RequestError(
                        f"--evaluate: the run in {folder} was measured with {key} {_short(then)}, now it is "
                        f"{_short(now)}; one run's checkpoints are chosen by one rule: evaluate as before, "
                        "or start a run in another folder"
                    )

    def measure(
        self,
        step: int,
        generator: nn.Module,
        averaged: nn.Module | None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """Measure the generator at a step, write the evaluation to the file and return it; None if interrupted.

        averaged: the averaged generator.  If there is one, it makes the images; the class norms are always those of
        `generator`.
        interrupted: returns whether to stop; asked once per batch.
        """
        began, number = time.perf_counter(), self.rule["images"]
        images = generated(
            averaged or generator,
            self.configuration,
            number=number,
            batch_size=self.rule["batch_size"],
            seed=self.rule["seed"],
            batch_norm=self.rule["batch_norm"],
            device=self.device,
        )
        try:
            fake = extract(self.backbone, _until(interrupted, images), number, f"evaluating step {step}")
        except _Interrupted:
            return None
        fake = fake.to(self.device)
        conditional = self.configuration.MODEL.g_cond_mtd != "W/O"
        found = groups(self.counts) if conditional else {}
        norms = largest_class_norms(generator).tolist() if conditional else []
        line = {
            "step": step,
            "all": metrics(self.reference, fake, None, _METRICS),
            "groups": {name: metrics(self.reference, fake, labels, _METRICS) for name, labels in found.items()},
            "class_norms": [round(norm, 5) for norm in norms],
            "class_diversity": self._diversity(fake) if conditional else [],
            "seconds": round(time.perf_counter() - began, 3),
            "rule": self.rule,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def _diversity(self, fake: Sample) -> list[float | None]:
        """Return the diversity of each class's images, 1 for real ones; None where there are fewer than two."""
        of_classes = (metrics(self.reference, fake, [label], ["diversity"]) for label in range(len(self.counts)))
        return [None if (found := of["diversity"]) is None else round(found, 5) for of in of_classes]

    def describe(self, line: dict[str, Any]) -> str:
        """Return a sentence about an evaluation and the best one so far."""
        distance, column = line["all"]["frechet"], self.backbone.column
        chosen = best(self.path.parent)
        assert chosen is not None
        which = "the best so far" if chosen["step"] == line["step"] else f"the best is step {chosen['step']}"
        tail = line["groups"].get("tail")
        more = f" ({tail['frechet']:.4g} in the tail)" if tail and tail["frechet"] is not None else ""
        return f"step {line['step']}: {column} {distance:.4g}{more} on {self.rule['select_on']}: {which}"


def noise_of(seed: int) -> int:
    """Return the seed for the noise of a run's evaluations; it differs from the seeds used in training."""
    return mixed(seed, EVALUATION)


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations that a run made while it trained, in order of steps; invalid lines are skipped."""
    return [line for line in lines_by_step(run / FILE) if _is_evaluation(line)]


def best(run: Path, until: int | None = None) -> dict[str, Any] | None:
    """Return the evaluation with the lowest Fréchet distance up to step `until`, the earliest on a tie.

    None if there is no evaluation.
    """
    lines = [line for line in evaluations(run) if until is None or line["step"] <= until]
    return min(lines, key=lambda line: float(line["all"]["frechet"]), default=None)


def _is_evaluation(line: dict[str, Any]) -> bool:
    every, rule = line.get("all"), line.get("rule")
    return isinstance(every, dict) and isinstance(rule, dict) and is_number(every.get("frechet"))


def _until(
    interrupted: Callable[[], bool], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        if interrupted():
            raise _Interrupted
        yield batch


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = f"{value.get('images')} images, digest {str(value.get('content_sha256'))[:12]}"
    text = str(value)
    return text if len(text) < 60 else f"{text[:57]}..."
