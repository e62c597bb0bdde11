"""The child process that measures one cell: ``python -m qdr_bench.worker``.

It reads one JSON request a line from stdin and answers each with one JSON line; when stdin ends,
so does it. Whatever a runtime prints goes to stderr, so that it cannot get between the lines.
Modules are imported by the request that needs them: memory before them is the model's own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qdr_edge.errors import BenchmarkError, QdrError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.runtime import Session

MEMORY_QUERIES = 3
WARM_UP_IMAGES = 2


def peak_rss_bytes() -> int:
    """Return this process's peak resident memory since it was started."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Not the first choice: on Linux ru_maxrss keeps the parent's peak across exec.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Worker:
    """The state between requests: an opened model and the pool of images it is timed on."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._pool: list[NDArray[np.uint8]] = []
        self._expected: dict[int, bytes] = {}

    def baseline(self, backend: str) -> dict[str, Any]:
        """Import a backend and nothing else; report the memory that takes."""
        importlib.import_module("numpy")
        importlib.import_module(f"qdr_edge.runtime.{backend}").availability()
        return {"peak_rss_bytes": peak_rss_bytes()}

    def open(
        self, model: str, sha256: str, backend: str, threads: int, options: dict[str, str]
    ) -> dict[str, Any]:
        """Open a model file and run it a few times; report time to open and peak memory."""
        import numpy as np

        from qdr_edge.files import sha256_bytes
        from qdr_edge.runtime import open_model
        from qdr_edge.runtime.onnx_check import check_onnx

        content = Path(model).read_bytes()
        if sha256_bytes(content) != sha256:
            raise BenchmarkError(
                "changed while it was being measured",
                where=model,
                expected=f"SHA-256 {sha256[:16]}…",
                fix="start again when nothing writes to it",
            )
        start = time.perf_counter_ns()
        session = open_model(backend, content, threads=threads, options=options)
        open_ns = time.perf_counter_ns() - start
        self._session = session
        size = check_onnx(content, where=model).input_shape[2]
        image = np.zeros((1, 3, size, size), dtype=np.uint8)
        for _ in range(MEMORY_QUERIES):
            labels = int(session.infer(image).shape[1])
        return {
            "version": session.version,
            "threads": session.threads,
            "size": size,
            "labels": labels,
            "open_ns": open_ns,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def prepare(self, files: list[str], spec: dict[str, Any], out: str) -> dict[str, Any]:
        """Preprocess images into one tensor file; report those that cannot be read."""
        import numpy as np

        from qdr_edge.errors import ImageError
        from qdr_edge.preprocess import PreprocessSpec, load_image

        contract = PreprocessSpec.from_dict(spec)
        shape = (len(files), 3, contract.size, contract.size)
        tensors = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=shape)
        unreadable: dict[int, str] = {}
        for index, file in enumerate(files):
            try:
                tensors[index] = load_image(Path(file), contract)
            except ImageError as error:
                unreadable[index] = str(error)
        tensors.flush()
        return {"sha256": contract.sha256, "unreadable": unreadable}

    def accuracy(self, tensors: str) -> dict[str, Any]:
        """Compute the logits of every prepared image."""
        session, images = self._opened(), _load(tensors)
        rows = [session.infer(images[index : index + 1])[0] for index in range(len(images))]
        return {"logits": [row.tolist() for row in rows]}

    def pool(self, tensors: str, indices: list[int], random: int, size: int) -> dict[str, Any]:
        """Take images into memory, from a tensor file or, where there is none, seeded noise."""
        import numpy as np

        if tensors:
            images = _load(tensors)
            self._pool = [np.array(images[index : index + 1]) for index in indices]
        else:
            noise = np.random.default_rng(0)
            shape = (1, 3, size, size)
            self._pool = [noise.integers(0, 256, shape, dtype=np.uint8) for _ in range(random)]
        session = self._opened()
        self._expected = {
            index: session.infer(image).tobytes() for index, image in enumerate(self._pool)
        }
        return {"images": len(self._pool)}

    def warm_up(self, seconds: float) -> dict[str, Any]:
        """Run uncounted queries."""
        session, image, queries = self._opened(), self._pool[0], 0
        deadline = time.perf_counter() + seconds
        while queries < MEMORY_QUERIES or time.perf_counter() < deadline:
            session.infer(image)
            queries += 1
        return {"queries": queries}

    def round(self, seconds: float, queries: int, seed: int) -> dict[str, Any]:
        """Time one SingleStream round: one image a query, the next when the last has completed.

        It ends when both the duration and the number of queries are reached. The first queries
        after the others' turn find cold caches and are not counted.
        """
        import numpy as np

        infer, pool, clock = self._opened().infer, self._pool, time.perf_counter_ns
        draw = np.random.default_rng(seed)
        order: list[int] = []
        latencies: list[int] = []
        outputs: list[tuple[int, NDArray[np.float32]]] = []
        for index in draw.integers(0, len(pool), size=MEMORY_QUERIES).tolist():
            infer(pool[index])
        cpu_start, start = time.process_time_ns(), clock()
        deadline = start + int(seconds * 1e9)
        while len(latencies) < queries or clock() < deadline:
            if not order:
                order = draw.integers(0, len(pool), size=256).tolist()
            index = order.pop()
            image = pool[index]
            before = clock()
            logits = infer(image)
            latencies.append(clock() - before)
            outputs.append((index, logits))
        wall_ns, cpu_ns = clock() - start, time.process_time_ns() - cpu_start
        wrong = sum(logits.tobytes() != self._expected[index] for index, logits in outputs)
        return {
            "latency_ns": latencies,
            "wall_ns": wall_ns,
            "cpu_ns": cpu_ns,
            "inconsistent": wrong,
        }

    def stages(
        self, bundle: str, target: str, threads: int, allow_unsigned: bool, files: list[str]
    ) -> dict[str, Any]:
        """Time every stage from image file to decision, and the whole way through the Screener."""
        from qdr_edge import load
        from qdr_edge.decision import Outcome, decide
        from qdr_edge.preprocess import load_image

        names = ("decode_preprocess_ns", "infer_ns", "postprocess_ns")
        times: dict[str, list[int]] = {name: [] for name in (*names, "end_to_end_ns")}
        outcomes: dict[str, int] = {}
        clock = time.perf_counter_ns
        with load(
            Path(bundle), target=target, threads=threads, allow_unsigned=allow_unsigned
        ) as screener:
            for turn, file in enumerate([*files[:WARM_UP_IMAGES], *files]):
                start = clock()
                decision = screener.screen(Path(file))
                end_to_end = clock() - start
                if turn >= WARM_UP_IMAGES:
                    outcome = decision.outcome.value
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                if decision.outcome not in (Outcome.POSITIVE, Outcome.NEGATIVE):
                    continue
                marks = [clock()]
                image = load_image(Path(file), screener.spec)
                marks.append(clock())
                logits = screener.session.infer(image[None])[0]
                marks.append(clock())
                decide(logits, screener.rule, screener.spec.modality)
                marks.append(clock())
                if turn >= WARM_UP_IMAGES:
                    times["end_to_end_ns"].append(end_to_end)
                    for name, before, after in zip(names, marks[:-1], marks[1:], strict=True):
                        times[name].append(after - before)
        return {**times, "outcomes": outcomes, "screen_peak_rss_bytes": peak_rss_bytes()}

    def self_test(
        self, bundle: str, target: str, threads: int, allow_unsigned: bool
    ) -> dict[str, Any]:
        """Run the bundle's own self-test, as a device does at power-on."""
        from qdr_edge import load

        try:
            # load() runs the golden vectors before it returns.
            load(
                Path(bundle), target=target, threads=threads, allow_unsigned=allow_unsigned
            ).close()
        except QdrError as error:
            return {"failure": str(error)}
        return {"failure": ""}

    def _opened(self) -> Session:
        if self._session is None:
            raise BenchmarkError("no model is open", expected="an `open` request first")
        return self._session


def _load(tensors: str) -> NDArray[np.uint8]:
    import numpy as np

    images: NDArray[np.uint8] = np.load(tensors, mmap_mode="r", allow_pickle=False)
    return images


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    worker = Worker()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "baseline": worker.baseline,
        "open": worker.open,
        "prepare": worker.prepare,
        "accuracy": worker.accuracy,
        "pool": worker.pool,
        "warm_up": worker.warm_up,
        "round": worker.round,
        "stages": worker.stages,
        "self_test": worker.self_test,
    }
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"ok": True, **operations[request.pop("op")](**request)}
        except QdrError as error:
            answer = {"ok": False, "error": str(error)}
        except Exception as error:
            # A runtime may raise anything: that is this cell's failure, not the benchmark's.
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve on stdin and stdout."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
