"""Runtimes behind one Protocol: open a verified model, turn pixels into logits.

    backend        file              model
    onnxruntime    onnxruntime.py    ONNX bytes
    openvino       openvino.py       ONNX bytes, or OpenVINO IR in one entry
    tensorrt       tensorrt.py       ONNX bytes with Q/DQ; the engine is built on the device
    native         native.py         a plan for libqdr, our own C library
    torch          torch.py          a Checkpoint (float network, for measurements)

A vendor's library is imported in its own file only, and only when that backend is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

from qdr_edge.errors import BackendError, CompatibilityError
from qdr_edge.target import host, version_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.bundle import Bundle

BACKENDS: Final = ("onnxruntime", "openvino", "tensorrt", "native", "torch")
_EDGE_BACKENDS: Final = ("onnxruntime", "openvino", "tensorrt", "native")
# What a bundle may set. A runtime's other options read and write files, or have the model parsed in
# another format than the one that was checked. TensorRT's backend reads its own list.
_BUNDLE_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "onnxruntime": frozenset({"session.x64quantprecision", "session.intra_op.allow_spinning"}),
    "native": frozenset(),
    "openvino": frozenset({"INFERENCE_PRECISION_HINT", "LP_TRANSFORMS_MODE", "PERFORMANCE_HINT"}),
}


class Session(Protocol):
    """An opened model. `infer` may be called from several threads."""

    @property
    def backend(self) -> str:
        """Name of the backend."""

    @property
    def version(self) -> str:
        """Version of the runtime."""

    @property
    def threads(self) -> int:
        """Threads that one inference uses."""

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute logits, float32 [N, K], of images, uint8 [N, 3, S, S]."""

    def close(self) -> None:
        """Free the runtime's memory; the session cannot be used afterwards."""


@runtime_checkable
class MapSession(Session, Protocol):
    """A session of a backend that can hand on a model's second output."""

    @property
    def has_maps(self) -> bool:
        """Whether the model has it."""

    def infer_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Logits [N, K] and class activation maps, float32 [N, K, h, w], in one pass.

        Raises:
            BackendError: The model has no maps.
        """


@runtime_checkable
class DeviceSession(Session, Protocol):
    """A session whose network runs on a device with a memory of its own."""

    def infer_stages(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], Mapping[str, int]]:
        """As `infer` of one image, waiting after each step, which `infer` does not.

        Returns:
            Logits, and the nanoseconds of the steps "h2d", "infer" and "d2h".
        """


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here; `install` is the command that would add it."""

    ok: bool
    version: str = ""
    reason: str = ""
    install: str = ""


class _Backend(Protocol):
    def availability(self) -> Availability: ...


class _OnnxBackend(_Backend, Protocol):
    open_onnx: Callable[[bytes, int, Mapping[str, str]], Session]


def availability() -> dict[str, Availability]:
    """Ask every backend whether it can run here."""
    return {backend: _module(backend).availability() for backend in BACKENDS}


def open_model(
    backend: str, model: bytes, *, threads: int = 0, options: Mapping[str, str] | None = None
) -> Session:
    """Open ONNX bytes that were verified already.

    Args:
        backend: "onnxruntime", "openvino", "tensorrt" or "native".
        model: a self-contained ONNX file, for OpenVINO also an IR entry, or a plan for native; it
            is checked before the runtime parses it.
        threads: threads of one inference; 0 takes every core this process may use.
        options: passed to the runtime, e.g. {"session.x64quantprecision": "1"}.

    Raises:
        BackendError: the backend is unknown, missing, or refuses the model.
        BundleError: the model has external data, an operator that is not allowed, or wrong inputs.
    """
    from qdr_edge.runtime.ir_check import check_ir, is_ir
    from qdr_edge.runtime.onnx_check import check_onnx

    if backend not in _EDGE_BACKENDS:
        raise BackendError(
            f"backend {backend!r} opens no ONNX model",
            expected=f"one of {', '.join(_EDGE_BACKENDS)}",
            fix="for a checkpoint in torch use qdr_edge.runtime.torch.open_checkpoint",
        )
    if threads < 0:
        raise BackendError(
            f"{threads} threads", expected="0 (every core) or more", fix="correct it"
        )
    if backend != "native":  # libqdr checks a plan itself
        check = check_ir if backend == "openvino" and is_ir(model) else check_onnx
        check(model, where=f"model for {backend}")
    module = cast("_OnnxBackend", _module(backend))
    return module.open_onnx(model, threads or host().cores, options or {})


