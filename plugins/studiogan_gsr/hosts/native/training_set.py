"""The training images of a run, and their description for run.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studiogan_gsr.class_groups import listed
from studiogan_gsr.datasets.by_name import find_dataset, open_images
from studiogan_gsr.datasets.packed import Packed, open_packed, packed_path
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import DataError
from studiogan_gsr.hosts.native.pixels import Pixels


@dataclass(frozen=True)
class TrainingSet:
    """Real images to train on.

    class_counts: images per class, in label order.  record: their description in run.json.  summary: one line.
    """

    pixels: Pixels
    class_counts: list[int]
    record: dict[str, Any]
    summary: str


def open_training_set(name: str, root: str, num_classes: int, size: int, resizer: str) -> TrainingSet:
    """Open the training images of DATA.name at `size` x `size` pixels.

    name: a plug-in's data set, CIFAR10 or CIFAR100; any other name means the image folder `root`/train.
        For a plug-in's data set, the packed file is read if `studiogan-gsr data prepare` has made one.
    resizer: one of RESIZERS; "wo_resize" means none.
    Raises DataError if the images are missing, if they do not have `num_classes` classes, or if a packed file holds
    other images than its name says.
    """
    found = find_dataset(name)
    packed = packed_path(root, name, size, resizer)
    use_packed = found is not None and packed.exists()
    dataset = open_packed(packed, name, size, resizer) if use_packed else open_images(name, root, "train")
    prepared = Prepared(dataset, name, size, resizer)
    counts = prepared.class_counts
    if len(counts) != num_classes:
        raise DataError(
            f"DATA.num_classes: found {num_classes}; {name} has {len(counts)} classes (images: "
            f"{listed(counts, prepared.classes)}); write num_classes: {len(counts)}"
        )
    record = {
        "name": name,
        "plugin": None if found is None else str(found[0].plugin),
        "root": str(Path(root).resolve()),
        "packed": str(dataset.path.resolve()) if isinstance(dataset, Packed) else None,
        **describe(dataset, resizer),
    }
    # A packed file is not compared with the images that it was made from: they need not be on this machine.
    source = f" from {dataset.path}" if isinstance(dataset, Packed) else ""
    summary = "; ".join([f"{name}{source}: class counts {listed(counts, prepared.classes)}", *record["notes"]])
    return TrainingSet(pixels=Pixels(prepared), class_counts=counts, record=record, summary=summary)
