"""Half precision that ONNX Runtime's CPU kernels really round to.

ONNX Runtime has few float16 kernels on CPUs. It computes the operators of a float16 graph in
float32 and drops the roundings between them, but it keeps a Cast to float16 and back that stands in
the graph. Written that way – float32 operators, every float16 tensor rounded by a pair of Casts – a
graph computes what float16 kernels with float32 accumulation compute.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from qdr_export.emit.rewrite import Rewriter, to_bytes
from qdr_export.onnx_graph import attributes


def round_explicitly(model: bytes) -> bytes:
    """A model with static shapes whose float16 tensors are float32 ones rounded by Casts."""
    rewriter = Rewriter(model)
    constants = rewriter.view.constants
    half = {name for name, value in constants.items() if value.dtype == np.float16}
    if not half:
        return model

    def rule(r: Rewriter, node: NodeProto) -> bool:
        output = node.output[0]
        to = attributes(node).get("to") if node.op_type == "Cast" else None
        if to == TensorProto.FLOAT and node.input[0] in half:
            r.out.add("Identity", [node.input[0]], output)
            return True
        names = [
            r.out.constant(constants[name].astype(np.float32), name)
            if name in half and name in constants
            else r.name(name)
            for name in node.input
        ]
        if to == TensorProto.FLOAT16:
            value = names[0]
        elif half.intersection(node.input):
            value = r.out.add(
                node.op_type, names, f"{output}:wide", name=node.name, **attributes(node)
            )
        else:
            return False
        half.add(output)
        rounded = r.out.add("Cast", [value], f"{output}:rounded", to=TensorProto.FLOAT16)
        r.out.add("Cast", [rounded], output, to=TensorProto.FLOAT)
        return True

    return to_bytes(rewriter.run(rule, rewriter.view.model.graph.name))
