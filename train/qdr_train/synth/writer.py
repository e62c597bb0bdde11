"""Image files that declare themselves synthetic, written atomically and byte for byte alike."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_END = b"\xff\xd9"
PNG_END = b"IEND\xaeB`\x82"
TEMPORARY_PATTERN = ".*.tmp"  # what a killed run may leave behind


def encode_jpeg(rgb: NDArray[np.uint8], quality: int, comment: str) -> bytes:
    """Encode uint8 RGB [H, W, 3] as JPEG with a comment segment after the start marker."""
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    text = comment.encode("ascii")
    segment = b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    raw = data.tobytes()
    return raw[:2] + segment + raw[2:]


def encode_png(grey: NDArray[np.uint8], comment: str) -> bytes:
    """Encode uint8 [H, W] as PNG with a tEXt chunk after the header."""
    ok, data = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise RuntimeError("OpenCV could not encode a PNG")
    body = b"tEXt" + b"Comment\x00" + comment.encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    raw = data.tobytes()
    header = 8 + 25  # signature, IHDR
    return raw[:header] + chunk + raw[header:]


def is_complete(path: Path) -> bool:
    """Whether an image of an earlier run is there with its end marker."""
    end = PNG_END if path.suffix == ".png" else JPEG_END
    try:
        with path.open("rb") as file:
            file.seek(-len(end), os.SEEK_END)
            return file.read() == end
    except OSError:
        return False


def write_image(path: Path, data: bytes) -> None:
    """Write by temporary file and rename; no fsync, as resuming checks and redraws an image."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
