"""The preprocessing contract: one spec, one implementation, on the trainer and on the device.

Version 1, in this order:

1.  Decode to RGB, 8 bits (decode.py).
2.  Cut off a white frame: outer rows and columns that are white all along.
3.  Fundus: cut to the field of view, the bounding box of the lit disc.
4.  Resize so that the longer side has `size` pixels, by pixel area (smaller pictures: bilinear),
    and centre it on a black square.
5.  Fundus: CLAHE on L of CIE LAB. OCT: gray, then a median filter.
6.  uint8 [3, size, size], RGB; an OCT scan stands in all three channels.

CLAHE and resize do not commute: this order is what a network is trained with. Every number is
an integer, every OpenCV routine used gives the same bytes with and without SIMD and threads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qdr_edge.decode import decode
from qdr_edge.errors import RecipeError
from qdr_edge.files import canonical_json, sha256_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PreprocessSpec", "decode", "load_image", "preprocess"]

VERSION = 1
_WHITE = 245
_DETECTION_SIDE = 256
_Box = tuple[int, int, int, int]  # top, bottom, left, right; half open


@dataclass(frozen=True)
class PreprocessSpec:
    """What turns an image into a network's input; equal specs give equal bytes.

    Args:
        modality: "fundus" or "oct".
        size: Side of the network's input in pixels, a multiple of `clahe_tiles`, 32..1024.
        version: Version of the contract.
        decode_margin: A JPEG is decoded with both sides at least this many times `size`.
        window_low: 16-bit gray value that becomes 0.
        window_high: 16-bit gray value that becomes 255.
        clahe_clip_x100: Clip limit of CLAHE in hundredths (fundus).
        clahe_tiles: Tiles of CLAHE a side (fundus).
        median_kernel: Side of the median filter in pixels, 3 or 5 (OCT).
    """

    modality: str
    size: int
    version: int = VERSION
    decode_margin: int = 2
    window_low: int = 0
    window_high: int = 65535
    clahe_clip_x100: int = 200
    clahe_tiles: int = 8
    median_kernel: int = 3

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "modality" and type(value) is not int:
                raise _bad(entry.name, value, "a whole number")
        rules = (
            ("modality", self.modality in ("fundus", "oct"), "fundus or oct"),
            ("version", self.version == VERSION, f"{VERSION}, the one this software implements"),
            ("clahe_tiles", 1 <= self.clahe_tiles <= 32, "1..32"),
            ("size", 32 <= self.size <= 1024, "32..1024 px"),
            ("decode_margin", 1 <= self.decode_margin <= 8, "1..8"),
            ("window_low", 0 <= self.window_low < self.window_high, "0..window_high - 1"),
            ("window_high", self.window_high <= 65535, "at most 65535"),
            ("clahe_clip_x100", 1 <= self.clahe_clip_x100 <= 10_000, "1..10000"),
            ("median_kernel", self.median_kernel in (3, 5), "3 or 5"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise _bad(name, getattr(self, name), expected)
        if self.size % self.clahe_tiles:
            raise _bad("size", self.size, f"a multiple of {self.clahe_tiles}, e.g. 128, 224, 448")

    def to_dict(self) -> dict[str, str | int]:
        """A JSON object of integers and one string that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PreprocessSpec:
        """The spec of a JSON object.

        Raises:
            RecipeError: A key is unknown or missing, or a value is out of range.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise _bad(unknown[0], value[unknown[0]], f"only {', '.join(sorted(known))}")
        if missing := sorted({"modality", "size", "version"} - set(value)):
            raise _bad(missing[0], None, "a value")
        return cls(**value)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the contract, 64 hexadecimal digits."""
        return sha256_bytes(canonical_json(self.to_dict()))


def load_image(
    source: str | Path | bytes | NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.uint8]:
    """Decode and preprocess an image.

    Args:
        source: Path, content of a file, or pixels: uint8 [H, W] gray or [H, W, 3] RGB.
        spec: The contract.

    Returns:
        uint8 [3, size, size], C-contiguous.

    Raises:
        ImageError: See `decode`.
    """
    return preprocess(decode(source, spec), spec)


