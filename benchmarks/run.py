"""Train and measure what a table needs: `python benchmarks/run.py --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package `benchmarks`

from benchmarks.tables.run_command import main

if __name__ == "__main__":
    sys.exit(main())
