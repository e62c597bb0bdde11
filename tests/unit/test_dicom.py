"""DICOM: every form that cameras and OCT devices write gives the pixels that were put in."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from qdr_edge.decode import decode, split_frame
from qdr_edge.dicom import read_picture
from qdr_edge.errors import ImageError
from qdr_edge.preprocess import PreprocessSpec, load_image
from tests.dicoms import PHOTO_8, PHOTO_16, TOMOGRAPHY, dicom, dicom_bytes

SPEC = PreprocessSpec("fundus", 64)
OCT = PreprocessSpec("oct", 64)
Y, X = np.mgrid[:80, :120]
RGB = np.stack([X * 2, Y * 3, (X + Y) // 2], axis=2).astype(np.uint8)
GRAY = RGB[:, :, 0]
# All 16 bits in use, high and low byte unlike.
DEEP = (X.astype(np.uint16) * 541 + Y.astype(np.uint16) * 3).astype(np.uint16)
VOLUME = np.stack([(GRAY // 2 + 20 * k).astype(np.uint8) for k in range(5)])
PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def shown(data: Dataset, spec: PreprocessSpec = SPEC) -> np.ndarray:
    return decode(dicom_bytes(data), spec)


def refused(data: Dataset | bytes | Path) -> str:
    source = dicom_bytes(data) if isinstance(data, Dataset) else data
    with pytest.raises(ImageError) as caught:
        decode(source, SPEC)
    message = str(caught.value)
    assert "\n" not in message
    assert "Secret" not in message
    return message


def rle(data: Dataset) -> Dataset:
    data.compress(RLELossless)
    return data


@pytest.mark.parametrize("syntax", PLAIN, ids=["implicit", "explicit", "big-endian"])
def test_uncompressed_pixels_come_out_as_a_png_of_them_does(syntax: str) -> None:
    for pixels, photometric, sop in (
        (RGB, "RGB", PHOTO_8),
        (GRAY, "MONOCHROME2", PHOTO_8),
        (DEEP, "MONOCHROME2", PHOTO_16),
    ):
        content = dicom_bytes(dicom(pixels, photometric, sop=sop, syntax=syntax))
        assert np.array_equal(decode(content, SPEC), decode(png(pixels), SPEC))
        for spec in (SPEC, OCT):
            assert np.array_equal(load_image(content, spec), load_image(png(pixels), spec))


@pytest.mark.parametrize(
    ("pixels", "photometric"), [(RGB, "RGB"), (GRAY, "MONOCHROME2"), (DEEP, "MONOCHROME2")]
)
def test_run_lengths_come_out_as_a_png_does(pixels: np.ndarray, photometric: str) -> None:
    assert np.array_equal(shown(rle(dicom(pixels, photometric))), decode(png(pixels), SPEC))


def test_decoded_pixels_are_the_callers_own() -> None:
    found = shown(dicom(RGB, "RGB"))
    assert found.flags.c_contiguous
    assert found.flags.writeable


def test_colour_planes_one_after_the_other() -> None:
    data = dicom(RGB, "RGB", PlanarConfiguration=1, PixelData=RGB.transpose(2, 0, 1).tobytes())
    assert np.array_equal(shown(data), RGB)


def test_colour_of_more_bits_keeps_the_highest_eight() -> None:
    deep = RGB.astype(np.uint16) * 16 + 7
    assert np.array_equal(shown(dicom(deep, "RGB", sop=PHOTO_16, BitsStored=12)), RGB)


def luma_chroma(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("YCbCr"))


def as_libjpeg_does(ycc: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 full range, in floating point."""
    y, b, r = (ycc[:, :, k].astype(float) - (128 if k else 0) for k in range(3))
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=2)
    return np.clip(rgb, 0, 255)


def test_luma_and_chroma_become_rgb() -> None:
    ycc = luma_chroma(RGB)
    found = shown(dicom(ycc, "YBR_FULL"))
    assert np.abs(found - as_libjpeg_does(ycc)).max() <= 1
    same = Image.frombytes("YCbCr", (120, 80), ycc.tobytes()).convert("RGB")
    assert np.array_equal(found, np.array(same))


