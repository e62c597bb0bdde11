"""How long each target of a bundle takes from verified bytes to its first answer.

    python benchmarks/opening.py BUNDLE [--rounds N] [--threads N]

Targets are opened in turn, round by round in one process, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from qdr_edge.bundle import read_bundle
from qdr_edge.runtime import open_bundle, refusal


def main() -> None:
    """Print the median and the range of each target, in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    size = bundle.manifest.input.size
    image = np.zeros((1, 3, size, size), np.uint8)
    names = [name for name in sorted(bundle.manifest.artefacts) if refusal(bundle, name) is None]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds + 1):
        for name in names:
            start = time.perf_counter_ns()
            session = open_bundle(bundle, name, options.threads)
            session.infer(image)
            times[name].append((time.perf_counter_ns() - start) / 1e6)
            session.close()
    for name, every in times.items():
        warm = every[1:]  # the first round imports the runtimes
        print(
            f"{name:14} {statistics.median(warm):7.1f} ms "
            f"({min(warm):.1f} to {max(warm):.1f}), {len(warm)} rounds"
        )


if __name__ == "__main__":
    main()
