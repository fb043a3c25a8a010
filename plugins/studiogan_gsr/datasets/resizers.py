"""Names of the resize filters, in a file of their own so that the command's help imports no numpy.

The names are StudioGAN's for Pillow's filters; "wo_resize" means none.
"""

from __future__ import annotations

RESIZERS = ("wo_resize", "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
