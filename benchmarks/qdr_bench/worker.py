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

from qdr_bench import engine
from qdr_bench.memory import peak_rss_bytes
from qdr_bench.screening import Screening
from qdr_edge.errors import BenchmarkError, QdrError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.runtime import Session

MEMORY_QUERIES = 3
KEPT_OUTPUTS = 20_000
"""Logits kept before they are compared: a long round must not fill the memory."""
_BATCH_ROUNDING = 1e-4  # of the largest logit


class Worker:
    """The state between requests: an opened model and the pool of images it is timed on."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._pool: list[NDArray[np.uint8]] = []
        self._expected: dict[int, bytes] = {}

    def use(self, session: Session) -> None:
        """Answer queries with an opened session."""
        self._session = session

    def baseline(self, backend: str) -> dict[str, Any]:
        """Import a backend and nothing else; report the memory that takes."""
        importlib.import_module("numpy")
        importlib.import_module(f"qdr_edge.runtime.{backend}").availability()
        return {"peak_rss_bytes": peak_rss_bytes()}

    def open(
        self,
        model: str,
        sha256: str,
        backend: str,
        threads: int,
        options: dict[str, str],
        size: int,
    ) -> dict[str, Any]:
        """Open a model file and run it a few times; report time to open and peak memory."""
        import numpy as np

        from qdr_bench.peers.forms import open_form
        from qdr_edge.files import sha256_bytes

        content = Path(model).read_bytes()
        if sha256_bytes(content) != sha256:
            raise BenchmarkError(
                "changed while it was being measured",
                where=model,
                expected=f"SHA-256 {sha256[:16]}…",
                fix="start again when nothing writes to it",
            )
        start = time.perf_counter_ns()
        session = open_form(backend, content, threads=threads, options=options)
        open_ns = time.perf_counter_ns() - start
        self.use(session)
        image = np.zeros((1, 3, size, size), dtype=np.uint8)
        for _ in range(MEMORY_QUERIES):
            session.infer(image)
        return {
            "version": session.version,
            "threads": session.threads,
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

    def round(
        self, seconds: float, queries: int, seed: int, samples: int, same: bool
    ) -> dict[str, Any]:
        """Time one round of queries, the next when the last has completed.

        It ends when both the duration and the number of queries are reached. The first queries
        after the others' turn find cold caches and are not counted. The outputs of a long round
        are compared as often as they would fill `KEPT_OUTPUTS`; that time is not counted.

        Args:
            seconds: Shortest duration.
            queries: Fewest queries.
            seed: Of the images drawn.
            samples: Images a query; a query's latency is that of its last image.
            same: Draw one image and ask for it each time.
        """
        import numpy as np

        infer, clock = self._opened().infer, time.perf_counter_ns
        draw = np.random.default_rng(seed)
        pool = self._queries(draw, samples)
        order: list[int] = []
        latencies: list[int] = []
        outputs: list[tuple[int, NDArray[np.float32]]] = []
        wrong = 0
        for index in draw.integers(0, len(pool), size=MEMORY_QUERIES).tolist():
            infer(pool[index][1])
        only = int(draw.integers(0, len(pool)))
        cpu_start, start = time.process_time_ns(), clock()
        deadline = start + int(seconds * 1e9)
        while len(latencies) < queries or clock() < deadline:
            if not order:
                order = draw.integers(0, len(pool), size=256).tolist()
            index = only if same else order.pop()
            image = pool[index][1]
            before = clock()
            logits = infer(image)
            latencies.append(clock() - before)
            outputs.append((index, logits))
            if len(outputs) * samples >= KEPT_OUTPUTS:
                wrong += self._wrong(pool, outputs)
                outputs.clear()
        wall_ns, cpu_ns = clock() - start, time.process_time_ns() - cpu_start
        wrong += self._wrong(pool, outputs)
        return {
            "latency_ns": latencies,
            "wall_ns": wall_ns,
            "cpu_ns": cpu_ns,
            "inconsistent": wrong,
        }

    def offline(self, seconds: float) -> dict[str, Any]:
        """Answer the whole pool as one batch, again and again."""
        import numpy as np

        infer, clock = self._opened().infer, time.perf_counter_ns
        images = np.concatenate(self._pool)
        infer(images)
        passes, start = 0, clock()
        while passes == 0 or clock() < start + int(seconds * 1e9):
            infer(images)
            passes += 1
        return {"images": passes * len(images), "wall_ns": clock() - start}

    def _queries(
        self, draw: np.random.Generator, samples: int
    ) -> list[tuple[tuple[int, ...], NDArray[np.uint8]]]:
        """What a query may ask for: indices into the pool, and their images, uint8 [n, 3, S, S]."""
        import numpy as np

        if samples == 1:
            return [((index,), image) for index, image in enumerate(self._pool)]
        chosen = draw.integers(0, len(self._pool), size=(len(self._pool), samples)).tolist()
        return [(tuple(row), np.concatenate([self._pool[i] for i in row])) for row in chosen]

    def _wrong(
        self,
        pool: list[tuple[tuple[int, ...], NDArray[np.uint8]]],
        outputs: list[tuple[int, NDArray[np.float32]]],
    ) -> int:
        """How many outputs differ from those of the same images, one by one and untimed.

        Of a batch, float kernels may form sums in another order than of one image: what differs by
        rounding alone is not wrong.
        """
        import numpy as np

        wrong = 0
        for query, logits in outputs:
            indices = pool[query][0]
            expected = b"".join(self._expected[index] for index in indices)
            if logits.tobytes() == expected:
                continue
            single = np.frombuffer(expected, np.float32).reshape(logits.shape)
            allowed = _BATCH_ROUNDING * float(np.abs(single).max()) if len(indices) > 1 else 0.0
            wrong += not np.abs(logits - single).max() <= allowed
        return wrong

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
    worker, screening = Worker(), Screening()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "baseline": worker.baseline,
        "engine": engine.build,
        "open": worker.open,
        "prepare": worker.prepare,
        "accuracy": worker.accuracy,
        "pool": worker.pool,
        "warm_up": worker.warm_up,
        "round": worker.round,
        "offline": worker.offline,
        "stages": screening.stages,
        "self_test": screening.self_test,
        "cold_start": screening.cold_start,
        "soak_open": screening.soak_open,
        "soak_slice": screening.soak_slice,
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
