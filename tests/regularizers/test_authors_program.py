"""Against the authors' own layers, where their program lies beside the checkout of StudioGAN."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, effective_number_weights
from studiogan_gsr.hosts.studiogan.checkout import default_root

COUNTS = [5000, 1077, 232, 50]
DIM, NOISE = 6, 4


@pytest.fixture(scope="module")
def model_ops() -> ModuleType:
    path = default_root().parent / "gSRGAN" / "src" / "utils" / "model_ops.py"
    if not path.is_file():
        pytest.skip(f"the authors' program is not at {path.parents[2]}")
    pytest.importorskip("pandas")  # which it imports
    spec = importlib.util.spec_from_file_location("authors_model_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "utils", ModuleType("utils"))  # its logging helpers, of no use here
        patch.setitem(sys.modules, "utils.misc", ModuleType("utils.misc"))
        spec.loader.exec_module(module)
    return module


class SNGAN(nn.Module):
    def __init__(self, model_ops: ModuleType, spectral: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([model_ops.ConditionalBatchNorm2d(c, 4, spectral) for c in (24, 32)])

    def program(self, cfgs: SimpleNamespace) -> list[tuple[Tensor, ...]]:
        if hasattr(self.layers[0].embed0, "weight_orig"):  # the stored weight follows a forward
            for layer in self.layers:
                layer.embed0(torch.zeros(1, dtype=torch.long))
                layer.embed1(torch.zeros(1, dtype=torch.long))
        return [layer.plot_sn(torch.zeros(1), cfgs)[:2] for layer in self.layers]


class BigGAN(nn.Module):
    def __init__(self, model_ops: ModuleType, spectral: bool) -> None:
        super().__init__()
        make = model_ops.ConditionalBatchNorm2d_for_skip_and_shared
        self.layers = nn.ModuleList([make(c, DIM + NOISE, spectral) for c in (24, 32)])
        self.shared = nn.Embedding(4, DIM)

    def program(self, cfgs: SimpleNamespace) -> list[tuple[Tensor, ...]]:
        return [layer.plot_sn(self.shared.weight, torch.zeros(1), cfgs, NOISE)[:2] for layer in self.layers]


@pytest.mark.parametrize("family", [SNGAN, BigGAN])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("iterations", [0, 4])
def test_penalty_and_gradients_equal_the_authors(
    model_ops: ModuleType, family: type[SNGAN] | type[BigGAN], spectral: bool, iterations: int
) -> None:
    torch.manual_seed(0)
    generator = family(model_ops, spectral)
    for module in generator.modules():
        if hasattr(module, "weight_orig"):
            for _ in range(20):  # the layers' own spectral norms settle, as they do in training
                module(torch.zeros(1, dtype=torch.long) if isinstance(module, nn.Embedding) else torch.zeros(1, 10))
    generator.eval()  # in training mode theirs moves the host's spectral norms
    cfgs = SimpleNamespace(num_power_iter=iterations, shuffle_emb=False, num_classes=4, sn_regularize=True)
    weights = torch.from_numpy(0.5 * effective_number_weights(COUNTS, 0.99))
    ours = GroupSpectralRegularizer(
        generator, COUNTS, power_iterations=iterations, released_bias_update=iterations > 0
    )
    parameters = [p for p in generator.parameters() if p.requires_grad]
    for call in range(4):
        if call:
            with torch.no_grad():
                for p in parameters:
                    p.add_(0.1 * torch.randn_like(p))
        penalty = ours.penalty()
        program = torch.stack([torch.stack(sides) for sides in generator.program(cfgs)])
        theirs = (program.square() * weights).sum() / (2 * 4)
        if call == 0 and iterations:
            # Both start converged, from other vectors: go on from the same ones.
            for layer, channels in zip(generator.layers, (24, 32), strict=True):
                for side in (0, 1):
                    for vector in "uv":
                        value = ours.get_buffer(f"{vector}_{channels}")[side].unsqueeze(2).clone()
                        setattr(layer, f"{vector}{side}", value)
            continue
        torch.testing.assert_close(penalty.double(), theirs.double(), rtol=1e-5, atol=0)
        mine = torch.autograd.grad(penalty, parameters)
        for a, b in zip(mine, torch.autograd.grad(theirs, parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
