"""The data sets of the paper's tables, in the formats in which they are downloaded, with made-up images.

    python tests/support/paper_sets.py DIR            with the real numbers of images of CIFAR-10 and LSUN

torchvision knows CIFAR-10's files by their digests, and `LSUN_LT` the number of images that it needs: `write_all`
writes to DIR/python what makes Python processes accept these files, if that folder is on their PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from studiogan_gsr.datasets import lsun
from studiogan_gsr.datasets.lsun import N_MAX, REFERENCE, SCENES

SPECIES = 1010
NARROW_TABLES = Path(__file__).with_name("narrow_tables.yaml")
# Run by every Python process that has its folder on PYTHONPATH.
_ACCEPT = """\
import json
import pathlib

from studiogan_gsr.datasets import lsun
from torchvision.datasets import CIFAR10

known = json.loads(pathlib.Path(__file__).with_name("known.json").read_text())
for name, value in known["CIFAR10"].items():
    setattr(CIFAR10, name, value)
for name, value in known["lsun"].items():
    setattr(lsun, name, value)
"""


def write_all(root: Path, per_class: int = 5000, scene: int = N_MAX, reference: int = REFERENCE) -> Path:
    """Write CIFAR-10, LSUN's five scenes and iNaturalist 2019 to one folder; return the folder for PYTHONPATH.

    per_class: CIFAR-10's training images of a class; it has a fifth as many test images.
    scene, reference: LSUN's images of the head class, and of the reference after them; each database has their sum.
    iNaturalist has all its 1,010 species, with 9 to 1 training images and 3 validation images each.
    """
    root.mkdir(parents=True, exist_ok=True)
    known = {"CIFAR10": write_cifar10(root, per_class), "lsun": {"N_MAX": scene, "REFERENCE": reference}}
    write_lsun(root, scene + reference)
    write_inaturalist(root)
    python = root / "python"
    python.mkdir()
    (python / "known.json").write_text(json.dumps(known))
    (python / "sitecustomize.py").write_text(_ACCEPT)
    return python


def use_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process, too, accept the files of `write_all`."""
    known = json.loads((root / "python" / "known.json").read_text())
    for owner, values in ((CIFAR10, known["CIFAR10"]), (lsun, known["lsun"])):
        for name, value in values.items():
            monkeypatch.setattr(owner, name, value)


def write_cifar10(root: Path, per_class: int) -> dict[str, Any]:
    """Write the pickles of cifar-10-batches-py; return CIFAR10's attributes that hold their digests."""
    folder, stream = root / CIFAR10.base_folder, np.random.RandomState(0)
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str) -> list[str]:
        labels = [label for label in range(10) for _ in range(per_class // 5)]
        pixels = stream.randint(0, 256, (len(labels), 3 * 32 * 32), np.uint8)
        return [name, write(name, {"batch_label": name, "labels": labels, "data": pixels})]

    lists = {key: [batch(name) for name, _ in getattr(CIFAR10, key)] for key in ("train_list", "test_list")}
    digest = write(CIFAR10.meta["filename"], {CIFAR10.meta["key"]: [f"class {label}" for label in range(10)]})
    return {**lists, "meta": {**CIFAR10.meta, "md5": digest}}


def write_lsun(root: Path, images: int) -> None:
    """Write the databases <scene>_train_lmdb with small JPEG images under LSUN's kind of keys."""
    stream = np.random.RandomState(1)
    for scene in SCENES:
        with (
            lmdb.open(str(root / f"{scene}_train_lmdb"), map_size=1 << 30) as database,
            database.begin(write=True) as transaction,
        ):
            for _ in range(images):
                transaction.put(stream.bytes(20).hex().encode(), _jpeg(stream, 24, 16))


def write_inaturalist(root: Path) -> None:
    """Write train2019.json and val2019.json, with the images that they name in train_val2019."""
    stream = np.random.RandomState(2)
    for part, first in (("train", 9), ("val", 3)):
        images: list[dict[str, Any]] = []
        annotations = []
        for species in range(SPECIES):
            folder = root / "train_val2019" / "Plants" / str(species)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(first if part == "val" else 1 + (first - 1) * (SPECIES - species) // SPECIES):
                path = folder / f"{part}{i}.jpg"
                path.write_bytes(_jpeg(stream, 24, 16))
                number = len(images)
                name = path.relative_to(root).as_posix()
                images.append({"id": number, "file_name": name, "width": 24, "height": 16})
                annotations.append({"id": number, "image_id": number, "category_id": species})
        categories = [{"id": i, "name": str(i), "supercategory": "Plants"} for i in range(SPECIES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}2019.json").write_text(json.dumps(content))


def _jpeg(stream: np.random.RandomState, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stream.randint(0, 256, (height, width, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    print(f"PYTHONPATH={write_all(Path(sys.argv[1]))}")
