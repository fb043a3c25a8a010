"""Seeds of independent streams of random numbers, derived from one."""

from __future__ import annotations

import numpy as np


def mixed(*seeds: int) -> int:
    """One seed of several: streams of nearby seeds have nothing in common."""
    return int(np.random.SeedSequence([abs(seed) for seed in seeds]).generate_state(1, np.uint64)[0] >> 1)
