"""The interpreter: runs the nodes of a canonical model in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, ValueInfoProto

from qdr_edge.errors import ExportError
from qdr_export.onnx_graph import GraphView, attributes, label
from qdr_export.reference import elementwise, products, spatial
from qdr_export.reference.values import Value, real

# Images interpreted at a time: the stem's activations of a 448 px network then stay near 100 MB.
_CHUNK_PIXELS = 4 * 224 * 224

_OPERATORS: dict[str, Callable[[list[Value], Mapping[str, Any]], Value]] = {
    "Add": elementwise.add,
    "AveragePool": spatial.average_pool,
    "Cast": elementwise.cast,
    "Clip": elementwise.clip,
    "Concat": spatial.concat,
    "Conv": products.conv,
    "DequantizeLinear": elementwise.dequantize,
    "Flatten": spatial.flatten,
    "Gemm": products.gemm,
    "GlobalAveragePool": spatial.global_average_pool,
    "HardSigmoid": elementwise.hardsigmoid,
    "HardSwish": elementwise.hardswish,
    "MaxPool": spatial.max_pool,
    "Mul": elementwise.mul,
    "QuantizeLinear": elementwise.quantize,
    "Relu": elementwise.relu,
    "Resize": spatial.resize,
    "Sigmoid": elementwise.sigmoid,
}


class Reference:
    """The interpreter of one canonical model.

    Args:
        model: Bytes of the canonical ONNX model.

    Raises:
        ExportError: An operator has no definition here.
    """

    def __init__(self, model: bytes) -> None:
        self._view = GraphView(model)
        for node in self._view.nodes:
            if node.op_type not in _OPERATORS:
                raise ExportError(
                    f"operator {node.op_type} has no reference definition",
                    where=f"node {label(node)}",
                    expected=f"one of {', '.join(sorted(_OPERATORS))}",
                )
        # Weights, scales and biases depend on no image: they are dequantized once.
        self._fixed: dict[str, Value] = dict(self._view.constants)
        self._work: list[NodeProto] = []
        for node in self._view.nodes:
            if all(name in self._fixed for name in node.input if name):
                self._fixed[node.output[0]] = _run(node, self._fixed)
            else:
                self._work.append(node)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            images: uint8 [N, 3, S, S].

        Returns:
            float32 [N, K].
        """
        return self._infer(images, self._view.outputs[0])

    def infer_maps(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class activation maps of a batch, of a model that has them (maps.py).

        Returns:
            float32 [N, K, h, w].
        """
        return self._infer(images, self._view.outputs[1])

    def activations(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Integer codes of every quantized activation, by tensor name, and the logits."""
        values = self._values(images, keep=True)
        codes = {n.output[0] for n in self._work if n.op_type == "QuantizeLinear"}
        codes |= {o.name for o in self._view.outputs}
        return {name: np.asarray(values[name]) for name in codes if name in values}

    def _infer(self, images: NDArray[np.uint8], output: ValueInfoProto) -> NDArray[np.float32]:
        step = max(1, _CHUNK_PIXELS // int(np.prod(images.shape[2:])))
        parts = [
            real(self._values(images[i : i + step])[output.name]).astype(np.float32)
            for i in range(0, len(images), step)
        ]
        if not parts:
            shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
            return np.zeros((0, *shape[1:]), np.float32)
        return np.concatenate(parts)

    def _values(self, images: NDArray[np.uint8], *, keep: bool = False) -> dict[str, Value]:
        values: dict[str, Value] = {**self._fixed, self._view.inputs[0].name: images}
        uses = {name: len(nodes) for name, nodes in self._view.consumers.items()}
        for node in self._work:
            values[node.output[0]] = _run(node, values)
            for name in node.input:
                uses[name] = uses.get(name, 0) - 1
                if not keep and uses[name] == 0 and name not in self._fixed:
                    del values[name]
        return values


def _run(node: NodeProto, values: Mapping[str, Value]) -> Value:
    try:
        # An input left out, as Resize's region, has no name.
        inputs = [values[name] for name in node.input if name]
        return _OPERATORS[node.op_type](inputs, attributes(node))
    except (ValueError, IndexError, KeyError) as error:
        raise ExportError(f"cannot interpret: {error}", where=f"node {label(node)}") from error
