"""The specification of docs/checkpoint.md, written out the slow way on a checkpoint's own graph.

It shares no code with the exporter: no ONNX, no float32 products, loops over positions, and
rational numbers wherever a division could round.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.graph import INPUT, Node

Real = NDArray[np.object_]  # of Fraction
_round = np.vectorize(round, otypes=[np.int64])  # Python rounds a Fraction half to even


def interpret(made: Checkpoint, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.int64]]:
    """The codes of every node but the last, which are the logits' numerators are left out."""
    scheme = made.scheme
    assert scheme is not None
    low, high = scheme.activation_qmin, scheme.activation_qmax
    codes: dict[str, NDArray[np.int64]] = {INPUT: pixels.astype(np.int64)}
    grids: dict[str, tuple[Fraction, int]] = {INPUT: (Fraction(1, 64), 128)}
    for node in made.graph.nodes[:-1]:
        real = _compute(node, made, codes, grids)
        if node.activation:
            real = np.maximum(real, 0)
        if node.activation == "relu6":
            real = np.minimum(real, 6)
        scale = Fraction(float(np.float32(node.scale)))
        steps = _round(real / scale) + node.zero_point
        codes[node.name] = np.clip(steps, low, high)
        grids[node.name] = (scale, node.zero_point)
    return codes


def _compute(
    node: Node,
    made: Checkpoint,
    codes: dict[str, NDArray[np.int64]],
    grids: dict[str, tuple[Fraction, int]],
) -> Real:
    name = node.inputs[0]
    scale, zero = grids[name]
    integers = codes[name] - zero
    if node.op in ("conv", "linear"):
        step = made.tensors[f"{node.name}.weight_scale"]
        weight = made.tensors[f"{node.name}.weight"].astype(np.float64)
        column = step.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
        qmax = made.scheme.weight_qmax if made.scheme else 0
        q_w = np.clip(np.rint(weight / column), -qmax, qmax).astype(np.int64)
        grid = (np.float32(scale) * step).astype(np.float64)
        q_b = np.rint(made.tensors[f"{node.name}.bias"] / grid).astype(np.int64)
        acc = _conv(integers, q_w, node) if node.op == "conv" else integers @ q_w.T
        shape = (1, -1, *[1] * (acc.ndim - 2))
        exact = np.array([scale * Fraction(float(s)) for s in step], object).reshape(shape)
        return (acc + q_b.reshape(shape)) * exact
    real = integers.astype(object) * scale
    others = [(codes[n] - grids[n][1]).astype(object) * grids[n][0] for n in node.inputs[1:]]
    match node.op:
        case "normalize":
            w, b = (
                made.tensors[f"{node.name}.{p}"].reshape(1, 3, 1, 1) for p in ("weight", "bias")
            )
            product = (codes[INPUT].astype(np.float32) * w).astype(np.float32)
            total = (product + b).astype(np.float32)
            return np.vectorize(lambda v: Fraction(float(v)), otypes=[object])(total)
        case "add":
            return real + others[0]
        case "mul":
            return real * others[0]
        case "concat":
            return np.concatenate([real, *others], axis=1)
        case "relu":
            return np.maximum(real, 0)
        case "relu6":
            return np.minimum(np.maximum(real, 0), 6)
        case "hardsigmoid":
            return np.clip(real + 3, 0, 6) * Fraction(1, 6)
        case "hardswish":
            return real * np.clip(real + 3, 0, 6) * Fraction(1, 6)
        case "sigmoid":
            return _through_float(real, lambda x: 1 / (1 + np.exp(-x)))
        case "silu":
            return _through_float(real, lambda x: x * (1 / (1 + np.exp(-x))))
        case "flatten":
            return real.reshape(len(real), -1)
        case "upsample":
            fy, fx = node.pair("factor")
            rows = np.arange(real.shape[2] * fy) // fy
            columns = np.arange(real.shape[3] * fx) // fx
            return real[:, :, rows][:, :, :, columns]
        case "global_avg_pool":
            positions = real.shape[2] * real.shape[3]
            return real.sum(axis=(2, 3), keepdims=True) * Fraction(1, positions)
        case "max_pool" | "avg_pool":
            return _pool(real, node)
    raise AssertionError(node.op)


def _through_float(real: Real, function: object) -> Real:
    values = function(real.astype(np.float64))  # type: ignore[operator]
    return np.vectorize(lambda v: Fraction(float(v)), otypes=[object])(values)


def _conv(x: NDArray[np.int64], weight: NDArray[np.int64], node: Node) -> NDArray[np.int64]:
    (sy, sx), (py, px), (dy, dx) = (node.pair(a) for a in ("stride", "padding", "dilation"))
    groups = node.attrs["groups"]
    assert isinstance(groups, int)
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    kh, kw = weight.shape[2:]
    height = (x.shape[2] - (kh - 1) * dy - 1) // sy + 1
    width = (x.shape[3] - (kw - 1) * dx - 1) // sx + 1
    out = np.zeros((len(x), len(weight), height, width), np.int64)
    per_in, per_out = weight.shape[1], len(weight) // groups
    for o in range(len(weight)):
        first = o // per_out * per_in
        for i, j in np.ndindex(height, width):
            window = x[:, first : first + per_in, i * sy :, j * sx :]
            window = window[:, :, : (kh - 1) * dy + 1 : dy, : (kw - 1) * dx + 1 : dx]
            out[:, o, i, j] = (window * weight[o]).sum(axis=(1, 2, 3))
    return out


def _pool(real: Real, node: Node) -> Real:
    (kh, kw), (sy, sx), (py, px) = (node.pair(a) for a in ("kernel", "stride", "padding"))
    height = (real.shape[2] + 2 * py - kh) // sy + 1
    width = (real.shape[3] + 2 * px - kw) // sx + 1
    out = np.empty((*real.shape[:2], height, width), object)
    for i, j in np.ndindex(height, width):
        top, left = i * sy - py, j * sx - px
        window = real[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw]
        if node.op == "max_pool":
            out[:, :, i, j] = window.max(axis=(2, 3))
            continue
        counts = node.attrs["count_include_pad"]
        positions = kh * kw if counts else window.shape[2] * window.shape[3]
        out[:, :, i, j] = window.sum(axis=(2, 3)) * Fraction(1, positions)
    return out
