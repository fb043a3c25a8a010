"""Seeds of independent streams of random numbers, derived from one."""

from __future__ import annotations

import numpy as np


def mixed(*seeds: int) -> int:
    """One seed of several: streams of nearby seeds have nothing in common."""
    return int(np.random.SeedSequence([abs(seed) for seed in seeds]).generate_state(1, np.uint64)[0] >> 1)


# Streams of a run beside the networks' and the noise, which are the seed's own: see `mixed`.
ORDER, SAMPLES, EVALUATION = 1, 2, 3
