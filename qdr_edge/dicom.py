"""DICOM files to pictures: ophthalmic photography and OCT volumes, through pydicom.

pydicom is optional; without it a DICOM file is refused with the command that installs it.
Nothing but the elements listed here is looked at: no name, no date, no comment of a patient.

Rules (part of the preprocessing contract, beside those of decode.py):

1.  A JPEG (baseline, 8 bits) inside a file is decoded as the same JPEG in a file of its own.
2.  Gray of up to 8 bits is taken as it is, whatever window the file recommends, as every other
    8-bit picture. Gray of 9 to 16 bits goes through the file's first window (LINEAR or
    LINEAR_EXACT, after rescaling); where it has none, the stored range is spread over 16 bits.
    The result meets the spec's window as a 16-bit PNG does.
3.  MONOCHROME1 and a negative rescale slope turn black and white round.
4.  Colour comes out as RGB of 8 bits; of more bits the highest 8 count.
5.  Lookup tables for gray, sigmoid windows and floating-point pixels are refused: leaving them
    out would change pixels silently.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from qdr_edge.decode import check_size
from qdr_edge.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

T = TypeVar("T")

_META_START = 132  # behind the preamble and "DICM"
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN")
_UID = re.compile(r"[0-9.]{1,64}")
_WORD = re.compile(r"[A-Z0-9_ ]{1,16}")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_RLE = "1.2.840.10008.1.2.5"
_READABLE = "an uncompressed, RLE or JPEG baseline file"
# What brings a decoder, by the beginning of the transfer syntax; the first that fits counts.
_PACKAGES = (
    ("1.2.840.10008.1.2.4.8", "pyjpegls"),
    ("1.2.840.10008.1.2.4.9", "pylibjpeg pylibjpeg-openjpeg"),
    ("1.2.840.10008.1.2.4.20", "pylibjpeg pylibjpeg-openjpeg"),
    ("1.2.840.10008.1.2.4.5", "pylibjpeg pylibjpeg-libjpeg"),
    ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),
)
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
SHAPE = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation")
_STORAGE = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration")
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MEANING = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction")
_REFUSED = ("ModalityLUTSequence", "VOILUTSequence")
_PALETTES = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for part in ("Descriptor", "Data")
) + tuple(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue"))
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ICCProfile")
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


@dataclass(frozen=True)
class Picture:
    """One frame.

    Args:
        pixels: uint8 [H, W] gray or [H, W, 3] RGB, or uint16 [H, W] gray of the full range.
        profile: ICC profile of the colours, if there is one.
    """

    pixels: NDArray[Any]
    profile: bytes | None = None


def read_picture(content: bytes, frame: int | None, where: str) -> Picture | bytes:
    """A frame of a file.

    Args:
        content: The file.
        frame: Which, counted from 1; None takes the middle one.
        where: Name of the file, for messages.

    Returns:
        The frame's pixels, or the JPEG file that stands for them.

    Raises:
        ImageError: Damaged, not supported, no such frame, or a decoder is not installed.
    """
    syntax = transfer_syntax(content, where)
    return explained(lambda: _picture(content, syntax, frame, where), where)


def explained(read: Callable[[], T], where: str) -> T:
    """What `read` returns; whatever it raises becomes one line.

    Raises:
        ImageError: Anything went wrong.
    """
    try:
        return read()
    except ImageError:
        raise
    except Exception as error:  # a parser over hostile bytes may raise anything
        raise ImageError(
            # Not its message: that may quote a value, and the value may be a name.
            f"damaged DICOM file ({type(error).__name__})",
            where=where,
            expected="a complete DICOM image",
            fix="export it again",
        ) from error


def transfer_syntax(content: bytes, where: str) -> str:
    """The transfer syntax's UID, where this machine can decode it.

    Args:
        content: The file, or its beginning.
        where: Name of the file, for messages.

    Raises:
        ImageError: It has none, it cannot be decoded here, or pydicom is not installed.
    """
    # By hand: pydicom would inflate a deflated file without a limit before one could ask.
    position = _META_START
    while position + 12 <= len(content):
        group, element, vr, short = struct.unpack_from("<HH2sH", content, position)
        if group != 2:
            break
        start, length = position + 8, short
        if vr in _LONG_VRS:
            start, length = position + 12, struct.unpack_from("<I", content, position + 8)[0]
        if element == 0x10:
            syntax = content[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
            if not _UID.fullmatch(syntax):
                break
            _check_syntax(syntax, where)
            return syntax
        position = start + length
    raise ImageError(
        "a DICOM file without a transfer syntax",
        where=where,
        expected="file meta information (part 10 of the standard)",
        fix="export it again",
    )


def _check_syntax(syntax: str, where: str) -> None:
    try:
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID
    except ImportError as error:
        raise ImageError(
            "a DICOM file, and pydicom is not installed",
            where=where,
            expected="a JPEG, PNG, TIFF or BMP image",
            fix="pip install 'pydicom>=3', or export the picture as PNG",
        ) from error
    name = UID(syntax).name
    try:
        ready = syntax != _DEFLATED and get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        ready = False
    if not ready:
        package = next((p for start, p in _PACKAGES if syntax.startswith(start)), None)
        convert = "convert it to Explicit VR Little Endian, or export it as PNG"
        raise ImageError(
            f"DICOM transfer syntax {name}" + (f" ({syntax})" if name != syntax else ""),
            where=where,
            expected=f"{_READABLE}, or an installed decoder",
            fix=f"pip install {package}, or {convert}" if package else convert,
        )


def frame_count(data: Dataset, where: str) -> int:
    """Number of frames.

    Raises:
        ImageError: The object holds no picture.
    """
    if "Rows" not in data or "Columns" not in data:
        raise ImageError(
            "a DICOM file without a picture",
            where=where,
            expected="an image, such as Ophthalmic Photography or Ophthalmic Tomography",
            fix="take reports and other objects out",
        )
    return max(int(data.get("NumberOfFrames") or 1), 1)


def frame_value(data: Dataset, keyword: str, macro: str, index: int) -> Any:
    """A value of one frame: its own, or what all frames share, or that of the whole image.

    Args:
        data: The object, read with GROUPS.
        keyword: Of the element.
        macro: Keyword of the functional group that may hold it.
        index: Frame, counted from 0.
    """
    per_frame = data.get(GROUPS[1]) or []
    groups = [*per_frame[index : index + 1], *(data.get(GROUPS[0]) or [])]
    for group in groups:
        for item in group.get(macro) or []:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return data.get(keyword)


def _picture(content: bytes, syntax: str, frame: int | None, where: str) -> Picture | bytes:
    from pydicom import dcmread

    wanted = [*SHAPE, *_STORAGE, *GROUPS, *_MEANING, *_REFUSED, *_PALETTES]
    data = dcmread(io.BytesIO(content), specific_tags=[*wanted, *_PIXELS, *_OFFSETS])
    frames = frame_count(data, where)
    check_size(int(data.Rows), int(data.Columns), where)
    _check_storage(data, where)
    frame = (frames + 1) // 2 if frame is None else frame
    if frame > frames:
        raise ImageError(
            f"frame {frame} of {frames}", where=where, expected=f"a frame from 1 to {frames}"
        )
    photometric = str(data.PhotometricInterpretation)
    as_file = photometric in ("MONOCHROME2", "YBR_FULL", "YBR_FULL_422")
    if syntax == _JPEG_BASELINE and as_file:
        return _jpeg(_encoded(data, frame - 1, frames), where)
    if syntax == _RLE:
        _check_rle(_encoded(data, frame - 1, frames), data, where)
    pixels, photometric = _decoded(data, syntax, frame - 1)
    bits = int(data.BitsStored)
    if photometric.startswith("MONOCHROME"):
        inverted = photometric == "MONOCHROME1"
        return Picture(_gray(pixels, data, frame - 1, inverted, where))
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        pixels = apply_color_lut(pixels, data)[:, :, :3]
        bits = 8 * pixels.dtype.itemsize
    elif photometric not in _COLOUR:
        raise ImageError(
            f"DICOM pixels of kind {_word(photometric)}",
            where=where,
            expected="MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB or YBR_FULL",
            fix="export the picture as PNG",
        )
    return Picture(_colour(pixels, bits, photometric), data.get("ICCProfile"))


def _check_storage(data: Dataset, where: str) -> None:
    for name in _REFUSED:
        if data.get(name):
            raise ImageError(
                f"a {name}",
                where=where,
                expected="gray values with a window, or with none",
                fix="export the picture as PNG",
            )
    allocated, stored = data.get("BitsAllocated"), data.get("BitsStored")
    if "PixelData" not in data or allocated not in (8, 16) or not 1 <= stored <= allocated:
        found = "no whole-number pixels"
        if "PixelData" in data:
            found = f"{stored} bits stored of {allocated} allocated"
        raise ImageError(
            found, where=where, expected="PixelData of 8 or 16 bits", fix="export it as PNG"
        )
    if (high := data.get("HighBit", stored - 1)) != stored - 1:
        raise ImageError(
            f"{stored} bits stored below bit {high}",
            where=where,
            expected=f"HighBit {stored - 1}, as the standard demands",
            fix="export it as PNG",
        )


def _encoded(data: Dataset, index: int, frames: int) -> bytes:
    from pydicom.encaps import get_frame

    offsets = tuple(data.get(name) for name in _OFFSETS)
    extended: Any = offsets if all(offsets) else None
    return get_frame(data.PixelData, index, extended_offsets=extended, number_of_frames=frames)


def _jpeg(encoded: bytes, where: str) -> bytes:
    if not encoded.startswith(b"\xff\xd8\xff"):
        raise ImageError(
            "no JPEG in a DICOM file that promises one", where=where, fix="export it again"
        )
    return encoded


def _check_rle(encoded: bytes, data: Dataset, where: str) -> None:
    """Refuse run lengths that promise more than the picture holds: two bytes can stand for 128."""
    room = int(data.Rows) * int(data.Columns)
    count, *starts = struct.unpack_from("<16I", encoded)
    stops = [*starts[1:count], len(encoded)]
    for start, stop in zip(starts[:count], stops, strict=True):
        position, total = start, 0
        while position < min(stop, len(encoded)) and total <= room:
            header = encoded[position]
            position += 2 if header > 128 else 1 if header == 128 else header + 2
            total += 257 - header if header > 128 else 0 if header == 128 else header + 1
        # One byte more: a segment is padded to an even length.
        if total > room + 1 or start < 64:
            raise ImageError(
                "damaged RLE: more pixels than the picture has",
                where=where,
                expected=f"{data.Columns}x{data.Rows} px",
                fix="export it again",
            )


def _decoded(data: Dataset, syntax: str, index: int) -> tuple[NDArray[Any], str]:
    """Stored values of a frame, unused bits cleared, and how to read them."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    pixels, found = get_decoder(UID(syntax)).as_array(data, index=index, raw=True)
    return pixels, str(found["photometric_interpretation"])


