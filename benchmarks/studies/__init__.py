"""Studies of single questions, each a command: python -m benchmarks.studies.NAME."""
