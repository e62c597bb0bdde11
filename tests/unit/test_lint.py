"""Lint: each rule finds what breaks it, and our own graphs break none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge.errors import ExportError
from qdr_edge.scheme import EXACT_WIDE, PORTABLE, QuantScheme
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from qdr_export.lint import lint_model
from qdr_export.lint_rules import RULES
from qdr_export.profiles import DEFAULT_TARGETS, load_profile
from tests.networks import FAMILIES, checkpoint


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    shape: tuple[int | str, ...] = (1, 3, 8, 8),
    dtype: int = TensorProto.UINT8,
) -> bytes:
    """Nodes from "x" to "y", unchecked: a broken graph is the point."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString()


def _node(op: str, inputs: str, output: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attrs)


ZERO = {"s": np.float32(1), "z": np.int8(0), "u": np.uint8(0), "m": np.uint8(128)}
WEIGHT = {
    "w": np.full((16, 3, 3, 3), 100, np.int8),
    "ws": np.ones(16, np.float32),
    "wz": np.zeros(16, np.int8),
    "b": np.zeros(16, np.int32),
    "f": np.ones((16, 3, 3, 3), np.float32),
}
ALL = {**ZERO, **WEIGHT}
DQ_X = _node("DequantizeLinear", "x s m", "d")
DQ_W = _node("DequantizeLinear", "w ws wz", "wd", axis=0)
CONV = _node("Conv", "d wd", "c")