def _gray(
    values: NDArray[Any], data: Dataset, index: int, inverted: bool, where: str
) -> NDArray[Any]:
    """Display values: uint8 for up to 8 stored bits, uint16 beyond."""
    import numpy as np

    bits = int(data.BitsStored)
    depth = 8 if bits <= 8 else 16
    slope = float(frame_value(data, "RescaleSlope", "PixelValueTransformationSequence", index) or 1)
    kind: Any = np.uint8 if depth == 8 else np.uint16
    window = _window(data, index, where) if depth == 16 else None
    if window is None:
        lowest = -(1 << (bits - 1)) if data.PixelRepresentation else 0
        grown = values.astype(np.int32) - lowest
        if inverted != (slope < 0):
            grown = (1 << bits) - 1 - grown
        return (grown << (depth - bits)).astype(kind)
    offset = frame_value(data, "RescaleIntercept", "PixelValueTransformationSequence", index)
    centre, width, exact = window
    real = values.astype(np.float64) * slope + float(offset or 0)
    # PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3.2 (LINEAR_EXACT).
    share = (real - centre) / width if exact else (real - (centre - 0.5)) / max(width - 1, 1e-9)
    shown = np.floor(np.clip(share + 0.5, 0, 1) * 65535 + 0.5).astype(kind)
    return 65535 - shown if inverted else shown


