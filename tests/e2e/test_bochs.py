"""The instruction sets of x86 that are not at hand: libqdr without an operating system, in Bochs.

QDR_BOCHS names a Bochs beside the system's: AVX-VNNI needs 3.0, Debian 12 has 2.7.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import ExportError
from qdr_edge.scheme import EXACT, EXACT_WIDE
from qdr_export.emit.native import emit
from qdr_export.graph.canonical import build_canonical
from qdr_export.reference import Reference
from tests.networks import checkpoint, from_sketch, images
from tests.sketches import random_network, uniform

HARNESS = Path(__file__).resolve().parents[2] / "export" / "firmware" / "tests" / "bochs"
WRITER = runpy.run_path(str(HARNESS / "cases.py"))
BOCHS = os.environ.get("QDR_BOCHS", "bochs")
# This release computes plain C wrongly, on every processor that it knows.
WRONG = "Bochs x86 Emulator 3.1"
RANDOM_NETWORKS = 6

Case = tuple[bytes, bytes, bytes]  # a plan, pixels, the reference's logits

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        shutil.which(BOCHS) is None or shutil.which("cc") is None or shutil.which("make") is None,
        reason="apt install bochs bochs-term gcc make",
    ),
]


def case_of(made: Checkpoint, size: int) -> Case:
    canonical = build_canonical(made)
    pixels = images(1, size)
    return emit(canonical), pixels.tobytes(), Reference(canonical).infer(pixels).tobytes()


def cases() -> list[Case]:
    """The recorded network, narrow and wide weights, and networks drawn at random."""
    found = [WRITER["recorded"]()]
    found += [case_of(checkpoint("student", scheme=s, size=40), 40) for s in (EXACT, EXACT_WIDE)]
    for seed in range(RANDOM_NETWORKS):
        size = (32, 40, 48)[seed % 3]
        try:
            sketch = random_network(uniform(seed), seed, 4)
            found.append(case_of(from_sketch(sketch, size=size), size))
        except ExportError:
            continue  # scales too far apart for integers: said at export
    return found


@pytest.mark.parametrize(
    ("cpu", "isa"), [("tigerlake", "AVX-512 VNNI"), ("arrow_lake", "AVX-VNNI")]
)
def test_vnni_gives_the_same_bits(cpu: str, isa: str, tmp_path: Path) -> None:
    known = subprocess.run(
        [BOCHS, "--help", "cpu"], capture_output=True, text=True, timeout=60, check=False
    )
    about = known.stdout + known.stderr
    if cpu not in about.split() or WRONG in about:
        pytest.skip(f"this Bochs cannot be {cpu}: QDR_BOCHS names another; 3.0 can")
    given = cases()
    assert len(given) > RANDOM_NETWORKS // 2
    (tmp_path / "cases.bin").write_bytes(WRITER["packed"](given))
    out = subprocess.run(
        ["make", "-s", "-C", HARNESS, "run", f"CPU={cpu}", f"BOCHS={BOCHS}", f"OUT={tmp_path}"],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    lines = out.stdout.splitlines()
    assert out.returncode == 0, out.stdout + out.stderr
    assert f"{isa}: equal, cases {len(given)}, images {len(given) + 2}" in lines, out.stdout
    assert f"best: {isa}" in lines
    assert lines[-1] == "done"
