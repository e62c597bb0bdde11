"""What of building an engine needs no GPU: bounds, trtexec's line, messages, the cache.

The calls themselves are held against NVIDIA's own bindings in tests/bindings.
"""

from __future__ import annotations

import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from qdr_edge.errors import BackendError
from qdr_edge.runtime import tensorrt, tensorrt_build
from qdr_edge.runtime.engine_cache import EngineKey, cache_folder, load_engine, store_engine
from qdr_edge.runtime.tensorrt_build import BuildPlan, plan_build, trtexec_command
from qdr_edge.runtime.tensorrt_messages import refused
from qdr_edge.target import host

GIB = 1 << 30


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "workspace", "tactics"),
    [(GIB // 2, 128, 384), (3 * GIB, 768, 2304), (6 * GIB, 1024, 4608), (64 * GIB, 1024, 49152)],
)
def test_a_build_is_bounded_by_what_is_free(free: int, workspace: int, tactics: int) -> None:
    assert plan_build(free, {}) == BuildPlan(workspace, tactics, 3)


def test_options_override_what_follows_from_the_memory() -> None:
    plan = plan_build(2 * GIB, {"workspace_mib": "1800", "optimization_level": "5"})
    assert plan == BuildPlan(1800, 1800, 5)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"workspace_mib": "0"}, "workspace_mib is '0'"),
        ({"workspace_mib": "many"}, "workspace_mib is 'many'"),
        ({"workspace_mib": "-3"}, "workspace_mib is '-3'"),
        ({"optimization_level": "6"}, "optimization_level is '6'"),
    ],
)
def test_options_that_cannot_be_read(options: dict[str, str], found: str) -> None:
    with pytest.raises(BackendError, match=found):
        plan_build(4 * GIB, options)


def test_too_little_memory_is_said_before_a_board_swaps() -> None:
    with pytest.raises(BackendError, match="300 MiB of memory are free") as caught:
        plan_build(300 << 20, {})
    assert "qdr-edge engine" in str(caught.value)


def test_a_board_that_shares_its_memory_counts_the_systems() -> None:
    class Gpu:
        def __init__(self, integrated: bool) -> None:
            self.integrated = integrated

        def device(self) -> Any:
            return self

        def free_memory(self) -> int:
            return 7

    assert tensorrt_build.free_memory(Gpu(False)) == 7  # type: ignore[arg-type]
    available = tensorrt_build.free_memory(Gpu(True))  # type: ignore[arg-type]
    assert 7 < available <= host().memory_bytes * 64


# --- trtexec -------------------------------------------------------------------------------------


def test_trtexec_gets_the_same_settings() -> None:
    plan = BuildPlan(512, 1536, 4)
    ten = trtexec_command(Path("a b.onnx"), Path("a.engine"), plan, 10)
    assert shlex.join(ten) == (
        "trtexec '--onnx=a b.onnx' --saveEngine=a.engine --int8 --fp16 --noTF32 "
        "--memPoolSize=workspace:512 --builderOptimizationLevel=4 --maxAuxStreams=0 --skipInference"
    )
    eleven = trtexec_command(Path("a b.onnx"), Path("a.engine"), plan, 11)
    assert set(ten) - set(eleven) == {"--int8", "--fp16"}
    assert set(eleven) <= set(ten)


# --- messages ------------------------------------------------------------------------------------


# As TensorRT's log, its documentation and its issue tracker have them.
LOGS = {
    "memory": (
        (
            "1: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)\n"
            "Requested amount of GPU memory (1073741824 bytes) could not be allocated."
        ),
        "there is not enough memory for it",
    ),
    "kernel": (
        (
            "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
            "implementation for node stem:w + stem + PWN(stem:r) + pool. In computeCosts at "
            "optimizer.cpp:4265)"
        ),
        "it has no kernel for stem:w + stem + PWN(stem:r) + pool in the precision",
    ),
    "version": (
        (
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
            "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match.)"
        ),
        "the engine was built by another version of it",
    ),
    "device": (
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.7 "
            "got compute 8.6, please rebuild."
        ),
        "the engine was built on another GPU",
    ),
    "gpu": (
        "Target GPU SM 61 is not supported by this TensorRT release.",
        "it does not support this GPU",
    ),
    "driver": (
        "CUDA initialization failure with error: 35. Please check your CUDA installation.",
        "CUDA does not start on this machine",
    ),
}


@pytest.mark.parametrize(("log", "cause"), LOGS.values(), ids=LOGS)
def test_a_refusal_is_in_our_words(log: str, cause: str) -> None:
    error = refused(log.splitlines(), "build the engine")
    assert error.what.startswith(f"TensorRT cannot build the engine: {cause}")
    assert error.fix
    assert "\n" not in str(error)
    assert "Error Code" not in str(error)


def test_what_is_not_known_is_passed_on() -> None:
    error = refused(["Conv c1: kernel is odd"], "read the graph")
    assert error.what == "TensorRT cannot read the graph: Conv c1: kernel is odd"
    error = refused(["first", "second", "third", "fourth", "fifth"], "read the graph")
    assert error.what.endswith(": first | second | third and 2 more")
    assert "it gives no reason" in refused([], "load the engine").what


