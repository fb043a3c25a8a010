"""Measure speed: `python benchmarks/speed.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package `benchmarks`

from benchmarks.speed.command import main

if __name__ == "__main__":
    sys.exit(main())
