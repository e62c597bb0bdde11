"""Drafts → the checkpoint's graph, tensors and scheme.

If the real value 0 is the middle code of every activation, the network is symmetric: int8 codes
with zero point 0. Otherwise it is scheme u8, uint8 codes with zero points. Weights are integers per
output channel in any case, biases integers on the grid input scale × weight scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdr_edge.graph import INPUT, Graph, Node
from qdr_edge.scheme import EXACT, EXACT_WIDE, INPUT_SCALE, PORTABLE, U8, QuantScheme
from qdr_export.graph.canonical import is_power_of_two
from qdr_export.importer.drafts import Draft, Weights
from qdr_export.importer.findings import Findings
from qdr_export.importer.pixels import Affine

_MIDDLE = 128
_WEIGHT_QMAX = 127
# A bias that lies on its grid but for float32's own rounding has not been moved.
_ON_GRID = 1e-3


@dataclass(frozen=True)
class Network:
    """A checkpoint's numbers."""

    graph: Graph
    tensors: dict[str, NDArray[np.float32]]
    scheme: QuantScheme


def normalise(drafts: list[Draft], findings: Findings) -> Network:
    """Put drafts whose grids are all known into the checkpoint's terms.

    Raises:
        UnsupportedModelError: A number has no place there.
    """
    for draft in drafts:
        if draft.weights is not None:
            _clip_weights(draft, draft.weights, findings)
    scheme = choose_scheme(drafts)
    scales = {INPUT: INPUT_SCALE, **{d.name: d.grid.scale for d in drafts if d.grid is not None}}
    nodes, tensors = [], {}
    for draft in drafts:
        in_float = draft.weights is not None and draft.weights.codes is None
        nodes.append(
            Node(
                draft.name,
                draft.op,
                tuple(draft.reads),
                draft.attrs,
                draft.activation,
                draft.grid.scale if draft.grid else None,
                in_float,
                draft.grid.zero_point if draft.grid and scheme.unsigned else 0,
            )
        )
        if draft.affine is not None:
            tensors[f"{draft.name}.weight"], tensors[f"{draft.name}.bias"] = draft.affine
        elif draft.weights is not None:
            made = _tensors(draft, draft.weights, scales[draft.reads[0]], findings)
            tensors |= {f"{draft.name}.{part}": value for part, value in made.items()}
    findings.check()
    return Network(Graph(tuple(nodes)), tensors, scheme)


def choose_scheme(drafts: list[Draft]) -> QuantScheme:
    """The narrowest scheme that holds the network."""
    grids = [draft.grid for draft in drafts if draft.grid is not None]
    if any(grid.zero_point != _MIDDLE for grid in grids):
        return U8
    layers = [draft.weights for draft in drafts if draft.weights is not None]
    scales = [np.array([grid.scale for grid in grids], np.float32)]
    scales += [layer.scale for layer in layers if layer.scale is not None]
    shifts = all(is_power_of_two(scale).all() for scale in scales)
    if not shifts or not all(_rounds_alike(draft) for draft in drafts):
        return PORTABLE
    largest = max((int(np.abs(w.codes).max()) for w in layers if w.codes is not None), default=0)
    return EXACT if largest <= EXACT.weight_qmax else EXACT_WIDE


def _rounds_alike(draft: Draft) -> bool:
    """Whether every runtime computes the same codes of pixels, whatever its float32 does."""
    if draft.affine is None or draft.grid is None:
        return True
    weight, bias = (part.astype(np.float64) for part in draft.affine)
    return Affine(weight, bias).is_exact(draft.grid)


def _clip_weights(draft: Draft, weights: Weights, findings: Findings) -> None:
    if weights.codes is None:
        return
    beyond = int((np.abs(weights.codes) > _WEIGHT_QMAX).sum())
    if beyond:
        weights.codes = np.clip(weights.codes, -_WEIGHT_QMAX, _WEIGHT_QMAX).astype(np.int16)
        findings.normalised(
            "weight-range",
            draft.place,
            f"{beyond} of {weights.codes.size} weights moved by one step from −128 to −127",
            exact=False,
        )


def _tensors(
    draft: Draft, weights: Weights, input_scale: float, findings: Findings
) -> dict[str, NDArray[np.float32]]:
    if weights.codes is None or weights.scale is None:
        assert weights.real is not None  # a layer in float
        return {"weight": weights.real, "bias": weights.bias.astype(np.float32)}
    column = weights.scale.reshape(-1, *[1] * (weights.codes.ndim - 1))
    # The grid is the float32 product that every runtime takes (canonical.quantize_weights).
    grid = np.float32(input_scale) * weights.scale
    steps = np.rint(weights.bias / grid.astype(np.float64))
    if np.abs(steps).max(initial=0) > np.iinfo(np.int32).max or not grid.all():
        findings.problem(
            draft.place,
            f"a bias needs {np.abs(steps).max(initial=0):.3g} steps of its grid",
            "at most 2^31 − 1",
            "a channel's weight scale is too small: give channels of nothing but zeros the scale 1",
        )
        return {}
    bias = (steps * grid).astype(np.float32)
    stored = np.rint(bias.astype(np.float64) / grid)
    moved = np.abs(stored * grid - weights.bias) / grid
    if moved.max(initial=0) > _ON_GRID:
        findings.normalised(
            "bias-grid",
            draft.place,
            f"bias rounded to its int32 grid: moved by at most {moved.max():.2g} steps, "
            f"{float((moved * grid).max()):.3g}",
            exact=False,
        )
    return {
        "weight": (weights.codes * column).astype(np.float32),
        "bias": bias,
        "weight_scale": weights.scale,
    }
