"""qdr-edge on the device: open a signed bundle, screen an image, get a decision.

Importing this package loads neither a runtime nor torch; `load` imports what its bundle needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qdr_edge.errors import (
    BackendError,
    BenchmarkError,
    BundleError,
    CheckpointError,
    CompatibilityError,
    DatasetError,
    ExportError,
    ImageError,
    OutputError,
    ParityError,
    QdrError,
    RecipeError,
    SelfTestError,
    SignatureError,
)

if TYPE_CHECKING:
    from qdr_edge.decision import Decision, Outcome
    from qdr_edge.screener import Screener, load

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BenchmarkError",
    "BundleError",
    "CheckpointError",
    "CompatibilityError",
    "DatasetError",
    "Decision",
    "ExportError",
    "ImageError",
    "Outcome",
    "OutputError",
    "ParityError",
    "QdrError",
    "RecipeError",
    "Screener",
    "SelfTestError",
    "SignatureError",
    "__version__",
    "load",
]

_LAZY = {
    "Decision": "qdr_edge.decision",
    "Outcome": "qdr_edge.decision",
    "Screener": "qdr_edge.screener",
    "load": "qdr_edge.screener",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
