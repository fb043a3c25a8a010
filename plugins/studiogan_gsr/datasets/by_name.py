"""Open and check a data set by its name; the only place that opens images by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from studiogan_gsr.contract import Dataset, Labelled
from studiogan_gsr.datasets.cifar import open_cifar
from studiogan_gsr.datasets.folder import class_folders
from studiogan_gsr.datasets.images import check_reference, is_checked
from studiogan_gsr.datasets.labels import labels_of, start_hint
from studiogan_gsr.datasets.names import GRAMMAR, is_variant, parse_variant, variant_name
from studiogan_gsr.errors import (
    FOREIGN,
    ConfigurationError,
    DataError,
    GSRError,
    OptionError,
    PluginError,
    near_miss,
    reason,
)
from studiogan_gsr.progress import console
from studiogan_gsr.registry import DATASETS, LoadedPlugin, find_plugins, load_plugin, signature_of

# Options of a data set's factory, each with the part of the name that sets it, as error messages write it.
_PART_OF = {
    "ratio": "ratio (_rho)",
    "profile": "_step",
    "reversed": "_reversed",
    "released": "_released",
    "seed": "_seed",
}


_DATASET_ATTRIBUTES = ("targets", "class_counts", "classes", "__len__", "__getitem__")


def find_dataset(name: str) -> tuple[LoadedPlugin, dict[str, Any]] | None:
    """Return the plug-in and the options that a data set's name selects; None if the name belongs to the host.

    Raises ConfigurationError for a name that looks like a plug-in's data set but matches none.
    """
    installed = {plugin.name for plugin in find_plugins(DATASETS)}
    bases = [base for base in installed if is_variant(name, base)]
    if not bases:
        if _looks_like_a_plugins(name, installed):
            raise ConfigurationError(
                "DATA.name",
                repr(name),
                f"installed data sets are {', '.join(sorted(installed)) or 'none'}{near_miss(_stem(name), installed)}"
                f"; the form is {GRAMMAR}; for your own image folder use Folder_LT, or any name without _rho",
            )
        return None
    base = max(bases, key=len)
    options = parse_variant(name, base)
    loaded = load_plugin(DATASETS, base)
    signature = signature_of(loaded)
    if signature is not None:
        try:
            signature.bind_partial("root", "train")
        except TypeError as error:
            raise PluginError(
                str(loaded.plugin), f"has the signature {signature}; expected: (root, split, **options)"
            ) from error
        _check_parts(name, base, signature, options)
    return loaded, options


def _looks_like_a_plugins(name: str, installed: Collection[str]) -> bool:
    """Return whether an unknown name was probably meant as a plug-in's data set."""
    if re.search(r"_rho\d", name):
        return True
    letters, known = _letters(name), {_letters(base) for base in installed}
    long_tailed = [base for base in installed if base.endswith("_LT")]
    if letters in known or any(letters.startswith(_letters(base)) for base in long_tailed):
        return True  # another spelling: cifar10-lt, CIFAR10LT_step
    if f"{_letters(_stem(name))}lt" in known:
        return False  # the host's own set: CIFAR10, the source of CIFAR10_LT
    return bool(get_close_matches(_stem(name), long_tailed, cutoff=0.85))


def _stem(name: str) -> str:
    return name.split("_rho")[0]


def _check_parts(name: str, base: str, signature: inspect.Signature, options: dict[str, Any]) -> None:
    """Raise ConfigurationError if a name has parts that the data set does not accept, or lacks required parts."""
    parameters = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = {option: value for option, value in options.items() if option in signature.parameters}
        if unknown := [part for option, part in _PART_OF.items() if option in options and option not in known]:
            raise ConfigurationError(
                "DATA.name", repr(name), f"{base} has no {', '.join(unknown)}; write {variant_name(base, known)}"
            )
    try:
        signature.bind("root", "train", **options)
    except TypeError as error:
        example = variant_name(base, {"ratio": 100, **options})
        raise ConfigurationError(
            "DATA.name",
            repr(name),
            f"{base} cannot be opened with these parts: {error}; write e.g. {example}; the form is {GRAMMAR}",
        ) from error


