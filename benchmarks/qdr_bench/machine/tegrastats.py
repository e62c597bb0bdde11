"""Power of a Jetson's rails from `tegrastats`, for boards whose sysfs this user may not read."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
from collections.abc import Iterator

from qdr_bench.machine.jetson import module_rail_names, parse_tegrastats
from qdr_bench.machine.tree import ProcTree
from qdr_edge.errors import BenchmarkError

PROGRAM = "tegrastats"
INTERVAL_MS = 100
FIRST_LINE_S = 3.0
_ENDING_S = 2.0


class TegrastatsSampler:
    """A power sensor: the program runs from `start` to `stop`, and a thread reads its lines.

    Args:
        program: Path of the program.
        rails: Rails whose sum is what the module takes.
    """

    scope = "module rails"

    def __init__(self, program: str, rails: tuple[str, ...]) -> None:
        self.name = f"{PROGRAM} {' + '.join(rails)}"
        self._program, self._rails = program, rails
        self._samples: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See PowerSensor."""
        self._samples = []
        self._process = _run(self._program)
        self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """See PowerSensor."""
        process, thread, self._process = self._process, self._thread, None
        # One that ended by itself has not watched all of the time.
        ended = process is None or process.poll() is not None
        if process is not None and thread is not None:
            _end(process)
            thread.join()
            _close(process)
        if ended or not self._samples:
            raise BenchmarkError(
                "the power sensor could not be read",
                where=self.name,
                expected=f"{PROGRAM} running all along, with {' and '.join(self._rails)}",
                fix=f"see what `{self._program} --interval {INTERVAL_MS}` prints",
            )
        return statistics.fmean(self._samples)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for watts in _lines(process):
            # A sum with a part missing is another quantity.
            if set(self._rails) <= set(watts):
                self._samples.append(sum(watts[name] for name in self._rails))


def find_tegrastats(tree: ProcTree) -> TegrastatsSampler | None:
    """The program as a sensor, where it is there and prints the module's rails."""
    program = tree.program(PROGRAM)
    if program is None:
        return None
    try:
        process = _run(program)
    except OSError:
        return None
    # Reading a line waits for it: a program that prints none is ended, and its pipe with it.
    timer = threading.Timer(FIRST_LINE_S, _end, args=(process,))
    timer.start()
    try:
        names = next((module_rail_names(line) for line in _lines(process) if line), ())
    finally:
        timer.cancel()
        _end(process)
        _close(process)
    return TegrastatsSampler(program, names) if names else None


def _run(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, "--interval", str(INTERVAL_MS)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        # A group of its own, ended whole: Ctrl-C is for us, who then end it.
        start_new_session=True,
    )


def _lines(process: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    assert process.stdout is not None
    # The pipe may be closed while it is being read.
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            yield parse_tegrastats(line)


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdout is not None:
        process.stdout.close()


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The program may be gone, and what it started not.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(timeout=_ENDING_S)
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait()
