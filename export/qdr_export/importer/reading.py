"""Bytes of an ONNX file → a model whose constants, shapes, input and output are known."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from qdr_edge.errors import ExportError
from qdr_export.graph.onnx_graph import GraphView, label
from qdr_export.importer.findings import Findings

# Below 13 a QuantizeLinear has no axis and a Squeeze no axes input; every quantizer writes 13 or
# later.
OLDEST_OPSET = 10
STANDARD = ("", "ai.onnx")
# ONNX Runtime's own domain holds the same two operators for types that older opsets lack.
_CONTRIB = "com.microsoft"
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_QUANTIZE_MEND = "save it in QDQ form, e.g. onnxruntime.quantization with QuantFormat.QDQ"


@dataclass(frozen=True)
class Source:
    """A file that can be looked into.

    Args:
        view: The model with a batch of 1 and its spatial size filled in.
        shapes: Dimensions of each tensor whose shape is known; -1 where one is not.
        input: Name of the image input.
        uint8: The input is pixels, not floats.
        output: Name of the output.
        size: Side of the image.
    """

    view: GraphView
    shapes: dict[str, tuple[int, ...]]
    input: str
    uint8: bool
    output: str
    size: int

    def place(self, node: NodeProto) -> str:
        """Where a node stands, for messages."""
        index = next(i for i, other in enumerate(self.view.nodes) if other is node)
        return f"{node.op_type} {label(node)} (node {index + 1} of {len(self.view.nodes)})"

    def rank(self, tensor: str) -> int | None:
        """Number of dimensions of a tensor, if known."""
        return len(self.shapes[tensor]) if tensor in self.shapes else None


def read_source(content: bytes, size: int | None, findings: Findings) -> Source:
    """Read and check a file.

    Args:
        content: ONNX bytes.
        size: Side of the image, where the file leaves it open.
        findings: Where broken rules go.

    Raises:
        ExportError: It is no ONNX file, keeps tensors elsewhere, or has no single image input.
    """
    where = findings.where
    model = GraphView(content, where=where).model
    _check_operator_sets(model, where)
    image, side = _image_input(model, size, where)
    _check_nodes(model, findings)
    findings.check()
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise ExportError(
            f"{len(model.graph.output)} outputs: {names}",
            where=where,
            expected="one output, the logits [N, K]",
            fix="remove the others from the graph's outputs",
        )
    _fix_shape(image, side)
    # Shapes written into the file may hold a symbolic batch, which inference would have to keep.
    del model.graph.value_info[:]
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # onnx raises classes of its own and of protobuf
        raise ExportError(
            f"shapes contradict each other: {error}", where=where, expected="a valid ONNX graph"
        ) from error
    graph = inferred.graph
    shapes = {
        info.name: tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in info.type.tensor_type.shape.dim
        )
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    return Source(
        view=GraphView(model, where=where),
        shapes=shapes,
        input=image.name,
        uint8=image.type.tensor_type.elem_type == TensorProto.UINT8,
        output=model.graph.output[0].name,
        size=side,
    )


def _check_operator_sets(model: ModelProto, where: str) -> None:
    versions = {o.domain: o.version for o in model.opset_import}
    opset = max((v for d, v in versions.items() if d in STANDARD), default=0)
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"opset {opset}",
            where=where,
            expected=f"opset {OLDEST_OPSET} or later, the first with QuantizeLinear",
            fix="export it again with a later opset",
        )


def _image_input(
    model: ModelProto, size: int | None, where: str
) -> tuple[onnx.ValueInfoProto, int]:
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise ExportError(
            f"{len(inputs)} inputs: {', '.join(i.name for i in inputs)}",
            where=where,
            expected="one input, the image",
            fix="fold the others into constants",
        )
    image = inputs[0]
    tensor = image.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    dims = [d.dim_value for d in tensor.shape.dim]
    if kind not in ("FLOAT", "UINT8") or len(dims) != 4 or dims[1] not in (0, 3) or dims[0] > 1:
        shown = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
        raise ExportError(
            f"input {image.name} is {kind} {shown}",
            where=where,
            expected="FLOAT or UINT8 [N or 1, 3, S, S]: images in planes, red first",
            fix="export it with such an input; transpose NHWC data in front of the network",
        )
    sides = {side for side in dims[2:] if side} or {size}
    if len(sides) != 1 or (size is not None and sides != {size}):
        raise ExportError(
            f"input {image.name} is {dims[2]} × {dims[3]}, --size is {size}",
            where=where,
            expected="a square image of one size",
            fix="export it for a square image",
        )
    side = sides.pop()
    if side is None:
        raise ExportError(
            f"input {image.name} leaves height and width open",
            where=where,
            expected="a fixed size",
            fix="say with --size which side the network was trained with",
        )
    return image, side


def _fix_shape(image: onnx.ValueInfoProto, side: int) -> None:
    shape = helper.make_tensor_type_proto(image.type.tensor_type.elem_type, [1, 3, side, side])
    image.type.CopyFrom(shape)


def _check_nodes(model: ModelProto, findings: Findings) -> None:
    count = len(model.graph.node)
    quantized = False
    for index, node in enumerate(model.graph.node):
        place = f"{node.op_type} {label(node)} (node {index + 1} of {count})"
        quantized |= node.op_type == "QuantizeLinear"
        if node.domain == _CONTRIB and node.op_type in _QDQ:
            continue
        if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
            findings.problem(
                place, "an operator on integers", "Q/DQ around float operators", _QUANTIZE_MEND
            )
        elif node.domain not in STANDARD:
            findings.problem(
                place,
                f"domain {node.domain!r}",
                "standard ONNX operators",
                "quantize the model before a runtime optimizes it",
            )
        if any(a.t.data_location == TensorProto.EXTERNAL for a in node.attribute):
            findings.problem(
                place,
                "a tensor in another file",
                "one self-contained ONNX file",
                "save it without external data",
            )
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            findings.problem(
                place, "a subgraph", "a plain graph", "export the model without control flow"
            )
    if not quantized and not findings.problems:
        findings.problem(
            "the whole file",
            "no QuantizeLinear",
            "a quantized network",
            f"quantize it first; {_QUANTIZE_MEND}",
        )
