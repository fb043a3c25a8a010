"""Differentiable augmentation of the discriminator's images: DiffAugment, and ADA with its adaptive p.

Images are (N, 3, H, W) float in [-1, 1].  All random numbers come from the given generator, in StudioGAN's order, so
equal seeds give equal augmentations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from studiogan_gsr.hosts.native.configuration import Aug

Augmentation = Callable[[Tensor], Tensor]


def diffaugment(x: Tensor, stream: torch.Generator) -> Tensor:
    """Return images augmented by DiffAugment (Zhao et al. 2020) with policy color,translation,cutout."""
    n, _, height, width = x.shape

    def uniform() -> Tensor:
        return torch.rand(n, 1, 1, 1, dtype=x.dtype, device=x.device, generator=stream)

    def choices(table: Tensor) -> Tensor:
        """Return a random row of the table for each image."""
        return table[torch.randint(len(table), (n,), device=x.device, generator=stream)]

    x = x + (uniform() - 0.5)  # brightness
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, uniform() * 2)  # saturation
    mean = grey.mean((2, 3), keepdim=True)  # saturation leaves it as it is
    x = torch.lerp(mean, x, uniform() + 0.5)  # contrast

    # Translate by up to an eighth, with zeros outside, and cut out one square of half the size.  Both separate into
    # rows and columns, so indices and masks of each are enough.
    rows, columns = _translations(height, x.device), _translations(width, x.device)
    (rows, row_inside), (columns, column_inside) = choices(rows).unbind(1), choices(columns).unbind(1)
    row_cut, column_cut = choices(_cuts(height, x.device)), choices(_cuts(width, x.device))
    places = rows[:, :, None] * width + columns[:, None, :]
    moved = x.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    visible = row_inside[:, :, None] * column_inside[:, None, :] * (1 - row_cut[:, :, None] * column_cut[:, None, :])
    return moved * visible[:, None]


@functools.lru_cache(maxsize=64)
def _translations(size: int, device: torch.device) -> Tensor:
    """Return (shifts, 2, size) int64: for every shift, each row's (or column's) place of origin, and 1 if inside."""
    most = int(size / 8 + 0.5)
    places = torch.arange(size) + torch.arange(-most, most + 1)[:, None]
    inside = (places >= 0) & (places < size)
    return torch.stack([places.clamp(0, size - 1), inside], 1).to(device)


@functools.lru_cache(maxsize=64)
def _cuts(size: int, device: torch.device) -> Tensor:
    """Return (positions, size) int64: 1 where a square of half the size, at each position, covers a row or column."""
    length = int(size / 2 + 0.5)
    first = torch.arange(size + (1 - length % 2))[:, None] - length // 2
    places = torch.arange(size)
    # As in StudioGAN, positions beyond the edge are clamped to the edge.
    covered = (places >= first.clamp(0, size - 1)) & (places <= (first + length - 1).clamp(0, size - 1))
    return covered.long().to(device)


class ADA:
    """Adaptive discriminator augmentation (Karras et al. 2020), implemented from the paper.

    AUG.ada_aug_type: blit (flips, quarter turns, whole-pixel shifts), geom (scales, rotations, fractional shifts),
    color, bg (blit + geom) or bgc (all).
    p: the probability of each augmentation.  It rises while r = mean(sign(D(real))) is above the target, and falls
    while it is below.
    """

    def __init__(self, aug: Aug, stream: torch.Generator) -> None:
        assert aug.ada_initial_augment_p is not None
        device = stream.device
        self.stream, self.target, self.kimg, self.interval = stream, aug.ada_target, aug.ada_kimg, aug.ada_interval
        kind = aug.ada_aug_type
        self.blits = kind in ("blit", "bg", "bgc")
        self.warps = kind in ("geom", "bg", "bgc")
        self.colors = kind in ("color", "bgc")
        self.p = torch.tensor(float(aug.ada_initial_augment_p), device=device)
        # The sum of the signs of the real images' logits since the last adjustment, and the number of logits.
        self.signs = torch.zeros(2, device=device)
        self._filter = torch.tensor(_SYM6, device=device) / sum(_SYM6)

    def observe(self, real_logits: Tensor) -> None:
        """Count the signs of the discriminator's logits of real images."""
        self.signs[0] += real_logits.detach().sign().sum()
        self.signs[1] += len(real_logits)

    def adjust(self, step: int) -> None:
        """Adjust p at every `interval`-th step if there is a target; does not wait for the device.

        p changes by 1 per `kimg` thousand real images.
        """
        if self.target is None or step % (self.interval or 1):
            return
        assert self.kimg is not None
        if dist.is_initialized():
            dist.all_reduce(self.signs)
        total, images = self.signs.unbind()
        change = torch.sign(total / images - self.target) * images / (self.kimg * 1000)
        self.p.add_(change).clamp_(0, 1)
        self.signs.zero_()

    def __call__(self, x: Tensor) -> Tensor:
        if self.blits or self.warps:
            x = self._move(x)
        return self._recolor(x) if self.colors else x

    # Random numbers.

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.stream.device, generator=self.stream)

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.stream.device, generator=self.stream)

    def _sometimes(self, value: Tensor, otherwise: float, p: Tensor | None = None) -> Tensor:
        """Return `value` with probability p per image, else `otherwise`; p defaults to `self.p`."""
        shape = (len(value), *[1] * (value.ndim - 1))
        return torch.where(self._rand(*shape) < (self.p if p is None else p), value, otherwise)

    # Geometry: G maps positions in the result to positions in the image, in pixels from the middle.

    def _move(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        G = torch.eye(3, device=x.device).expand(n, 3, 3)
        if self.blits:
            mirrored = self._sometimes(torch.floor(self._rand(n) * 2), 0)
            G = G @ _scaling(1 - 2 * mirrored, torch.ones_like(mirrored))
            quarters = self._sometimes(torch.floor(self._rand(n) * 4), 0)
            G = G @ _rotation(math.pi / 2 * quarters)
            shift = self._sometimes((self._rand(n, 2) * 2 - 1) * 0.125, 0)
            G = G @ _translation(-torch.round(shift[:, 0] * width), -torch.round(shift[:, 1] * height))
        if self.warps:
            scale = self._sometimes(torch.exp2(self._randn(n) * 0.2), 1)
            G = G @ _scaling(1 / scale, 1 / scale)
            # One rotation before and one after the stretching; the probability of at least one is p.
            once = 1 - torch.sqrt((1 - self.p).clamp(0, 1))
            angle = self._sometimes((self._rand(n) * 2 - 1) * math.pi, 0, once)
            G = G @ _rotation(angle)
            stretch = self._sometimes(torch.exp2(self._randn(n) * 0.2), 1)
            G = G @ _scaling(1 / stretch, stretch)
            angle = self._sometimes((self._rand(n) * 2 - 1) * math.pi, 0, once)
            G = G @ _rotation(angle)
            shift = self._sometimes(self._randn(n, 2) * 0.125, 0)
            G = G @ _translation(-shift[:, 0] * width, -shift[:, 1] * height)
        return self._warp(x, G)

    def _warp(self, x: Tensor, G: Tensor) -> Tensor:
        """Return the images moved by G (N, 3, 3), resampled at twice the resolution between two low-pass filters."""
        n, channels, height, width = x.shape
        taps = len(_SYM6) // 4
        x, (left, top, right, bottom) = _pad(x, _reach(G, height, width, 2 * taps))
        x = self._upsample(x.flatten(0, 1)[:, None])
        in_height, in_width = int(x.shape[2]), int(x.shape[3])
        x = x.view(n, channels, in_height, in_width)
        out_height, out_width = (height + 2 * taps) * 2, (width + 2 * taps) * 2
        # Convert between pixels from the middle and grid_sample's coordinates; upsampling shifts by half a pixel.
        to_grid = _affine(4 / in_width, 4 / in_height, -1 / in_width, -1 / in_height, x)
        middle = _affine(1, 1, (left - right) / 2, (top - bottom) / 2, x)
        from_grid = _affine(out_width / 4, out_height / 4, 0.25, 0.25, x)
        theta = (to_grid @ middle @ G @ from_grid)[:, :2]
        grid = F.affine_grid(theta.to(x.dtype), [n, channels, out_height, out_width], align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        x = self._downsample(x[:, :, 1:-1, 1:-1].flatten(0, 1)[:, None])
        return x.view(n, channels, height, width)

    def _upsample(self, x: Tensor) -> Tensor:
        taps = 2 * self._filter.to(x.dtype)
        x = F.conv_transpose2d(x, taps.view(1, 1, 1, -1), stride=(1, 2), padding=(0, 5))
        return F.conv_transpose2d(x, taps.view(1, 1, -1, 1), stride=(2, 1), padding=(5, 0))

    def _downsample(self, x: Tensor) -> Tensor:
        taps = self._filter.to(x.dtype)
        x = F.conv2d(x, taps.view(1, 1, 1, -1), stride=(1, 2))
        return F.conv2d(x, taps.view(1, 1, -1, 1), stride=(2, 1))

    # Color: C maps each pixel (r, g, b, 1) of the image to that of the result.

    def _recolor(self, x: Tensor) -> Tensor:
        n, device = len(x), x.device
        eye = torch.eye(4, device=device)
        luma = _constant((3**-0.5, 3**-0.5, 3**-0.5, 0.0), device)
        onto = luma.outer(luma)
        brightness = self._sometimes(self._randn(n) * 0.2, 0)
        C = eye.repeat(n, 1, 1)
        C[:, :3, 3] = brightness[:, None]
        contrast = self._sometimes(torch.exp2(self._randn(n) * 0.5), 1)
        C = torch.cat([C[:, :3] * contrast[:, None, None], C[:, 3:]], 1)
        flipped = self._sometimes(torch.floor(self._rand(n, 1, 1) * 2), 0)
        C = (eye - 2 * onto * flipped) @ C
        angle = self._sometimes((self._rand(n) * 2 - 1) * math.pi, 0)[:, None, None]
        across = _constant(_ACROSS, device) * 3**-0.5
        color = torch.diag(_constant((1.0, 1.0, 1.0, 0.0), device))
        hue = angle.cos() * color + (1 - angle.cos()) * onto + angle.sin() * across + (eye - color)
        C = hue @ C
        saturation = self._sometimes(torch.exp2(self._randn(n, 1, 1)), 1)
        C = ((onto + (eye - onto) * saturation) @ C).to(x.dtype)
        return torch.baddbmm(C[:, :3, 3:], C[:, :3, :3], x.flatten(2)).view_as(x)


# This matrix times sqrt(1/3) gives the cross product with the luma axis.
_ACROSS = ((0.0, -1.0, 1.0, 0.0), (1.0, 0.0, -1.0, 0.0), (-1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
# The low-pass filter of the wavelet sym6.
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip


def _reach(G: Tensor, height: int, width: int, slack: int) -> Tensor:
    """Return how far the batch's grids reach beyond the left, top, right and bottom edge, in pixels: (4,).

    slack: pixels to add on each side.  The result is at most the image's size minus one.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = _constant(((-x, x, x, -x), (-y, -y, y, y), (1.0, 1.0, 1.0, 1.0)), G.device)
    reached = (G @ corners)[:, :2]
    low, high = -reached.amin((0, 2)), reached.amax((0, 2))
    places = torch.stack([low, high]) + slack - _constant((x, y), G.device)
    return places.ceil().clamp(min=0).minimum(_constant((width - 1.0, height - 1.0), G.device)).flatten()


def _pad(x: Tensor, reach: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Return the images with reflected padding of `reach` pixels, and the padding (left, top, right, bottom).

    On a GPU, reading `reach` would wait for the device.  The padding is then always the maximum, the image's size
    minus one, with zeros beyond `reach`, where the grid does not sample.
    """
    height, width = x.shape[2:]
    if reach.is_cpu:
        left, top, right, bottom = (int(pixels) for pixels in reach.tolist())
        return F.pad(x, (left, right, top, bottom), mode="reflect"), (left, top, right, bottom)
    return _mirrored_within(x, reach), (width - 1, height - 1, width - 1, height - 1)


def _mirrored_within(x: Tensor, reach: Tensor) -> Tensor:
    """Return the images with reflected padding of their size minus one on each side, and zeros beyond `reach`."""
    height, width = x.shape[2:]
    x = F.pad(x, (width - 1, width - 1, height - 1, height - 1), mode="reflect")
    left, top, right, bottom = reach.unbind()
    columns = torch.arange(1 - width, 2 * width - 1, device=x.device)
    rows = torch.arange(1 - height, 2 * height - 1, device=x.device)
    inside_columns = (columns >= -left) & (columns < width + right)
    inside_rows = (rows >= -top) & (rows < height + bottom)
    return torch.where(inside_rows[:, None] & inside_columns, x, 0)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """Return a float32 tensor of these values, cached per device because each copy to a GPU waits for the GPU."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _affine(scale_x: float, scale_y: float, x: float, y: float, like: Tensor) -> Tensor:
    return _constant(((scale_x, 0.0, x), (0.0, scale_y, y), (0.0, 0.0, 1.0)), like.device)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices [[a, b, x], [c, d, y], [0, 0, 1]] from (N,) tensors."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, one], -1).view(-1, 3, 3)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix(x, zero, zero, y, zero, zero)


def _rotation(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos(), zero, zero)


def _translation(x: Tensor, y: Tensor) -> Tensor:
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _matrix(one, zero, zero, one, x, y)


def augmentation(aug: Aug, stream: torch.Generator) -> Augmentation:
    """Return the augmentation that AUG configures, on the stream's device; the identity if it configures none."""
    if aug.apply_ada:
        return ADA(aug, stream)
    if aug.apply_diffaug:
        return lambda x: diffaugment(x, stream)
    return lambda x: x
