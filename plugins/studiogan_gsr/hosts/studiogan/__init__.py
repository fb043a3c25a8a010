"""The benchmark itself: a checkout of StudioGAN, run or patched to use the plug-ins."""
