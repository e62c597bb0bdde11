"""The float twin after NNCF's post-training quantization, as OpenVINO's documentation shows it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_edge.runtime.ir_check import pack_ir

INSTALL = "pip install nncf"
# As OpenVINO opens it for anybody: int8 kernels, also where their sums may saturate.
OPTIONS = {"LP_TRANSFORMS_MODE": "YES"}


def is_installed() -> bool:
    """Whether NNCF can be imported."""
    return importlib.util.find_spec("nncf") is not None


def quantize(twin: Path, out: Path, images: NDArray[np.uint8]) -> None:
    """Quantize a float model and save it as an IR entry.

    Args:
        twin: The float model; reads uint8 [1, 3, S, S].
        out: Where to write the quantized one.
        images: uint8 [N, 3, S, S] to calibrate on.
    """
    import nncf
    import openvino

    rows = [images[i : i + 1] for i in range(len(images))]
    model = openvino.Core().read_model(twin)
    quantized = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows))
    xml, weights = out.with_suffix(".xml"), out.with_suffix(".bin")
    openvino.serialize(quantized, str(xml), str(weights))
    # What NNCF notes about itself is no part of the network, and the check of IR knows none of it.
    plain = re.sub(rb"<rt_info>.*?</rt_info>|<rt_info ?/>", b"", xml.read_bytes(), flags=re.DOTALL)
    out.write_bytes(pack_ir(plain, weights.read_bytes()))
    xml.unlink()
    weights.unlink()
