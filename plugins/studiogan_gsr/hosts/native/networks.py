"""Generator and discriminator of StudioGAN's backbones `resnet` (SNGAN) and `big_resnet` (BigGAN)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studiogan_gsr.hosts.native.configuration import Configuration, Model
from studiogan_gsr.hosts.native.layers import (
    ConditionalBatchNorm2d,
    SelfAttention,
    Style,
    batch_norm,
    double,
    initialise,
)
from studiogan_gsr.hosts.native.spectral_norm import SpectralNorms

# The width of each block in units of the base width, by image size.
_GENERATOR_IN = {16: (4, 4), 32: (4, 4, 4), 64: (16, 8, 4, 2), 128: (16, 16, 8, 4, 2)}
_GENERATOR_OUT = {16: (4, 4), 32: (4, 4, 4), 64: (8, 4, 2, 1), 128: (16, 8, 4, 2, 1)}
_DISCRIMINATOR = {16: (2, 2, 2), 32: (2, 2, 2, 2), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
_HALVING = {16: 2, 32: 2, 64: 4, 128: 5}  # how many of the discriminator's first blocks halve the resolution
_BOTTOM = 4  # height and width of the generator's first feature map


def _inner(blocks: nn.ModuleList) -> Iterator[nn.Module]:
    """Iterate over the blocks; StudioGAN wraps each in its own ModuleList, and state dict keys include it."""
    return (block for one in blocks for block in one.children())


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, conditions: int, style: Style) -> None:
        super().__init__()
        self.conditional = conditions > 0
        if self.conditional:
            self.bn1: nn.Module = ConditionalBatchNorm2d(conditions, inputs, style)
            self.bn2: nn.Module = ConditionalBatchNorm2d(conditions, outputs, style)
        else:
            self.bn1, self.bn2 = batch_norm(inputs), batch_norm(outputs)
        self.activation = style.act()
        self.conv2d0 = style.conv(inputs, outputs, 1)
        self.conv2d1 = style.doubling_conv(inputs, outputs)
        self.conv2d2 = style.conv(outputs, outputs, 3)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.bn1(x, condition) if self.conditional else self.bn1(x)
        h = self.conv2d1(self.activation(h))
        h = self.bn2(h, condition) if self.conditional else self.bn2(h)
        h = self.conv2d2(self.activation(h))
        # A 1x1 convolution and doubling commute; at the lower resolution it costs a quarter.
        return h + double(self.conv2d0(x))  # type: ignore[no-any-return]


class Generator(nn.Module):
    """(z, label) -> images (N, 3, size, size) in [-1, 1], in z's dtype.

    resnet: the condition of every layer is the one-hot label.
    big_resnet: z is cut into parts.  The first is the input; the condition of each block is the shared embedding of
    the label and the block's own part.
    """

    # The memory format of activations.  Parameters stay contiguous, for optimizers and checkpoints.
    memory_format = torch.contiguous_format

    def __init__(self, size: int, classes: int, model: Model, folded: bool) -> None:
        super().__init__()
        style = Style(model.apply_g_sn, model.g_act_fn, folded)
        ins = [width * model.g_conv_dim for width in _GENERATOR_IN[size]]
        outs = [width * model.g_conv_dim for width in _GENERATOR_OUT[size]]
        # Named as in StudioGAN: code that reads class-conditional parameters needs both attributes.
        self.num_classes, self.g_cond_mtd = classes, model.g_cond_mtd
        self.conditional, self.shares = model.g_cond_mtd == "cBN", model.backbone == "big_resnet"
        self.part = model.z_dim // (len(ins) + 1) if self.shares else model.z_dim
        conditions = self.part if self.shares else 0
        self.linear0 = style.linear(self.part, ins[0] * _BOTTOM**2)
        if self.conditional and self.shares:
            assert model.g_shared_dim is not None
            self.shared = nn.Embedding(classes, model.g_shared_dim)
            conditions += model.g_shared_dim
        elif self.conditional:
            conditions += classes
        attended = model.attn_g_loc if model.apply_attn and model.attn_g_loc else ()
        blocks: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip(ins, outs, strict=True), start=1):
            blocks.append(GeneratorBlock(inputs, outputs, conditions, style))
            if number in attended:
                blocks.append(SelfAttention(outputs, style))
        self.blocks = nn.ModuleList(nn.ModuleList([block]) for block in blocks)
        self.bn4 = batch_norm(outs[-1])
        self.activation = style.act()
        self.conv2d5 = style.conv(outs[-1], 3, 3)
        initialise(self, model.g_init)
        self.spectral_norms = SpectralNorms(self)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        with self.spectral_norms.computed(update=self.training):
            return self._generate(z, label)

    def _generate(self, z: Tensor, label: Tensor) -> Tensor:
        parts = torch.split(z, self.part, 1)
        conditions: list[Tensor | None]
        if self.shares:
            shared = [self.shared(label)] if self.conditional else []
            conditions = [torch.cat([*shared, part], 1) for part in parts[1:]]
        else:
            # F.one_hot would wait for the device to check the labels, except on CUDA.
            numbers = torch.arange(self.num_classes, device=label.device)
            one_hot = (label[:, None] == numbers).to(z.dtype) if self.conditional else None
            conditions = [one_hot] * len(self.blocks)
        h = self.linear0(parts[0])
        h = h.view(len(z), -1, _BOTTOM, _BOTTOM).contiguous(memory_format=self.memory_format)
        layers = iter(conditions)
        for block in _inner(self.blocks):
            h = block(h) if isinstance(block, SelfAttention) else block(h, next(layers))
        h = self.conv2d5(self.activation(self.bn4(h)))
        return torch.tanh(h.to(z.dtype))


class FirstBlock(nn.Module):
    """The discriminator's first residual block, which takes the images and halves the resolution."""

    def __init__(self, outputs: int, style: Style) -> None:
        super().__init__()
        self.conv2d0 = style.conv(3, outputs, 1)
        self.conv2d1 = style.conv(3, outputs, 3)
        self.conv2d2 = style.halving_conv(outputs, outputs)
        if not style.spectral:
            self.bn0, self.bn1 = batch_norm(3), batch_norm(outputs)
        self.activation = style.act()
        self.normalised = not style.spectral

    def forward(self, x: Tensor) -> Tensor:
        h, shortcut = self.conv2d1(x), F.avg_pool2d(x, 2)
        if self.normalised:
            h, shortcut = self.bn1(h), self.bn0(shortcut)
        return self.conv2d2(self.activation(h)) + self.conv2d0(shortcut)  # type: ignore[no-any-return]


