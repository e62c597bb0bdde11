"""The static rules of each target: what makes a QDQ graph slow, wrong or unreadable there.

A rule is a function from a graph to the places that break it. Its docstring is the explanation
that users read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from qdr_edge.runtime.saturation import SATURATION_FREE
from qdr_export.onnx_graph import GraphView, attributes, label

# (place, what was found there)
Breach = tuple[str, str]
Check = Callable[[GraphView], Iterator[Breach]]

_MATRIX = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Rule:
    """One rule of one target.

    Args:
        name: Stable identifier.
        targets: Targets it holds for.
        severity: "error" (wrong or refused), "warning" (slow or unproven).
        check: Finds the breaches.
        mend: What to do about one.
    """

    name: str
    targets: tuple[str, ...]
    severity: str
    check: Check
    mend: str

    @property
    def explanation(self) -> str:
        """Why the rule exists."""
        return " ".join((self.check.__doc__ or "").split())


def _readers_behind(view: GraphView, quantize: NodeProto) -> list[NodeProto]:
    return [
        reader
        for dequantize in view.consumers.get(quantize.output[0], [])
        for reader in view.consumers.get(dequantize.output[0], [])
    ]


def _is_quantized(view: GraphView, node: NodeProto) -> bool:
    """Whether data and weight of a convolution or product are both dequantized integers."""
    return all(view.dequantized(name) is not None for name in node.input[:2])


def _through_relu(view: GraphView, node: NodeProto) -> NodeProto:
    """The node's only reader if that is a Relu or Clip, else the node."""
    readers = view.consumers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        return readers[0]
    return node


def static_shape(view: GraphView) -> Iterator[Breach]:
    """Runtimes plan memory and choose kernels once only if every dimension is fixed."""
    for info in view.inputs:
        dims = info.type.tensor_type.shape.dim
        if any(d.dim_value <= 0 for d in dims):
            yield info.name, f"shape {[d.dim_value or d.dim_param for d in dims]}"


def pixel_input(view: GraphView) -> Iterator[Breach]:
    """A float input costs a conversion of every pixel outside the graph: 3-30 % of the time."""
    for info in view.inputs:
        if info.type.tensor_type.elem_type != TensorProto.UINT8:
            yield info.name, f"type {TensorProto.DataType.Name(info.type.tensor_type.elem_type)}"


def positive_scales(view: GraphView) -> Iterator[Breach]:
    """A scale of zero or below makes every code meaningless; a computed one cannot be fused."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        if node.input[1] not in view.constants:
            yield label(node), "scale is computed at run time"
        elif not (view.constants[node.input[1]] > 0).all():
            yield label(node), f"scale {view.constants[node.input[1]].min()}"


def relu_zero_point(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime drops a Relu before a quantization only if the zero point is the type's
    minimum; otherwise the convolution before it stays in float, about four times slower."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        if producer is None or producer.op_type != "Relu":
            continue
        zero = view.zero_point(node)
        if zero.size and (zero != np.iinfo(zero.dtype).min).any():
            yield label(node), f"Relu, then {zero.dtype} with zero point {int(zero.reshape(-1)[0])}"


def unsigned_activations(view: GraphView) -> Iterator[Breach]:
    """x86 multiplies unsigned activations by signed weights; signed ones are converted on the way
    and take part in fewer of ONNX Runtime's fusions."""
    for node in view.of_type("QuantizeLinear"):
        if view.zero_point(node).dtype == np.int8:
            yield label(node), "int8 activations"


