"""The peers by name, and the cells they are measured as."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_bench.measurement import Cell
from qdr_bench.peers import nncf_ptq, ort_cuda, ort_ptq
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import sha256_file
from qdr_edge.runtime import availability, openvino
from qdr_edge.target import host

CALIBRATION_IMAGES = 32
_COPIES = {"transfers": "timed"}
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
        device: Where it runs: "cpu", "cuda", "gpu" or "npu".
        artefact: It runs the bundle's own artefact for its backend, not the twin.
    """

    form: str
    backend: str
    variant: str = "float"
    options: Mapping[str, str] = field(default_factory=dict)
    make: _Maker | None = None
    calibrated: bool = False
    device: str = "cpu"
    artefact: bool = False


def _torch(form: str, title: str, **more: str) -> Peer:
    return Peer(title, "torch", options={"form": form, **more})


def _cuda(dtype: str, graph: str) -> Peer:
    title = f"CUDA {dtype}{' graph' if graph == '1' else ''}"
    options = {"form": "eager", "device": "cuda", "dtype": dtype, "graph": graph, **_COPIES}
    return Peer(title, "torch", options=options, device="cuda")


def _ort_cuda(title: str, variant: str) -> Peer:
    options = {"device": "cuda", **ort_cuda.OPTIONS, **_COPIES}
    ours = variant == "int8"
    return Peer(title, "onnxruntime", variant, options, device="cuda", artefact=ours)


def _openvino(device: str, variant: str) -> Peer:
    options = {
        "device": device,
        "INFERENCE_PRECISION_HINT": "f16",
        "PERFORMANCE_HINT": "LATENCY",
        **_COPIES,
    }
    ours = variant == "int8"
    title = f"{device} {variant}"
    return Peer(title, "openvino", variant, options, device=device.lower(), artefact=ours)


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
    "ort-cuda": _ort_cuda("CUDA float32", "float"),
    "ort-cuda-qdq": _ort_cuda("CUDA int8 QDQ", "int8"),
    "openvino-gpu": _openvino("GPU", "int8"),
    "openvino-gpu-float": _openvino("GPU", "float"),
    "openvino-npu": _openvino("NPU", "int8"),
    "openvino-npu-float": _openvino("NPU", "float"),
}
# What OpenVINO lacks a device for is mostly its driver.
_DRIVERS = {
    "gpu": "sudo apt-get install intel-opencl-icd",
    "npu": "sudo snap install intel-npu-driver",
}
_NVIDIA_INSTALL = {"torch": "pip install --force-reinstall torch", "onnxruntime": ort_cuda.INSTALL}


def build_peer(
    name: str,
    bundle: str,
    twin: Path | None,
    images: NDArray[np.uint8],
    folder: Path,
    artefacts: Mapping[str, Path],
) -> Cell:
    """Make a peer's file and the cell it is measured as; what cannot be made says why in its row.

    Args:
        name: One of PEERS.
        bundle: Name of the bundle it stands beside.
        twin: The bundle's float twin.
        images: uint8 [N, 3, S, S] to calibrate on.
        folder: For its files.
        artefacts: The bundle's own files by backend.

    Raises:
        BenchmarkError: There is no such peer.
    """
    if name not in PEERS:
        raise BenchmarkError(
            f"no peer {name!r}", expected=f"some of {', '.join(PEERS)}", fix="correct the suite"
        )
    peer = PEERS[name]
    source = artefacts.get(peer.backend) if peer.artefact else twin
    why = _missing(name, peer, source)
    model = source or Path()
    failed = ""
    options = dict(peer.options)
    if not why and source is not None:
        if peer.calibrated:
            options["calibration"] = str(folder / "calibration.npy")
            np.save(folder / "calibration.npy", images)
        if peer.make is not None:
            model = folder / f"{name}.model"
            try:
                peer.make(source, model, images)
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


def _missing(name: str, peer: Peer, source: Path | None) -> str:
    """What this machine lacks for a peer, and how to add it; empty if nothing."""
    if source is None and peer.artefact:
        return f"the bundle has no artefact for {peer.backend}; export it with one"
    if source is None:
        return "no float twin beside the bundle to make it from"
    here = availability()[peer.backend]
    if not here.ok:
        return f"{peer.backend} is not installed; run `{here.install}`"
    if name == "nncf-ptq" and not nncf_ptq.is_installed():
        return f"NNCF is not installed; run `{nncf_ptq.INSTALL}`"
    if name == "torch-compile" and shutil.which("g++") is None:
        return "torch.compile needs a C++ compiler; install g++"
    if peer.device == "cuda":
        return _without_cuda(peer.backend, here.version)
    if peer.device in _DRIVERS:
        return _without_device(peer.device)
    return ""


def _without_cuda(backend: str, version: str) -> str:
    install = _NVIDIA_INSTALL[backend]
    if "nvidia" not in host().features:
        return f"this machine has no NVIDIA GPU or no driver for it; with both, run `{install}`"
    if backend == "onnxruntime" and not ort_cuda.has_provider():
        return f"onnxruntime {version} has no {ort_cuda.PROVIDER}; run `{install}`"
    if "+cpu" in version:
        return f"torch {version} has no CUDA; run `{install}`"
    return ""


def _without_device(device: str) -> str:
    found = openvino.devices()
    # Several of a kind are GPU.0, GPU.1, …
    if device.upper() in {name.split(".")[0] for name in found}:
        return ""
    return (
        f"OpenVINO finds no {device.upper()}, only {', '.join(found)}; where the machine has one, "
        f"run `{_DRIVERS[device]}`"
    )
