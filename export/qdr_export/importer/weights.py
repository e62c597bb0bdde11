"""Weights as a file stores them → integers per output channel, bias as a real number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qdr_export.importer.constants import Dequantized, Stored
from qdr_export.importer.drafts import Weights
from qdr_export.importer.operators import RefusedError

_SYMMETRIC_MEND = (
    "quantize weights symmetrically, e.g. extra_options={'WeightSymmetric': True} with "
    "onnxruntime.quantization"
)


def read_weights(weight: Stored, bias: Stored | None) -> Weights:
    """Weights of a conv or linear operator, output channels first.

    Raises:
        RefusedError: Zero points, types or axes have no equal.
    """
    if isinstance(weight, Dequantized):
        codes, scale = _integers(weight)
        real, channels = None, len(codes)
    else:
        codes, scale = None, None
        real = _floats(weight)
        channels = len(real)
    offset, grid = np.zeros(channels), None
    if bias is not None:
        offset, grid = _bias(bias, channels)
    return Weights(codes, scale, real, offset, grid)


def add_bias(weights: Weights, value: Stored) -> None:
    """Add a constant behind the operator to its bias.

    Raises:
        RefusedError: It is not one number for each channel.
    """
    real = value.real() if isinstance(value, Dequantized) else _floats(value).astype(np.float64)
    channels = len(weights.bias)
    shape = tuple(size for size in real.shape if size != 1)
    if shape not in ((channels,), ()):
        raise RefusedError(
            f"a constant {real.shape} is added",
            f"one number for each of {channels} channels",
            "add two images, or a bias",
        )
    weights.bias = weights.bias + np.broadcast_to(real.reshape(-1), (channels,))
    weights.bias_scale = None


def fold_batch_norm(
    weights: Weights,
    gamma: NDArray[np.float64],
    beta: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> None:
    """Fold a BatchNormalization behind the operator: codes stay, scales and bias take it in.

    `variance` already has epsilon in it.
    """
    factor = gamma / np.sqrt(variance)
    weights.bias = (weights.bias - mean) * factor + beta
    weights.bias_scale = None
    column = factor.reshape(-1, *[1] * 3)
    if weights.codes is None or weights.scale is None:
        assert weights.real is not None  # one of both is always there
        weights.real = (weights.real * column[(...,) + (0,) * (4 - weights.real.ndim)]).astype(
            np.float32
        )
        return
    sign = np.sign(factor).astype(np.int16).reshape(-1, *[1] * (weights.codes.ndim - 1))
    weights.codes = weights.codes * sign
    # A channel that is switched off has codes 0: any scale above 0 says the same.
    weights.scale = np.where(factor == 0, weights.scale, weights.scale * np.abs(factor)).astype(
        np.float32
    )


def _integers(weight: Dequantized) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    if weight.codes.dtype not in (np.int8, np.uint8):
        raise RefusedError(
            f"{weight.codes.dtype} weights", "int8 weights", "quantize weights to 8 bits"
        )
    middle = 128 if weight.codes.dtype == np.uint8 else 0
    if (weight.zero_point != middle).any():
        worst = int(weight.zero_point.reshape(-1)[np.flatnonzero(weight.zero_point != middle)[0]])
        raise RefusedError(
            f"asymmetric {weight.codes.dtype} weights, zero point {worst}",
            f"zero point {middle}",
            _SYMMETRIC_MEND,
        )
    channels = len(weight.codes)
    if weight.scale.size > 1 and (weight.axis != 0 or weight.scale.shape != (channels,)):
        raise RefusedError(
            f"{weight.scale.size} weight scales along axis {weight.axis}",
            "one scale, or one for each output channel",
            "quantize weights per output channel or per tensor",
        )
    if not (np.isfinite(weight.scale).all() and (weight.scale > 0).all()):
        raise RefusedError(
            "a weight scale that is not above 0", "scales above 0", "calibrate again"
        )
    codes = weight.codes.astype(np.int16) - np.int16(middle)
    return codes, np.broadcast_to(weight.scale, (channels,)).astype(np.float32)


def _floats(value: NDArray[np.generic]) -> NDArray[np.float32]:
    if value.dtype not in (np.float32, np.float64):
        raise RefusedError(f"{value.dtype} weights", "float32 or int8", "save them as float32")
    return value.astype(np.float32)


def _bias(bias: Stored, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    if isinstance(bias, Dequantized):
        real = bias.real().reshape(-1)
        grid = np.broadcast_to(bias.scale, real.shape).astype(np.float32)
    else:
        real, grid = _floats(bias).astype(np.float64).reshape(-1), None
    if real.shape not in ((channels,), (1,)):
        raise RefusedError(
            f"a bias of {real.size} numbers", f"{channels}, one a channel", "correct the model"
        )
    return np.broadcast_to(real, (channels,)).copy(), grid
