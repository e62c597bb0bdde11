"""Image files to RGB pixels: nothing is decoded before its kind and size are known.

Rules, in this order (part of the preprocessing contract, see preprocess.py):

1.  The kind is read from the content, never from the file name: JPEG, PNG, TIFF, BMP, or DICOM
    (dicom.py, where pydicom is installed).
2.  Size limits are checked on the header, before pixels are decoded.
3.  JPEG is decoded at the smallest DCT scale (1/1, 1/2, 1/4, 1/8) that leaves both sides at
    least `decode_margin` times the network's size.
4.  Of several pages the first counts. Of several DICOM frames the middle one does, unless the
    file name ends in `#` and the number of a frame, counted from 1.
5.  16-bit gray is scaled by the window of the spec; 16-bit colour keeps its high byte.
6.  Transparent pixels are laid over black.
7.  Colour with an embedded profile goes to sRGB; without a readable one it is taken as sRGB.
    Gray is taken as it is. CMYK, LAB and floating point are refused: no camera of the field
    writes them, and a wrong guess would change colours silently.
8.  EXIF orientation is applied.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from qdr_edge.dicom import Picture
    from qdr_edge.preprocess import PreprocessSpec

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 64 << 20
MAX_SIDE = 20_000
MIN_SIDE = 32

_KINDS = "a JPEG, PNG, TIFF or BMP image"
_IN_MEMORY = "image in memory"
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
)
_STARTS = tuple(start for start, _ in _SIGNATURES)
# Kinds that people do hand over, so that the message can say what they have.
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"<", "an HTML, XML or SVG file"),
)
_EXIF_ORIENTATION = 0x0112


def decode(
    source: str | Path | bytes | NDArray[np.uint8], spec: PreprocessSpec
) -> NDArray[np.uint8]:
    """The pixels of an image.

    Args:
        source: Path, content of a file, or pixels: uint8 [H, W] gray or [H, W, 3] RGB.
        spec: Gives the network's size, the decode margin and the 16-bit window.

    Returns:
        RGB pixels, uint8 [H, W, 3], C-contiguous.

    Raises:
        ImageError: Not there, not an image, damaged, too small, too large, or in a colour
            space without a defined meaning here.
    """
    if isinstance(source, (str, Path)):
        path, frame = split_frame(Path(source))
        return _decode_bytes(_read(path), spec, str(source), frame)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_FILE_BYTES:
            raise _too_large_file(len(source), _IN_MEMORY)
        return _decode_bytes(bytes(source), spec, _IN_MEMORY)
    return _from_array(source)


def split_frame(path: Path) -> tuple[Path, int | None]:
    """The file and the frame that a name like `scan.dcm#12` means; None means no frame is named.

    Args:
        path: Name of an image; one of a file that is there, sign and all, is left alone.
    """
    name, _, number = path.name.rpartition("#")
    is_number = number.isascii() and number.isdigit() and 0 < int(number[:7]) < 1_000_000
    # os.path.exists: Path.exists raises for names that no file can have.
    if not is_number or not name.strip(".") or os.path.exists(path):  # noqa: PTH110
        return path, None
    return path.with_name(name), int(number)


def _read(path: Path) -> bytes:
    where = str(path)
    if "\0" in where:
        raise ImageError("a NUL byte in the file name", where=repr(where), expected="a path")
    try:
        status = path.stat()
        # Asked before opening: opening a pipe or a device could wait for ever.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(kind, where=where, expected=_KINDS, fix="name the image file itself")
        if status.st_size > MAX_FILE_BYTES:
            raise _too_large_file(status.st_size, where)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(
            "no such file", where=where, expected=_KINDS, fix="check the path"
        ) from error
    except OSError as error:
        raise ImageError(
            f"cannot read: {error.strerror or error}", where=where, expected="a readable file"
        ) from error


def _decode_bytes(
    content: bytes, spec: PreprocessSpec, where: str, frame: int | None = None
) -> NDArray[np.uint8]:
    if content[128:132] == b"DICM" and not content.startswith(_STARTS):
        from qdr_edge import dicom

        picture = dicom.read_picture(content, frame, where)
        if isinstance(picture, bytes):  # a JPEG is what it is in a file of its own
            return _decode_bytes(picture, spec, where)
        return _from_dicom(picture, spec, where)
    if frame is not None:
        raise ImageError(
            f"frame {frame} of a file that is not DICOM",
            where=where,
            expected="a frame number after a DICOM file only",
            fix="name the file without '#'",
        )
    kind = _kind(content, where)
    if kind == "JPEG":
        _check_jpeg_ends(content, where)
    image = _open(content, kind, where)
    with image:
        frames = f"{image.width}x{image.height} px"
        check_size(image.height, image.width, where)
        _check_mode(image, where)
        if kind == "JPEG":
            side = spec.size * spec.decode_margin
            image.draft(None, (side, side))
        try:
            image.load()
            if kind == "JPEG":
                _check_jpeg_filled(image, where)
            pixels = _pixels(image, spec, where)
        except ImageError:
            raise
        except Exception as error:  # a parser over hostile bytes may raise anything
            raise ImageError(
                f"damaged {kind} of {frames}: {error}",
                where=where,
                expected="a complete file",
                fix="copy or export it again",
            ) from error
    return pixels


def _kind(content: bytes, where: str) -> str:
    if not content:
        raise ImageError("empty file", where=where, expected=_KINDS, fix="copy it again")
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    head = content[:64].lstrip()
    found = next((name for start, name in _FOREIGN if head.startswith(start)), "not an image")
    raise ImageError(found, where=where, expected=_KINDS, fix="export the picture as PNG or JPEG")


def _open(content: bytes, kind: str, where: str) -> ImageFile:
    """The header only. Pillow's Image.open would try every format it knows."""
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    plugin: Any = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
    }[kind]
    try:
        image: ImageFile = plugin(io.BytesIO(content))
    except Exception as error:  # a parser over hostile bytes may raise anything
        raise ImageError(
            f"damaged or unknown form of {kind}: {error}",
            where=where,
            expected=_KINDS,
            fix="copy or export it again",
        ) from error
    return image


