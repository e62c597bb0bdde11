"""The float twin after ONNX Runtime's own post-training quantization: QDQ, U8S8, by channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# As ONNX Runtime opens it for anybody: fast kernels, also where their sums may saturate.
OPTIONS = {"session.x64quantprecision": "0"}


def quantize(twin: Path, out: Path, images: NDArray[np.uint8]) -> None:
    """Quantize a float model.

    Args:
        twin: The float model; reads uint8 [1, 3, S, S].
        out: Where to write the quantized one.
        images: uint8 [N, 3, S, S] to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load(twin).graph.input[0].name
            self.rows: Iterator[dict[str, NDArray[np.uint8]]] = iter(
                [{name: images[i : i + 1]} for i in range(len(images))]
            )

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self.rows, None)

    quantize_static(
        twin,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=False,
    )
