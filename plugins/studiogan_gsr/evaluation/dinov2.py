"""The network of DINOv2 (Oquab et al. 2023), to run its published weights without code from the network.

torch-fidelity takes this network from the main branch of facebookresearch/dinov2 through torch.hub, which needs the
network, is not pinned, and runs whatever is there.  This one computes the same, for inference alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PATCH = 14  # pixels
_GRID = 37  # patches along a side of the images that it was trained on last
_OFFSET = 0.1  # DINOv2 adds it to the number of patches when it resizes the position embedding


class VisionTransformer(nn.Module):
    """Maps normalised images (N, 3, H, H) to features (N, width); parameters have the names of the published weights.

    depth: number of blocks.  heads: attention heads per block.  H must be a multiple of 14 pixels.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + _GRID**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, stride=_PATCH)})
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).mT], 1)
        first: Tensor = self.blocks(tokens + self._positions(patches.shape[-1]))[:, 0]
        return self.norm(first)  # type: ignore[no-any-return]

    def _positions(self, side: int) -> Tensor:
        """Return the position embedding (1, 1 + side^2, width) of `side` x `side` patches."""
        if side == _GRID:
            return self.pos_embed
        learned = self.pos_embed[:, 1:].mT.reshape(1, -1, _GRID, _GRID)
        # DINOv2 gives the scale, not the size: the places between patches depend on it.
        resized = F.interpolate(learned, scale_factor=(side + _OFFSET) / _GRID, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).mT], 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.empty(width)}) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        three = self.attn["qkv"](self.norm1(tokens)).unflatten(2, (3, self.heads, -1))  # query, key and value
        query, key, value = three.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.ls1["gamma"] * self.attn["proj"](attended)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + self.ls2["gamma"] * self.mlp["fc2"](hidden)  # type: ignore[no-any-return]
