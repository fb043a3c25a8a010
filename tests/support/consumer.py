"""What a package that uses this one may look like: every public name, and a plug-in of each kind, for a type checker.

The comments `type: ignore` are checked, too: a strict mypy refuses one that hides no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from studiogan_gsr import (
    Attachment,
    ClassAffine,
    GroupSpectralRegularizer,
    LongTailed,
    TrainedGenerator,
    attach,
    class_conditional_affines,
    effective_number_weights,
    group_spectral_norms,
    load_generator,
    long_tailed_counts,
    long_tailed_indices,
    register_affine_reader,
)
from studiogan_gsr.contract import Backbone, Batch, Dataset, DiscriminatorLoss, Draw, GeneratorLoss, Penalty


class Scale(nn.Module):
    """A class-conditional layer of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)


def read_scale(layer: nn.Module, generator: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, Scale)
    return layer.table.weight, torch.zeros_like(layer.table.weight)


def regularize(generator: nn.Module, optimizer: torch.optim.Optimizer) -> Attachment:
    counts: list[int] = long_tailed_counts(5000, 10, 100)
    regularizer = GroupSpectralRegularizer(generator, counts, weight=0.5, beta=0.999)
    attachment = attach(regularizer, optimizer)
    attach(generator, optimizer)  # type: ignore[arg-type]
    return attachment


def look(generator: nn.Module) -> float:
    register_affine_reader(Scale, read_scale)
    affines: list[ClassAffine] = class_conditional_affines(generator)
    norms: Tensor = group_spectral_norms(torch.zeros(len(affines), 4, 4))
    return float(norms.max()) * float(effective_number_weights([100, 10], 0.99).sum())


def data() -> Sequence[int]:
    labels: Sequence[int] = long_tailed_indices([0, 0, 1], [1, 1], seed=1)
    long_tailed_counts("5000", 10, 100)  # type: ignore[arg-type]
    return [*LongTailed(Images(), ratio=100).class_counts, *labels]


def images(run: Path) -> Tensor:
    generator: TrainedGenerator = load_generator(run, "best", device="cpu")
    return generator(["cat", 3], seed=1)


class Method:
    """Has every role."""

    def __init__(self, generator: nn.Module, class_counts: Sequence[int], weight: float = 1.0) -> None:
        self.generator, self.weight = generator, weight

    def penalty(self) -> Tensor:
        return self.weight * torch.stack([p.square().sum() for p in self.generator.parameters()]).sum()

    def generator_loss(self, batch: Batch) -> Tensor:
        return batch.images.square().mean()

    def discriminator_loss(self, batch: Batch) -> Tensor:
        return batch.logits.square().mean()

    def draw(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return z, labels.flip(0)

    def scalars(self) -> Mapping[str, float | Tensor]:
        return {"weight": self.weight}

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...


class Images:
    """A data set that is to become long-tailed."""

    targets = (0, 0, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return Image.new("RGB", (32, 32)), self.targets[index]


class Pixels:
    column = "FD-pixels"
    digest = "pixels"

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return images.flatten(1).float(), None


def roles(method: Method) -> tuple[Penalty, GeneratorLoss, DiscriminatorLoss, Draw]:
    return method, method, method, method


def ours(generator: nn.Module) -> Penalty:
    return GroupSpectralRegularizer(generator, [2, 1])


def backbone() -> Backbone:
    return Pixels()


def dataset() -> Dataset:
    return LongTailed(Images(), ratio=2)


def no_regularizer() -> Penalty:
    return Pixels()  # type: ignore[return-value]


def no_long_tailed_dataset() -> Dataset:
    return Images()  # type: ignore[return-value]
