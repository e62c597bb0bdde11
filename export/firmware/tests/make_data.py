"""Writes tests/data: a tiny plan with every kind of operation, images, and the logits that the
reference interpreter gives them. ``python export/firmware/tests/make_data.py`` in the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "train")]

from qdr_export.emit.native import emit, steps_of  # noqa: E402
from qdr_export.emit.native.writer import KINDS  # noqa: E402
from qdr_export.graph.canonical import build_canonical  # noqa: E402
from qdr_export.reference import Reference  # noqa: E402
from tests.networks import from_sketch  # noqa: E402
from tests.sketches import pyramid  # noqa: E402

SIZE, IMAGES = 32, 3


def main() -> None:
    """Write the three files."""
    canonical = build_canonical(from_sketch(pyramid(), size=SIZE))
    missing = set(KINDS) - {step.kind for step in steps_of(canonical).steps} - {"add"}
    assert not missing, f"no operation of kind {missing}"
    pixels = np.random.default_rng(7).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    (HERE / "data").mkdir(exist_ok=True)
    (HERE / "data" / "tiny.plan").write_bytes(emit(canonical))
    (HERE / "data" / "tiny.pixels").write_bytes(pixels.tobytes())
    (HERE / "data" / "tiny.logits").write_bytes(
        Reference(canonical).infer(pixels).astype("<f4").tobytes()
    )


if __name__ == "__main__":
    main()
