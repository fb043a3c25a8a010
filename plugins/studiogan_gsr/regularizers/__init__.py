"""Regularizers, and what they read in a generator."""
