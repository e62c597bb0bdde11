"""Where each activation lies: tensors that are not alive together share their bytes."""

from __future__ import annotations

from qdr_export.emit.native.steps import Steps

ALIGNMENT = 64


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def arena_of(plan: Steps) -> tuple[dict[str, int], int]:
    """Offsets of all tensors, and the size of the arena.

    The largest are placed first, each at the lowest place that is free while it is alive.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(plan.steps):
        if step.output is not None:
            first.setdefault(step.output, index)
            last[step.output] = index
        for name in step.inputs:
            last[name] = index
    offsets: dict[str, int] = {}
    for name in sorted(first, key=lambda n: (-plan.tensors[n].bytes, n)):
        size = aligned(plan.tensors[name].bytes)
        taken = sorted(
            (offsets[other], offsets[other] + aligned(plan.tensors[other].bytes))
            for other in offsets
            if first[other] <= last[name] and first[name] <= last[other]
        )
        place = 0
        for begin, end in taken:
            if place + size <= begin:
                break
            place = max(place, end)
        offsets[name] = place
    size = max(offsets[name] + aligned(plan.tensors[name].bytes) for name in offsets)
    return offsets, size
