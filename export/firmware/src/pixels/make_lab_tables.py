"""Writes lab_tables.c: what lab.c looks up. Run it in this folder; it needs nothing but Python.

The formulas are those of sRGB and CIE LAB with the constants of the preprocessing contract,
computed in double precision. Where the contract's single precision rounds to the other side of a
half, `SINGLE_PRECISION` says so: two entries, found by comparing all 2^24 colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

GAMMA_STEPS = 255 << 3
BASE = 1 << 14
# Light -> root: 9454.50014 and 22125.499995 in double precision.
SINGLE_PRECISION = {49: 9454, 628: 22126}


def linear(level: float) -> float:
    """Linear light of an sRGB level, both 0..1."""
    return level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4


def encoded(light: float) -> float:
    """sRGB level of linear light, both 0..1."""
    return light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def cube_root(value: float) -> float:
    """f(t) of CIE LAB."""
    return value * 841 / 108 + 16 / 116 if value < 216 / 24389 else math.cbrt(value)


def root(light: int) -> float:
    """f(t) of a light of 0..2040, in 2^-15."""
    return SINGLE_PRECISION.get(light, (1 << 15) * cube_root(light / GAMMA_STEPS))


def lightness_root(level: int) -> float:
    """f(Y) of a lightness of 0..255, which stands for 0..100."""
    if level <= 20:
        return BASE * (16 / 116 + level * 5 / (3 * 17 * 29))
    return level * 100 * BASE / (255 * 116) + 16 * BASE / 116


def luminance(level: int) -> float:
    """Y of a lightness of 0..255."""
    if level <= 20:
        return level * BASE * 20 * 9 / (17 * 29**3)
    return lightness_root(level) ** 3 / BASE**2


def table(kind: str, name: str, values: Sequence[float]) -> str:
    """A constant array in C."""
    words = [f"{round(value)}," for value in values]
    lines = [f"const {kind} {name}[{len(words)}] = {{"]
    line = "   "
    for word in words:
        if len(line) + 1 + len(word) > 100:
            lines.append(line)
            line = "   "
        line += " " + word
    return "\n".join([*lines, line, "};", ""])


def main() -> None:
    """Write lab_tables.c beside this file."""
    parts = (
        "/* Made by make_lab_tables.py; do not edit. */\n",
        '#include "lab_tables.h"\n',
        table("uint16_t", "qdr_lab_linear", [GAMMA_STEPS * linear(i / 255) for i in range(256)]),
        table("uint16_t", "qdr_lab_root", [root(i) for i in range(GAMMA_STEPS + 1)]),
        table("uint16_t", "qdr_lab_luminance", [luminance(i) for i in range(256)]),
        table("uint16_t", "qdr_lab_lightness_root", [lightness_root(i) for i in range(256)]),
        table("uint8_t", "qdr_lab_encoded", [255 * encoded(i / 4096) for i in range(4096)]),
    )
    Path(__file__).with_name("lab_tables.c").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
