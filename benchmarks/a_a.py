"""Does the harness call two equal things different? ``python benchmarks/a_a.py BUNDLE``.

The same bundle is benchmarked again and again under the same name, each time into a report of its
own by `qdr-edge bench`; neighbouring reports are compared as `qdr-edge compare` does. Every
*better* or *worse* among the times is wrong: of 20 comparisons of a figure at most one may be.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qdr_bench.built import run_script
from qdr_bench.compare.judge import Change, Word, compare
from qdr_bench.compare.outputs import figures
from qdr_bench.compare.reading import open_report

MOST_SHARE = 0.05
TIMED = ("p50", "p90")


def measure(bundle: Path, out: Path, seconds: float, target: str) -> Path:
    """Benchmark a bundle once more; returns the report."""
    command = [sys.executable, "-m", "qdr_edge.cli", "bench", str(bundle), "--target", target]
    command += ["--no-float", "--seconds", str(seconds), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out / "report.json"


def main() -> int:
    """Measure, compare, print; return 1 if too many comparisons see a difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--target", default="ort-x86")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qdr-a-a-") as scratch:
        reports = [
            open_report(
                measure(options.bundle, Path(scratch, str(n)), options.seconds, options.target)
            )
            for n in range(options.comparisons + 1)
        ]
        changes: list[list[Change]] = [
            [change for change in compare(old, new) if change.metric.name in TIMED]
            for old, new in itertools.pairwise(reports)
        ]
    table = Table(
        title=f"A/A: {options.bundle.name}, {options.seconds:g} s each", title_justify="left"
    )
    for column in ("", *TIMED):
        table.add_column(column)
    for number, pair in enumerate(changes):
        table.add_row(str(number + 1), *(f"{c.word}: {figures(c)}" for c in pair))
    Console(width=140).print(table)
    holds = True
    for place, name in enumerate(TIMED):
        seen = [pair[place].word for pair in changes]
        wrong = sum(word in (Word.BETTER, Word.WORSE) for word in seen)
        unknown = seen.count(Word.CANNOT_TELL)
        print(f"{name}: {wrong} of {len(seen)} called different, {unknown} cannot be told")
        holds = holds and wrong <= max(1, MOST_SHARE * len(seen))
    return 0 if holds else 1


if __name__ == "__main__":
    run_script(main)
