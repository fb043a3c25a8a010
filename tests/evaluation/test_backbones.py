"""CLIP and DINOv2 with random weights, and backbones that give no class logits."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr.cli import main
from studiogan_gsr.errors import EvaluationError, WeightsError
from studiogan_gsr.evaluation import backbones, cache
from studiogan_gsr.evaluation.backbones import Clip, DinoV2, find_backbone, make_backbone
from studiogan_gsr.evaluation.cache import cached
from studiogan_gsr.evaluation.dinov2 import VisionTransformer
from studiogan_gsr.evaluation.features import Sample, extract
from studiogan_gsr.evaluation.measure import METRICS, Reference, measure
from studiogan_gsr.evaluation.selection import evaluations
from studiogan_gsr.files import sha256
from support.plugins import PIXELS, MakePackage
from support.runs import PLAIN, arguments, one_thread, write

CPU = torch.device("cpu")
# Of few parameters, and of the published shapes.
CLIP_SHAPES = {"small": (16, 224, 2, 64, 32), "published": (512, 224, 12, 768, 32)}
DINOV2_SHAPES = {"small": {"width": 64, "depth": 2, "heads": 2}, "published": backbones.DINOV2_SHAPE}
SIZES = ["small", pytest.param("published", marks=pytest.mark.slow)]


def random_weights(network: nn.Module) -> nn.Module:
    """Fill all parameters, so that no part of the network is without effect."""
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=stream))
    return network.eval()


class _Archive(nn.Module):
    """What OpenAI's file holds of CLIP, as far as torch-fidelity reads it."""

    def __init__(self, visual: nn.Module, features: int) -> None:
        super().__init__()
        self.visual, self.text_projection = visual, nn.Parameter(torch.zeros(4, features))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images) + self.text_projection.sum()