def test_halved_chroma_is_spread_over_both_pixels() -> None:
    ycc = luma_chroma(RGB)
    ycc[:, 1::2, 1:] = ycc[:, ::2, 1:]
    packed = np.stack([ycc[:, ::2, 0], ycc[:, 1::2, 0], ycc[:, ::2, 1], ycc[:, ::2, 2]], axis=2)
    data = dicom(ycc, "YBR_FULL_422", PixelData=packed.tobytes())
    assert np.array_equal(shown(data), shown(dicom(ycc, "YBR_FULL")))


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours(bits: int) -> None:
    indices = (GRAY % 200).astype(np.uint8)
    tables = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=1)
    data = dicom(indices, "PALETTE COLOR")
    kind = np.uint8 if bits == 8 else np.dtype("<u2")
    for column, colour in enumerate(("Red", "Green", "Blue")):
        entries = tables[:, column].astype(kind)
        entries = entries if bits == 8 else (entries << 8) + 77
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(data, f"{colour}PaletteColorLookupTableData", entries.astype(kind).tobytes())
    assert np.array_equal(shown(data), tables[indices].astype(np.uint8))


def test_black_and_white_are_turned_round_for_monochrome1() -> None:
    assert np.array_equal(shown(dicom(255 - GRAY, "MONOCHROME1")), shown(dicom(GRAY)))
    assert np.array_equal(shown(dicom(65535 - DEEP, "MONOCHROME1")), shown(dicom(DEEP)))
    twelve = dicom(4095 - (DEEP >> 4), "MONOCHROME1", BitsStored=12)
    assert np.array_equal(shown(twelve)[:, :, 0], DEEP >> 8)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_fewer_stored_than_allocated_bits_fill_the_range(bits: int) -> None:
    values = DEEP >> (16 - bits)
    assert np.array_equal(shown(dicom(values, BitsStored=bits))[:, :, 0], DEEP >> 8)
    # What stands above the stored bits, as overlays once did, is no part of the picture.
    littered = values | np.uint16(1 << bits)
    assert np.array_equal(shown(dicom(littered, BitsStored=bits))[:, :, 0], DEEP >> 8)


def test_signed_values_begin_at_their_lowest() -> None:
    signed = (DEEP.astype(np.int32) - 32768).astype(np.int16)
    assert np.array_equal(shown(dicom(signed)), shown(dicom(DEEP)))
    twelve = ((DEEP >> 4).astype(np.int32) - 2048).astype(np.int16)
    assert np.array_equal(shown(dicom(twelve, BitsStored=12))[:, :, 0], DEEP >> 8)


def test_negative_slope_turns_black_and_white_round() -> None:
    data = dicom(65535 - DEEP, RescaleSlope=-1, RescaleIntercept=65535)
    assert np.array_equal(shown(data), shown(dicom(DEEP)))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
def test_window_of_a_deep_picture(function: str | None) -> None:
    values = np.arange(80 * 120, dtype=np.uint16).reshape(80, 120)
    data = dicom(values, WindowCenter=[2000, 1], WindowWidth=[1000, 2], RescaleIntercept=-500)
    data.RescaleSlope = "0.5"
    if function:
        data.VOILUTFunction = function
    x = values * 0.5 - 500
    share = (x - 2000) / 1000 if function == "LINEAR_EXACT" else (x - 1999.5) / 999
    share = np.clip(share + 0.5, 0, 1)
    expected = np.floor(share * 65535 + 0.5).astype(int)
    found = shown(data)[:, :, 0]
    assert np.array_equal(found, expected >> 8)
    # 0.5 x - 500 reaches the window's lower and upper end at 4001 and 5999.
    assert found[values == 4001].tolist() == [0]
    assert set(found[values > 6000]) == {255}
    data.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(shown(data)[:, :, 0], (65535 - expected) >> 8)


def test_window_of_an_8_bit_picture_changes_nothing() -> None:
    data = dicom(GRAY, WindowCenter=30, WindowWidth=10)
    assert np.array_equal(shown(data)[:, :, 0], GRAY)


def test_the_specs_window_applies_as_to_a_png() -> None:
    spec = PreprocessSpec("oct", 64, window_low=1600, window_high=20_000)
    content = dicom_bytes(dicom(DEEP, sop=PHOTO_16))
    assert np.array_equal(decode(content, spec), decode(png(DEEP), spec))


