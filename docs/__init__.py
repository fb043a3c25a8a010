"""The documentation, and what generates parts of it: `python -m docs.generate`."""