def make_dataset(loaded: LoadedPlugin, root: str, split: str, options: Mapping[str, Any]) -> Dataset:
    """Call a plug-in's factory and return its data set after checking it; errors name the plug-in or the data."""
    try:
        dataset: Dataset = loaded.factory(root, split, **options)
    except GSRError as error:
        if isinstance(error, OptionError):
            raise ConfigurationError("DATA.name", f"{error}", f"reported by {loaded.plugin}") from error
        raise
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"failed: {reason(error)}") from error
    return _checked(dataset, loaded)


def full_set(name: str, train: Labelled) -> Dataset:
    """Return the balanced set that a long-tailed training set was chosen from.

    Raises DataError if there is none.
    """
    found, make = find_dataset(name), getattr(train, "full", None)
    try:
        full: Dataset | None = make() if found is not None and callable(make) else None
    except FOREIGN as error:
        raise PluginError(str(found and found[0].plugin), f"full() failed: {reason(error)}") from error
    if found is None or full is None:
        raise DataError(
            f"--split full: {name} was not chosen from a larger balanced training set; --split train measures "
            "against its training images, --split reference against its reference (full may be that of --protocol)"
        )
    return _checked(full, found[0])


def _checked(dataset: Dataset, loaded: LoadedPlugin) -> Dataset:
    """Return a plug-in's data set; PluginError if it breaks its contract."""
    missing = [a for a in _DATASET_ATTRIBUTES if not hasattr(dataset, a)]
    if missing:
        raise PluginError(str(loaded.plugin), f"returned {type(dataset).__name__} without {', '.join(missing)}")
    try:
        images, counts = len(dataset), [int(n) for n in dataset.class_counts]
        counted = np.bincount(labels_of(dataset), minlength=len(counts)).tolist()
    except FOREIGN as error:
        raise PluginError(
            str(loaded.plugin), f"returned {type(dataset).__name__} whose labels cannot be counted: {reason(error)}"
        ) from error
    if counts != counted or images != sum(counts):
        raise PluginError(
            str(loaded.plugin),
            f"returned {images} images, class_counts {_start(counts)} and targets that count to {_start(counted)}; "
            f"they must agree{start_hint(np.flatnonzero(counted))}",
        )
    return dataset


def _start(counts: list[int]) -> str:
    return f"{counts[:10]}{'...' if len(counts) > 10 else ''}"


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def open_images(name: str, root: str, split: str) -> Labelled:
    """Return the unprocessed images of a split, "train" or "reference".

    name: a plug-in's data set, or StudioGAN's CIFAR10 or CIFAR100, whose reference is the test split.  For any other
    name, the training images are the image folder `root`/train, and the reference is `root`/valid.
    Raises DataError if the images are missing.
    """
    found = find_dataset(name)
    if found is not None:
        return make_dataset(found[0], root, split, found[1])
    if name not in ("CIFAR10", "CIFAR100"):
        part = "train" if split == "train" else "valid"
        known = [plugin.name for plugin in find_plugins(DATASETS)]
        folder = f"no plug-in has this data set{near_miss(name, known)}; as an image folder, {Path(root).resolve()}"
        layout = f"{name}: {folder} needs {part}/, with one folder of images per class"
        return class_folders(Path(root), part, layout)
    from torchvision.datasets import CIFAR10, CIFAR100

    images: Labelled = open_cifar(CIFAR10 if name == "CIFAR10" else CIFAR100, root, split == "train")
    return images


def open_named(name: str, root: str, split: str) -> tuple[Dataset, dict[str, Any]]:
    """Return a plug-in's data set by name, and the options that the parts of the name select.

    A reference is checked against its training images: it must be balanced and share no image with them.
    Raises ConfigurationError for an unknown name; errors of the plug-in pass through.
    """
    found = find_dataset(name)
    if found is None:
        names = ", ".join(plugin.name for plugin in find_plugins(DATASETS))
        raise ConfigurationError("NAME", repr(name), f"data sets are {names}; use Folder_LT for any image folder")
    dataset = make_dataset(found[0], root, split, found[1])
    if split == "reference" and not is_checked(dataset):
        train = make_dataset(found[0], root, "train", found[1])
        for note in check_reference(train, dataset, name, plugin=True):
            console().print(f"{name}: {note}")
    return dataset, found[1]