def test_frames_of_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "volume.dcm"
    path.write_bytes(dicom_bytes(dicom(VOLUME, sop=TOMOGRAPHY)))
    assert np.array_equal(decode(path, OCT)[:, :, 0], VOLUME[2])
    for number in range(1, 6):
        found = decode(f"{path}#{number}", OCT)
        assert np.array_equal(found[:, :, 0], VOLUME[number - 1])
    assert "frame 6 of 5" in refused(tmp_path / "volume.dcm#6")
    packed = tmp_path / "packed.dcm"
    packed.write_bytes(dicom_bytes(rle(dicom(VOLUME, sop=TOMOGRAPHY))))
    assert np.array_equal(decode(f"{packed}#5", OCT)[:, :, 0], VOLUME[4])


def test_frame_numbers_are_read_from_names_with_care(tmp_path: Path) -> None:
    (tmp_path / "eye#3").write_bytes(png(GRAY))
    assert split_frame(tmp_path / "eye#3") == (tmp_path / "eye#3", None)
    assert split_frame(Path("a/b.dcm#12")) == (Path("a/b.dcm"), 12)
    for name in ("b.dcm#0", "b.dcm#", "b.dcm#x", "#4", ".#4", "..#4", "b#٣", "b#1234567890"):
        assert split_frame(Path(name)) == (Path(name), None)
    (tmp_path / "eye.png").write_bytes(png(GRAY))
    assert "not DICOM" in refused(tmp_path / "eye.png#2")


def test_each_frame_has_its_own_window() -> None:
    data = dicom(np.stack([DEEP, DEEP]), sop=TOMOGRAPHY)
    groups = []
    for centre in (1000, 30_000):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 501
        window.VOILUTFunction = "LINEAR_EXACT"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    scaled = Dataset()
    scaled.PixelValueTransformationSequence = [Dataset()]
    scaled.PixelValueTransformationSequence[0].RescaleSlope = 2
    scaled.PixelValueTransformationSequence[0].RescaleIntercept = 0
    data.SharedFunctionalGroupsSequence = [scaled]
    content = dicom_bytes(data)
    for number, centre in ((1, 1000), (2, 30_000)):
        picture = read_picture(content, number, "here")
        assert not isinstance(picture, bytes)
        half = picture.pixels[2 * DEEP.astype(int) == centre]
        assert set(half.tolist()) <= {32768}
        assert set(picture.pixels[2 * DEEP.astype(int) > centre + 251].tolist()) == {65535}


@pytest.mark.parametrize("shape", [(80, 120), (700, 511)])
def test_a_jpeg_inside_is_the_jpeg_outside(shape: tuple[int, int]) -> None:
    rgb = np.resize(RGB, (*shape, 3))
    for pixels, photometric in ((rgb, "YBR_FULL_422"), (rgb[:, :, 0], "MONOCHROME2")):
        content = jpeg(pixels)
        data = dicom([content], photometric, syntax=JPEGBaseline8Bit, size=shape)
        assert np.array_equal(shown(data), decode(content, SPEC))
        assert np.array_equal(load_image(dicom_bytes(data), SPEC), load_image(content, SPEC))


def test_jpegs_of_several_frames_and_fragments() -> None:
    encoded = [jpeg(frame) for frame in VOLUME]
    data = dicom(encoded, syntax=JPEGBaseline8Bit, size=(80, 120))
    assert np.array_equal(shown(data), decode(encoded[2], SPEC))
    data.PixelData = encapsulate(encoded, fragments_per_frame=3)
    assert np.array_equal(shown(data), decode(encoded[2], SPEC))


def test_jpegs_that_are_not_what_a_jpeg_file_would_be() -> None:
    gray = jpeg(255 - GRAY)
    data = dicom([gray], "MONOCHROME1", syntax=JPEGBaseline8Bit, size=(80, 120))
    assert np.array_equal(shown(data), 255 - decode(gray, PreprocessSpec("fundus", 64)))
    flat = np.full((80, 120, 3), (200, 90, 30), np.uint8)
    plain = jpeg(flat, keep_rgb=True)
    data = dicom([plain], "RGB", syntax=JPEGBaseline8Bit, size=(80, 120))
    assert np.abs(shown(data).astype(int) - flat).max() <= 2


