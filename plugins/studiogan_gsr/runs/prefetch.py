"""Download what a later run needs, so that it can run without network, and say what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from studiogan_gsr.datasets.by_name import find_dataset, open_images
from studiogan_gsr.errors import ConfigurationError, DataError, WeightsError
from studiogan_gsr.evaluation.backbones import (
    WEIGHTS_VARIABLE,
    downloaded,
    find_backbone,
    make_backbone,
    weights_folder,
    weights_of,
)
from studiogan_gsr.evaluation.perceptual import Perceptual, installed, weights_path
from studiogan_gsr.evaluation.reference import DEFAULT
from studiogan_gsr.files import impatient_network
from studiogan_gsr.hosts.studiogan import fid_weights
from studiogan_gsr.progress import console
from studiogan_gsr.registry import LoadedPlugin
from studiogan_gsr.settings import check_data_name, load_configuration
from studiogan_gsr.shipped import configuration_file

_CPU = torch.device("cpu")
MISSING, PRESENT, DOWNLOADED, NOT_NEEDED = "missing", "present", "downloaded", "not needed"


@dataclass(frozen=True)
class Item:
    """Something that a run needs.

    state: one of the four above.  found: where it is and how large, or what to do if it is missing.
    hint: how a machine without network finds it; "" if there is nothing to copy.
    """

    what: str
    state: str
    found: str
    hint: str = ""


def prefetch(configuration: str, root: str, backbone: str | None = None, studiogan: bool = False) -> list[Item]:
    """Download the data set of a configuration and the weights of a backbone; print and return what there is.

    configuration: a file, or the name of a shipped one.  root: the data set's folder.
    backbone: None: the one that `evaluate` uses by default.  studiogan: also download what StudioGAN's own FID needs.
    What cannot be downloaded is an item that is missing.  Raises ConfigurationError for an unknown configuration or
    data set, and PluginError for an unknown backbone or a broken plug-in.
    """
    data = load_configuration(configuration_file(configuration)).get("DATA")
    if not isinstance(data, dict) or "name" not in data:
        raise ConfigurationError("DATA", repr(data), "expected: a mapping with the key name, the data set")
    name = data["name"]
    check_data_name(name)
    find_dataset(name)
    loaded = find_backbone(backbone or DEFAULT)
    finders: list[Callable[[], Item]] = [partial(_data, name, root), partial(_backbone, loaded), _lpips]
    if studiogan:
        finders.append(_studiogan)
    items: list[Item] = []
    show = console()
    for find in finders:
        items.append(find())
        show.print(f"{items[-1].what}: {items[-1].state}, {items[-1].found}")
    missing = [item.what for item in items if item.state == MISSING]
    if missing:
        show.print(f"{len(missing)} of {len(items)} missing: {', '.join(missing)}")
        return items
    show.print("On a machine without network that does not share these folders, copy them there:")
    for item in items:
        if item.hint:
            show.print(f"  {item.hint}")
    if not studiogan:
        show.print(
            f"StudioGAN's own -metrics need another file, {fid_weights.weights_path()}: add --studiogan; "
            "-metrics none needs no file."
        )
    return items


def _data(name: str, root: str) -> Item:
    what, before = f"data set {name}", _entries(root)
    try:
        images = {split: len(open_images(name, root, split).targets) for split in ("train", "reference")}
    except DataError as error:
        return Item(what, MISSING, str(error))
    state = PRESENT if before == _entries(root) else DOWNLOADED
    if not os.path.isdir(root):  # a set that comes in a package
        return Item(what, state, f"{images['train']:,} training and {images['reference']:,} reference images")
    size = sum(entry.stat().st_size for entry in Path(root).rglob("*") if entry.is_file())
    counts = f"{images['train']:,} training and {images['reference']:,} reference images"
    return Item(what, state, f"{root} ({_amount(size)} in all): {counts}", f"{root}, which --data names")


def _entries(root: str) -> dict[str, int]:
    """Return the visible entries of a folder with their times; a download changes them."""
    if not os.path.isdir(root):
        return {}
    return {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(root) if not entry.name.startswith(".")}


def _backbone(loaded: LoadedPlugin) -> Item:
    """Make the backbone, which also shows that its packages are installed and that its weights fit."""
    name, weights = loaded.plugin.name, weights_of(loaded.plugin.name)
    what, before = f"backbone {name}", weights is not None and weights.path.is_file()
    try:
        make_backbone(loaded, _CPU)
    except WeightsError as error:
        return Item(what, MISSING, str(error))
    if weights is None:
        return Item(what, PRESENT, f"it loads; from the package {loaded.plugin.package}")
    found = f"{weights.path} ({_amount(weights.path.stat().st_size)})"
    variable = f"{WEIGHTS_VARIABLE}=DIR, if its copy DIR has another place"
    return Item(what, PRESENT if before else DOWNLOADED, found, f"{weights_folder()}; export {variable}")


def _lpips() -> Item:
    what, path = "LPIPS", weights_path()
    if not installed():
        return Item(what, NOT_NEEDED, "without the package lpips `evaluate` leaves it out")
    before = path.is_file()
    try:
        with impatient_network():
            Perceptual(_CPU)
    except WeightsError as error:
        return Item(what, MISSING, str(error))
    found = f"{path} ({_amount(path.stat().st_size)})" if path.is_file() else "weights of the package"
    return Item(what, PRESENT if before else DOWNLOADED, found, _in_torchs_folder(path))


def _studiogan() -> Item:
    what, path = "StudioGAN's FID weights", fid_weights.weights_path()
    before = path.is_file()
    try:
        downloaded(fid_weights.URL, fid_weights.SHA256, path.parent, "train with -metrics none")
    except WeightsError as error:
        return Item(what, MISSING, str(error))
    found = f"{path} ({_amount(path.stat().st_size)})"
    return Item(what, PRESENT if before else DOWNLOADED, found, _in_torchs_folder(path))


def _in_torchs_folder(path: Path) -> str:
    """Return the hint for a file that torch keeps in a folder of its own."""
    return f"{path}; export TORCH_HOME=DIR, if the copy is DIR/hub/checkpoints/{path.name}"


def _amount(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
