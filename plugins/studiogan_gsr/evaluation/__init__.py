"""From a generator to a number: latents, images, features, metrics, and the best checkpoint."""
