"""The static rules of each target: what makes a QDQ graph slow, wrong or unreadable there.

A rule is a function from a graph to the places that break it. Its docstring is the explanation
that users read.
"""

from __future__ import annotations

from qdr_export.lint import every
from qdr_export.lint import onnxruntime as ort
from qdr_export.lint import openvino as ov
from qdr_export.lint import tensorrt as trt
from qdr_export.lint.rule import Rule

_X86, _OV, _TRT10, _TRT11 = "ort-x86", "openvino", "tensorrt-10", "tensorrt-11"
_TRT = (_TRT10, _TRT11)
_ALL = (_X86, _OV, *_TRT)

RULES: tuple[Rule, ...] = (
    Rule("static-shape", _ALL, "warning", every.static_shape, "fix every dimension, batch 1"),
    Rule("pixel-input", _ALL, "warning", every.pixel_input,
         "take uint8 pixels, normalise in the graph"),
    Rule("positive-scales", _ALL, "error", every.positive_scales, "store a constant scale above 0"),
    Rule("relu-zero-point", (_X86,), "warning", ort.relu_zero_point,
         "quantize to uint8 with zero point 0, then Clip(code, 0, 127) if it was int8"),
    Rule("unsigned-activations", (_X86,), "warning", ort.unsigned_activations,
         "rewrite int8 to uint8 with zero point 128 (the ort-x86 emitter does)"),
    Rule("quantized-output", (_X86,), "warning", ort.quantized_output,
         "put a QuantizeLinear behind it, and nothing else"),
    Rule("add-inputs", (_X86,), "warning", ort.add_inputs, "quantize both inputs"),
    Rule("concat-inputs", (_X86,), "warning", ort.concat_inputs,
         "quantize every input and the output"),
    Rule("float-weight", (_X86,), "error", ort.float_weight,
         "store the weight as int8 behind a DequantizeLinear, or put LeakyRelu(alpha=1) behind it "
         "(the ort-x86 emitter does)"),
    Rule("gemm-zero-point", (_X86,), "warning", ort.gemm_zero_point,
         "write the zero points (int8 zeros, one a channel)"),
    Rule("saturation", (_X86, _OV), "warning", every.saturation,
         "train with |weight| <= 64 (scheme exact); the other schemes are for VNNI and Arm"),
    Rule("protected-sum", (_OV,), "error", ov.protected_sum,
         "put LeakyRelu(alpha=1) before the QuantizeLinear (the openvino emitter does)"),
    Rule("signed-concat", (_OV,), "error", ov.signed_concat,
         "write it as uint8 with zero point 128 (the openvino emitter does)"),
    Rule("requantized-concat", (_OV,), "error", ov.requantized_concat,
         "put LeakyRelu(alpha=1) before the QuantizeLinear (the openvino emitter does)"),
    Rule("whole-bound", (_OV,), "error", ov.whole_bound,
         "write Clip as Relu and Min (the openvino emitter does)"),
    Rule("padded-average", (_OV,), "error", ov.padded_average,
         "put LeakyRelu(alpha=1) before the pool (the openvino emitter does)"),
    Rule("even-zero-point", (_OV,), "warning", ov.even_zero_point, "use 0 or 128"),
    Rule("planar-input", (_OV,), "warning", ov.planar_input, "feed [N, C, H, W]"),
    Rule("zero-zero-point", _TRT, "error", trt.zero_zero_point,
         "write a constant int8 0 for each scale"),
    Rule("no-uint8", _TRT, "error", trt.no_uint8, "use int8; cast a uint8 input to float first"),
    Rule("explicit-axis", (_TRT10,), "error", trt.explicit_axis, "write axis=0 for a weight"),
    Rule("float-bias", _TRT, "error", trt.float_bias, "store the bias as a float initializer"),
    Rule("quantized-conv-input", _TRT, "warning", trt.quantized_conv_input,
         "put Q/DQ before the convolution, or leave its weight float"),
    Rule("fusible-residual", _TRT, "warning", trt.fusible_residual,
         "keep Q/DQ on the identity branch only"),
    Rule("grouped-channels", _TRT, "warning", trt.grouped_channels, "leave its weight float"),
    Rule("large-products", _TRT, "warning", trt.large_products, "leave its weight float"),
    Rule("pooled-stem", _TRT, "warning", trt.pooled_stem, "leave its weight float"),
    Rule("typed-half", (_TRT11,), "warning", trt.typed_half,
         "store weight and bias as float16 and cast its input (the tensorrt-11 emitter does)"),
)  # fmt: skip
