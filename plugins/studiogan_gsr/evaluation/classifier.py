"""Train a ResNet-18 for small images, and count what it recognises of each class.

The network is torchvision's, of its own blocks, with the usual stem for small images (3 x 3, stride 1, no pooling).
The recipe is the usual one, too: SGD with Nesterov momentum 0.9, weight decay 5e-4, batches of 128, a learning rate
that rises linearly and then falls as a cosine, random crops and, where mirrored images stay in their class, flips.

All random numbers are drawn on the CPU and leave the global stream as it was, so a seed gives the same draws on every
device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from studiogan_gsr.seeds import mixed

STANDARD_WIDTH = 64  # channels of torchvision's first stage
# Numbers to mix with a seed: its streams for the order of images and for crops and flips.
_ORDER, _AUGMENTATION = 1, 2
_TESTED_AT_ONCE = 512  # images
# Channels from which channels-last memory is used.  With fewer than 8 on a CPU with AVX2, or 16 with AVX-512, a 1x1
# convolution of stride 2 writes past its workspace: PyTorch 2.14 crashes, hangs or silently gives wrong gradients
# (oneDNN's issue 6035).
_CHANNELS_LAST_FROM = 16

Sampler = Callable[[Tensor, int, torch.Generator], Iterator[Tensor]]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    width: channels of the first stage; torchvision's ResNet-18 has 64.
    flip: whether training images are mirrored at random.
    padding: pixels around an image of 32 x 32 before it is cropped at random; scaled to other sizes.
    warm_up: share of the updates in which the learning rate rises.
    """

    updates: int
    width: int = STANDARD_WIDTH
    flip: bool = True
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.05
    padding: int = 4

    def record(self) -> dict[str, Any]:
        """Return the settings as plain data.

        Narrow networks also name their memory format, so that numbers kept before they had one of their own, which
        may rest on wrong gradients, are not taken for theirs.
        """
        narrow = {} if self.memory_format is torch.channels_last else {"memory_format": "contiguous"}
        return {**asdict(self), **narrow}

    @property
    def memory_format(self) -> torch.memory_format:
        """The order of images and weights in memory: channels last, which convolutions prefer, where it is safe."""
        return torch.channels_last if self.width >= _CHANNELS_LAST_FROM else torch.contiguous_format

    def rate(self, update: int) -> float:
        """Return the factor of the learning rate at an update, counted from 0: a linear rise, then a cosine."""
        rising = max(1, round(self.warm_up * self.updates))
        if update < rising:
            return (update + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (update - rising) / max(1, self.updates - rising)))


def small_resnet18(classes: int, width: int = STANDARD_WIDTH, seed: int = 0) -> nn.Sequential:
    """Return a ResNet-18 for images (N, 3, H, W) of small H and W; it gives logits (N, classes).

    Its weights are drawn as torchvision draws them, from the seed; the global random state is unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _stage(width, width, 1),
            _stage(width, 2 * width, 2),
            _stage(2 * width, 4 * width, 2),
            _stage(4 * width, 8 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, classes),
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


def as_they_are(labels: Tensor, batch_size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices (B,), endlessly: one shuffled pass over the images follows another."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(len(labels), generator=stream)])
        yield left[:batch_size]
        left = left[batch_size:]


def equally_often(labels: Tensor, batch_size: int, stream: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices (B,), endlessly: a class drawn uniformly, then one of its images.

    A class without images is not drawn.
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    firsts, counts = (counts.cumsum(0) - counts)[counts > 0], counts[counts > 0]
    while True:
        drawn = torch.randint(len(counts), (batch_size,), generator=stream)
        within = (torch.rand(batch_size, generator=stream, dtype=torch.float64) * counts[drawn]).long()
        yield order[firsts[drawn] + within]


def train(
    images: Tensor,
    labels: Tensor,
    classes: int,
    recipe: Recipe,
    sampler: Sampler = as_they_are,
    seed: int = 0,
    advance: Callable[[int], None] = lambda updates: None,
) -> nn.Module:
    """Return a trained classifier of images; it is called as `Classifier` is.

    images: uint8 (N, 3, H, W), on the device to train on.  labels: int64 (N,), on the CPU.
    advance: called with the number of updates since it was last called.
    """
    mean, deviation = statistics(images)
    network = Classifier(small_resnet18(classes, recipe.width, seed), mean, deviation, recipe.memory_format)
    network.to(images.device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    order, augmentation = (torch.Generator().manual_seed(mixed(seed, number)) for number in (_ORDER, _AUGMENTATION))
    padding = max(1, round(recipe.padding * images.shape[-1] / 32))
    batches = sampler(labels, recipe.batch_size, order)
    for _ in range(recipe.updates):
        chosen = next(batches)
        batch = cropped(images[_moved(chosen, images.device)], padding, recipe.flip, augmentation)
        loss = F.cross_entropy(network(batch), _moved(labels[chosen], images.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        advance(1)
    return network.eval()


class Classifier(nn.Module):
    """A network that normalises its images: uint8 (N, 3, H, W) -> logits (N, classes).

    mean, deviation: per channel (3,), of pixels from 0 to 255.  memory_format: of the network and its images.
    """

    def __init__(
        self, network: nn.Module, mean: Tensor, deviation: Tensor, memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=memory_format)
        self.memory_format = memory_format
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("deviation", deviation.view(1, 3, 1, 1))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() - self.mean) / self.deviation
        logits: Tensor = self.network(normalised.contiguous(memory_format=self.memory_format))
        return logits


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, float32 (3,), of uint8 images (N, 3, H, W)."""
    sums, squares = torch.zeros(2, 3, dtype=torch.float64)
    for some in images.split(4096):  # type: ignore[no-untyped-call]
        pixels = some.float()
        sums += pixels.mean((2, 3)).double().sum(0).cpu()
        squares += pixels.square().mean((2, 3)).double().sum(0).cpu()
    mean, square = sums / len(images), squares / len(images)
    return mean.float(), (square - mean**2).clamp(min=1e-6).sqrt().float()


def cropped(images: Tensor, padding: int, flip: bool, stream: torch.Generator) -> Tensor:
    """Return random crops, of the images' size, of images with a black border of `padding` pixels.

    images: (N, C, H, W), any dtype.  flip: mirror each image with probability 1/2.
    """
    number, _, height, width = images.shape
    device = images.device
    down, right = _moved(torch.randint(2 * padding + 1, (2, number, 1), generator=stream), device)
    rows, columns = torch.arange(height, device=device) + down, torch.arange(width, device=device) + right
    if flip:
        mirrored = _moved(torch.rand(number, 1, generator=stream), device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    each = torch.arange(number, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for the device."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@torch.inference_mode()
def recognised(network: nn.Module, images: Tensor, labels: Tensor, classes: int) -> list[int]:
    """Return the number of images of each class that a classifier recognises.

    images: uint8 (N, 3, H, W), on the network's device.  labels: int64 (N,), on the CPU.
    """
    found = [network(some).argmax(1).cpu() for some in images.split(_TESTED_AT_ONCE)]  # type: ignore[no-untyped-call]
    right = torch.cat(found) == labels
    return torch.bincount(labels[right], minlength=classes).tolist()
