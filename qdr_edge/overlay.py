"""A picture that shows where in an image a label's logit came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OPACITY: Final = 0.55


def overlay(pixels: NDArray[np.uint8], activation: NDArray[np.float32]) -> bytes:
    """The image with what stands out of a map over it, as PNG.

    A map is shown above its own mean: a threshold below the bias can make a label positive with no
    position above 0. Colour and opacity both grow with the value, so that what speaks less for the
    label than the image does on average stays as it was photographed. The scale is the map's own:
    pictures of different labels or images cannot be compared by their colours.

    Args:
        pixels: What the network saw, uint8 [3, S, S] RGB.
        activation: One label's map, float32 [h, w].
    """
    import cv2
    import numpy as np

    size = pixels.shape[1:]
    positive = np.maximum(activation - activation.mean(), 0)
    heat: NDArray[np.float32] = np.asarray(
        cv2.resize(positive, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32
    )
    heat /= max(float(heat.max()), float(np.finfo(np.float32).tiny))
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)  # BGR
    image = cv2.cvtColor(np.ascontiguousarray(pixels.transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
    weight = (_OPACITY * heat)[:, :, None]
    blended = np.rint(image * (1 - weight) + colours * weight).astype(np.uint8)
    encoded: NDArray[np.uint8] = cv2.imencode(".png", blended)[1]
    return encoded.tobytes()