def clip(folder: Path, patch: pytest.MonkeyPatch, size: str = "small") -> Clip:
    shape = CLIP_SHAPES[size]
    visual = pytest.importorskip("torch_fidelity.feature_extractor_clip").CLIPVisual(*shape).visual
    archive = _Archive(random_weights(visual), shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the format of OpenAI's file
        torch.jit.trace(archive, torch.zeros(1, 3, 224, 224)).save(folder / "ViT-B-32.pt")
    patch.setattr(backbones, "CLIP_SHA256", sha256(folder / "ViT-B-32.pt"))
    patch.setenv("STUDIOGAN_GSR_WEIGHTS", str(folder))
    return Clip(CPU)


def dinov2(folder: Path, patch: pytest.MonkeyPatch, size: str = "small") -> DinoV2:
    pytest.importorskip("torch_fidelity.feature_extractor_dinov2")
    patch.setattr(backbones, "DINOV2_SHAPE", DINOV2_SHAPES[size])
    state = random_weights(VisionTransformer(**DINOV2_SHAPES[size])).state_dict()
    state["mask_token"] = torch.zeros(1, len(state["norm.bias"]))
    torch.save(state, folder / "dinov2_vitl14_pretrain.pth")
    patch.setenv("STUDIOGAN_GSR_WEIGHTS", str(folder))
    return DinoV2(CPU)


MAKE = {"clip": clip, "dinov2": dinov2}
FEATURES = {"clip": {"small": 16, "published": 512}, "dinov2": {"small": 64, "published": 1024}}
NORMALISED = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_features_are_those_of_the_normalised_image(
    name: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images of one colour, which no resizing changes."""
    colours = torch.tensor([[0, 0, 0], [255, 128, 3]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(-1, -1, 32, 32).contiguous()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in NORMALISED[name])
    with one_thread(), torch.inference_mode():
        backbone = MAKE[name](tmp_path, monkeypatch, size)
        features, logits = backbone(images)
        again, _ = MAKE[name](tmp_path, monkeypatch, size)(images)
        large = images[:, :, :1, :1].expand(-1, -1, 224, 224).float()
        network = backbone.network.model.visual if name == "clip" else backbone.network.model
        expected = network((large / 255 - mean) / deviation)
    assert logits is None
    assert features.dtype == torch.float32
    assert features.shape == (2, FEATURES[name][size])
    assert torch.equal(features, again)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    assert (features[0] - features[1]).abs().max() > 0.1


def test_the_entry_points_and_digests_name_the_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, column, variant in (("clip", "FD-CLIP", "clip-vit-b-32"), ("dinov2", "FD-DINOv2", "dinov2-vit-l-14")):
        MAKE[name](tmp_path, monkeypatch)
        backbone = make_backbone(find_backbone(name), CPU)
        (path,) = tmp_path.glob("ViT*" if name == "clip" else "dino*")
        assert (backbone.column, backbone.digest) == (column, f"torch-fidelity {variant} {sha256(path)}")


def test_dinov2s_network_is_timms_at_its_own_size() -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    shape = DINOV2_SHAPES["small"]
    ours = random_weights(VisionTransformer(**shape))
    theirs = timm.VisionTransformer(
        img_size=518, patch_size=14, embed_dim=64, depth=2, num_heads=2, init_values=1.0, num_classes=0
    )
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    with one_thread(), torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


def test_dinov2s_positions_are_resized_by_the_scale_that_it_was_published_with() -> None:
    """A ramp, resized bicubically, shows where the resized positions lie, away from the border."""
    network = VisionTransformer(**DINOV2_SHAPES["small"])
    with torch.no_grad():
        ramp = torch.arange(37.0).repeat(37)[:, None].expand(-1, 64)
        network.pos_embed.copy_(torch.cat([torch.full((1, 64), -5.0), ramp])[None])
        found = network._positions(16)
    places = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    assert found.shape == (1, 257, 64)
    assert torch.equal(found[0, 0], torch.full((64,), -5.0))
    # To 0.05; without DINOv2's 0.1 the last would be 0.2 away.
    inner = found[0, 1:, 0].reshape(16, 16)[:, 1:-1]
    torch.testing.assert_close(inner, places[1:-1].expand(16, -1), rtol=0, atol=0.05)


@pytest.mark.parametrize(("name", "url", "file"), [("clip", "CLIP_URL", "a.pt"), ("dinov2", "DINOV2_URL", "b.pth")])
def test_weights_that_cannot_be_downloaded_are_named_with_their_place(
    name: str, url: str, file: str, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(backbones, url, (tmp_path / file).as_uri())
    monkeypatch.setenv("STUDIOGAN_GSR_WEIGHTS", str(tmp_path / "weights"))
    assert main(["evaluate", str(pair[0]), "--backbone", name, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"studiogan-gsr: {tmp_path}/weights/{file}: cannot be downloaded from file://")
    assert line.endswith("put the file there, or use another backbone")


def test_other_weights_than_dinov2s_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dinov2(tmp_path, monkeypatch)
    monkeypatch.setattr(backbones, "DINOV2_SHAPE", {"width": 32, "depth": 2, "heads": 2})
    with pytest.raises(WeightsError, match=r"pretrain.pth: not the weights of DINOv2 ViT-L/14 \(.*size mismatch.*"):
        DinoV2(CPU)
    (tmp_path / "dinov2_vitl14_pretrain.pth").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"not the weights of DINOv2 ViT-L/14 .*; remove the file, and it is down"):
        DinoV2(CPU)


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_an_older_torch_fidelity_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"torch_fidelity.feature_extractor_{name}", None)
    with pytest.raises(WeightsError, match=f"^{name} needs torch-fidelity 0.4 or newer: pip install"):
        make_backbone(find_backbone(name), CPU)


# ------------------------------------------------------------------ without class logits


def unclassified(count: int, seed: int = 0) -> Sample:
    stream = torch.Generator().manual_seed(seed)
    return Sample(torch.randn(count, 6, generator=stream), None, torch.arange(count) % 3)


def test_without_logits_all_metrics_but_the_inception_score_are_measured(tmp_path: Path) -> None:
    real, fake = unclassified(90), unclassified(60, seed=1)
    for conditional in (True, False):
        found = measure(Reference(real), fake, [30, 20, 10], conditional)
        parts = [found["all"], *found["groups"].values(), *found["classes"]]
        assert all(set(part) == {*METRICS} - {"inception_score"} for part in parts)
        assert found["all"]["recall"] is not None
    first, _ = cached({"backbone": "a"}, lambda: real, tmp_path)
    again, _ = cached({"backbone": "a"}, lambda: fake, tmp_path)
    assert torch.equal(again.features, real.features)
    assert first.logits is again.logits is again.rows(torch.arange(3)).logits is None


def test_logits_for_some_batches_alone_are_refused() -> None:
    batches = [(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)) for n in (4, 2)]

    def odd(images: Tensor) -> Any:
        return images.float().mean((2, 3)), torch.zeros(len(images), 2) if len(images) == 4 else None

    with pytest.raises(EvaluationError, match="some: the backbone gives class logits for some batches and not"):
        extract(odd, batches, 6, "some")  # type: ignore[arg-type]


@pytest.fixture
def shapes(pixels: str, make_package: MakePackage) -> str:
    """`pixels` without class logits."""
    source = PIXELS.replace("Pixels", "Shapes").replace("features[:, :10]", "None")
    make_package("shapes", "studiogan.backbones", {"shapes": "shapes:Shapes"}, {"shapes": source})
    return "shapes"


def test_without_logits_no_table_report_or_record_has_an_inception_score(
    pair: tuple[Path, Path], shapes: str, pixels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(pair[0], tmp_path / "run")
    argv = ["evaluate", str(run), "--images", "96", "--repeats", "1", "--device", "cpu", "--backbone"]
    texts, results, pages = {}, {}, {}
    for name in (pixels, shapes):
        with one_thread():
            assert main([*argv, name]) == 0
            texts[name] = capsys.readouterr().out
            assert main(["report", str(run), "--out", str(tmp_path / name)]) == 0
        pages[name] = (tmp_path / name / "index.html").read_text()
        (file,) = (run / "evaluations").glob(f"step=4-{name}-*.json")
        results[name] = json.loads(file.read_text())
        file.unlink()
    assert "IS-Pixels" in texts[pixels]
    assert "inception score" in pages[pixels]
    assert "IS-" not in texts[shapes]
    assert "inception score" not in pages[shapes]
    assert "inception_score" not in json.dumps(results[shapes])
    without = {key: value for key, value in results[pixels]["all"].items() if key != "inception_score"}
    assert results[shapes]["all"] == without


def test_a_run_is_selected_without_logits(shapes: str, tmp_path: Path) -> None:
    argv = arguments(write(tmp_path / "c.yaml", PLAIN), tmp_path / "run", "--evaluate", "32", "--backbone", shapes)
    with one_thread():
        assert main(argv) == 0
    lines = evaluations(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4]
    assert set(lines[0]["all"]) == set(lines[0]["groups"]["tail"]) == {"frechet"}


def test_a_run_is_measured_with_clip(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(tmp_path, monkeypatch)
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "references")
    out = tmp_path / "result.json"
    argv = ["evaluate", str(pair[0]), "--backbone", "clip", "--images", "64", "--repeats", "1", "--device", "cpu"]
    with one_thread():
        assert main([*argv, "--no-lpips", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["column"] == "FD-CLIP"
    assert result["features"] == 16
    assert all(result["all"][name]["mean"] is not None for name in ("kernel", "precision", "recall", "coverage"))
    assert "FD-CLIP  KD-CLIP  precision" in capsys.readouterr().out
