"""The original file in ONNX Runtime: its logits, and the ranges of tensors without a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qdr_edge.runtime.onnxruntime import evaluator
from qdr_export.importer.drafts import Draft, Grid
from qdr_export.importer.findings import Findings
from qdr_export.importer.pixels import MeanStd
from qdr_export.importer.reading import Source

_INT8_MAX, _UINT8_MAX, _MIDDLE = 127, 255, 128


class SourceRunner:
    """The file as its own maker runs it, with any of its float tensors as outputs.

    Args:
        source: The file.
        pixels: How its float input is made of pixels; None if it reads pixels.
        tensors: Names of the tensors to answer with.
        threads: Threads of ONNX Runtime; 0 takes every core.
        options: Of ONNX Runtime's session.
    """

    def __init__(
        self,
        source: Source,
        pixels: MeanStd | None,
        tensors: Sequence[str],
        threads: int = 0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._pixels = pixels
        self._from_input = [name == source.input for name in tensors]
        model = onnx.ModelProto()
        model.CopyFrom(source.view.model)
        del model.graph.output[:]
        for name, is_input in zip(tensors, self._from_input, strict=True):
            if not is_input:
                info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                model.graph.output.append(info)
        self._run = evaluator(model.SerializeToString(), threads, options)

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The tensors of a batch, uint8 [N, 3, S, S]; images go through one by one."""
        rows = [self._one(images[i : i + 1]) for i in range(len(images))]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def _one(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        fed = self._pixels.apply(image) if self._pixels else image
        found = iter(self._run(fed))
        return [
            np.asarray(fed if is_input else next(found), np.float32)
            for is_input in self._from_input
        ]


def calibrate(
    gaps: Sequence[Draft],
    runner: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]],
    images: Iterable[NDArray[np.uint8]],
    *,
    symmetric: bool,
    power_of_two: bool,
    findings: Findings,
) -> None:
    """Give drafts without a grid the one that spans what they are seen to hold.

    Args:
        gaps: The drafts; their grids are set.
        runner: Answers with their tensors, in their order.
        images: Calibration batches, uint8 [N, 3, S, S].
        symmetric: Zero points must be the middle code.
        power_of_two: Scales must be powers of two.
        findings: Where the ranges are told.
    """
    low, high, count = np.zeros(len(gaps)), np.zeros(len(gaps)), 0
    for batch in images:
        count += len(batch)
        for index, values in enumerate(runner(batch)):
            low[index] = min(low[index], float(values.min()))
            high[index] = max(high[index], float(values.max()))
    for draft, least, most in zip(gaps, low, high, strict=True):
        draft.grid = _grid(least, most, symmetric=symmetric, power_of_two=power_of_two)
        findings.normalised(
            "calibrated",
            draft.place,
            f"{draft.tensor} quantized: {least:.4g} to {most:.4g} on {count} images, "
            f"{draft.grid.text}",
            exact=False,
        )


def _grid(low: float, high: float, *, symmetric: bool, power_of_two: bool) -> Grid:
    """The smallest grid that spans a range around 0."""
    if symmetric:
        scale = max(-low, high) / _INT8_MAX or 1.0
        if power_of_two:
            scale = 2.0 ** np.ceil(np.log2(scale))
        return Grid(float(np.float32(scale)), _MIDDLE)
    scale = float(np.float32((high - low) / _UINT8_MAX)) or 1.0
    return Grid(scale, int(np.clip(np.rint(-low / scale), 0, _UINT8_MAX)))
