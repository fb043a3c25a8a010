"""Long-tailed data sets: counts and choice of images, the long-tailed view, one file per family."""
