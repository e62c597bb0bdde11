"""What the harness itself costs: ``python benchmarks/overhead.py``.

The worker's own loop times a session that answers at once; what it takes a query is overhead.
Then two models of known sizes are opened each in a process of its own: what the report calls the
model's memory must not contain the process's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from qdr_bench.built import run_script
from qdr_bench.child import Child
from qdr_bench.worker import Worker
from qdr_edge.files import sha256_file

MOST_US = 20.0
SIZES_MB = (8, 72)


class Instant:
    """A session that answers at once, as every session answers: with an array."""

    backend, version, threads = "none", "0", 1

    def __init__(self) -> None:
        self._logits = np.zeros((1, 8), np.float32)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same logits, whatever the images."""
        del images
        return self._logits

    def close(self) -> None:
        """Nothing to free."""


def loop_cost_us(queries: int) -> tuple[float, float]:
    """Microseconds a query of the worker's loop, and what it reports as a query's latency."""
    worker = Worker()
    worker.use(Instant())
    worker.pool(tensors="", indices=[], random=8, size=224)
    walls, reported = [], []
    for seed in range(5):
        answer = worker.round(seconds=0, queries=queries, seed=seed, samples=1, same=False)
        walls.append(answer["wall_ns"] / queries / 1000)
        reported.append(statistics.median(answer["latency_ns"]) / 1000)
    return statistics.median(walls), statistics.median(reported)


def padded_model(path: Path, megabytes: int) -> None:
    """A model whose one weight has this size in float."""
    side, labels = 32, 8
    rows = megabytes * 10**6 // 4 // labels
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((rows, labels)).astype(np.float32)
    repeats = -(-rows // (3 * side * side))
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["v"]),
        helper.make_node("Concat", ["v"] * repeats, ["long"], axis=1),
        helper.make_node("MatMul", ["long", "w"], ["y"]),
    ]
    weight = np.resize(weight, (repeats * 3 * side * side, labels))
    graph = helper.make_graph(
        nodes,
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, labels])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(model, path)


def model_memory_mb(path: Path) -> float:
    """What the harness calls the memory of a model: its process's peak minus a bare one's."""
    bare = Child("baseline")
    baseline = bare.call("baseline", backend="onnxruntime")["peak_rss_bytes"]
    bare.close()
    child = Child(path.name)
    opened = child.call(
        "open",
        model=str(path),
        sha256=sha256_file(path),
        backend="onnxruntime",
        threads=1,
        options={},
        size=32,
    )
    child.close()
    return float(opened["peak_rss_bytes"] - baseline) / 1e6


def main() -> int:
    """Measure, print; return 1 if the harness costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=20_000)
    options = parser.parse_args()
    wall, reported = loop_cost_us(options.queries)
    with tempfile.TemporaryDirectory(prefix="qdr-overhead-") as folder:
        files = []
        for size in SIZES_MB:
            files.append(Path(folder, f"{size}.onnx"))
            padded_model(files[-1], size)
        memory = [model_memory_mb(file) for file in files]
        added = memory[1] - memory[0]
        expected = (files[1].stat().st_size - files[0].stat().st_size) / 1e6
    table = Table(title="The harness's own cost", title_justify="left")
    for column in ("", "value", "limit"):
        table.add_column(column)
    table.add_row("loop around a query", f"{wall:.2f} µs", f"≤ {MOST_US:g} µs")
    table.add_row("of it counted as latency", f"{reported:.2f} µs", "")
    for size, value in zip(SIZES_MB, memory, strict=True):
        table.add_row(f"memory of a model of {size} MB", f"{value:.1f} MB", "")
    # The file, ONNX Runtime's copy of it, the weights and their packed form; nothing of ours.
    table.add_row("peak for each further byte of the file", f"{added / expected:.2f} bytes", "")
    Console(width=100).print(table)
    return 0 if wall <= MOST_US else 1


if __name__ == "__main__":
    run_script(main)