class DiscriminatorBlock(nn.Module):
    """Residual block that may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, halves: bool, style: Style) -> None:
        super().__init__()
        self.activation = style.act()
        self.halves, self.normalised = halves, not style.spectral
        # StudioGAN activates in place: without batch norm in between, its shortcut sees the activated input.
        self.shortcut_activated = style.spectral and style.acts_in_place
        self.projects = halves or inputs != outputs
        if self.projects:
            self.conv2d0 = style.conv(inputs, outputs, 1)
            if self.normalised:
                self.bn0 = batch_norm(inputs)
        self.conv2d1 = style.conv(inputs, outputs, 3)
        self.conv2d2 = style.halving_conv(outputs, outputs) if halves else style.conv(outputs, outputs, 3)
        if self.normalised:
            self.bn1, self.bn2 = batch_norm(inputs), batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.bn1(x) if self.normalised else x)
        shortcut = h if self.shortcut_activated else x
        h = self.conv2d1(h)
        h = self.conv2d2(self.activation(self.bn2(h) if self.normalised else h))
        if self.projects:
            if self.normalised:
                shortcut = self.bn0(shortcut)
            # Pooling and a 1x1 convolution commute; at the lower resolution it costs a quarter.
            shortcut = self.conv2d0(F.avg_pool2d(shortcut, 2) if self.halves else shortcut)
        return h + shortcut  # type: ignore[no-any-return]


class Judgement(NamedTuple):
    """A discriminator's output for N images.

    logits: (N,), real or fake.  embed, proxy: (N, d_embed_dim), of image and label (2C, D2DCE only).
    class_logits: (N, classes) (AC only).
    """

    logits: Tensor
    embed: Tensor | None = None
    proxy: Tensor | None = None
    class_logits: Tensor | None = None


class Discriminator(nn.Module):
    """(images (N, 3, size, size), labels (N,)) -> Judgement, in the images' dtype."""

    memory_format = torch.contiguous_format

    def __init__(self, size: int, classes: int, model: Model, folded: bool) -> None:
        super().__init__()
        style = Style(model.apply_d_sn, model.d_act_fn, folded)
        outs = [width * model.d_conv_dim for width in _DISCRIMINATOR[size]]
        attended = model.attn_d_loc if model.apply_attn and model.attn_d_loc else ()
        blocks: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip([3, *outs[:-1]], outs, strict=True), start=1):
            first = number == 1
            halves = number <= _HALVING[size]
            blocks.append(FirstBlock(outputs, style) if first else DiscriminatorBlock(inputs, outputs, halves, style))
            if number in attended:
                blocks.append(SelfAttention(outputs, style))
        self.blocks = nn.ModuleList(nn.ModuleList([block]) for block in blocks)
        self.activation = style.act()
        self.conditioning, self.normalises = model.d_cond_mtd, model.normalize_d_embed
        self.linear1 = style.linear(outs[-1], 1)
        if self.conditioning == "AC":
            self.linear2 = style.linear(outs[-1], classes, bias=False)
        elif self.conditioning == "PD":
            self.embedding = style.embedding(classes, outs[-1])
        elif self.conditioning in ("2C", "D2DCE"):
            assert model.d_embed_dim is not None
            self.linear2 = style.linear(outs[-1], model.d_embed_dim)
            self.embedding = style.embedding(classes, model.d_embed_dim)
        initialise(self, model.d_init)
        self.spectral_norms = SpectralNorms(self)

    def forward(self, images: Tensor, label: Tensor) -> Judgement:
        with self.spectral_norms.computed(update=self.training):
            return self._judge(images, label)

    def _judge(self, images: Tensor, label: Tensor) -> Judgement:
        h = images.contiguous(memory_format=self.memory_format)
        for block in _inner(self.blocks):
            h = block(h)
        # The head costs little and its rounding matters most, so it runs in full precision.
        with torch.autocast(images.device.type, enabled=False):
            h = self.activation(h.to(images.dtype)).sum((2, 3))
            logits = self.linear1(h).squeeze(1)
            if self.conditioning == "PD":
                return Judgement(logits + (self.embedding(label) * h).sum(1))
            if self.conditioning == "AC":
                return Judgement(logits, class_logits=self.linear2(F.normalize(h) if self.normalises else h))
            if self.conditioning in ("2C", "D2DCE"):
                embed, proxy = self.linear2(h), self.embedding(label)
                if self.normalises:
                    embed, proxy = F.normalize(embed), F.normalize(proxy)
                return Judgement(logits, embed, proxy)
            return Judgement(logits)


def make_networks(configuration: Configuration, seed: int, folded: bool = True) -> tuple[Generator, Discriminator]:
    """Return both networks, on the CPU, with initial weights identical to StudioGAN's for the same seed.

    The global random state is unchanged.
    """
    data, model = configuration.DATA, configuration.MODEL
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = Generator(data.img_size, data.num_classes, model, folded)
        return generator, Discriminator(data.img_size, data.num_classes, model, folded)
