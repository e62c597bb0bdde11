"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import BackendError
from qdr_edge.runtime import Availability, Session
from qdr_edge.runtime.onnx_check import largest_int8
from qdr_edge.runtime.pixels import check_images, closed, no_maps
from qdr_edge.runtime.saturation import SATURATION_FREE
from qdr_edge.target import host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INSTALL = "pip install onnxruntime"


def availability() -> Availability:
    """Whether ONNX Runtime can be imported, and its version."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        return Availability(False, reason=str(error), install=INSTALL)
    return Availability(True, onnxruntime.__version__)


def default_options(model: bytes) -> dict[str, str]:
    """Session options chosen for this machine and a checked model; a caller's override them."""
    options = {
        # Spinning threads burn the core that preprocessing needs, and gain nothing when idle.
        "session.intra_op.allow_spinning": "0",
    }
    machine = host()
    if (
        machine.architecture == "x86_64"
        and "vnni" not in machine.features
        and largest_int8(model) > SATURATION_FREE
    ):
        # Pairs of u8·s8 products may saturate (saturation.py); this asks for exact kernels. Without
        # need it would only cost: opening takes five times as long while every weight is looked at.
        options["session.x64quantprecision"] = "1"
    return options


def open_onnx(model: bytes, threads: int, options: Mapping[str, str]) -> Session:
    """Open checked ONNX bytes.

    Raises:
        BackendError: ONNX Runtime is missing or refuses the model.
    """
    return OnnxRuntimeSession(model, threads, options)


class OnnxRuntimeSession:
    """A model in ONNX Runtime; `run` is thread-safe by its documentation."""

    backend = "onnxruntime"

    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None:
        settings = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        self._session, self.version = _create(
            model, {**default_options(model), **options}, settings
        )
        image = self._session.get_inputs()[0]
        self._input: str = image.name
        self._size: int = image.shape[-1] if isinstance(image.shape[-1], int) else 0
        self._outputs: list[str] = [output.name for output in self._session.get_outputs()]
        self.threads = threads

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session."""
        return self._run(images, self._outputs[:1])[0]

    @property
    def has_maps(self) -> bool:
        """See MapSession."""
        return len(self._outputs) > 1

    def infer_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """See MapSession."""
        if not self.has_maps:
            raise no_maps()
        return self._run(images, self._outputs)

    def _run(self, images: NDArray[np.uint8], names: list[str]) -> tuple[NDArray[np.float32], ...]:
        import numpy as np

        if self._session is None:
            raise closed()
        check_images(images, self._size)
        rows = [
            self._session.run(names, {self._input: images[i : i + 1]}) for i in range(len(images))
        ]
        return tuple(
            np.concatenate(parts).astype(np.float32, copy=False)
            for parts in zip(*rows, strict=True)
        )

    def close(self) -> None:
        """See Session."""
        self._session = None


def optimized(model: bytes) -> bytes:
    """What ONNX Runtime makes of a model: the graph it would execute on this machine, as ONNX.

    Raises:
        BackendError: ONNX Runtime is missing or refuses the model.
    """
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        _create(model, default_options(model), {"optimized_model_filepath": str(path)})
        return path.read_bytes()


def evaluator(
    model: bytes, threads: int = 0, options: Mapping[str, str] | None = None
) -> Callable[[NDArray[Any]], list[NDArray[Any]]]:
    """A function from the one input of any ONNX file to its outputs.

    It is for files that other tools made and that fit no Session: any input, any outputs. The
    caller has made sure that the file refers to no other.

    Args:
        model: ONNX bytes.
        threads: Threads of one inference; 0 takes every core.
        options: Session configuration entries.

    Raises:
        BackendError: ONNX Runtime is missing or refuses the model.
    """
    entries = {**default_options(model), **(options or {})}
    session, _ = _create(model, entries, {"intra_op_num_threads": threads})
    name = session.get_inputs()[0].name
    return lambda value: session.run(None, {name: value})


def _create(
    model: bytes, options: Mapping[str, str], settings: Mapping[str, int | str]
) -> tuple[Any, str]:
    """An InferenceSession with configuration entries and session settings, and the version."""
    here = availability()
    if not here.ok:
        raise BackendError(
            f"ONNX Runtime cannot be used: {here.reason}",
            expected="the onnxruntime package",
            fix=f"run `{INSTALL}`",
        )
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    for name, value in settings.items():
        setattr(session_options, name, value)
    for name, entry in options.items():
        session_options.add_session_config_entry(name, entry)
    try:
        session = onnxruntime.InferenceSession(
            model, session_options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime raises a dozen unrelated classes; each means "not this model".
        raise BackendError(
            f"ONNX Runtime {here.version} refuses the model: {error}",
            expected="a model of its operators and opset",
            fix="export again with the release of this bundle, or update onnxruntime",
        ) from error
    return session, here.version
