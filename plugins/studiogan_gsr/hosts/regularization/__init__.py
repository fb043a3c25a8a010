"""The regularizers of a run: how both hosts make, check, call, log and save them."""
