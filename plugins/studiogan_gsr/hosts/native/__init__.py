"""The host without a checkout: the same YAML and the same numbers as StudioGAN, faster."""
