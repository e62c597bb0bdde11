"""Reading and building ONNX graphs: the little that canonical, emitters and lint share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from qdr_edge.errors import ExportError

# Opset 19 is the first with every Q/DQ form used here, and TensorRT 10.3's parser reads it.
OPSET = 19
# The IR version that came with opset 19: older readers refuse a newer one.
IR_VERSION = 9
PRODUCER = "qdr-edge"


class GraphBuilder:
    """Collects nodes and constants; `constant` stores equal dtype, shape and bytes once."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._constants: dict[str, NDArray[Any]] = {}

    def constant(self, value: NDArray[Any] | np.generic, name: str = "") -> str:
        """The name of a constant of this value; `name` is used if it is not stored yet."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            number = len(self._constants)
            while not name or name in self._constants:
                name, number = f":{number}", number + 1
            self._names[key] = name
            self._constants[name] = array
        return self._names[key]

    def own_constant(self, value: NDArray[Any], name: str) -> str:
        """The name of a constant that nothing else shares, whatever its value."""
        while name in self._constants:
            name = f"{name}:"
        self._constants[name] = np.asarray(value)
        return name

    def add(
        self, op: str, inputs: Sequence[str], output: str, *, name: str = "", **attributes: Any
    ) -> str:
        """Append a node with one output; returns the output's name."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def quantize(self, x: str, scale: str, zero_point: str, output: str) -> str:
        """Append a per-tensor QuantizeLinear."""
        return self.add("QuantizeLinear", [x, scale, zero_point], output)

    def dequantize(self, x: str, scale: str, zero_point: str, output: str) -> str:
        """Append a per-tensor DequantizeLinear."""
        return self.add("DequantizeLinear", [x, scale, zero_point], output)

    def model(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        metadata: Mapping[str, str] | None = None,
    ) -> ModelProto:
        """The checked model of everything added, without unused constants.

        Raises:
            ExportError: Operators, shapes and outputs contradict each other.
        """
        used = {i for node in self.nodes for i in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            list(inputs),
            list(outputs),
            [
                numpy_helper.from_array(array, constant)
                for constant, array in self._constants.items()
                if constant in used
            ],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
        )
        helper.set_model_props(model, dict(metadata or {}))
        check_model(model, name)
        return model


def check_model(model: ModelProto, where: str) -> None:
    """Check operators, types and shapes.

    Raises:
        ExportError: They contradict each other.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph is not valid: {error}",
            where=where,
            expected="operators, shapes and labels that fit each other",
            fix="the checkpoint's graph contradicts itself: train it again",
        ) from error


class GraphView:
    """A read-only index of an ONNX graph: who makes a tensor, who reads it, what is constant.

    Args:
        model: The model, or its bytes.

    Raises:
        ExportError: The bytes are no ONNX model, or it keeps tensors in other files.
    """

    def __init__(self, model: ModelProto | bytes, *, where: str = "") -> None:
        if isinstance(model, bytes):
            try:
                model = onnx.load_model_from_string(model)
            except Exception as error:  # protobuf raises classes of its own
                raise ExportError("not an ONNX model", where=where, expected="ONNX") from error
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
            raise ExportError(
                "tensors lie in another file",
                where=where,
                expected="one self-contained ONNX file",
                fix="save it without external data",
            )
        self.model = model
        self.nodes: tuple[NodeProto, ...] = tuple(model.graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            t.name: numpy_helper.to_array(t) for t in model.graph.initializer
        }
        self.producers: dict[str, NodeProto] = {o: n for n in self.nodes for o in n.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.consumers.setdefault(name, []).append(node)

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """Graph inputs that are no constants."""
        return [i for i in self.model.graph.input if i.name not in self.constants]

    @property
    def outputs(self) -> list[ValueInfoProto]:
        """Graph outputs."""
        return list(self.model.graph.output)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return max(
            (o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=0
        )

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor; None for inputs and constants."""
        return self.producers.get(tensor)

    def scale(self, node: NodeProto) -> NDArray[np.float32]:
        """The scale of a Q or DQ node, as stored.

        Raises:
            ExportError: It is computed at run time.
        """
        if node.input[1] not in self.constants:
            raise ExportError(
                "its scale is not a constant",
                where=f"{node.op_type} {node.name or node.output[0]}",
                expected="an initializer",
            )
        scale: NDArray[np.float32] = self.constants[node.input[1]]
        return scale

    def zero_point(self, node: NodeProto) -> NDArray[Any]:
        """The zero point of a Q or DQ node; 0 of the codes' type if it names none."""
        if len(node.input) > 2 and node.input[2]:
            return self.constants[node.input[2]]
        codes = self.constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and codes is not None:
            return np.zeros((), codes.dtype)
        return np.zeros((), np.uint8)

    def dequantized(self, tensor: str) -> NodeProto | None:
        """The DequantizeLinear that makes a tensor, if one does."""
        node = self.producer(tensor)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def of_type(self, *ops: str) -> Iterator[NodeProto]:
        """Nodes of the given operators, in order."""
        return (node for node in self.nodes if node.op_type in ops)


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def label(node: NodeProto) -> str:
    """What to call a node in a message."""
    return str(node.name or (node.output[0] if node.output else node.op_type))