def test_a_truncated_jpeg_inside_is_refused() -> None:
    content = jpeg(RGB)
    cut = dicom(
        [content[: len(content) // 2]], "YBR_FULL_422", syntax=JPEGBaseline8Bit, size=(80, 120)
    )
    assert "truncated JPEG" in refused(cut)
    other = dicom([png(GRAY)], "MONOCHROME2", syntax=JPEGBaseline8Bit, size=(80, 120))
    assert "no JPEG" in refused(other)


def test_an_embedded_profile_is_applied() -> None:
    from tests.unit.test_decode import profile

    flat = np.full((80, 120, 3), 128, np.uint8)
    found = shown(dicom(flat, "RGB", ICCProfile=profile(1.0)))
    assert np.abs(found.astype(int) - 188).max() <= 1


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        (JPEGLSLossless, "JPEG-LS Lossless Image Compression.*pip install pyjpegls"),
        (JPEGLosslessSV1, "JPEG Lossless.*pip install pylibjpeg pylibjpeg-libjpeg"),
        (MPEG2MPML, "MPEG2 Main Profile"),
        ("1.2.3.4", r"transfer syntax 1\.2\.3\.4"),
    ],
)
def test_a_transfer_syntax_without_a_decoder_is_named(
    syntax: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels.decoders import JPEGLosslessSV1Decoder, JPEGLSLosslessDecoder

    # Decoders may be installed where the tests run.
    for decoder in (JPEGLSLosslessDecoder, JPEGLosslessSV1Decoder):
        monkeypatch.setattr(decoder, "_available", {})
    if syntax == "1.2.3.4":  # which pydicom would not write
        content = dicom_bytes(dicom(GRAY))
        standard = str(ExplicitVRLittleEndian).encode() + b"\0"
        message = refused(content.replace(standard, syntax.encode().ljust(len(standard), b"\0"), 1))
    else:
        message = refused(dicom([b"\xff\xd8\xff" * 9], syntax=syntax, size=(80, 120)))
    assert re.search(said, message), message
    assert "DICOM transfer syntax" in message


def test_a_deflated_file_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    content = dicom_bytes(dicom(GRAY, syntax=DeflatedExplicitVRLittleEndian))
    monkeypatch.setattr("zlib.decompress", lambda *_: pytest.fail("inflated"))
    assert "Deflated" in refused(content)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"Rows": 20}, "too small"),
        ({"Rows": 30_000, "Columns": 30_000}, "too large"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits stored of 32"),
        ({"BitsStored": 9}, "9 bits stored of 8"),
        ({"BitsStored": 6, "HighBit": 7}, "6 bits stored below bit 7"),
        ({"ModalityLUTSequence": [Dataset()]}, "ModalityLUTSequence"),
        ({"VOILUTSequence": [Dataset()]}, "VOILUTSequence"),
        ({"PhotometricInterpretation": "HSV"}, "kind HSV"),
        ({"PixelData": b"\1" * 400}, "damaged DICOM"),
        ({"NumberOfFrames": 3}, "damaged DICOM"),
    ],
)
def test_pixels_without_a_defined_meaning_are_refused(
    elements: dict[str, object], said: str
) -> None:
    assert said in refused(dicom(GRAY, **elements))


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"VOILUTFunction": "SIGMOID"}, "window SIGMOID"),
        ({"WindowWidth": 0}, "width 0"),
        ({"WindowCenter": "1e300"}, "centre 1e+300"),
    ],
)
def test_windows_without_a_defined_meaning_are_refused(
    elements: dict[str, object], said: str
) -> None:
    values = {"WindowCenter": 100, "WindowWidth": 50, **elements}
    assert said in refused(dicom(DEEP, **values))


def test_a_file_without_a_picture_is_refused() -> None:
    data = dicom(GRAY)
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(data, keyword)
    assert "without a picture" in refused(data)
    data = dicom(GRAY)
    del data.PixelData
    assert "no whole-number pixels" in refused(data)


def test_run_lengths_that_promise_too_much_are_refused() -> None:
    # 64 bytes of header, one segment; each pair of bytes stands for 128 pixels.
    header = np.zeros(16, "<u4")
    header[:2] = 1, 64
    bomb = header.tobytes() + b"\x81\x00" * 4000
    data = dicom([bomb], syntax=RLELossless, size=(80, 120))
    assert "damaged RLE" in refused(data)