def open_bundle(bundle: Bundle, target: str | None = None, threads: int = 0) -> Session:
    """Open the artefact of a target, or of the first target this machine can run.

    Raises:
        CompatibilityError: the bundle has no artefact for the target, or none that runs here.
        BackendError: the runtime is missing or refuses the model.
    """
    name = target if target is not None else choose_target(bundle)
    artefact = bundle.artefact(name)
    problem = refusal(bundle, name)
    if problem is not None:
        raise problem
    return open_model(
        artefact.backend, bundle.entries[artefact.entry], threads=threads, options=artefact.options
    )


def choose_target(bundle: Bundle) -> str:
    """Return the first of the bundle's targets that this machine can run.

    A GPU is preferred where there is one, then the runtime that every installation has.

    Raises:
        CompatibilityError: none can run here; the reason of each is given.
    """
    order = ("tensorrt", "onnxruntime", "openvino", "native")
    artefacts = bundle.manifest.artefacts
    ranked = sorted(
        (name for name, artefact in artefacts.items() if artefact.backend in order),
        key=lambda name: (order.index(artefacts[name].backend), name),
    )
    reasons = []
    for name in ranked:
        problem = refusal(bundle, name)
        if problem is None:
            return name
        reasons.append(f"{name}: {problem.what}")
    raise CompatibilityError(
        f"no artefact can run on this machine ({'; '.join(reasons) or 'none is known here'})",
        where=bundle.name,
        expected=f"a machine and runtime for one of {', '.join(sorted(artefacts))}",
        fix="see `qdr-edge doctor`",
    )


def refusal(bundle: Bundle, target: str) -> BackendError | CompatibilityError | None:
    """Say why a target cannot run on this machine, or None if it can."""
    artefact = bundle.artefact(target)
    if artefact.backend not in _EDGE_BACKENDS:
        return CompatibilityError(
            f"backend {artefact.backend!r} is not known",
            where=f"{bundle.name}: target {target}",
            expected=f"one of {', '.join(_EDGE_BACKENDS)}",
            fix="update qdr-edge",
        )
    foreign = set(artefact.options) - _BUNDLE_OPTIONS.get(artefact.backend, set(artefact.options))
    if foreign:
        return CompatibilityError(
            f"option {min(foreign)!r} of {artefact.backend} may not be set by a bundle",
            where=f"{bundle.name}: target {target}",
            expected=f"only {', '.join(sorted(_BUNDLE_OPTIONS[artefact.backend]))}",
            fix="export the bundle again with this release",
        )
    lacking = host().lacks(artefact.requires)
    if lacking:
        return CompatibilityError(
            f"this machine has no {', '.join(lacking)}",
            where=f"{bundle.name}: target {target}",
            expected=f"a machine with {', '.join(artefact.requires)}",
            fix="choose another target with --target",
        )
    here = _module(artefact.backend).availability()
    if not here.ok:
        return BackendError(
            f"{artefact.backend} cannot be used: {here.reason}",
            where=f"{bundle.name}: target {target}",
            expected=f"{artefact.backend} {artefact.runtime}".strip(),
            fix=f"run `{here.install}`" if here.install else "see `qdr-edge doctor`",
        )
    if not version_in(here.version, artefact.runtime):
        return CompatibilityError(
            f"{artefact.backend} {here.version} is outside the versions this was proven for",
            where=f"{bundle.name}: target {target}",
            expected=f"{artefact.backend} {artefact.runtime}",
            fix="install such a version, or export again for this one",
        )
    return None


def _module(backend: str) -> _Backend:
    return cast("_Backend", importlib.import_module(f"qdr_edge.runtime.{backend}"))
