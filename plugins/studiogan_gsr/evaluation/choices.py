"""Allowed values of evaluation options; in a file of their own, so that the command's help needs no torch."""

from __future__ import annotations

# Which batch-norm statistics to use: each batch's own (as in the paper), those from training, or recomputed ones.
BATCH_NORM = ("batch", "running", "standing")
# Real images that the best checkpoint is selected on: half of the reference, or all of it.
SELECT_ON = ("validation", "reference")
# Real images that a generator is measured against; "full": the set that a long-tailed training set was chosen from.
SPLITS = ("reference", "validation", "test", "train", "full")
# How generated images are stored.
FORMATS = ("folder", "hdf5", "npz")
