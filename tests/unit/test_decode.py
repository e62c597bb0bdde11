"""Decoding: every kind of file a clinic hands over, and everything that is no image."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from qdr_edge import decode as module
from qdr_edge.decode import decode
from qdr_edge.errors import ImageError
from qdr_edge.preprocess import PreprocessSpec, load_image

SPEC = PreprocessSpec("fundus", 64)
Y, X = np.mgrid[:80, :120]
RGB = np.stack([X * 2, Y * 3, (X + Y) // 2], axis=2).astype(np.uint8)
GRAY = RGB[:, :, 0]


def encoded(picture: Image.Image | NDArray[np.uint8], kind: str, **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(source: object, spec: PreprocessSpec = SPEC) -> str:
    with pytest.raises(ImageError) as caught:
        decode(source, spec)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 3
    return message


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_kinds_come_out_as_they_went_in(kind: str) -> None:
    found = decode(encoded(RGB, kind), SPEC)
    assert np.array_equal(found, RGB)
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_gray_stands_in_three_channels(kind: str) -> None:
    found = decode(encoded(GRAY, kind), SPEC)
    assert found.shape == (80, 120, 3)
    assert np.array_equal(found[:, :, 0], found[:, :, 2])
    assert np.abs(found[:, :, 0].astype(int) - GRAY).mean() < 3


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    for name in ("scan.jpg", "scan", "scan.txt", "no extension.é"):
        path = tmp_path / name
        path.write_bytes(encoded(RGB, "BMP"))
        assert np.array_equal(decode(path, SPEC), RGB)
        assert np.array_equal(decode(str(path), SPEC), RGB)


def test_arrays_are_taken_as_they_are() -> None:
    assert np.array_equal(decode(RGB, SPEC), RGB)
    assert np.array_equal(decode(GRAY, SPEC)[:, :, 1], GRAY)
    flipped = decode(RGB[:, ::-1], SPEC)
    assert flipped.flags.c_contiguous
    assert np.array_equal(flipped, RGB[:, ::-1])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        pytest.param(RGB.astype(np.float32), "float32", id="float"),
        pytest.param(RGB.astype(np.uint16), "uint16", id="uint16"),
        pytest.param(RGB.transpose(2, 0, 1), "[3, 80, 120]", id="channels-first"),
        pytest.param(np.zeros((80, 80, 4), np.uint8), "[80, 80, 4]", id="rgba"),
        pytest.param(np.zeros((8, 8), np.uint8), "too small", id="small"),
        pytest.param(np.zeros((0, 80), np.uint8), "too small", id="empty"),
        pytest.param(None, "NoneType", id="none"),
        pytest.param([[1, 2]], "list", id="list"),
    ],
)
def test_other_arrays_are_refused(array: object, said: str) -> None:
    assert said in refused(array)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1024, 1024, 128), (1023, 1023, 256), (511, 700, 350), (200, 200, 200), (1024, 255, 255)],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_suffices(
    width: int, height: int, expected: int
) -> None:
    content = encoded(np.full((height, width, 3), 90, np.uint8), "JPEG")
    found = decode(content, SPEC)
    assert found.shape[0] == expected
    assert min(found.shape[:2]) >= min(128, height, width)
    more = decode(content, PreprocessSpec("fundus", 64, decode_margin=8))
    assert min(more.shape[:2]) >= min(512, height, width)


ORIENTATIONS = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: np.rot90(RGB, 2).transpose(1, 0, 2),
    8: np.rot90(RGB, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    if kind == "TIFF":
        content = encoded(RGB, kind, tiffinfo={0x0112: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
        content = encoded(RGB, kind, exif=exif, **options)
    found = decode(content, SPEC)
    expected = ORIENTATIONS[orientation]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)


def test_transparent_pixels_are_black() -> None:
    alpha = np.full((80, 120, 1), 255, np.uint8)
    alpha[:40] = 0
    found = decode(encoded(np.concatenate([RGB, alpha], axis=2), "PNG"), SPEC)
    assert not found[:40].any()
    assert np.array_equal(found[40:], RGB[40:])
    found = decode(encoded(np.concatenate([RGB[:, :, :1], alpha], axis=2), "PNG"), SPEC)
    assert not found[:40].any()
    assert np.array_equal(found[40:, :, 1], GRAY[40:])


def test_palettes_with_and_without_transparency() -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    assert decode(encoded(image, "PNG"), SPEC)[0, 0].tolist() == [200, 100, 50]
    assert decode(encoded(image, "PNG", transparency=1), SPEC)[0, 0].tolist() == [0, 0, 0]


def test_black_and_white() -> None:
    image = Image.fromarray(GRAY > 100)
    assert image.mode == "1"
    assert set(np.unique(decode(encoded(image, "PNG"), SPEC))) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_of_16_bits_goes_through_the_window(kind: str) -> None:
    deep = (GRAY.astype(np.uint16) << 4) + 3
    content = encoded(Image.fromarray(deep), kind)
    assert np.array_equal(decode(content, SPEC)[:, :, 0], deep >> 8)
    spec = PreprocessSpec("oct", 64, window_low=0, window_high=4095)
    assert np.array_equal(decode(content, spec)[:, :, 0], GRAY)
    spec = PreprocessSpec("oct", 64, window_low=1600, window_high=2000)
    found = decode(content, spec)[:, :, 0]
    assert found[deep < 1600].max() == 0
    assert found[deep > 2000].min() == 255


def test_colour_of_16_bits_keeps_its_high_byte() -> None:
    deep = RGB.astype(np.uint16) * 256 + 200
    done, content = cv2.imencode(".png", deep[:, :, ::-1])
    assert done
    assert np.array_equal(decode(content.tobytes(), SPEC), RGB)


def test_the_first_page_counts() -> None:
    second = Image.fromarray(255 - RGB)
    content = encoded(RGB, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(decode(content, SPEC), RGB)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        pytest.param(Image.new("CMYK", (64, 64)), "JPEG", id="cmyk-jpeg"),
        pytest.param(Image.new("CMYK", (64, 64)), "TIFF", id="cmyk-tiff"),
        pytest.param(Image.new("LAB", (64, 64)), "TIFF", id="lab"),
        pytest.param(Image.new("F", (64, 64)), "TIFF", id="float"),
    ],
)
def test_colour_without_a_defined_meaning_is_refused(image: Image.Image, kind: str) -> None:
    message = refused(encoded(image, kind))
    assert f"pixels of kind {image.mode}" in message
    assert "convert it to RGB" in message


def test_gray_beyond_16_bits_is_refused() -> None:
    wide = Image.fromarray(np.full((64, 64), 70_000, np.int32))
    assert "outside 0..65535" in refused(encoded(wide, "TIFF"))


def profile(gamma: float) -> bytes:
    """A matrix/TRC profile: the sRGB primaries with another gamma."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", srgb[128:132])[0]
    curve = struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))
    text = b"desc\0\0\0\0\0\0\0\x05Test\0" + bytes(12 + 67)
    entries = {}
    for index in range(count):
        tag, offset, size = struct.unpack(">4sII", srgb[132 + 12 * index : 144 + 12 * index])
        entries[tag] = bytes(srgb[offset : offset + size])
    entries.update({b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"desc": text})
    srgb[8] = 2  # version 2: a "desc" of this form
    table, body = b"", b""
    start = 132 + 12 * len(entries)
    for tag, data in entries.items():
        table += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = bytes(srgb[:128]) + struct.pack(">I", len(entries)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def test_another_colour_profile_is_converted_to_srgb() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    found = decode(encoded(gray, "PNG", icc_profile=profile(1.0)), SPEC)
    # A linear 128 is 188 in sRGB.
    assert np.abs(found.astype(int) - 188).max() <= 1


def test_srgb_and_unreadable_profiles_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for content in (srgb, b"no profile at all" * 20):
        assert np.array_equal(decode(encoded(RGB, "PNG", icc_profile=content), SPEC), RGB)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_jpeg_is_refused(share: float, progressive: bool) -> None:
    content = encoded(RGB, "JPEG", progressive=progressive)
    cut = int(len(content) * share)
    assert refused(content[:cut])
    # A download that stopped leaves zeros in a file of the right size.
    assert refused(content[:cut] + bytes(len(content) - cut))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    exif = b"Exif\0\0" + encoded(np.zeros((40, 40), np.uint8), "JPEG")
    content = encoded(RGB, "JPEG", exif=exif)
    assert decode(content, SPEC).shape == (80, 120, 3)
    assert "truncated JPEG" in refused(content[:-40])


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm() -> None:
    content = encoded(RGB, "JPEG")
    assert np.array_equal(decode(content + b"trailer" * 9, SPEC), decode(content, SPEC))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_other_truncated_kinds_are_refused(kind: str, share: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    content = encoded(picture, kind)
    assert refused(content[: int(len(content) * share)])


def test_a_damaged_png_is_refused() -> None:
    content = bytearray(encoded(RGB, "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert "damaged PNG" in refused(bytes(content))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(b"\0")
    data = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (60_000, 60_000, "too large"),
        (20_001, 100, "too large"),
        (9000, 9000, "too large"),
        (31, 400, "too small"),
    ],
)
def test_size_is_refused_before_pixels_are_decoded(
    width: int, height: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(module, "_pixels", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert f"{width}x{height} px is {said}" in refused(png_header(width, height))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "empty file", id="empty"),
        pytest.param(b"hello, I am no image", "not an image", id="text"),
        pytest.param(b"%PDF-1.7 ...", "PDF", id="pdf"),
        pytest.param(b"GIF89a" + bytes(50), "GIF", id="gif"),
        pytest.param(b"PK\x03\x04" + bytes(50), "ZIP", id="zip"),
        pytest.param(bytes(128) + b"DICM" + bytes(50), "DICOM", id="dicom"),
        pytest.param(b"\n <html><body>404", "HTML", id="html"),
        pytest.param(b"\xff\xd8\xff", "truncated JPEG", id="jpeg-signature"),
        pytest.param(b"II*\0" + bytes(20), "TIFF", id="tiff-signature"),
        pytest.param(bytes(1000), "not an image", id="zeros"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "eye.jpg"
    path.write_bytes(content)
    message = refused(path)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert said in refused(content)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.png")
    assert "a folder" in refused(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a regular file" in refused(pipe)
    assert "NUL" in refused("eye\0.png")
    assert "cannot read" in refused("x" * 5000)


def test_an_enormous_file_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film.avi"
    with path.open("wb") as handle:
        handle.truncate(module.MAX_FILE_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read"))
    assert "too large" in refused(path)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    assert "too large" in refused(bytes(11))


@pytest.mark.skipif("QDR_REAL_DATA" not in os.environ, reason="QDR_REAL_DATA is not set")
def test_real_originals_become_inputs() -> None:
    folder = Path(os.environ["QDR_REAL_DATA"])
    folder = folder / "real" if (folder / "real").is_dir() else folder
    files = sorted((folder / "originals").iterdir())
    assert files
    for file in files:
        for modality in ("fundus", "oct"):
            assert load_image(file, PreprocessSpec(modality, 224)).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [32, 512], ids=["scaled", "full"])
@pytest.mark.parametrize("colour", [True, False], ids=["rgb", "gray"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_jpeg_cut_in_its_data_is_refused_though_it_has_an_end(
    share: float, colour: bool, size: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 3)
    whole = encoded(picture if colour else picture[:, :, 0], "JPEG", quality=90)
    spec = PreprocessSpec("fundus", size)
    assert decode(whole, spec).ndim == 3
    cut = whole[: int(len(whole) * share)] + b"\xff\xd9"
    assert "end before its last row" in refused(cut, spec)


def test_a_jpeg_that_is_gray_throughout_is_whole() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    assert (decode(encoded(gray, "JPEG"), SPEC) == 128).all()
