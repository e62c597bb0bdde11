"""What a run tells: progress bars for people, log.jsonl and TensorBoard for afterwards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"


class Advance(Protocol):
    """Sets a progress bar."""

    def __call__(self, done: int, total: int) -> None: ...


class RunLog:
    """The log of one run directory; open it with `with`.

    Args:
        folder: Run directory.
        console: Where people read; plain lines if it is no terminal.
    """

    def __init__(self, folder: Path, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._folder = folder
        self._writer: SummaryWriter | None = None
        path = folder / LOG_FILE
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, markup=False)

    def event(self, kind: str, **fields: object) -> None:
        """A line of log.jsonl."""
        entry = {"time": round(time.time(), 3), "event": kind, **fields}
        self._file.write(json.dumps(entry, default=str) + "\n")
        self._file.flush()

    def epoch(self, stage: str, epoch: int, figures: Mapping[str, float | str | None]) -> None:
        """The finite figures of one epoch, None where unknown, to log.jsonl and TensorBoard."""
        writer = self._tensorboard()
        for key, value in figures.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(f"{stage}/{key}", value, epoch)
        # Flushed in every epoch, and before log.jsonl: what that knows, TensorBoard has.
        writer.flush()
        self.event("epoch", stage=stage, epoch=epoch, **figures)

    def repair(self, stage: str, epoch: int, figures: Mapping[str, float | str | None]) -> None:
        """Write an epoch that was trained and saved, but not logged before a kill."""
        for line in (self._folder / LOG_FILE).read_text("utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                known = entry["event"], entry["stage"], entry["epoch"]
            except (ValueError, KeyError, TypeError):
                continue  # another event, or what a power cut left
            if known == ("epoch", stage, epoch):
                return
        self.epoch(stage, epoch, figures)

    @contextmanager
    def bar(self, description: str) -> Iterator[Advance]:
        """A progress bar on a terminal, nothing elsewhere."""
        if not self.console.is_terminal:
            yield lambda done, total: None
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        ) as progress:
            task = progress.add_task(description, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def _tensorboard(self) -> SummaryWriter:
        if self._writer is None:
            # Slow to import, and wanted only once there is something to write.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / "tb"))
        return self._writer


class SilentLog(RunLog):
    """The log of a process beside the one that writes."""

    def __init__(self) -> None:
        self.console = Console(quiet=True)

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing."""

    def event(self, kind: str, **fields: object) -> None:
        """Nothing."""

    def epoch(self, stage: str, epoch: int, figures: Mapping[str, float | str | None]) -> None:
        """Nothing."""

    def repair(self, stage: str, epoch: int, figures: Mapping[str, float | str | None]) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, description: str) -> Iterator[Advance]:
        """No bar."""
        yield lambda done, total: None


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a killed process did not finish."""
    if not path.is_file():
        return
    with path.open("rb+") as handle:
        content = handle.read()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            handle.truncate(end)
            os.fsync(handle.fileno())
