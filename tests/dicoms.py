"""DICOM files as cameras and OCT devices write them, from pixels that the test knows."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

PHOTO_8 = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
PHOTO_16 = "1.2.840.10008.5.1.4.1.1.77.1.5.2"
TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"


def dicom_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def dicom(
    frames: NDArray[Any] | list[bytes],
    photometric: str = "MONOCHROME2",
    *,
    sop: str = PHOTO_8,
    syntax: str = ExplicitVRLittleEndian,
    size: tuple[int, int] | None = None,
    **elements: Any,
) -> Dataset:
    """An image object.

    Args:
        frames: uint8, uint16 or int16 [H, W], [N, H, W] (gray, palette) or [(N,) H, W, 3]
            (colour), or encoded frames.
        photometric: Photometric interpretation.
        sop: SOP class.
        syntax: Transfer syntax.
        size: Height and width of encoded frames.
        elements: Further elements by keyword; they replace those made from the pixels.
    """
    colour = photometric.startswith(("RGB", "YBR"))
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName = "Secret^Name"
    data.PatientID = "p1"
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = photometric
    if colour:
        data.PlanarConfiguration = 0
    data.PixelRepresentation = 0
    if isinstance(frames, list):
        assert size is not None
        count, (data.Rows, data.Columns), bits = len(frames), size, 8
        pixels = encapsulate(frames)
    else:
        depth = 3 if colour else 2
        count = 1 if frames.ndim == depth else len(frames)
        data.Rows, data.Columns = frames.shape[-3:-1] if colour else frames.shape[-2:]
        bits = 8 * frames.dtype.itemsize
        data.PixelRepresentation = int(frames.dtype.kind == "i")
        order = ">" if UID(syntax) == ExplicitVRBigEndian else "<"
        pixels = frames.astype(frames.dtype.newbyteorder(order)).tobytes()
    if count > 1:
        data.NumberOfFrames = count
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    if "BitsStored" in elements and "HighBit" not in elements:
        data.HighBit = data.BitsStored - 1
    return data
