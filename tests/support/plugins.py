"""Plug-ins of other packages, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MakePackage = Callable[..., Path]
# A backbone of another package, without weights.
PIXELS = """
import torch, torch.nn.functional as F
class Pixels:
    column, digest = "FD-Pixels", "means of 8 x 8 pixels"
    def __init__(self, device):
        self.calls = 0
    def __call__(self, images):
        self.calls += 1
        features = F.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)
        return features, features[:, :10]
"""
