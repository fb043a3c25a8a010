"""The weights of the network of StudioGAN's own FID: where StudioGAN downloads them from, and where it keeps them.

They are pytorch-fid's.  `evaluate` has a file of its own, from torch-fidelity; see evaluation/backbones.py.
"""

from __future__ import annotations

from pathlib import Path

import torch

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
# The start of the file's SHA-256, as in its name.
SHA256 = "6726825d"
NETWORK = "InceptionV3_tf"  # StudioGAN's name for it, the default of its --eval_backbone


def weights_path() -> Path:
    """Return where StudioGAN looks for the file, and downloads it to: torch's folder of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rpartition("/")[2]
