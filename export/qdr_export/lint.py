"""Lint: does a QDQ ONNX file, ours or anybody's, keep a target's rules?"""

from __future__ import annotations

from dataclasses import dataclass

from qdr_edge.errors import ExportError
from qdr_export.lint_rules import RULES
from qdr_export.onnx_graph import GraphView

# Targets that share another's rules: IR is converted from the ONNX form; the same runtime on Arm
# wants what it wants on x86, …
_SAME_RULES = {"openvino-ir": "openvino", "ort-arm64": "ort-x86"}
# … but for these.
_NOT_THERE = {"ort-arm64": ("unsigned-activations", "saturation")}


@dataclass(frozen=True)
class Finding:
    """One breach of one rule."""

    rule: str
    severity: str
    place: str
    what: str
    explanation: str
    mend: str


def lint_model(model: bytes, target: str, *, where: str = "") -> list[Finding]:
    """Check a model against a target's static rules.

    Args:
        model: ONNX bytes.
        target: name of a target, e.g. "ort-x86" or "tensorrt-11".
        where: File, for messages.

    Returns:
        Findings, errors first; empty if every rule holds.

    Raises:
        ExportError: The target has no rules, or the bytes are no ONNX model.
    """
    shared = _SAME_RULES.get(target, target)
    left_out = _NOT_THERE.get(target, ())
    rules = [rule for rule in RULES if shared in rule.targets and rule.name not in left_out]
    if not rules:
        known = sorted({name for rule in RULES for name in rule.targets} | set(_SAME_RULES))
        raise ExportError(f"no rules for target {target!r}", expected=f"one of {', '.join(known)}")
    view = GraphView(model, where=where)
    findings = [
        Finding(rule.name, rule.severity, place, what, rule.explanation, rule.mend)
        for rule in rules
        for place, what in rule.check(view)
    ]
    return sorted(findings, key=lambda finding: finding.severity != "error")
