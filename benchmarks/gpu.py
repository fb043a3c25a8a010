"""Measure on a GPU, in one command of ten minutes: `python benchmarks/gpu.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package `benchmarks`

from benchmarks.gpu_run.command import main

if __name__ == "__main__":
    sys.exit(main())
