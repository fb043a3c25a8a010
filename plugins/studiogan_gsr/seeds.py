"""Derive seeds of independent random streams from one seed."""

from __future__ import annotations

import numpy as np


def mixed(*seeds: int) -> int:
    """Return one seed derived from several; the streams of nearby seeds are independent."""
    whole = [seed if seed >= 0 else seed + 2**64 for seed in seeds]  # numpy takes no negative ones
    return int(np.random.SeedSequence(whole).generate_state(1, np.uint64)[0] >> 1)


# Numbers to mix with a seed, so that each use has a stream of its own: the order of images, sample grids,
# evaluations, generated images by number and by batch, and their standing statistics.  Networks use a run's seed
# itself; training noise uses the seed plus the rank.
ORDER, SAMPLES, EVALUATION, IMAGES, BATCHES, STANDING = 1, 2, 3, 4, 5, 6