def _window(data: Dataset, index: int, where: str) -> tuple[float, float, bool] | None:
    """Centre and width of the first window, and whether its function is LINEAR_EXACT."""
    centre, width, function = (
        frame_value(data, name, "FrameVOILUTSequence", index) for name in _MEANING[2:]
    )
    if centre is None or width is None:
        return None
    first = [v if isinstance(v, (int, float, str)) else v[0] for v in (centre, width)]
    centre, width = float(first[0]), float(first[1])
    function = function or "LINEAR"
    known = function in ("LINEAR", "LINEAR_EXACT")
    least = 1.0 if function == "LINEAR" else 1e-9
    if not known or not abs(centre) < 1e9 or not least <= width < 1e9:
        raise ImageError(
            f"window {_word(function)}, centre {centre:g}, width {width:g}",
            where=where,
            expected="a LINEAR or LINEAR_EXACT window",
            fix="export the picture as PNG",
        )
    return centre, width, function == "LINEAR_EXACT"


def _word(value: object) -> str:
    """A value to show, as long as it looks like one of the standard's own words."""
    return str(value) if _WORD.fullmatch(str(value)) else "without a name"


def _colour(pixels: NDArray[Any], bits: int, photometric: str) -> NDArray[np.uint8]:
    import numpy as np

    bytes_ = pixels >> (bits - 8) if bits > 8 else pixels << (8 - bits)
    rgb = np.ascontiguousarray(bytes_, dtype=np.uint8)
    if photometric.startswith("YBR"):
        from PIL import Image

        # Whole-number tables, as for a JPEG: floating point would round differently by machine.
        rgb = np.array(Image.frombytes("YCbCr", rgb.shape[1::-1], rgb.tobytes()).convert("RGB"))
    return rgb
