"""Paths of the benchmarks' files and folders."""

from __future__ import annotations

import argparse
from pathlib import Path

BENCHMARKS = Path(__file__).parent
REPOSITORY = BENCHMARKS.parent
RESULTS = BENCHMARKS / "results"
RECORDS = RESULTS / "records"
TABLES = RESULTS / "tables"
TABLES_FILE = BENCHMARKS / "tables.yaml"
README = REPOSITORY / "README.md"
EVIDENCE = REPOSITORY / "docs" / "evidence.md"
REPRODUCE = REPOSITORY / "docs" / "reproduce-the-tables.md"
RUNS = REPOSITORY / "runs" / "tables"


def add_path_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that read the tables' rows and records."""
    for flag, metavar, what, path in (
        ("--records", "DIR", "folder of the records", RECORDS),
        ("--tables", "FILE", "definition of the tables", TABLES_FILE),
    ):
        shown = path.relative_to(REPOSITORY)
        parser.add_argument(flag, metavar=metavar, type=Path, default=path, help=f"{what} (default: {shown})")
