"""A plan, pixels and logits as C arrays: ``python header.py FOLDER > network.h``."""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def main() -> None:
    """Print the header."""
    folder = Path(sys.argv[1])
    plan, pixels, logits = (
        (folder / name).read_bytes() for name in ("tiny.plan", "tiny.pixels", "tiny.logits")
    )
    arena, scratch, side, classes = struct.unpack_from("<4I", plan, 20)
    print("#include <stdint.h>")
    print(f"#define NETWORK_ARENA_BYTES {arena + scratch}")
    print(f"#define NETWORK_CLASSES {classes}")
    print(f"#define NETWORK_IMAGES {len(pixels) // (3 * side * side)}")
    for name, content in (("plan", plan), ("pixels", pixels), ("logits", logits)):
        values = ",".join(map(str, content))
        print(f"static const unsigned char network_{name}[{len(content)}] = {{{values}}};")


if __name__ == "__main__":
    main()
