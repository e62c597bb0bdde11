"""QuantizeLinear and DequantizeLinear: where a tensor gets its grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from qdr_edge.graph import INPUT
from qdr_export.graph.onnx_graph import attributes
from qdr_export.importer.drafts import PIXELS, Grid
from qdr_export.importer.operators import ONE_BY_ONE, RefusedError
from qdr_export.importer.pixels import Affine
from qdr_export.importer.tracing import REFUSED, Lifted, Trace, Value


def quantize(trace: Trace, node: NodeProto) -> Value:
    grid = _grid(trace, node)
    value = trace.values[node.input[0]]
    sole = trace.only_reader(node.input[0])
    if isinstance(value, Affine):
        return Lifted(
            trace.input_draft(value, grid, node.input[0]), rounded=True, codes=True, sole=sole
        )
    if value.draft == INPUT:
        return _regridded(trace, node, value, PIXELS, grid)
    draft = trace.drafts[value.draft]
    if draft.grid not in (None, grid):
        return _regridded(trace, node, value, draft.grid, grid)
    draft.grid = grid
    return Lifted(value.draft, rounded=True, codes=True, sole=value.sole and sole)


def dequantize(trace: Trace, node: NodeProto) -> Value:
    grid = _grid(trace, node)
    value = trace.values[node.input[0]]
    if isinstance(value, Affine):  # uint8 pixels, dequantized as they come
        scale = np.full(3, grid.scale)
        name = trace.input_draft(Affine(scale, -grid.zero_point * scale), grid, node.output[0])
        return Lifted(name, rounded=True)
    own = PIXELS if value.draft == INPUT else trace.drafts[value.draft].grid
    refused = value.draft != INPUT and trace.drafts[value.draft].op == REFUSED
    if own != grid and not refused:
        raise RefusedError(
            f"dequantized with {grid.text}",
            f"{own.text if own else 'none'}, as it was quantized",
            "correct the pair: both must name the same scale and zero point",
        )
    sole = value.sole and trace.only_reader(node.input[0])
    return replace(value, codes=False, sole=sole)


def _regridded(
    trace: Trace, node: NodeProto, value: Lifted, own: Grid | None, grid: Grid
) -> Lifted:
    """A second grid for one tensor: an operator that only rounds again."""
    if own == grid:
        return replace(value, rounded=True, codes=True)
    if trace.source.rank(node.input[0]) != 4:
        raise RefusedError(
            f"a second grid for one tensor, {grid.text}",
            own.text if own else "one grid",
            "quantize a tensor once",
        )
    draft = trace.draft(node, "avg_pool", [value], ONE_BY_ONE, suffix="_requantize")
    draft.grid = grid
    trace.findings.normalised(
        "second-grid",
        draft.place,
        f"a tensor has a second grid, {grid.text}: rounded again by a pooling of 1 × 1",
        exact=value.rounded,
    )
    # The second rounding is all that this operator is for: it reads the first one's codes.
    if not value.rounded and value.draft != INPUT:
        trace.drafts[value.draft].unquantized.remove(draft.name)
    return Lifted(draft.name, rounded=True, codes=True)


def _grid(trace: Trace, node: NodeProto) -> Grid:
    scale, zero = trace.known.get(node.input[1]), None
    if len(node.input) > 2 and node.input[2]:
        zero = trace.known.get(node.input[2])
    else:
        zero = np.zeros((), _default_type(trace, node))
    if not isinstance(scale, np.ndarray) or not isinstance(zero, np.ndarray):
        raise RefusedError(
            "scale or zero point computed at run time", "constants", "use static quantization"
        )
    if scale.size != 1 or zero.size != 1:
        raise RefusedError(
            f"{scale.size} scales for an activation", "one", "quantize activations per tensor"
        )
    if zero.dtype not in (np.int8, np.uint8):
        raise RefusedError(f"{zero.dtype} codes", "int8 or uint8", "quantize activations to 8 bits")
    step = float(np.float32(scale.reshape(-1)[0]))
    if not (np.isfinite(step) and step > 0):
        raise RefusedError(f"scale {step}", "a finite scale above 0", "calibrate again")
    return Grid(step, int(zero.reshape(-1)[0]) + (128 if zero.dtype == np.int8 else 0))


def _default_type(trace: Trace, node: NodeProto) -> type[Any]:
    # A DequantizeLinear without zero point takes its codes' type; here they are activations,
    # whose type their own QuantizeLinear says.
    if node.op_type == "DequantizeLinear":
        maker = trace.source.view.producer(node.input[0])
        if maker is not None and len(maker.input) > 2 and maker.input[2] in trace.known:
            zero = trace.known[maker.input[2]]
            return zero.dtype.type if isinstance(zero, np.ndarray) else np.uint8
    kind = attributes(node).get("output_dtype", 0)
    return np.int8 if kind == 3 else np.uint8  # TensorProto.INT8