BROKEN = {
    "static-shape": _model([_node("Relu", "x", "y")], {}, shape=("N", 3, 8, 8)),
    "pixel-input": _model([_node("Relu", "x", "y")], {}, dtype=TensorProto.FLOAT),
    "positive-scales": _model(
        [_node("DequantizeLinear", "x s0 u", "y")], {"s0": np.float32(0), **ZERO}
    ),
    "relu-zero-point": _model(
        [DQ_X, _node("Relu", "d", "r"), _node("QuantizeLinear", "r s m", "y")], ZERO
    ),
    "unsigned-activations": _model([DQ_X, _node("QuantizeLinear", "d s z", "y")], ZERO),
    "quantized-output": _model([DQ_X, DQ_W, CONV, _node("Flatten", "c", "y")], ALL),
    "add-inputs": _model([DQ_X, _node("Sigmoid", "d", "e"), _node("Add", "d e", "y")], ZERO),
    "float-weight": _model(
        [
            DQ_X,
            _node("Conv", "d f", "c"),
            _node("Relu", "c", "r"),
            _node("QuantizeLinear", "r s u", "y"),
        ],
        ALL,
    ),
    "gemm-zero-point": _model(
        [DQ_X, _node("DequantizeLinear", "w ws", "wd", axis=0), _node("Gemm", "d wd", "y")], ALL
    ),
    "saturation": _model([DQ_X, DQ_W, _node("Conv", "d wd", "y")], ALL),
    "protected-sum": _model(
        [
            DQ_X,
            DQ_W,
            CONV,
            _node("QuantizeLinear", "c s z", "q"),
            _node("DequantizeLinear", "q s z", "e"),
            _node("Add", "e e", "y"),
        ],
        ALL,
    ),
    "signed-concat": _model(
        [
            DQ_X,
            _node("Concat", "d d", "c", axis=1),
            _node("QuantizeLinear", "c s z", "y"),
        ],
        ZERO,
    ),
    "requantized-concat": _model(
        [
            DQ_X,
            _node("Concat", "d d", "c", axis=1),
            _node("QuantizeLinear", "c s m", "q"),
            _node("DequantizeLinear", "q s m", "e"),
            _node("Relu", "e", "y"),
        ],
        ZERO,
    ),
    "whole-bound": _model(
        [_node("DequantizeLinear", "x s u", "d"), _node("Clip", "d f0 f6", "y")],
        {**ZERO, "s": np.float32(0.7), "f0": np.float32(0), "f6": np.float32(6)},
    ),
    "padded-average": _model(
        [
            DQ_X,
            _node("AveragePool", "d", "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        ],
        ZERO,
    ),
    "concat-inputs": _model(
        [DQ_X, _node("Sigmoid", "d", "e"), _node("Concat", "d e", "y", axis=1)], ZERO
    ),
    "even-zero-point": _model(
        [_node("DequantizeLinear", "x s odd", "y")], {**ZERO, "odd": np.uint8(115)}
    ),
    "planar-input": _model([_node("Relu", "x", "y")], {}, shape=(1, 8, 8, 3)),
    "zero-zero-point": _model([_node("DequantizeLinear", "x s m", "y")], ZERO),
    "no-uint8": _model([_node("DequantizeLinear", "x s u", "y")], ZERO),
    "explicit-axis": _model([_node("DequantizeLinear", "w ws wz", "y")], ALL),
    "float-bias": _model([_node("DequantizeLinear", "b ws", "y")], ALL),
    "quantized-conv-input": _model([DQ_W, _node("Conv", "x wd", "y")], ALL),
    "fusible-residual": _model(
        [
            DQ_X,
            DQ_W,
            CONV,
            _node("QuantizeLinear", "c s z", "q"),
            _node("DequantizeLinear", "q s z", "e"),
            _node("Add", "d e", "y"),
        ],
        ALL,
    ),
    "grouped-channels": _model(
        [_node("DequantizeLinear", "g gs", "gd", axis=0), _node("Conv", "x gd", "y", group=3)],
        {"g": np.ones((3, 1, 3, 3), np.int8), "gs": np.ones(3, np.float32)},
    ),
    "large-products": _model(
        [_node("DequantizeLinear", "g gs", "gd", axis=0), _node("Gemm", "x gd", "y", transB=1)],
        {"g": np.ones((5, 64), np.int8), "gs": np.ones(5, np.float32)},
    ),
    "pooled-stem": _model(
        [
            DQ_X,
            DQ_W,
            CONV,
            _node("Relu", "c", "r"),
            _node("QuantizeLinear", "r s z", "q"),
            _node("DequantizeLinear", "q s z", "e"),
            _node("MaxPool", "e", "y", kernel_shape=[2, 2]),
        ],
        ALL,
    ),
    "typed-half": _model([DQ_X, _node("Conv", "d f", "y")], ALL),
}


def test_every_rule_has_a_breaking_model() -> None:
    assert {rule.name for rule in RULES} == set(BROKEN)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_finds_its_breach(rule) -> None:  # type: ignore[no-untyped-def]
    for target in rule.targets:
        found = [f for f in lint_model(BROKEN[rule.name], target) if f.rule == rule.name]
        assert found, target
        assert found[0].place
        assert found[0].mend
        assert len(found[0].explanation) > 40


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", DEFAULT_TARGETS)
def test_emitted_graphs_keep_every_rule(family: str, target: str) -> None:
    model = emitter(load_profile(target).emitter)(build_canonical(checkpoint(family)))
    assert lint_model(model, target) == []


@pytest.mark.parametrize("scheme", [EXACT_WIDE, PORTABLE], ids=lambda s: s.name)
@pytest.mark.parametrize("target", ["ort-x86", "openvino"])
def test_wide_weights_are_warned_about_where_x86_runs_them(
    scheme: QuantScheme, target: str
) -> None:
    canonical = build_canonical(checkpoint("student", scheme=scheme))
    found = lint_model(emitter(load_profile(target).emitter)(canonical), target)
    assert {(f.rule, f.severity) for f in found} == {("saturation", "warning")}
    assert "scheme exact" in found[0].mend


ZERO_POINTS = {
    "none on int8 codes": ([_node("DequantizeLinear", "w ws", "y", axis=0)], 0),
    "none behind a Q": ([_node("QuantizeLinear", "x s", "q"), _node("Cast", "q", "y", to=1)], 1),
    "computed": (
        [_node("Cast", "x", "t", to=3), _node("DequantizeLinear", "w ws t", "y", axis=0)],
        1,
    ),
    "one for many scales": ([_node("DequantizeLinear", "w ws z", "y", axis=0)], 1),
    "one for each": ([_node("DequantizeLinear", "w ws wz", "y", axis=0)], 0),
}


@pytest.mark.parametrize("target", ["tensorrt-10", "tensorrt-11"])
@pytest.mark.parametrize(("nodes", "count"), ZERO_POINTS.values(), ids=ZERO_POINTS)
def test_zero_points_that_tensorrt_takes(
    nodes: list[onnx.NodeProto], count: int, target: str
) -> None:
    found = [f for f in lint_model(_model(nodes, ALL), target) if f.rule == "zero-zero-point"]
    assert len(found) == count


def test_tensorrt_10_and_11_differ_where_they_do() -> None:
    rules = {t: {r.name for r in RULES if t in r.targets} for t in ("tensorrt-10", "tensorrt-11")}
    assert rules["tensorrt-10"] - rules["tensorrt-11"] == {"explicit-axis"}
    assert rules["tensorrt-11"] - rules["tensorrt-10"] == {"typed-half"}
    untyped = emitter("tensorrt-10")(build_canonical(checkpoint("mobilenet")))
    assert {f.rule for f in lint_model(untyped, "tensorrt-11")} == {"typed-half"}
    typed = emitter("tensorrt-11")(build_canonical(checkpoint("mobilenet")))
    assert lint_model(typed, "tensorrt-10") == []


def test_errors_come_first() -> None:
    findings = lint_model(build_canonical(checkpoint("resnet")), "tensorrt-10")
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities)
    assert severities[0] == "error"
    assert severities[-1] == "warning"


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ExportError, match="no rules for target 'tflite'"):
        lint_model(BROKEN["no-uint8"], "tflite")


def test_external_data_is_refused() -> None:
    model = onnx.load_model_from_string(BROKEN["saturation"])
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ExportError, match="another file"):
        lint_model(model.SerializeToString(), "ort-x86", where="m.onnx")
