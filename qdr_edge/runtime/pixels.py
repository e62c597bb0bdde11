"""The one check of what goes into a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qdr_edge.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check_images(images: NDArray[np.uint8], size: int) -> None:
    """Refuse anything but uint8 [N >= 1, 3, size, size]; `size` 0 accepts any square.

    Raises:
        BackendError: another type or shape, which a runtime would report in its own words.
    """
    import numpy as np

    shape = images.shape
    if (
        images.dtype != np.uint8
        or len(shape) != 4
        or shape[0] < 1
        or shape[1] != 3
        or shape[2] != shape[3]
        or (size and shape[2] != size)
    ):
        raise BackendError(
            f"images are {images.dtype} {list(shape)}",
            expected=f"uint8 [N >= 1, 3, {size or 'S'}, {size or 'S'}]",
            fix="preprocess them with the bundle's contract",
        )


def closed() -> BackendError:
    """The error for using a session after `close`."""
    return BackendError("session is closed", expected="an open session", fix="open it again")


def no_maps() -> BackendError:
    """The error for asking a model for maps that it does not compute."""
    return BackendError(
        "the model computes no class activation maps",
        expected="an artefact exported with maps",
        fix="export with `--maps`; the TensorRT targets have none",
    )
