"""Names for StudioGAN's own objects in the signatures of hooks.

They are `Any`, because StudioGAN is imported only when it runs, and has no type hints.  The comments say what to look
up in its source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Configurations = Any  # config.Configurations: all sections, and the command line's options as RUN
Section = Any  # one section of it, such as config.Configurations.DATA
Worker = Any  # worker.WORKER: the training of one rank
StudioGANDataset = Any  # data_util.Dataset_: the images of one split
Original = Callable[..., Any]  # a function of StudioGAN that a hook wraps
