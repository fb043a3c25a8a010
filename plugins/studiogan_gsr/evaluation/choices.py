"""Allowed values of evaluation options; in a file of their own, so that the command's help needs no torch."""

from __future__ import annotations

# Batch-norm statistics: of each batch (as the paper evaluates), of training, or recomputed.
BATCH_NORM = ("batch", "running", "standing")
# Real images that the best checkpoint is selected on: half of the reference, or all of it.
SELECT_ON = ("validation", "reference")
# Real images that a generator is measured against.
SPLITS = ("reference", "validation", "test", "train")
