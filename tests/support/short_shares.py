"""Importing this file makes runs measure the gradient's share on one batch.

The 16 batches of users take longer than the few steps of a test's run, and few tests look at the number: they set
BATCHES.
"""

from studiogan_gsr.hosts.regularization import gradient_share

BATCHES = gradient_share._BATCHES
gradient_share._BATCHES = 1
