"""ONNX Runtime on x86: every activation as uint8, bit for bit the same integers.

Run as it is, ONNX Runtime turns the canonical graph's int8 into uint8 with zero point 128 and then
keeps Conv → Relu → Quantize in float, because a Relu before a quantization is redundant only when
the zero point is the type's minimum: four times slower. The exact rewrite:

* after Relu: uint8 with zero point 0 and the same scale, and Clip(code, 0, 127), because int8
  saturates at 127 and uint8 does not (Min would do, but needs a second buffer);
* every other activation: uint8 with zero point 128, which saturates where int8 does;
* uint8 activations (scheme u8) keep their zero points; where that is not 0, a Relu becomes
  Clip(code, zero point, 255);
* a ReLU6 becomes part of the same Clip: quantization is monotone, so that the code of min(x, 6) is
  the smaller of the codes of x and of 6;
* the weight of a Gemm: its zero points written out, or it is not recognized as quantized;
* a layer with float weights: a LeakyRelu with alpha 1, which changes nothing, between it and the
  quantization of its output. ONNX Runtime would quantize its weights unasked; so it does not, and
  the LeakyRelu becomes part of the float convolution.

No Clip is needed after a sum that cannot exceed 127 steps. The Clip of a tensor that only a MaxPool
reads moves behind the pooling (the two commute), where the tensor is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from qdr_export.emit.rewrite import (
    Rewriter,
    code_source,
    is_float_layer,
    is_rectifier,
    rectified,
    to_bytes,
)
from qdr_export.emit.ties import quantizer_scale
from qdr_export.onnx_graph import GraphView, attributes

_INT8_MAX = 127
_UINT8_MAX = 255
_SIGNED_ZERO = 128


@dataclass(frozen=True)
class Codes:
    """The uint8 form of a quantized activation.

    Args:
        zero: Zero point.
        low: Smallest code that may occur.
        high: Largest code that may occur.
    """

    zero: int
    low: int = 0
    high: int = _UINT8_MAX


def emit(canonical: bytes) -> bytes:
    """The ONNX Runtime x86 form of a canonical model."""
    rewriter = Rewriter(canonical)
    forms = _forms(rewriter.view)
    # Quantized tensors whose codes may still lie outside their form's range.
    unsaturated: set[str] = set()

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            _quantize(r, node, forms[node.output[0]], unsaturated)
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in forms:
            zero = r.out.constant(np.uint8(forms[node.input[0]].zero))
            r.out.dequantize(r.name(node.input[0]), r.name(node.input[1]), zero, node.output[0])
            return True
        if is_float_layer(r.view, node):
            _keep_float(r, node)
            return True
        if is_rectifier(node):
            return _left_to_codes(r, node, forms)
        return _gemm_weight(r, node)

    return to_bytes(rewriter.run(rule, "ort-x86"))


def _forms(view: GraphView) -> dict[str, Codes]:
    forms = {}
    largest = rectified(view)
    for node in view.of_type("QuantizeLinear"):
        code = node.output[0]
        zero, limit = view.zero_point(node), _UINT8_MAX
        signed = zero.dtype == np.int8
        if code not in largest:
            forms[code] = Codes(_SIGNED_ZERO if signed else int(zero))
            continue
        if signed:
            limit = _INT8_MAX
        if np.isfinite(largest[code]):
            steps = np.rint(largest[code] / view.scale(node).astype(np.float64))
            limit = min(limit, int(steps) + int(zero))
        forms[code] = Codes(int(zero), int(zero), limit)
    return forms


def _left_to_codes(r: Rewriter, node: NodeProto, forms: dict[str, Codes]) -> bool:
    """Whether a Relu or Clip is done by what follows on the codes; its readers then skip it."""
    readers = r.view.consumers.get(node.output[0], [])
    if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
        return False
    if node.op_type == "Relu" and all(forms[reader.output[0]].zero == 0 for reader in readers):
        return False
    r.rename(node.output[0], r.name(node.input[0]))
    return True


def _keep_float(r: Rewriter, node: NodeProto) -> None:
    output = node.output[0]
    last = output in {info.name for info in r.view.outputs}
    names = [r.name(i) for i in node.input]
    value = output if last else f"{output}:k"
    r.out.add(node.op_type, names, value, name=node.name, **attributes(node))
    if not last:
        r.out.add("LeakyRelu", [value], output, alpha=1.0)


def _gemm_weight(r: Rewriter, node: NodeProto) -> bool:
    readers = r.view.consumers.get(node.output[0], [])
    codes = r.view.constants.get(node.input[0])
    if codes is None or codes.dtype != np.int8 or any(x.op_type != "Gemm" for x in readers):
        return False
    zeros = r.out.constant(np.zeros(r.view.scale(node).shape, np.int8))
    inputs = [r.name(node.input[0]), r.name(node.input[1]), zeros]
    r.out.add("DequantizeLinear", inputs, node.output[0], **attributes(node))
    return True


def _quantize(r: Rewriter, node: NodeProto, form: Codes, unsaturated: set[str]) -> None:
    code = node.output[0]
    value, scale = r.name(node.input[0]), quantizer_scale(r, node)
    r.out.quantize(value, scale, r.out.constant(np.uint8(form.zero)), code)
    if (form.low, form.high) == (0, _UINT8_MAX):
        return
    source = code_source(r.view, node)
    if source is not None and source not in unsaturated:
        return
    if (form.low, form.high) == (0, _INT8_MAX) and _sum_fits(r.view, node):
        return
    if _only_max_pool_reads(r, code):
        unsaturated.add(code)
        return
    bounds = [r.out.constant(np.uint8(form.low)), r.out.constant(np.uint8(form.high))]
    r.rename(code, r.out.add("Clip", [code, *bounds], f"{code}c"))


def _sum_fits(view: GraphView, quantize: NodeProto) -> bool:
    """Whether a Q reads a sum of quantized tensors (with Relu) that int8 holds without saturating.

    Two summands of at most 127 steps each stay within 127 steps of at least both steps' sum.
    """
    relu = view.producer(quantize.input[0])
    add = view.producer(relu.input[0]) if relu is not None and is_rectifier(relu) else None
    if add is None or add.op_type != "Add":
        return False
    summands = [view.dequantized(name) for name in add.input]
    steps = [float(view.scale(node)) for node in summands if node is not None]
    return len(steps) == len(summands) and sum(steps) <= float(view.scale(quantize))


def _only_max_pool_reads(r: Rewriter, code: str) -> bool:
    dequantize = r.only_consumer(code)
    reader = r.only_consumer(dequantize.output[0]) if dequantize is not None else None
    return reader is not None and reader.op_type == "MaxPool"
