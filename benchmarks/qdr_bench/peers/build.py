"""The peers by name, and the cells they are measured as."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_bench.measurement import Cell
from qdr_bench.peers import nncf_ptq, ort_ptq
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import sha256_file
from qdr_edge.runtime import availability

CALIBRATION_IMAGES = 32
_Maker = Callable[[Path, Path, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class Peer:
    """Something a user could pick instead.

    Args:
        form: As tables call it.
        backend: Runtime that opens it.
        variant: "int8" or "float".
        options: For `open_form`.
        make: Writes its file from the twin, a path and calibration images; None takes the twin.
        calibrated: Whether its process needs the calibration images.
        device: Where it runs.
    """

    form: str
    backend: str
    variant: str = "float"
    options: Mapping[str, str] = field(default_factory=dict)
    make: _Maker | None = None
    calibrated: bool = False
    device: str = "cpu"


def _torch(form: str, title: str, **more: str) -> Peer:
    return Peer(title, "torch", options={"form": form, **more})


def _cuda(dtype: str, graph: str) -> Peer:
    title = f"CUDA {dtype}{' graph' if graph == '1' else ''}"
    options = {"form": "eager", "device": "cuda", "dtype": dtype, "graph": graph}
    return Peer(title, "torch", options=options, device="cuda")


PEERS: Mapping[str, Peer] = {
    "ort-ptq": Peer("ORT PTQ U8S8", "onnxruntime", "int8", ort_ptq.OPTIONS, ort_ptq.quantize),
    "nncf-ptq": Peer("NNCF PTQ", "openvino", "int8", nncf_ptq.OPTIONS, nncf_ptq.quantize),
    "torch-eager": _torch("eager", "torch eager"),
    "torch-channels-last": _torch("channels_last", "torch channels_last"),
    "torch-compile": _torch("compile", "torch compile"),
    "paper": Peer("paper's recipe", "torch", "int8", {"form": "paper"}, calibrated=True),
    **{
        f"cuda-{dtype}{'-graph' if graph == '1' else ''}": _cuda(dtype, graph)
        for dtype in ("fp32", "fp16", "bf16")
        for graph in ("0", "1")
    },
}


def build_peer(
    name: str, bundle: str, twin: Path | None, images: NDArray[np.uint8], folder: Path
) -> Cell:
    """Make a peer's file and the cell it is measured as; what cannot be made says why in its row.

    Args:
        name: One of PEERS.
        bundle: Name of the bundle it stands beside.
        twin: The bundle's float twin.
        images: uint8 [N, 3, S, S] to calibrate on.
        folder: For its files.

    Raises:
        BenchmarkError: There is no such peer.
    """
    if name not in PEERS:
        raise BenchmarkError(
            f"no peer {name!r}", expected=f"some of {', '.join(PEERS)}", fix="correct the suite"
        )
    peer = PEERS[name]
    why = _missing(name, peer, twin)
    model = twin or Path()
    failed = ""
    options = dict(peer.options)
    if not why and twin is not None:
        if peer.calibrated:
            options["calibration"] = str(folder / "calibration.npy")
            np.save(folder / "calibration.npy", images)
        if peer.make is not None:
            model = folder / f"{name}.model"
            try:
                peer.make(twin, model, images)
            except Exception as error:
                # A foreign tool may raise anything: that is its row's failure, not the suite's.
                failed = f"{peer.form} could not be made: {type(error).__name__}: {error}"
    made = not why and not failed
    return Cell(
        bundle=bundle,
        target="peer",
        variant=peer.variant,
        backend=peer.backend,
        model=model,
        model_bytes=model.stat().st_size if made else 0,
        model_sha256=sha256_file(model) if made else "",
        options=options,
        unavailable=why,
        failed=failed,
        form=peer.form,
        device=peer.device,
    )


def _missing(name: str, peer: Peer, twin: Path | None) -> str:
    """What this machine lacks for a peer, and how to add it; empty if nothing."""
    if twin is None:
        return "no float twin beside the bundle to make it from"
    here = availability()[peer.backend]
    if not here.ok:
        return f"{peer.backend} is not installed; run `{here.install}`"
    if name == "nncf-ptq" and not nncf_ptq.is_installed():
        return f"NNCF is not installed; run `{nncf_ptq.INSTALL}`"
    if name == "torch-compile" and shutil.which("g++") is None:
        return "torch.compile needs a C++ compiler; install g++"
    if peer.device == "cuda" and not _has_gpu():
        return "this machine has no NVIDIA GPU"
    return ""


def _has_gpu() -> bool:
    from qdr_edge.target import host

    return "nvidia" in host().features
