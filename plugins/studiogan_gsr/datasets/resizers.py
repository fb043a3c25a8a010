"""Names of the filters that resize images; apart from their use, so that the command's help needs no numpy."""

from __future__ import annotations

RESIZERS = ("wo_resize", "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
