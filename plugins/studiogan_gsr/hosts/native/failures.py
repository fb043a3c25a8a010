"""Turn failures of a run into errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from studiogan_gsr.errors import DataError, TrainingError, reason
from studiogan_gsr.hosts.native.configuration import Configuration
from studiogan_gsr.hosts.native.folder import RunFolder
from studiogan_gsr.hosts.native.numbers import NotFinite
from studiogan_gsr.hosts.native.reader import ImagesLost
from studiogan_gsr.hosts.native.training import Trainer


@contextmanager
def failures_explained(folder: RunFolder, trainer: Trainer) -> Iterator[None]:
    """Turn NaN, lost or unreadable images and a full disk into a TrainingError that names the last good checkpoint.

    A DataError before the first step is raised unchanged.
    """
    try:
        yield
    except NotFinite as error:
        remedy = "a lower learning rate, --precision float32 or another seed may help"
        raise TrainingError(f"{error}; {folder.last_good()}; {remedy}") from error
    except ImagesLost as error:
        raise TrainingError(f"{error}; {folder.last_good()}; --resume resumes the run") from error
    except DataError as error:  # a streamed image that cannot be read
        if trainer.steps == 0:
            raise
        raise TrainingError(
            f"{error}; {folder.last_good()}; repair the images and --resume, with --allow-changed-images where some "
            "were removed or renamed"
        ) from error
    except OSError as error:
        raise TrainingError(f"the run in {folder.path} failed: {reason(error)}; {folder.last_good()}") from error


@contextmanager
def memory_explained(configuration: Configuration, device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error into a TrainingError that says which settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text
        if not memory:
            raise
        size, accumulation = configuration.OPTIMIZATION.batch_size, configuration.OPTIMIZATION.acml_steps
        what = f" ({text.splitlines()[0][:120]})" if text else ""
        smaller = (
            f"lower it to {size // 2} with OPTIMIZATION.acml_steps {2 * accumulation} for about as many images per "
            "update, or "
        )
        raise TrainingError(
            f"out of memory on {device} at OPTIMIZATION.batch_size {size}{what}; "
            f"{smaller if size > 1 else ''}lower MODEL.g_conv_dim and d_conv_dim"
        ) from error
