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
  in the Arm form those of every weight, or it cannot be opened on an x86 without VNNI;
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
    is_pixels,
    is_rectifier,
    rectified,
    to_bytes,
)
from qdr_export.emit.ties import quantizer_scale
from qdr_export.graph.onnx_graph import GraphView, attributes

_INT8_MIN, _INT8_MAX = -128, 127
_UINT8_MAX = 255
_SIGNED_ZERO = 128


@dataclass(frozen=True)
class Codes:
    """The form of a quantized activation.

    Args:
        zero: Zero point.
        low: Smallest code that may occur.
        high: Largest code that may occur.
        dtype: Type of the codes.
    """

    zero: int
    low: int = 0
    high: int = _UINT8_MAX
    dtype: type[np.uint8 | np.int8] = np.uint8

    @property
    def whole_range(self) -> bool:
        """Whether every code of the type may occur."""
        limits = np.iinfo(self.dtype)
        return (self.low, self.high) == (limits.min, limits.max)

    def constant(self, r: Rewriter, value: int) -> str:
        """A constant of the codes' type."""
        return r.out.constant(self.dtype(value))


def emit(canonical: bytes) -> bytes:
    """The ONNX Runtime x86 form of a canonical model."""
    return emit_codes(canonical, "ort-x86", signed=False)


def emit_codes(canonical: bytes, name: str, *, signed: bool) -> bytes:
    """A canonical model with every activation in the codes that ONNX Runtime's kernels want.

    Args:
        canonical: The canonical model.
        name: Name of the new graph.
        signed: Leave int8 activations int8.
    """
    rewriter = Rewriter(canonical)
    forms = _forms(rewriter.view, signed)
    # Quantized tensors whose codes may still lie outside their form's range.
    unsaturated: set[str] = set()

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            _quantize(r, node, forms[node.output[0]], unsaturated)
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in forms:
            form = forms[node.input[0]]
            zero = form.constant(r, form.zero)
            r.out.dequantize(r.name(node.input[0]), r.name(node.input[1]), zero, node.output[0])
            return True
        if signed and is_pixels(node, r.view):
            _center_pixels(r, node)
            return True
        if is_float_layer(r.view, node):
            _keep_float(r, node)
            return True
        if is_rectifier(node):
            return _left_to_codes(r, node, forms)
        return _weight(r, node, signed)

    return to_bytes(rewriter.run(rule, name))


def _forms(view: GraphView, keep_signed: bool) -> dict[str, Codes]:
    forms = {}
    largest = rectified(view)
    for node in view.of_type("QuantizeLinear"):
        code = node.output[0]
        zero, limit = view.zero_point(node), _UINT8_MAX
        signed = zero.dtype == np.int8
        if signed and keep_signed:
            low, high = (_INT8_MIN if code not in largest else 0), _INT8_MAX
            if np.isfinite(largest.get(code, np.inf)):
                high = min(high, _steps(view, node, largest[code]))
            forms[code] = Codes(0, low, high, np.int8)
            continue
        if code not in largest:
            forms[code] = Codes(_SIGNED_ZERO if signed else int(zero))
            continue
        if signed:
            limit = _INT8_MAX
        if np.isfinite(largest[code]):
            limit = min(limit, _steps(view, node, largest[code]) + int(zero))
        forms[code] = Codes(int(zero), int(zero), limit)
    return forms


def _steps(view: GraphView, quantize: NodeProto, value: float) -> int:
    return int(np.rint(value / view.scale(quantize).astype(np.float64)))


def _left_to_codes(r: Rewriter, node: NodeProto, forms: dict[str, Codes]) -> bool:
    """Whether a Relu or Clip is done by what follows on the codes; its readers then skip it."""
    readers = r.view.consumers.get(node.output[0], [])
    if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
        return False
    codes = [forms[reader.output[0]] for reader in readers]
    if node.op_type == "Relu" and all(x.zero == 0 and x.dtype is np.uint8 for x in codes):
        return False
    r.rename(node.output[0], r.name(node.input[0]))
    return True


def _center_pixels(r: Rewriter, node: NodeProto) -> None:
    """The pixels' codes minus 128 as int8: a kernel reads and writes codes of one type."""
    pixels, scale, zero = (r.name(name) for name in node.input)
    value = r.out.dequantize(pixels, scale, zero, f"{node.output[0]}:u")
    signed_zero = r.out.constant(np.int8(0))
    code = r.out.quantize(value, scale, signed_zero, f"{node.output[0]}:q")
    r.out.dequantize(code, scale, signed_zero, node.output[0])


def _keep_float(r: Rewriter, node: NodeProto) -> None:
    output = node.output[0]
    last = output in {info.name for info in r.view.outputs}
    names = [r.name(i) for i in node.input]
    value = output if last else f"{output}:k"
    r.out.add(node.op_type, names, value, name=node.name, **attributes(node))
    if not last:
        r.out.add("LeakyRelu", [value], output, alpha=1.0)


def _weight(r: Rewriter, node: NodeProto, always: bool) -> bool:
    """Write the zero points of a Gemm's weight out; those of every weight if `always`."""
    readers = r.view.consumers.get(node.output[0], [])
    codes = r.view.constants.get(node.input[0])
    if codes is None or codes.dtype != np.int8:
        return False
    if not always and any(x.op_type != "Gemm" for x in readers):
        return False
    # Not shared: where a processor has no VNNI, ONNX Runtime rewrites the zero points of every
    # weight it makes unsigned, and refuses a graph in which it would rewrite the same ones twice.
    zeros = r.out.own_constant(
        np.zeros(r.view.scale(node).shape, np.int8), f"{r.name(node.input[0])}:zero"
    )
    inputs = [r.name(node.input[0]), r.name(node.input[1]), zeros]
    r.out.add("DequantizeLinear", inputs, node.output[0], **attributes(node))
    return True


def _quantize(r: Rewriter, node: NodeProto, form: Codes, unsaturated: set[str]) -> None:
    code = node.output[0]
    value, scale = r.name(node.input[0]), quantizer_scale(r, node)
    r.out.quantize(value, scale, form.constant(r, form.zero), code)
    if form.whole_range:
        return
    source = code_source(r.view, node)
    if source is not None and source not in unsaturated:
        return
    if form == Codes(0, 0, _INT8_MAX) and _sum_fits(r.view, node):
        return
    if _only_max_pool_reads(r, code):
        unsaturated.add(code)
        return
    bounds = [form.constant(r, form.low), form.constant(r, form.high)]
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