# --- the cache -----------------------------------------------------------------------------------

KEY = EngineKey("a" * 64, "Orin sm_87 x8 driver 12060 runtime 12060", "10.3.0", "flags")


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "keys" / "engine-cache.secret"


def test_the_secret_is_this_users_alone(secret: Path) -> None:
    assert store_engine(KEY, b"engine")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) == 32


@pytest.mark.parametrize("change", ["readable", "short", "gone"])
def test_an_engine_under_a_secret_that_is_none_is_built_again(secret: Path, change: str) -> None:
    store_engine(KEY, b"engine")
    old = secret.read_bytes()
    if change == "readable":
        secret.chmod(0o644)
    elif change == "short":
        secret.write_bytes(old[:-1])
    else:
        secret.unlink()
    assert load_engine(KEY) is None
    assert secret.read_bytes() != old
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert store_engine(KEY, b"engine")
    assert load_engine(KEY) == b"engine"


@pytest.mark.usefixtures("secret")
def test_every_byte_of_an_engine_counts() -> None:
    store_engine(KEY, b"engine")
    path = cache_folder() / f"{KEY.digest}.engine"
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 0x10]) + good[index + 1 :])
        assert load_engine(KEY) is None, index
    path.write_bytes(good)
    assert load_engine(KEY) == b"engine"


@pytest.mark.usefixtures("secret")
def test_an_engine_of_another_device_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_engine(KEY, b"engine")
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "other device"))
    assert load_engine(KEY) is None


@pytest.mark.usefixtures("secret")
def test_a_cache_that_cannot_be_kept_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert not store_engine(KEY, b"engine")


class _Device:
    integrated = False

    def __init__(self) -> None:
        self.spinning: bool | None = None

    def device(self) -> str:
        return KEY.device

    def wait_by(self, *, spinning: bool) -> None:
        self.spinning = spinning


@pytest.fixture
def builds(secret: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Models an engine was built of; the build itself is TensorRT's and stands aside."""
    built: list[bytes] = []

    def build(model: bytes, plan: BuildPlan, timing_key: EngineKey, progress: Any) -> bytes:
        built.append(model)
        return b"engine of " + model

    monkeypatch.setattr(tensorrt, "_ready", lambda: (_Device(), "10.3.0"))
    monkeypatch.setattr(tensorrt, "free_memory", lambda cuda: 4 * GIB)
    monkeypatch.setattr(tensorrt, "build_engine", build)
    return built


def test_an_engine_is_built_once_whatever_bounded_it(builds: list[bytes]) -> None:
    first = tensorrt.prepare_engine(b"model", {"workspace_mib": "100"})
    assert (first.engine, first.cached, first.kept) == (b"engine of model", False, True)
    second = tensorrt.prepare_engine(b"model", {})
    assert (second.engine, second.cached) == (first.engine, True)
    assert tensorrt.prepare_engine(b"other", {}).engine == b"engine of other"
    tensorrt.prepare_engine(b"model", {}, rebuild=True)
    assert builds == [b"model", b"other", b"model"]


def test_a_damaged_cache_entry_is_built_again(builds: list[bytes]) -> None:
    tensorrt.prepare_engine(b"model", {})
    (path,) = cache_folder().glob("*.engine")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert tensorrt.prepare_engine(b"model", {}).engine == b"engine of model"
    assert builds == [b"model", b"model"]


def test_an_authentic_engine_that_tensorrt_refuses_is_built_again_once(
    builds: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []

    def open_session(engine: bytes, cuda: Any, version: str, *, recorded: bool) -> str:
        opened.append(engine)
        if len(opened) == 1:
            raise BackendError("another driver")
        return "session"

    monkeypatch.setattr(tensorrt, "TensorRtSession", open_session)
    tensorrt.prepare_engine(b"model", {})
    assert tensorrt.open_onnx(b"model", 0, {}) == "session"  # type: ignore[comparison-overlap]
    assert builds == [b"model", b"model"]
    opened.clear()
    with pytest.raises(BackendError, match="another driver"):
        tensorrt.open_onnx(b"fresh", 0, {})


@pytest.mark.parametrize(("options", "awake"), [({}, False), ({"spin_wait": "1"}, True)])
def test_how_to_wait_is_said_before_the_engine_is_opened(
    builds: list[bytes], monkeypatch: pytest.MonkeyPatch, options: dict[str, str], awake: bool
) -> None:
    gpu = _Device()
    monkeypatch.setattr(tensorrt, "_ready", lambda: (gpu, "10.3.0"))
    seen: list[bool | None] = []
    monkeypatch.setattr(tensorrt, "TensorRtSession", lambda *_, recorded: seen.append(gpu.spinning))
    tensorrt.open_onnx(b"model", 0, options)
    assert seen == [awake]


@pytest.mark.parametrize("options", [{"fast": "1"}, {"cuda_graph": "yes"}, {"spin_wait": "2"}])
def test_unknown_options_are_refused(builds: list[bytes], options: dict[str, str]) -> None:
    with pytest.raises(BackendError, match="cuda_graph"):
        tensorrt.prepare_engine(b"model", options)
    assert builds == []
