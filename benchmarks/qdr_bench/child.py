"""The parent's end of a measuring child process: JSON lines over pipes, no pickle."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from qdr_edge.errors import BenchmarkError

LAST_WORDS_BYTES = 2000


class Child:
    """One worker process.

    Args:
        name: What it measures, for messages.
        timeout_s: Longest time one request may take.
    """

    def __init__(self, name: str, timeout_s: float = 600.0) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qdr_bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C is for the parent, which keeps what was measured and then ends its children.
            start_new_session=True,
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            BenchmarkError: The worker reports an error, died, or takes too long.
        """
        request = json.dumps({"op": op, **arguments}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except OSError as error:
            raise self._died(op) from error
        answer: dict[str, Any] = json.loads(self._read_line(op))
        if not answer.pop("ok"):
            raise BenchmarkError(answer["error"], where=f"{self.name}: {op}")
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # It may have died with a request in the pipe.
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _read_line(self, op: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._process.kill()
                    raise BenchmarkError(
                        f"no answer within {self._timeout_s:.0f} s",
                        where=f"{self.name}: {op}",
                        fix="measure a smaller model or fewer images",
                    )
                piece = os.read(descriptor, 1 << 20)
                if not piece:
                    raise self._died(op)
                self._unread += piece
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _died(self, op: str) -> BenchmarkError:
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - LAST_WORDS_BYTES))
        words = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = f": {words[-1]}" if words else ""
        return BenchmarkError(f"the process ended ({how}){last}", where=f"{self.name}: {op}")
