"""usage: python -m tools.bench [--runs 5] [--only NAME] [--folder DIR] [--dry]

llama.cpp's tools come from ``ORACLE_BIN``, ``ORACLE_PYTHON`` and ``ORACLE_CONVERT`` (or the file that sets them, see
tests/conftest.py); without them only the comparisons with ``cp`` and with ggufrun itself, and the absolute figures, are
made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.bench.comparisons import THREADS, comparisons, find_oracle
from tools.bench.measuring import ROOT, absolute_rows, machine, measure, row
from tools.bench.work import make_files

RESULTS = ROOT / "docs" / "benchmarks.md"

TABLE = """| date | what | ggufrun | against | it | times faster, or share of its speed | target |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", action="append", help="name of a comparison; again for more")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="needs 12 GB")
    parser.add_argument("--dry", action="store_true", help="print the rows instead of writing them")
    parser.add_argument("--list", action="store_true", help="print the names of the comparisons, and measure nothing")
    options = parser.parse_args()
    oracle = find_oracle()
    found = comparisons(options.folder, oracle)
    if options.list:
        for comparison in found:
            print(f"{comparison.name:16} {comparison.what}, against {comparison.theirs_is}")
        return
    make_files(options.folder)
    if oracle is None:
        print("bench: llama.cpp's own tools are not here; most comparisons are left out", file=sys.stderr)
    rows = []
    for comparison in found:
        if not options.only or comparison.name in options.only:
            rows.append(row(comparison, *measure(comparison, options.runs)))
    if not options.only or "absolute" in options.only:
        rows += absolute_rows(options.runs)
    heading = f"\n### {machine()}, {THREADS} threads, medians of {options.runs}\n\n" + TABLE
    text = heading + "\n".join(rows) + "\n"
    print(text)
    if not options.dry:
        with RESULTS.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    main()
