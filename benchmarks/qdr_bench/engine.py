"""TensorRT's engine: built before anything is timed, in a process that measures nothing.

What is built lies in the device's own cache, so that the process which is timed opens it as a
device does, and neither its memory nor its time holds a build.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdr_edge.errors import BenchmarkError

BACKEND = "tensorrt"
LONGEST_BUILD_S = 3600.0


def pinned(options: Mapping[str, str]) -> dict[str, str]:
    """What a TensorRT row says of itself: how it launches, how it waits, what its time holds.

    Args:
        options: Of the artefact.
    """
    from qdr_edge.runtime.tensorrt import LAUNCH

    return {**LAUNCH, **options, "transfers": "timed"}


def build(model: str, options: dict[str, str]) -> dict[str, Any]:
    """Build a model's engine, or find it in the cache; answers a request of the parent.

    Args:
        model: The ONNX file. Its hash is checked by who opens it, and is the engine's key.
        options: Of the cell.

    Raises:
        BackendError: TensorRT or a GPU is missing, or TensorRT refuses the model.
        BenchmarkError: The engine cannot be kept.
        BundleError: The model is not what a runtime may parse.
    """
    from qdr_bench.peers.forms import TOLD
    from qdr_edge.runtime.engine_cache import cache_folder
    from qdr_edge.runtime.onnx_check import check_onnx
    from qdr_edge.runtime.tensorrt import prepare_engine

    content = Path(model).read_bytes()
    check_onnx(content, where=f"model for {BACKEND}")
    chosen = {name: value for name, value in options.items() if name not in TOLD}
    start = time.perf_counter_ns()
    prepared = prepare_engine(content, chosen)
    took = time.perf_counter_ns() - start
    if not prepared.kept:
        raise BenchmarkError(
            "the engine was built and cannot be kept: the timed process would build it again",
            where=str(cache_folder()),
            expected="a folder you may write to",
            fix="name another one in the environment variable QDR_EDGE_CACHE",
        )
    return {
        "cached": prepared.cached,
        "build_ms": None if prepared.cached else took / 1e6,
        "bytes": len(prepared.engine),
    }
