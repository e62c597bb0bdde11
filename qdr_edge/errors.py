"""The whole error tree. Every error is one line: what, where, expected, what to do.

    QdrError                 1   anything qdr-edge can explain
    ├── ImageError           3   an image cannot be read or is no image
    ├── DatasetError         4   a data set's table or files are wrong
    ├── RecipeError          5   a recipe is wrong
    ├── CheckpointError      6   a checkpoint or run directory is wrong
    ├── BundleError          7   a bundle is malformed
    │   ├── SignatureError   8   … unsigned, tampered with, or signed by a stranger
    │   └── CompatibilityError 9 … sound, but not for this software, device or counter
    ├── BackendError        10   a runtime is missing or failed
    ├── SelfTestError       11   a golden vector did not come out as recorded
    ├── ExportError         12   a network cannot be exported
    │   └── ParityError     13   … or a target does not compute what was trained
    ├── BenchmarkError      14   a measurement could not be made
    │   └── RegressionError 16   … or it was, and a figure is worse than it was
    └── OutputError         15   a result cannot be written, or would overwrite something

The number is the exit code of the command line. 2 is a usage error, 130 an interrupt.
"""

from __future__ import annotations

from typing import ClassVar


class QdrError(Exception):
    """An error that names what was found, where, what was expected and what to do next.

    Args:
        what: What is wrong, in the user's terms.
        where: File, line, field or entry.
        expected: What would have been right.
        fix: What to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f"; {self.fix}"
        # One line, whatever a file name or a library's message brought along.
        return " ".join(text.split())


class ImageError(QdrError):
    """An image cannot be read or is no image."""

    exit_code = 3


class DatasetError(QdrError):
    """A data set's table or files are wrong."""

    exit_code = 4


class RecipeError(QdrError):
    """A recipe is wrong."""

    exit_code = 5


class CheckpointError(QdrError):
    """A checkpoint or run directory is wrong."""

    exit_code = 6


class BundleError(QdrError):
    """A bundle is malformed."""

    exit_code = 7


class SignatureError(BundleError):
    """A bundle is unsigned, tampered with, or signed by an unknown key."""

    exit_code = 8


class CompatibilityError(BundleError):
    """A bundle is sound, but not for this software, device or rollback counter."""

    exit_code = 9


class BackendError(QdrError):
    """A runtime is missing or failed."""

    exit_code = 10


class SelfTestError(QdrError):
    """A golden vector did not come out as recorded."""

    exit_code = 11


class ExportError(QdrError):
    """A network cannot be exported."""

    exit_code = 12


class ParityError(ExportError):
    """A target does not compute what was trained."""

    exit_code = 13


class BenchmarkError(QdrError):
    """A measurement could not be made."""

    exit_code = 14


class RegressionError(BenchmarkError):
    """A figure is worse than it was, by more than is allowed and beyond the noise."""

    exit_code = 16


class OutputError(QdrError):
    """A result cannot be written, or writing it would overwrite something."""

    exit_code = 15
