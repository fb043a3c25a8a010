"""A small CIFAR archive."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10


def write_cifar(root: Path, cifar: Any, per_class: int, monkeypatch: pytest.MonkeyPatch, noise: bool = False) -> None:
    """Write a small CIFAR archive to `root`, and patch torchvision's lists and checksums to accept it.

    cifar: torchvision's CIFAR10 or CIFAR100.  per_class: images of each class in a training batch; a test batch has
    one.  noise: random pixels; without it, every pixel of an image is its label.
    """
    classes = 10 if cifar is CIFAR10 else 100
    folder = root / cifar.base_folder
    folder.mkdir()

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str, size: int) -> list[str]:
        labels = list(range(classes)) * size
        images = np.repeat(np.array(labels, np.uint8)[:, None], 3 * 32 * 32, axis=1)
        if noise:
            images = np.random.RandomState(sum(name.encode())).randint(0, 256, images.shape, np.uint8)
        return [name, write(name, {"data": images, "labels" if cifar is CIFAR10 else "fine_labels": labels})]

    names = {cifar.meta["key"]: [f"class {y}" for y in range(classes)]}
    monkeypatch.setattr(cifar, "train_list", [batch(name, per_class) for name, _ in cifar.train_list])
    monkeypatch.setattr(cifar, "test_list", [batch(name, 1) for name, _ in cifar.test_list])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": write(cifar.meta["filename"], names)})
