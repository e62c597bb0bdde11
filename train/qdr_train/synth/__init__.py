"""Synthetic eyes: fundus photographs and OCT B-scans drawn from anatomy, for the demo and the tests."""

from __future__ import annotations

from .generate import CSV_NAME, GENERATOR_VERSION, generate

__all__ = ["CSV_NAME", "GENERATOR_VERSION", "generate"]