def preprocess(rgb: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Decoded pixels as a network's input.

    Args:
        rgb: uint8 [H, W, 3], RGB.
        spec: The contract.

    Returns:
        uint8 [3, size, size], C-contiguous.
    """
    import cv2
    import numpy as np

    gray = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    top, bottom, left, right = white_frame(gray)
    if spec.modality == "fundus":
        picture = rgb[top:bottom, left:right]
        top, bottom, left, right = field_of_view(picture)
        picture = _fit(picture[top:bottom, left:right], spec.size)
        lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
        grid = (spec.clahe_tiles, spec.clahe_tiles)
        clahe = cv2.createCLAHE(spec.clahe_clip_x100 / 100, grid)
        lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
        return np.stack(cv2.split(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)))  # [3, S, S]
    scan = _fit(gray[top:bottom, left:right], spec.size)
    scan = np.asarray(cv2.medianBlur(scan, spec.median_kernel), dtype=np.uint8)
    return np.repeat(scan[None], 3, axis=0)  # [S, S] -> [3, S, S]


def white_frame(gray: NDArray[np.uint8]) -> _Box:
    """The box inside a white frame: rows and columns that are white all along are cut.

    A frame is cut as long as something is left; an all-white picture stays whole.
    """
    height, width = gray.shape
    top, bottom, left, right = 0, height, 0, width
    white = gray >= _WHITE
    # Most pictures have no frame: then their four outermost lines say so.
    outermost = (white[:1], white[-1:], white[:, :1].T, white[:, -1:].T)
    if not any(_mostly(line, axis=1)[0] for line in outermost):
        return 0, height, 0, width
    # Cutting rows can make columns white all along, and the reverse: repeat until nothing moves.
    while True:
        before = (top, bottom, left, right)
        rows = ~_mostly(white[top:bottom, left:right], axis=1)
        if not rows.any():
            return 0, height, 0, width
        top, bottom = top + int(rows.argmax()), bottom - int(rows[::-1].argmax())
        columns = ~_mostly(white[top:bottom, left:right], axis=0)
        if not columns.any():
            return 0, height, 0, width
        left, right = left + int(columns.argmax()), right - int(columns[::-1].argmax())
        if (top, bottom, left, right) == before:
            return before


def field_of_view(rgb: NDArray[np.uint8]) -> _Box:
    """The bounding box of the lit disc of a fundus photograph.

    Robust to dark pictures (the threshold follows the border's and the disc's own level), to
    text in the corners (only the largest lit region counts) and to discs cut at the edges. A
    picture without a dark border stays whole.
    """
    import cv2
    import numpy as np

    height, width = rgb.shape[:2]
    whole = (0, height, 0, width)
    longer = max(height, width)
    if longer > _DETECTION_SIDE:
        rows = max(1, height * _DETECTION_SIDE // longer)
        columns = max(1, width * _DETECTION_SIDE // longer)
        small = cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_AREA)
    else:
        rows, columns, small = height, width, rgb
    # The brightest channel: a retina is red before it is anything else.
    red, green, blue = cv2.split(small)
    level = cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 3)
    border = np.sort(np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]]))
    dark = int(border[border.size // 20])
    # The level that 19 of 20 pixels do not exceed.
    counts = np.bincount(level.ravel(), minlength=256).cumsum()
    bright = int(np.searchsorted(counts, level.size * 19 // 20, side="right"))
    if 2 * dark > bright:
        return whole
    lit = (level > dark + max(6, (bright - dark) // 10)).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(lit, connectivity=4)
    if count < 2:
        return whole
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] * 20 < level.size:
        return whole
    disc = regions == largest
    # A row belongs to the disc where 1/16 of the longest row does: a hair or a letter that
    # touches the disc does not stretch the box.
    across, down = disc.sum(axis=1), disc.sum(axis=0)
    in_rows = np.flatnonzero(across * 16 >= across.max())
    in_columns = np.flatnonzero(down * 16 >= down.max())
    return (
        int(in_rows[0]) * height // rows,
        -(-(int(in_rows[-1]) + 1) * height // rows),
        int(in_columns[0]) * width // columns,
        -(-(int(in_columns[-1]) + 1) * width // columns),
    )


def _fit(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The picture on a black square of `size`, its longer side filling it."""
    import cv2
    import numpy as np

    height, width = picture.shape[:2]
    longer = max(height, width)
    # Padding after the resize keeps the memory of a long, thin picture small.
    rows = max(1, (2 * height * size + longer) // (2 * longer))
    columns = max(1, (2 * width * size + longer) // (2 * longer))
    method = cv2.INTER_AREA if longer >= size else cv2.INTER_LINEAR_EXACT
    scaled = cv2.resize(np.ascontiguousarray(picture), (columns, rows), interpolation=method)
    square = np.zeros((size, size, *picture.shape[2:]), dtype=np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = scaled
    return square


def _mostly(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Lines of which at least 31/32 hold; a scale bar's end or JPEG ringing may interrupt."""
    import numpy as np

    holds: NDArray[np.bool_] = np.count_nonzero(mask, axis=axis) * 32 >= 31 * mask.shape[axis]
    return holds


def _bad(name: str, value: object, expected: str) -> RecipeError:
    return RecipeError(f"{name} is {value!r}", where="preprocess", expected=expected)
