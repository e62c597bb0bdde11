"""Steps → the bytes of a plan. export/firmware/src/plan/format.h describes the same layout."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from qdr_export.emit.native.constants import lanes, packed, packed_depthwise
from qdr_export.emit.native.memory import aligned, arena_of
from qdr_export.emit.native.steps import Step, Steps

MAGIC = b"QDRPLAN1"
HEADER_WORDS, TENSOR_WORDS, OPERATION_WORDS = 16, 8, 28
NONE = 0xFFFFFFFF
KINDS = (
    "input", "conv", "depthwise", "max_pool", "average_pool", "add", "multiply", "table", "concat",
    "logits", "upsample",
)  # fmt: skip
# The largest weight whose sums of two products fit 16 bits: kernels without VNNI count on it.
_NARROW = 64


def write(plan: Steps) -> bytes:
    """The plan's bytes."""
    offsets, arena = arena_of(plan)
    numbers = {name: number for number, name in enumerate(plan.tensors)}
    constants = _Constants(
        4 * (HEADER_WORDS + TENSOR_WORDS * len(numbers) + OPERATION_WORDS * len(plan.steps))
    )
    operations = b"".join(_operation(step, plan, numbers, constants) for step in plan.steps)
    tensors = b"".join(
        struct.pack("<8I", offsets[t.name], t.height, t.width, t.channels, t.stride, t.zero, 0, 0)
        for t in plan.tensors.values()
    )
    scratch = aligned(max(tensor.stride for tensor in plan.tensors.values()))
    weights = [s.layer.weight for s in plan.steps if s.layer is not None]
    narrow = all(np.abs(w.astype(np.int16)).max(initial=0) <= _NARROW for w in weights)
    body = tensors + operations + constants.content
    header = struct.pack(
        "<14I", 4 * HEADER_WORDS + len(body), len(numbers), len(plan.steps), arena, scratch,
        plan.side, plan.classes, int(narrow), *[0] * 6,
    )  # fmt: skip
    return MAGIC + header + body


def records(plan: bytes) -> tuple[list[dict[str, int]], list[dict[str, Any]]]:
    """A plan's tensors and operations, by the names of format.h, for those who count what it does.

    A device reads and checks a plan by itself; this is for plans that were just written.
    """
    words = np.frombuffer(plan[: len(plan) // 4 * 4], "<u4")
    tensors, operations, classes = (int(words[place]) for place in (3, 4, 8))
    first = HEADER_WORDS + TENSOR_WORDS * tensors
    named = words[HEADER_WORDS:first].reshape(tensors, TENSOR_WORDS)
    steps = words[first : first + OPERATION_WORDS * operations].reshape(-1, OPERATION_WORDS)
    return (
        [dict(zip(("offset", "height", "width", "channels"), row.tolist(), strict=False))
         for row in named],
        [
            {
                "kind": KINDS[row[0]], "input": row[1], "output": row[3], "kernel_height": row[4],
                "kernel_width": row[5], "classes": classes,
            }
            for row in steps.tolist()
        ],
    )  # fmt: skip


class _Constants:
    """The part of a plan that operations point into."""

    def __init__(self, begin: int) -> None:
        self._begin = begin
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def content(self) -> bytes:
        return b"".join(self._parts)

    def add(self, content: bytes) -> int:
        """Append at a multiple of 64 bytes from the plan's beginning; returns the offset."""
        gap = -(self._begin + self._size) % 64
        self._parts += [bytes(gap), content]
        offset = self._begin + self._size + gap
        self._size += gap + len(content)
        return offset


def _operation(step: Step, plan: Steps, numbers: Mapping[str, int], constants: _Constants) -> bytes:
    given = numbers[step.inputs[0]] if step.inputs else NONE
    other = numbers[step.inputs[1]] if len(step.inputs) > 1 else NONE
    output = NONE if step.output is None else numbers[step.output]
    weights, biases, shifts, size = 0, 0, 0, 0
    if step.layer is not None:
        pack = packed_depthwise if step.kind == "depthwise" else packed
        content = pack(step.layer.weight)
        weights, size = constants.add(content), len(content)
        biases, shifts = (constants.add(lanes(v)) for v in (step.layer.bias, step.layer.shift))
    elif step.tables is not None:
        content = step.tables.tobytes()
        weights, size = constants.add(content), len(content)
    left_a, left_b, shift, sum_low, sum_high = step.left, 0, step.shift, 0, 0
    if step.addition is not None:
        a = step.addition
        left_a, left_b, shift, sum_low, sum_high = a.left_a, a.left_b, a.shift, a.low, a.high
    finer = step.layer is not None and step.kind != "logits" and step.layer.shift.min() < 0
    window = step.window
    divisor = window.kernel[0] * window.kernel[1] if step.kind == "average_pool" else 0
    return struct.pack(
        "<14I2i4I2i6I", KINDS.index(step.kind), given, other, output, *window.kernel,
        *window.stride, *window.padding, weights, biases, shifts, size, step.low, step.high,
        left_a, left_b, shift, divisor, sum_low, sum_high, step.channel,
        int(step.counts_padding), *window.dilation, int(finer), 0,
    )  # fmt: skip
