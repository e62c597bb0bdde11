"""Synthetic eyes: fundus photographs and OCT scans drawn from anatomy, for demo and tests."""

from __future__ import annotations

from .dataset import CSV_NAME, GENERATOR_VERSION, generate

__all__ = ["CSV_NAME", "GENERATOR_VERSION", "generate"]