def quantized_output(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime makes a QLinearConv only of dequantized inputs *and* one quantized output."""
    outputs = {o.name for o in view.outputs}
    for node in view.of_type("Conv"):
        if not _is_quantized(view, node):
            continue
        last = _through_relu(view, node)
        readers = view.consumers.get(last.output[0], [])
        if last.output[0] in outputs or [r.op_type for r in readers] != ["QuantizeLinear"]:
            found = ", ".join(r.op_type for r in readers) or "graph output"
            yield label(node), f"its float output goes to {found}"


def add_inputs(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime adds in int8 only if both inputs are dequantized; else both become float."""
    for node in view.of_type("Add"):
        quantized = [view.dequantized(name) is not None for name in node.input]
        if any(quantized) and not all(quantized):
            yield label(node), "one of two inputs is quantized"


def float_weight(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime quantizes a float weight between a quantized input and a quantized output by
    itself, per tensor and unasked: the logits change."""
    for node in view.of_type("Conv", "Gemm"):
        if view.dequantized(node.input[0]) is None or node.input[1] not in view.constants:
            continue
        readers = view.consumers.get(_through_relu(view, node).output[0], [])
        if any(reader.op_type == "QuantizeLinear" for reader in readers):
            yield label(node), "float weight between quantized input and output"


def concat_inputs(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime joins in int8 only if every input is dequantized and the output quantized; else
    all of them become float."""
    for node in view.of_type("Concat"):
        quantized = [view.dequantized(name) is not None for name in node.input]
        readers = {reader.op_type for reader in view.consumers.get(node.output[0], [])}
        if any(quantized) and not (all(quantized) and readers == {"QuantizeLinear"}):
            yield label(node), "not all of its inputs and its output are quantized"


def gemm_zero_point(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime makes a QGemm only if the weight's zero point is written out; without it the
    weight is dequantized anew at every inference."""
    for node in view.of_type("Gemm"):
        weight = view.dequantized(node.input[1])
        if weight is not None and len(weight.input) < 3:
            yield label(node), "weight without zero point"


def saturation(view: GraphView) -> Iterator[Breach]:
    """On x86 without VNNI two u8·s8 products are added in 16 bits and saturate silently; weights
    up to 64 cannot. qdr-edge then opens the model with slower kernels: exact ones in ONNX Runtime
    (session.x64quantprecision=1), float ones in OpenVINO. Other programs must do so themselves."""
    for node in view.of_type(*_MATRIX):
        weight = view.dequantized(node.input[1])
        if weight is not None and _is_quantized(view, node):
            largest = np.abs(view.constants[weight.input[0]].astype(np.int16)).max(initial=0)
            if largest > SATURATION_FREE:
                yield label(node), f"|weight| up to {largest}"


def protected_sum(view: GraphView) -> Iterator[Breach]:
    """OpenVINO drops the rounding of Conv → Q → DQ → Add when it fuses the sum: 13-21 % of the
    activations differ by a step. A LeakyRelu with alpha 1 before that Q keeps it. A Relu in between
    changes nothing if the Add alone reads the sum's operand."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        readers = _readers_behind(view, node)
        summed = any(reader.op_type == "Add" for reader in readers)
        if producer is not None and producer.op_type in ("Relu", "Clip"):
            producer = view.producer(producer.input[0])
            summed = summed and len(readers) == 1
        if producer is not None and producer.op_type == "Conv" and summed:
            yield label(producer), "its rounding before the Add may be dropped"


def signed_concat(view: GraphView) -> Iterator[Breach]:
    """OpenVINO joins uint8 tensors into an int8 one with wrong values; uint8 with zero point 128
    holds the same values and comes out right."""
    for node in view.of_type("Concat"):
        for reader in view.consumers.get(node.output[0], []):
            if reader.op_type == "QuantizeLinear" and view.zero_point(reader).dtype == np.int8:
                yield label(node), "its output is int8"


def requantized_concat(view: GraphView) -> Iterator[Breach]:
    """OpenVINO crashes while it compiles Concat → Q → DQ → Relu → Q, and without the Relu too."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        if producer is None or producer.op_type != "Concat":
            continue
        readers = {reader.op_type for reader in _readers_behind(view, node)}
        if found := readers & {"Relu", "Clip", "QuantizeLinear"}:
            yield label(producer), f"quantized, then {', '.join(sorted(found))}"


def whole_bound(view: GraphView) -> Iterator[Breach]:
    """OpenVINO clips codes instead of values where a Clip reads dequantized ones, and cuts a bound
    between two codes off."""
    for node in view.of_type("Clip"):
        dequantize = view.dequantized(node.input[0])
        if dequantize is None or view.zero_point(dequantize).any():
            continue
        bounds = [view.constants[name] for name in node.input[1:] if name in view.constants]
        codes = [float(bound / view.scale(dequantize)) for bound in bounds]
        for code in codes:
            if not code.is_integer():
                yield label(node), f"its bound is {code:g} steps"


def padded_average(view: GraphView) -> Iterator[Breach]:
    """OpenVINO pads an average pool of codes with code 0, which is another value than 0 where the
    zero point is another; the border comes out wrong."""
    for node in view.of_type("AveragePool"):
        dequantize = view.dequantized(node.input[0])
        settings = attributes(node)
        counted = settings.get("count_include_pad", 0) and any(settings.get("pads", ()))
        if counted and dequantize is not None and view.zero_point(dequantize).any():
            zero = int(view.zero_point(dequantize).reshape(-1)[0])
            yield label(node), f"padding counts and the zero point is {zero}"


def even_zero_point(view: GraphView) -> Iterator[Breach]:
    """OpenVINO computes zero points into floats; only 0 and 128 keep ties where they are."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        zero = view.zero_point(node).astype(np.int64)
        if not np.isin(zero, (-128, 0, 128)).all():
            yield label(node), f"zero point {int(zero.reshape(-1)[0])}"


def planar_input(view: GraphView) -> Iterator[Breach]:
    """An input in channels-last order made OpenVINO run the first convolution in float."""
    for info in view.inputs:
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if len(dims) == 4 and dims[3] == 3 and dims[1] != 3:
            yield info.name, f"shape {dims}"


def zero_zero_point(view: GraphView) -> Iterator[Breach]:
    """TensorRT quantizes symmetrically: any zero point but a constant 0, one for each scale, is
    refused. Where a QuantizeLinear names none, ONNX means uint8 and TensorRT takes int8."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            if node.op_type == "QuantizeLinear":
                yield label(node), "no zero point, so that its codes are uint8"
            continue
        zero = view.constants.get(node.input[2])
        scale = view.constants.get(node.input[1])
        if zero is None:
            yield label(node), "zero point is no constant"
        elif zero.any():
            yield label(node), f"zero point {int(zero.reshape(-1)[0])}"
        elif scale is not None and zero.size != scale.size:
            yield label(node), f"{zero.size} zero points for {scale.size} scales"


def no_uint8(view: GraphView) -> Iterator[Breach]:
    """TensorRT reads uint8 codes as int8, with a warning only."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        computed = len(node.input) > 2 and node.input[2] and node.input[2] not in view.constants
        if not computed and view.zero_point(node).dtype == np.uint8:
            yield label(node), "uint8 codes"


def explicit_axis(view: GraphView) -> Iterator[Breach]:
    """Where `axis` is missing, the parser of TensorRT 10.3 takes 0 and ONNX takes 1, as TensorRT 11
    does."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        scale = view.constants.get(node.input[1])
        if scale is not None and scale.size > 1 and "axis" not in attributes(node):
            yield label(node), "per-channel scale without axis"


def float_bias(view: GraphView) -> Iterator[Breach]:
    """TensorRT rejects a DequantizeLinear of int32, the usual form of a quantized bias."""
    for node in view.of_type("DequantizeLinear"):
        codes = view.constants.get(node.input[0])
        if codes is not None and codes.dtype == np.int32:
            yield label(node), "int32 codes"


def quantized_conv_input(view: GraphView) -> Iterator[Breach]:
    """An int8 weight alone gives no int8 kernel: TensorRT dequantizes it and computes in float."""
    for node in view.of_type("Conv", "Gemm"):
        if view.dequantized(node.input[1]) is not None and view.dequantized(node.input[0]) is None:
            yield label(node), "int8 weight, float input"


def fusible_residual(view: GraphView) -> Iterator[Breach]:
    """Conv + Add + Relu fuse only if the convolution's branch reaches the Add in float."""
    for node in view.of_type("Add"):
        pairs = [view.dequantized(name) for name in node.input]
        if not all(pair is not None for pair in pairs):
            continue
        for pair in pairs:
            quantize = view.producer(pair.input[0]) if pair is not None else None
            conv = view.producer(quantize.input[0]) if quantize is not None else None
            if conv is not None and conv.op_type == "Conv":
                yield label(node), "both inputs are quantized, one of them a convolution's"
                break


def grouped_channels(view: GraphView) -> Iterator[Breach]:
    """TensorRT has int8 kernels for grouped convolutions only if Cout is a multiple of 8."""
    for node in view.of_type("Conv"):
        weight = view.dequantized(node.input[1])
        if weight is not None and attributes(node).get("group", 1) > 1:
            channels = view.constants[weight.input[0]].shape[0]
            if channels % 8:
                yield label(node), f"{channels} output channels in groups"


def large_products(view: GraphView) -> Iterator[Breach]:
    """Matrix products with fewer than 16 rows or columns are slower in int8 than in FP16."""
    for node in view.of_type("Conv", "Gemm"):
        weight = view.dequantized(node.input[1])
        if weight is not None and attributes(node).get("group", 1) == 1:
            shape = view.constants[weight.input[0]].shape
            if min(shape[0], int(np.prod(shape[1:]))) < 16:
                yield label(node), f"weight {list(shape)} in int8"


def pooled_stem(view: GraphView) -> Iterator[Breach]:
    """TensorRT fuses a first convolution, its Relu and a MaxPool. With an int8 weight of 3 input
    channels a build was reported to end with "Could not find any implementation" for the three
    (TensorRT 10.16, compute capability 8.6)."""
    for node in view.of_type("Conv"):
        weight = view.dequantized(node.input[1])
        if weight is None or view.constants[weight.input[0]].shape[1] != 3:
            continue
        last = _through_relu(view, node)
        readers = view.consumers.get(last.output[0], [])
        if [reader.op_type for reader in readers] == ["QuantizeLinear"]:
            readers = _readers_behind(view, readers[0])
        if last is not node and [reader.op_type for reader in readers] == ["MaxPool"]:
            yield label(node), "int8 weight, and only a MaxPool reads its Relu"


def typed_half(view: GraphView) -> Iterator[Breach]:
    """TensorRT 11 runs a network as it is typed: no flag lowers a float32 layer to half precision,
    which is several times faster on the same GPU."""
    for node in view.of_type(*_MATRIX):
        weight = view.constants.get(node.input[1])
        if weight is not None and weight.dtype == np.float32:
            yield label(node), "float32 weight"


_X86, _OV, _TRT10, _TRT11 = "ort-x86", "openvino", "tensorrt-10", "tensorrt-11"
_TRT = (_TRT10, _TRT11)
_ALL = (_X86, _OV, *_TRT)

RULES: tuple[Rule, ...] = (
    Rule("static-shape", _ALL, "warning", static_shape, "fix every dimension, batch 1"),
    Rule("pixel-input", _ALL, "warning", pixel_input, "take uint8 pixels, normalise in the graph"),
    Rule("positive-scales", _ALL, "error", positive_scales, "store a constant scale above 0"),
    Rule("relu-zero-point", (_X86,), "warning", relu_zero_point,
         "quantize to uint8 with zero point 0, then Clip(code, 0, 127) if it was int8"),
    Rule("unsigned-activations", (_X86,), "warning", unsigned_activations,
         "rewrite int8 to uint8 with zero point 128 (the ort-x86 emitter does)"),
    Rule("quantized-output", (_X86,), "warning", quantized_output,
         "put a QuantizeLinear behind it, and nothing else"),
    Rule("add-inputs", (_X86,), "warning", add_inputs, "quantize both inputs"),
    Rule("concat-inputs", (_X86,), "warning", concat_inputs, "quantize every input and the output"),
    Rule("float-weight", (_X86,), "error", float_weight,
         "store the weight as int8 behind a DequantizeLinear, or put LeakyRelu(alpha=1) behind it "
         "(the ort-x86 emitter does)"),
    Rule("gemm-zero-point", (_X86,), "warning", gemm_zero_point,
         "write the zero points (int8 zeros, one a channel)"),
    Rule("saturation", (_X86, _OV), "warning", saturation,
         "train with |weight| <= 64 (scheme exact); the other schemes are for VNNI and Arm"),
    Rule("protected-sum", (_OV,), "error", protected_sum,
         "put LeakyRelu(alpha=1) before the QuantizeLinear (the openvino emitter does)"),
    Rule("signed-concat", (_OV,), "error", signed_concat,
         "write it as uint8 with zero point 128 (the openvino emitter does)"),
    Rule("requantized-concat", (_OV,), "error", requantized_concat,
         "put LeakyRelu(alpha=1) before the QuantizeLinear (the openvino emitter does)"),
    Rule("whole-bound", (_OV,), "error", whole_bound,
         "write Clip as Relu and Min (the openvino emitter does)"),
    Rule("padded-average", (_OV,), "error", padded_average,
         "put LeakyRelu(alpha=1) before the pool (the openvino emitter does)"),
    Rule("even-zero-point", (_OV,), "warning", even_zero_point, "use 0 or 128"),
    Rule("planar-input", (_OV,), "warning", planar_input, "feed [N, C, H, W]"),
    Rule("zero-zero-point", _TRT, "error", zero_zero_point,
         "write a constant int8 0 for each scale"),
    Rule("no-uint8", _TRT, "error", no_uint8, "use int8; cast a uint8 input to float first"),
    Rule("explicit-axis", (_TRT10,), "error", explicit_axis, "write axis=0 for a weight"),
    Rule("float-bias", _TRT, "error", float_bias, "store the bias as a float initializer"),
    Rule("quantized-conv-input", _TRT, "warning", quantized_conv_input,
         "put Q/DQ before the convolution, or leave its weight float"),
    Rule("fusible-residual", _TRT, "warning", fusible_residual,
         "keep Q/DQ on the identity branch only"),
    Rule("grouped-channels", _TRT, "warning", grouped_channels, "leave its weight float"),
    Rule("large-products", _TRT, "warning", large_products, "leave its weight float"),
    Rule("pooled-stem", _TRT, "warning", pooled_stem, "leave its weight float"),
    Rule("typed-half", (_TRT11,), "warning", typed_half,
         "store weight and bias as float16 and cast its input (the tensorrt-11 emitter does)"),
)  # fmt: skip
