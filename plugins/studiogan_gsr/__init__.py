"""Group spectral regularization (gSR) and long-tailed data sets for conditional GANs.

The public names below are imported on first use, so that `studiogan-gsr --help` and class counts
do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studiogan_gsr.datasets.counts import long_tailed_counts, long_tailed_indices
    from studiogan_gsr.datasets.long_tailed import LongTailed
    from studiogan_gsr.regularizers.affines import (
        ClassAffine,
        class_conditional_affines,
        register_affine_reader,
    )
    from studiogan_gsr.regularizers.attachment import Attachment, attach
    from studiogan_gsr.regularizers.gsr import GroupSpectralRegularizer
    from studiogan_gsr.regularizers.spectral import group_spectral_norms
    from studiogan_gsr.regularizers.weights import effective_number_weights
    from studiogan_gsr.runs.generator import TrainedGenerator, load_generator

_HOME = {
    "Attachment": "regularizers.attachment",
    "attach": "regularizers.attachment",
    "long_tailed_counts": "datasets.counts",
    "long_tailed_indices": "datasets.counts",
    "LongTailed": "datasets.long_tailed",
    "ClassAffine": "regularizers.affines",
    "class_conditional_affines": "regularizers.affines",
    "register_affine_reader": "regularizers.affines",
    "GroupSpectralRegularizer": "regularizers.gsr",
    "group_spectral_norms": "regularizers.spectral",
    "effective_number_weights": "regularizers.weights",
    "TrainedGenerator": "runs.generator",
    "load_generator": "runs.generator",
}
__all__ = [
    "Attachment",
    "ClassAffine",
    "GroupSpectralRegularizer",
    "LongTailed",
    "TrainedGenerator",
    "attach",
    "class_conditional_affines",
    "effective_number_weights",
    "group_spectral_norms",
    "load_generator",
    "long_tailed_counts",
    "long_tailed_indices",
    "register_affine_reader",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
