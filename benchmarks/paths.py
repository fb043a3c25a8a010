"""Paths of the benchmarks' files and folders."""

from __future__ import annotations

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
