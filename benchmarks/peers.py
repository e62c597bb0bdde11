"""Our artefacts beside what one would pick instead: ``python benchmarks/peers.py``.

A network with random weights is trained for nought epochs, calibrated and exported by the project's
own commands, for every target of this machine. Then `qdr-edge bench --suite peers` times it in
interleaved rounds beside ONNX Runtime's and NNCF's own quantizers, torch in float and compiled, and
the published eager recipe. The table, the report page and the raw figures lie in --out. Latency
does not depend on what was learnt; accuracy does, and is no column here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qdr_bench.built import RUN_HERE, build, prepare, qdr_edge, run_script

RECIPES = ("student-latency", "resnet50-latency", "mobilenetv3-latency")


def main() -> int:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="cache folder")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    options = parser.parse_args()
    folder = options.build.resolve()
    data = prepare(folder)
    bundle = build(options.recipe, folder, data, targets=RUN_HERE)
    out = options.out / options.recipe
    qdr_edge("bench", str(bundle), "--suite", "peers", "--threads", str(options.threads),
             "--seconds", str(options.seconds), "--out", str(out))  # fmt: skip
    return 0


if __name__ == "__main__":
    run_script(main)
