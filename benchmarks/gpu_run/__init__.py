"""One run on a machine with a GPU: tests, speed and a short training, each in its own process and time."""
