"""Spectral norms of every class over a training run of the real StudioGAN.

    python benchmarks/norms_over_time.py train CONFIG RECORD.jsonl ARGS     one JSON line every 50 generator steps
    python benchmarks/norms_over_time.py plot PICTURE.png TITLE=RECORD.jsonl [TITLE=RECORD.jsonl ...]

CONFIG needs `REGULARIZER: gsr`; with `weight: 0` it watches a run that is, bit for bit, the one without gSR.
Each line holds `step`, `class_counts` and `norms`: per class, the largest exact norm over layers, gain and bias.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from studiogan_gsr import GroupSpectralRegularizer
from studiogan_gsr.attachment import Attachment
from studiogan_gsr.hosts.studiogan import launcher
from studiogan_gsr.report import norms_chart

EVERY = 50


def train(configuration: str, record: Path, arguments: Sequence[str]) -> None:
    """Train; before every EVERY-th generator step append a line to the record."""
    act = Attachment._add_gradient

    def watched(self: Attachment, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        if self.steps % EVERY == 0:
            regularizer = self.regularizer
            assert isinstance(regularizer, GroupSpectralRegularizer)
            sides = [norms for layer in regularizer.class_norms().values() for norms in layer.values()]
            line = {
                "step": self.steps,
                "class_counts": regularizer.class_counts,
                "norms": [round(norm, 4) for norm in torch.stack(sides).amax(0).tolist()],
            }
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return act(self, optimizer)

    Attachment._add_gradient = watched  # type: ignore[method-assign]
    launcher.run(None, ["-t", "-metrics", "none", "-cfg", configuration, *arguments])


def plot(picture: Path, records: Sequence[tuple[str, Path]]) -> None:
    """One panel a record; see `norms_chart`."""
    panels, counts = [], []
    for title, path in records:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        counts = lines[0]["class_counts"]
        panels.append((title, [line["step"] for line in lines], [line["norms"] for line in lines]))
    picture.write_bytes(norms_chart(panels, counts, "png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trainer = commands.add_parser("train")
    trainer.add_argument("configuration")
    trainer.add_argument("record", type=Path)
    trainer.add_argument("arguments", nargs=argparse.REMAINDER)
    plotter = commands.add_parser("plot")
    plotter.add_argument("picture", type=Path)
    plotter.add_argument("records", nargs="+", metavar="TITLE=RECORD")
    options = parser.parse_args()
    if options.command == "train":
        train(options.configuration, options.record, options.arguments)
    else:
        plot(options.picture, [(title, Path(path)) for title, path in (r.rsplit("=", 1) for r in options.records)])


if __name__ == "__main__":
    sys.exit(main())
