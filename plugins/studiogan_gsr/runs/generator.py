"""A trained generator as a function of class names and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from pathlib import Path

import torch
from torch import Tensor

from studiogan_gsr.datasets.labels import label_of
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.class_images import ClassImages
from studiogan_gsr.machine import choose_device
from studiogan_gsr.runs.trained import Trained, load_trained


class TrainedGenerator:
    """Images of a trained generator by class.

    trained: the checkpoint.  classes: names of the classes in label order.
    """

    def __init__(self, trained: Trained, images: ClassImages) -> None:
        self.trained, self.classes = trained, trained.classes
        self._images = images

    def __call__(self, labels: Sequence[int | str] | Tensor, seed: int = 0) -> Tensor:
        """Return uint8 images (N, 3, H, W), on the generator's device, one for each label.

        labels: names or labels of classes.
        The k-th occurrence of a class is image number k of the class and the seed, whatever else is generated: the
        image that `studiogan-gsr generate --seed` stores under this number.
        Raises RequestError for an unknown class.
        """
        given = labels.tolist() if isinstance(labels, Tensor) else labels
        if isinstance(given, str | bytes | int | float):
            raise RequestError(f"labels: found {given!r}; allowed: a list of names or labels")
        return self._images([self.label(one) for one in given], seed)

    def label(self, name: int | str) -> int:
        """Return the label of a class, given its name or label; raise RequestError for an unknown one."""
        if isinstance(name, str):
            return label_of(name, self.classes)
        try:
            label = index(name)  # 0.7 is no label
        except TypeError:
            label = -1
        if not 0 <= label < len(self.classes):
            raise RequestError(
                f"class: found {name!r}; allowed: a name, or a label from 0 to {len(self.classes) - 1}"
            )
        return label

    def __repr__(self) -> str:
        trained = self.trained
        return f"TrainedGenerator({trained.folder}, step {trained.step}, {len(self.classes)} classes)"


def load_generator(
    path: str | Path,
    checkpoint: str | int = "last",
    *,
    batch_norm: str = "running",
    truncation: float | None = None,
    averaged: bool | None = None,
    config: str | None = None,
    device: str | None = None,
) -> TrainedGenerator:
    """Load a generator from the folder of a run, a checkpoint or an export, of either host.

        generator = load_generator("runs/sngan-gsr")
        images = generator(["cat", "cat", "ship"], seed=0)      # uint8 (3, 3, 32, 32)

    checkpoint: "last", "best", or a step.  batch_norm, truncation: see `ClassImages`.
    averaged: whether to use the averaged generator; None: if there is one.
    config: of a checkpoint without a run's records.  device: "cpu" or "cuda"; None: cuda if it is available.
    Raises RequestError if there is no checkpoint or the generator has no classes, and CheckpointError if the
    checkpoint is damaged or does not fit its configuration.
    """
    trained = load_trained(Path(path), config, averaged, str(checkpoint))
    check_conditional(trained)
    where = torch.device(choose_device(device))
    images = ClassImages(
        trained.generator, trained.configuration, batch_norm=batch_norm, truncation=truncation, device=where
    )
    return TrainedGenerator(trained, images)


def check_conditional(trained: Trained) -> None:
    """Raise RequestError if a generator's images have no classes."""
    if trained.configuration.MODEL.g_cond_mtd == "W/O":
        raise RequestError(f"{trained.folder}: MODEL.g_cond_mtd is W/O: the generator's images have no classes")
