"""TensorRT 11: the TensorRT 10 form, with precision written into the graph.

TensorRT 11 knows strongly typed networks only: no flag lowers a float32 layer to half precision, it
runs as it is typed. Convolutions and products with float weights – the classifier head, tiny and
grouped layers, layers that training kept in float – become float16 here, with a Cast where a
float32 tensor enters. Operators between two of them stay float16; a QuantizeLinear, the logits and
operators that also read a float32 tensor get a Cast back. Scales stay float32: half precision
cannot hold every one of them.

A layer whose weights half precision cannot hold stays float32. `keep_roundings=True` types nothing:
it is the bit-equal form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from qdr_export.emit import tensorrt
from qdr_export.emit.rewrite import Rewriter, to_bytes
from qdr_export.onnx_graph import GraphView, attributes

# Operators that stay float16 between float16 layers: every constant they have may be float16 too.
_ELEMENTWISE = ("Add", "Clip", "HardSigmoid", "HardSwish", "Mul", "Relu", "Sigmoid")
_FOLLOWS = (*_ELEMENTWISE, "AveragePool", "Concat", "Flatten", "GlobalAveragePool", "MaxPool")


def emit(canonical: bytes, *, keep_roundings: bool = False) -> bytes:
    """The TensorRT 11 form of a canonical model; see tensorrt.emit for the arguments."""
    untyped = tensorrt.emit(canonical, keep_roundings=keep_roundings)
    if keep_roundings:
        return untyped
    typing = _Typing(Rewriter(untyped))
    return to_bytes(typing.rewriter.run(lambda _, node: typing.apply(node), "tensorrt-11"))


def runs_in_half(view: GraphView, node: NodeProto) -> bool:
    """Whether a convolution or product has float weights that half precision can hold."""
    if node.op_type not in ("Conv", "Gemm"):
        return False
    parameters = [view.constants.get(name) for name in node.input[1:]]
    return all(array is not None and _fits_half(array) for array in parameters)


class _Typing:
    """Types the nodes of a graph one after the other, in topological order."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self._outputs = {info.name for info in rewriter.view.outputs}
        # Tensors that are float16 in the new graph.
        self._half: set[str] = set()
        self._casts: set[str] = set()

    def apply(self, node: NodeProto) -> bool:
        """Add a node in its type; a Rule without the rewriter."""
        view = self.rewriter.view
        half = runs_in_half(view, node) or (
            node.op_type in _FOLLOWS
            and all(
                name in self._half or (name in view.constants and _fits_half(view.constants[name]))
                for name in filter(None, node.input)
            )
        )
        output = node.output[0]
        if not half:
            names = [self._full(name) for name in node.input]
            self.rewriter.out.add(node.op_type, names, output, name=node.name, **attributes(node))
            return True
        names = [self._as_half(name) for name in node.input]
        typed = f"{output}:half" if output in self._outputs else output
        self.rewriter.out.add(node.op_type, names, typed, name=node.name, **attributes(node))
        self._half.add(typed)
        if output in self._outputs:
            self.rewriter.out.add("Cast", [typed], output, to=TensorProto.FLOAT)
        return True

    def _full(self, name: str) -> str:
        if name not in self._half:
            return self.rewriter.name(name)
        return self._cast(name, f"{name}:float", TensorProto.FLOAT)

    def _as_half(self, name: str) -> str:
        constant = self.rewriter.view.constants.get(name)
        if constant is not None:
            return self.rewriter.out.constant(constant.astype(np.float16), name)
        return (
            name
            if not name or name in self._half
            else self._cast(name, f"{name}:half", TensorProto.FLOAT16)
        )

    def _cast(self, name: str, output: str, to: int) -> str:
        if output not in self._casts:
            self._casts.add(output)
            self.rewriter.out.add("Cast", [name], output, to=to)
        return output


def _fits_half(constant: NDArray[Any]) -> bool:
    """Whether float16 holds a float32 constant: its largest value is normal there, or 0."""
    if constant.dtype != np.float32:
        return False
    largest = float(np.abs(constant).max(initial=0))
    half = np.finfo(np.float16)
    return largest == 0 or float(half.tiny) <= largest <= float(half.max)
