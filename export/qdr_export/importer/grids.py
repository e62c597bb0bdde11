"""One grid for each tensor.

Pooling by maximum, upsampling and flattening move values without changing them, and rounding
keeps their order: round(max(x)) is max(round(x)). So a grid may move through them, in both
directions, and no number changes. What then still has no grid is a tensor that the file leaves in
float.
"""

from __future__ import annotations

from qdr_edge.graph import INPUT, SCALE_KEEPING
from qdr_export.importer.drafts import PIXELS, Draft, Grid
from qdr_export.importer.findings import Findings
from qdr_export.importer.operators import ONE_BY_ONE

_RESTORES_RELU = ("conv", "linear", "add")


def settle(drafts: list[Draft], findings: Findings) -> list[Draft]:
    """Give every draft but the last its grid, where the file says one.

    Args:
        drafts: In topological order; the last makes the logits. They are changed.
        findings: Where normalisations and problems go.

    Returns:
        The drafts, with one more wherever a tensor needs a second rounding.
    """
    drafts = _moved(drafts, findings)
    _report_added_roundings(drafts, findings)
    for draft in drafts[:-1]:
        # Codes from 0 at zero point 0 cannot say a negative number: many tools drop such a Relu.
        at_zero = draft.grid is not None and draft.grid.zero_point == 0
        if at_zero and draft.op in _RESTORES_RELU and not draft.activation:
            draft.activation = "relu"
            findings.normalised(
                "relu", draft.place, "Relu written out: zero point 0 implies it", exact=True
            )
    return drafts


def gaps(drafts: list[Draft]) -> list[Draft]:
    """Drafts whose output the file does not quantize."""
    return [draft for draft in drafts[:-1] if draft.grid is None]


def report_gaps(drafts: list[Draft], findings: Findings) -> None:
    """Record every tensor without a grid as a problem."""
    for draft in gaps(drafts):
        findings.problem(
            draft.place,
            f"its output {draft.tensor} is not quantized",
            "QuantizeLinear and DequantizeLinear between every two operators",
            "quantize it, or let --calibrate N find its range on N images",
        )


def _moved(drafts: list[Draft], findings: Findings) -> list[Draft]:
    by_name = {draft.name: draft for draft in drafts}
    last = drafts[-1]
    result = list(drafts)
    moves = True
    while moves:
        moves = False
        for draft in drafts:
            if draft.op not in SCALE_KEEPING or draft is last:
                continue
            maker = by_name.get(draft.reads[0])
            own = PIXELS if maker is None else maker.grid
            if own is not None and draft.grid is None:
                draft.grid, moves = own, True
            elif own is None and maker is not None and draft.grid is not None:
                maker.grid, moves = draft.grid, True
    for draft in drafts:
        if draft.op in SCALE_KEEPING and draft is not last and draft.grid is not None:
            maker = by_name.get(draft.reads[0])
            own = PIXELS if maker is None else maker.grid
            if own is not None and own != draft.grid:
                _split(draft, own, result, findings)
    return result


def _split(draft: Draft, own: Grid, drafts: list[Draft], findings: Findings) -> None:
    """A moving operator whose output has another grid than its input: round once more."""
    if draft.rank != 4:
        findings.problem(
            draft.place,
            f"its output has {draft.grid.text if draft.grid else 'no grid'}",
            f"its input's: {own.text}",
            "quantize the input and the output of a pooling or flattening alike",
        )
        return
    second = Draft(
        f"{draft.name}_requantize",
        "avg_pool",
        [draft.name],
        draft.place,
        draft.tensor,
        attrs=dict(ONE_BY_ONE),
        rank=4,
        grid=draft.grid,
        unquantized=draft.unquantized,
    )
    draft.grid, draft.unquantized = own, []
    for reader in drafts:
        reader.reads = [second.name if name == draft.name else name for name in reader.reads]
    drafts.insert(drafts.index(draft) + 1, second)
    findings.normalised(
        "second-grid",
        draft.place,
        "its output has another grid than its input: rounded again by a pooling of 1 × 1",
        exact=True,
    )


def _report_added_roundings(drafts: list[Draft], findings: Findings) -> None:
    by_name = {draft.name: draft for draft in drafts}
    on_grid = {INPUT}
    for draft in drafts:
        source = draft.reads[0]
        unrounded = source in by_name and draft.name in by_name[source].unquantized
        if draft.op in SCALE_KEEPING and (source in on_grid or not unrounded):
            on_grid.add(draft.name)
    for draft in drafts[:-1]:
        if draft.grid is None or draft.name in on_grid:
            continue
        # A moving operator takes the rounding over from its output: nothing is added.
        readers = [
            name
            for name in draft.unquantized
            if name in by_name
            and not (by_name[name].op in SCALE_KEEPING and not by_name[name].unquantized)
        ]
        if readers:
            findings.normalised(
                "rounding",
                draft.place,
                f"{', '.join(readers)} reads it rounded, {draft.grid.text}; the file leaves it "
                "in float there",
                exact=False,
            )
