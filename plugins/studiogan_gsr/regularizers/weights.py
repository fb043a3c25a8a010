"""Class weights from the effective number of samples (Cui et al., CVPR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from studiogan_gsr.errors import OptionError


def effective_number_weights(counts: Sequence[int], beta: float | None) -> npt.NDArray[np.float64]:
    """Return class weights that are inversely proportional to the effective numbers of samples, with mean one.

    The effective number of n samples is E_n = (1 - beta^n) / (1 - beta); the weight of class y is
    K / E_{n_y} with K = C / sum_y(1 / E_{n_y}) for C classes.  gSR multiplies the weights by its option `weight`,
    lambda in the paper.

    counts: images per class, all positive.
    beta: in [0, 1), or None.  0 and None give every class the same weight; near 1, the weights are inversely
        proportional to the counts.
    Returns a float64 array (classes,), ordered as `counts`.
    Raises OptionError for an empty list, a count that is not positive and finite, or beta outside [0, 1).
    """
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim != 1 or n.size == 0:
        raise OptionError("class_counts", list(counts), "one positive number of images per class")
    wrong = np.flatnonzero(~(np.isfinite(n) & (n >= 1)))
    if wrong.size:
        allowed = f"positive numbers of images (class {wrong[0]} has {n[wrong[0]]:g})"
        raise OptionError("class_counts", list(counts), allowed)
    if beta is None:
        return np.ones_like(n)
    if not 0 <= beta < 1:
        raise OptionError("beta", beta, "a number in [0, 1), or null for equal class weights")
    if beta == 0:
        return np.ones_like(n)
    # -expm1(n log beta) = 1 - beta^n without cancellation where beta^n is close to 1.
    effective = -np.expm1(n * np.log(beta)) / (1 - beta)
    weights: npt.NDArray[np.float64] = n.size / np.sum(1 / effective) / effective
    return weights


def images_of_equal_weight(beta: float | None) -> int:
    """Return the number of images per class from which on all classes have the same weight, within 1 %.

    It is 460 for a beta of 0.99, and 4,613 for 0.999.  The weight of a class with n images is proportional to
    1 / (1 - beta^n).  With this number of images, it is at most 1 % above the limit for infinitely many images.
    """
    if not beta:
        return 1
    return math.ceil(math.log(1 - 1 / 1.01) / math.log(beta))
