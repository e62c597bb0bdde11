"""Our calls of the CUDA runtime against NVIDIA's own libraries of CUDA 12 and 13, without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qdr_edge.errors import BackendError
from qdr_edge.runtime import cuda
from qdr_edge.target import host
from tests.bindings.conftest import install

pytestmark = pytest.mark.full


@pytest.fixture(
    scope="module",
    params=["nvidia-cuda-runtime-cu12==12.6.77", "nvidia-cuda-runtime==13.0.96"],
    ids=["12.6", "13.0"],
)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libcudart, of JetPack 6's CUDA 12.6 and of CUDA 13."""
    folder = tmp_path_factory.mktemp("cudart")
    install(folder, "--no-deps", request.param)
    return next(folder.glob("**/libcudart.so.1?"))


def test_every_function_we_call_exists(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_LIBRARIES", (str(library),))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    loaded = cuda._load()
    called = set(re.findall(r'"(cuda[A-Z]\w+)"', Path(cuda.__file__).read_text()))
    called |= set(re.findall(r"\.(cuda[A-Z]\w+)[(.]", Path(cuda.__file__).read_text()))
    assert len(called) > 18
    missing = {name for name in called if not hasattr(loaded, name)}
    # CUDA 13 has one layout of a device's properties, under the plain name.
    assert missing <= {"cudaGetDeviceProperties_v2"}
    assert any(hasattr(loaded, name) for name in cuda._PROPERTIES)


def test_no_driver_is_our_error(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_LIBRARIES", (str(library),))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    if "nvidia" in host().features:
        pytest.skip("a GPU is here")
    here = cuda.Cuda()
    with pytest.raises(BackendError, match=r"driver|no CUDA-capable device"):
        here.device()
    with pytest.raises(BackendError, match="cudaMalloc failed"):
        here.allocate(1 << 20)
    with pytest.raises(BackendError, match="cudaStreamCreate failed"):
        here.create_stream()
