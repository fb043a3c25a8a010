"""Spectral normalisation of a whole network against torch's, layer by layer."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from studiogan_gsr.hosts.native import spectral_norm as native
from studiogan_gsr.hosts.native.spectral_norm import SpectralNorms, spectrally_normalised


class Judge(nn.Module):
    """A network with layers of every kind that is normalised, and one that is not."""

    def __init__(self, wrap: object) -> None:
        super().__init__()
        self.conv = wrap(nn.Conv2d(3, 8, 3))
        self.plain = nn.Conv2d(8, 8, 1)
        self.pointwise, self.another = wrap(nn.Conv2d(8, 8, 1)), wrap(nn.Conv2d(8, 8, 1))
        self.linear = wrap(nn.Linear(8, 1))
        self.embedding = wrap(nn.Embedding(5, 8))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.plain(self.conv(images)).relu()
        h = (self.pointwise(h) + self.another(h.flip(1))).sum((2, 3))
        return self.linear(h).squeeze(1) + (self.embedding(labels) * h).sum(1)


def judges(scale: float = 1.0) -> tuple[Judge, Judge]:
    """Return the same network twice, in float64: normalised by torch, and by us."""
    made = []
    for wrap in (lambda layer: spectral_norm(layer, eps=1e-6), spectrally_normalised):
        torch.manual_seed(0)
        judge = Judge(wrap).double()
        with torch.no_grad():
            for name, parameter in judge.named_parameters():
                parameter.mul_(scale if name.endswith("weight_orig") else 1.0)
        made.append(judge)
    return made[0], made[1]


@pytest.fixture(params=["each weight alone, as on a CPU", "weights of one shape at once, as on a GPU"], autouse=True)
def _grouping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "GPU" in request.param:
        monkeypatch.setattr(native, "_groups", native._of_one_shape)


@pytest.mark.parametrize("scale", [1.0, 1e-9], ids=["usual", "shorter than epsilon"])
@pytest.mark.parametrize("together", [True, False], ids=["by the network", "by each layer"])
def test_values_gradients_and_vectors_are_torchs(together: bool, scale: float) -> None:
    theirs, ours = judges(scale)
    norms = SpectralNorms(ours)
    images, labels = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 4, 1, 1])
    for training in (True, True, False, True):
        theirs.train(training)
        ours.train(training)
        with norms.computed(update=training) if together else nullcontext():
            found = ours(images, labels)
        expected = theirs(images, labels)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        for judge, output in ((theirs, expected), (ours, found)):
            judge.zero_grad()
            output.square().sum().backward()
        for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
            assert one.grad is not None
            smallest = 1e-10 * float(one.grad.abs().max())  # single elements cancel
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=smallest, msg=name)
        torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_two_passes_before_one_backward_pass_keep_their_own_weights() -> None:
    """As in a discriminator's update, which sees real and generated images."""
    theirs, ours = judges()
    norms = SpectralNorms(ours)
    images, labels = torch.randn(2, 4, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 4, 1, 1])
    expected = sum(theirs(batch, labels).square().sum() for batch in images)
    found = []
    for batch in images:
        with norms.computed(update=True):
            found.append(ours(batch, labels).square().sum())
    expected.backward()
    sum(found).backward()
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-10)


def test_a_layer_that_is_called_or_copied_alone_computes_its_own_weight() -> None:
    theirs, ours = judges()
    norms = SpectralNorms(ours)
    images, labels = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 4, 1, 1])
    with torch.no_grad(), norms.computed(update=True):
        ours(images, labels)
    with torch.no_grad():
        theirs(images, labels)
    alone = copy.deepcopy(ours.embedding)
    with torch.no_grad():
        for layer in (alone, theirs.embedding):
            layer.weight_orig.mul_(3).add_(1)
        torch.testing.assert_close(alone(labels), theirs.embedding(labels))
