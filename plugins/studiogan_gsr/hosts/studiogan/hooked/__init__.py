"""Hooks on StudioGAN, one file per concern."""
