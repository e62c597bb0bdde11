"""Networks for main.c as one file: ``python cases.py FILE`` takes that of tests/data."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
# Of the plan's header: how many pixels a side and how many classes there are.
SIDE_AND_CLASSES = 28

# A plan, its images' pixels and the logits that the reference gives them, as float32.
Case = tuple[bytes, bytes, bytes]


def packed(cases: Iterable[Case]) -> bytes:
    """Cases as main.c reads them."""
    parts = []
    for plan, pixels, logits in cases:
        side, classes = struct.unpack_from("<2I", plan, SIDE_AND_CLASSES)
        image = 3 * side * side
        head = struct.pack("<4I", len(plan), len(pixels) // image, image, classes)
        parts.append(head + plan + pixels + logits)
    content = b"".join(parts)
    return b"QDRCASES" + struct.pack("<2I", len(parts), 16 + len(content)) + content


def recorded() -> Case:
    """The network of tests/data."""
    plan, pixels, logits = (
        (DATA / f"tiny.{name}").read_bytes() for name in ("plan", "pixels", "logits")
    )
    return plan, pixels, logits


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(packed([recorded()]))
