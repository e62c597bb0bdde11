"""The gate: is this a picture of the right kind, and good enough to decide on?

Features of the preprocessed image (features.py), each with an interval (limits.py). Outside the
interval of a feature of *kind* (colour, field of view, layers, grain) the input is INVALID_INPUT;
outside one of *quality* (exposure, contrast, detail) it is UNGRADABLE (verdict.py). The gate knows
nothing of diseases. It stops the wrong modality, screenshots, noise and most everyday pictures; it
is no proof that what passes is a retina. The default limits hold for networks of 64 px and more.
"""

from __future__ import annotations

from qdr_edge.gate.features import FEATURES, GateFeatures, measure
from qdr_edge.gate.limits import GATE_VERSION, GateLimits, default_limits
from qdr_edge.gate.verdict import GateResult, check, fit_limits, judge

__all__ = [
    "FEATURES",
    "GATE_VERSION",
    "GateFeatures",
    "GateLimits",
    "GateResult",
    "check",
    "default_limits",
    "fit_limits",
    "judge",
    "measure",
]