def _check_jpeg_ends(content: bytes, where: str) -> None:
    """Refuse a JPEG cut off or zero-filled: libjpeg would fill the rest with gray."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            # The end marker of an embedded thumbnail stands before the scan and does not count.
            if content.rfind(b"\xff\xd9") > position:
                return
            break
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    raise ImageError(
        "truncated JPEG: its end is missing",
        where=where,
        expected="a complete file",
        fix="copy it again from the camera or archive",
    )


def check_size(height: int, width: int, where: str) -> None:
    """Refuse what is no photograph, before its pixels take memory.

    Raises:
        ImageError: A side is below MIN_SIDE or above MAX_SIDE, or there are too many pixels.
    """
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{width}x{height} px is too small",
            where=where,
            expected=f"at least {MIN_SIDE} px a side",
            fix="give the original, not a thumbnail",
        )
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ImageError(
            f"{width}x{height} px is too large",
            where=where,
            expected=f"at most {MAX_SIDE} px a side and {MAX_PIXELS / 1e6:.0f} million pixels",
            fix="scale it down",
        )


def _check_jpeg_filled(image: ImageFile, where: str) -> None:
    """Refuse a JPEG whose data end early although its end marker is there.

    libjpeg sets what is missing of a baseline JPEG to coefficients of 0: exactly middle gray in
    every channel, down to the last row. A picture that is gray from its first row is left alone.
    """

    def is_gray(row: int) -> bool:
        extrema = image.crop((0, row, image.width, row + 1)).getextrema()
        return set(extrema) <= {(128, 128), 128}

    if is_gray(image.height - 1) and not is_gray(0):
        raise ImageError(
            "damaged JPEG: its data end before its last row",
            where=where,
            expected="a complete file",
            fix="copy it again from the camera or archive",
        )


def _check_mode(image: ImageFile, where: str) -> None:
    known = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "I")
    if image.mode not in known and not image.mode.startswith("I;16"):
        raise ImageError(
            f"pixels of kind {image.mode}",
            where=where,
            expected="gray or RGB, 8 or 16 bits",
            fix="convert it to RGB in the program that made it",
        )


def _pixels(image: ImageFile, spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """RGB of a loaded picture, uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image

    # A TIFF is turned while loading and then carries no orientation any more.
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    picture: Image.Image = image
    if image.mode.startswith("I"):
        gray = _window(np.asarray(image), spec, where)
        picture = Image.fromarray(gray)
    has_colour = picture.mode not in ("1", "L", "LA", "La")
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", layer.size)
        picture.paste(layer, mask=layer.getchannel("A"))
    else:
        picture = picture.convert("RGB")
    if has_colour:
        picture = _to_srgb(picture, image.info.get("icc_profile"))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    if turn is not None:
        picture = picture.transpose(turn)
    return np.array(picture, dtype=np.uint8)


def _from_dicom(picture: Picture, spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    import numpy as np

    pixels = picture.pixels
    if pixels.dtype == np.uint16:
        pixels = _window(pixels, spec, where)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    elif picture.profile:
        from PIL import Image

        pixels = np.asarray(_to_srgb(Image.fromarray(pixels), picture.profile), dtype=np.uint8)
    # As every other kind: in one piece, and the caller's to write to.
    return np.array(pixels, dtype=np.uint8, order="C")


def _window(values: NDArray[Any], spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
    """Integers to 8 bits: low -> 0, high -> 255; the full window keeps the high byte."""
    import numpy as np

    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            "gray values outside 0..65535",
            where=where,
            expected="8 or 16 bits a pixel",
            fix="export it with 16 bits",
        )
    span = spec.window_high - spec.window_low + 1
    scaled = (values.astype(np.int64) - spec.window_low) * 256 // span
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _to_srgb(picture: Any, profile: bytes | None) -> Any:
    if not profile:
        return picture
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture
        return ImageCms.profileToProfile(
            picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        # An unreadable or foreign profile counts as none, as in every viewer (rule 7).
        return picture


def _from_array(source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import numpy as np

    expected = "uint8 [H, W] gray or [H, W, 3] RGB"
    if not isinstance(source, np.ndarray):
        raise ImageError(
            f"a {type(source).__name__}",
            where=_IN_MEMORY,
            expected=f"a path, bytes or an array of {expected}",
        )
    good_shape = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
    if source.dtype != np.uint8 or not good_shape:
        raise ImageError(
            f"array of {source.dtype} {list(source.shape)}", where=_IN_MEMORY, expected=expected
        )
    check_size(source.shape[0], source.shape[1], _IN_MEMORY)
    if source.ndim == 2:
        source = np.repeat(source[:, :, None], 3, axis=2)
    return np.ascontiguousarray(source)


def _too_large_file(size: int, where: str) -> ImageError:
    return ImageError(
        f"{size / 1e6:.0f} MB is too large",
        where=where,
        expected=f"at most {MAX_FILE_BYTES / 1e6:.0f} MB",
        fix="give one picture, not a video or an archive",
    )
