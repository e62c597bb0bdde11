"""TensorRT behind libqdr's calls, as far as a machine without a GPU can tell.

Where NVIDIA's headers are, QDR_TENSORRT_INCLUDE names their folders (as CMake takes them, with `;`
between): then the engine is compiled with every warning as an error, and asked. No engine is built
here and nothing is inferred.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qdr_edge.errors import BackendError
from qdr_edge.keys import SigningKey
from qdr_edge.manifest import Artefact
from qdr_edge.runtime import native, tensorrt
from qdr_edge.runtime.engine_cache import EngineKey
from qdr_edge.runtime.tensorrt_build import FLAGS, plan_build
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from tests import bundles
from tests.attacks import models
from tests.e2e.test_firmware import FIRMWARE, built, run
from tests.engine_bundles import Made, described
from tests.native_bundles import STRICT, View
from tests.networks import checkpoint

BAD_MODEL, ENGINE_FAILED, UNSUPPORTED = 6, 11, 5
MIB = 1 << 20
HEADERS = ("NvInfer.h", "NvOnnxParser.h", "cuda_runtime_api.h")
CALLS = "createInferBuilder_INTERNAL createInferRuntime_INTERNAL createNvOnnxParser_INTERNAL"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("cc") is None or shutil.which("c++") is None,
    reason="cmake, a C or a C++ compiler is not installed: TensorRT's engine is NOT tested",
)


# --- what needs nothing of NVIDIA's --------------------------------------------------------------


class Option(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_char * 64)]


class Model(ctypes.Structure):
    """qdr_engine_model."""

    _fields_ = [
        ("content", View), ("size", ctypes.c_uint32), ("classes", ctypes.c_uint32),
        ("threads", ctypes.c_uint32), ("saturates", ctypes.c_bool),
        ("option_count", ctypes.c_uint32), ("options", Option * 4), ("cache", ctypes.c_void_p),
    ]  # fmt: skip


class Plan(ctypes.Structure):
    _fields_ = [
        ("workspace_mib", ctypes.c_uint64), ("tactic_mib", ctypes.c_uint64),
        ("optimization_level", ctypes.c_uint32), ("cuda_graph", ctypes.c_bool),
        ("spin_wait", ctypes.c_bool),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def logic(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("logic") / "plan.so"
    sources = [FIRMWARE / "src" / name for name in ("engines/tensorrt_plan.c", "bundle/sha256.c")]
    run("cc", *STRICT, "-fPIC", "-shared", "-I", FIRMWARE / "include", "-I", FIRMWARE / "src",
        *sources, "-o", library)  # fmt: skip
    loaded = ctypes.CDLL(str(library))
    loaded.qdr_trt_read_options.restype = loaded.qdr_trt_bound.restype = ctypes.c_bool
    loaded.qdr_trt_key.restype = ctypes.c_bool
    loaded.qdr_trt_available_bytes.restype = ctypes.c_uint64
    return loaded


def planned(logic: ctypes.CDLL, free: int, options: dict[str, str]) -> Plan | str:
    """The plan that C makes, or why it makes none."""
    chosen = [Option(name.encode(), value.encode()) for name, value in options.items()]
    model = Model(option_count=len(chosen), options=(Option * 4)(*chosen))
    plan, why = Plan(), ctypes.create_string_buffer(512)
    if logic.qdr_trt_read_options(ctypes.byref(model), ctypes.byref(plan), why) and (
        logic.qdr_trt_bound(ctypes.byref(plan), ctypes.c_uint64(free), why)
    ):
        return plan
    return why.value.decode()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"workspace_mib": "1"}, {"workspace_mib": "1048575"}, {"workspace_mib": "0700"},
        {"workspace_mib": "1800", "optimization_level": "5"}, {"optimization_level": "0"},
        {"cuda_graph": "1"}, {"spin_wait": "1", "cuda_graph": "0"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("free_mib", [512, 513, 1023, 4096, 4099, 1 << 20])
def test_a_build_is_bounded_as_python_bounds_it(
    logic: ctypes.CDLL, options: dict[str, str], free_mib: int
) -> None:
    expected = plan_build(free_mib * MIB + 5, options)
    found = planned(logic, free_mib * MIB + 5, options)
    assert isinstance(found, Plan), found
    assert (found.workspace_mib, found.tactic_mib, found.optimization_level) == (
        expected.workspace_mib, expected.tactic_mib, expected.optimization_level,
    )  # fmt: skip
    assert found.cuda_graph == (options.get("cuda_graph") == "1")
    assert found.spin_wait == (options.get("spin_wait") == "1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("workspace_mib", text) for text in ("0", "", "-1", "1.5", "1048576", "9" * 60, " 1")),
        *(("optimization_level", text) for text in ("6", "+1", "x")),
        *((name, text) for name in tensorrt.LAUNCH for text in ("2", "yes", "")),
        ("dla", "1"),
    ],
)
def test_an_option_without_a_meaning_is_named(logic: ctypes.CDLL, name: str, value: str) -> None:
    said = planned(logic, 4096 * MIB, {name: value})
    assert isinstance(said, str)
    assert f"option {name} " in said


def test_too_little_memory_starts_nothing(logic: ctypes.CDLL) -> None:
    with pytest.raises(BackendError):
        plan_build(512 * MIB - 1, {})
    said = planned(logic, 512 * MIB - 1, {})
    assert isinstance(said, str)
    assert said.startswith("511 MiB of memory are free, and 512 are needed")


def test_a_bundle_may_set_what_it_may_in_python(logic: ctypes.CDLL) -> None:
    names = (ctypes.c_char_p * 5).in_dll(logic, "QDR_TRT_OPTIONS")
    assert [name.decode() for name in names if name is not None] == list(tensorrt.OPTIONS)


def test_an_engine_is_kept_under_pythons_key(logic: ctypes.CDLL) -> None:
    device = "Orin sm_87 x16 driver 12060 runtime 12060"
    key = ctypes.create_string_buffer(65)
    assert logic.qdr_trt_key(b"a" * 64, device.encode(), b"10.3.0", key)
    assert key.value.decode() == EngineKey("a" * 64, device, "10.3.0", FLAGS).digest
    assert not logic.qdr_trt_key(b"a" * 64, b"b" * 900, b"10.3.0", key)


def test_the_systems_free_memory_is_read(logic: ctypes.CDLL) -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("no /proc/meminfo: the system's free memory is NOT tested")
    assert MIB < logic.qdr_trt_available_bytes() < 1 << 50


@pytest.mark.parametrize("missing", range(len(HEADERS)))
def test_cmake_names_the_header_that_is_missing(missing: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr" / "include").mkdir(parents=True)
    for header in HEADERS[:missing]:
        (root / "usr" / "include" / header).touch()
    done = subprocess.run(
        ["cmake", "-S", FIRMWARE, "-B", tmp_path / "build", "-DQDR_TENSORRT=ON",
         "-DQDR_EXAMPLES=OFF", "-DBUILD_TESTING=OFF", f"-DCMAKE_FIND_ROOT_PATH={root}",
         "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert f"QDR_TENSORRT needs {HEADERS[missing]} of TensorRT" in said
    assert '-DQDR_TENSORRT_INCLUDE="...;..."' in said


def test_without_the_engine_no_cpp_compiler_is_needed(tmp_path: Path) -> None:
    run("cmake", "-S", FIRMWARE, "-B", tmp_path, "-DCMAKE_CXX_COMPILER=/no/where",
        "-DQDR_EXAMPLES=OFF", "-DBUILD_TESTING=OFF")  # fmt: skip


# --- what needs NVIDIA's headers -----------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    headers = os.environ.get("QDR_TENSORRT_INCLUDE")
    if not headers:
        pytest.skip("QDR_TENSORRT_INCLUDE names no folder of NvInfer.h: the engine is NOT compiled")
    if not native.availability().ok:
        pytest.skip(f"libqdr is not built for Python: {native.availability().reason}")
    folder = tmp_path_factory.mktemp("tensorrt")
    build = built(
        folder / "build", "-DQDR_WERROR=ON", "-DQDR_TENSORRT=ON", "-DQDR_ONNXRUNTIME=OFF",
        "-DQDR_EXAMPLES=OFF", f"-DQDR_TENSORRT_INCLUDE={headers}",
        *os.environ.get("QDR_TEST_CMAKE", "").split(),
    )  # fmt: skip
    manifest, entries = described()
    canonical = build_canonical(checkpoint("student", size=bundles.SIZE, labels=bundles.LABELS))
    name = "artefacts/tensorrt"
    artefact = Artefact(entry=name, backend="tensorrt", opset=19, runtime=">=10.3,<12")
    artefacts = {"native": manifest.artefacts["native"], "tensorrt": artefact}
    # Nobody knows TensorRT's logits here, and nothing reads them: opening fails before.
    golden = tuple(
        vector.model_copy(update={"logits": dict.fromkeys(artefacts, vector.logits["native"])})
        if vector.logits
        else vector
        for vector in manifest.golden
    )
    manifest = manifest.model_copy(update={"artefacts": artefacts, "golden": golden})
    key = SigningKey.generate()
    key.public.save(folder / "maker.pem")
    entries = {**entries, name: emitter("tensorrt-10")(canonical)}
    return Made(build, manifest, entries, key, folder / "maker.pem", {})


def library(folder: Path, version: int, calls: str = CALLS) -> str:
    """A library that has a version and the calls' names, and nothing behind them."""
    source = folder / "empty.c"
    empty = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in calls.split())
    source.write_text(f"int getInferLibVersion(void) {{ return {version}; }}\n{empty}")
    path = folder / f"empty-{version}.so"
    run("cc", "-shared", "-fPIC", source, "-o", path)
    return str(path)


def cudart() -> str:
    """CUDA's real runtime library, which needs no GPU to be loaded."""
    found = os.environ.get("QDR_CUDART_LIBRARY", "/usr/local/cuda/lib64/libcudart.so")
    if not Path(found).is_file():
        pytest.skip("no libcudart here, nor in QDR_CUDART_LIBRARY: finding a GPU is NOT tested")
    return found


def test_a_program_with_the_engine_starts_without_tensorrt(made: Made) -> None:
    """It is compiled and linked: nothing of NVIDIA's is left to be found by the linker."""
    for path in (made.build / "libqdr_tensorrt.a", made.build / "tests" / "ask"):
        names = run("nm", "--undefined-only", path).split()
        assert "dlopen" in " ".join(names)
        vendors = ("cuda", "createInfer", "createNv", "getInfer", "getNv")
        assert not [name for name in names if name.startswith(vendors) or "nvinfer1" in name]
    assert "nvinfer" not in run("ldd", made.build / "tests" / "ask")
    assert "__cxa" not in run("nm", "--undefined-only", made.build / "libqdr.a")
    assert "NvInfer.h" in (made.build / "SOUP.md").read_text()


def test_a_library_that_is_missing_is_named_or_passed_over(made: Made, tmp_path: Path) -> None:
    path = made.bundle(tmp_path)
    said = made.refuses(path, "tensorrt", ENGINE_FAILED, QDR_CUDART_LIBRARY="/no/where.so")
    assert "tensorrt: CUDA's runtime cannot be loaded: /no/where.so" in said
    pixels = tmp_path / "none.pixels"
    pixels.write_bytes(b"")
    done = made.ask(path, "-", pixels, {"QDR_CUDART_LIBRARY": "/no/where.so"})
    assert done.returncode == 0  # the native target
    here = {"QDR_CUDART_LIBRARY": cudart()}
    said = made.refuses(path, "tensorrt", ENGINE_FAILED, QDR_TENSORRT_LIBRARY="/no/where", **here)
    assert "tensorrt: TensorRT cannot be loaded: /no/where" in said
    here["QDR_TENSORRT_LIBRARY"] = library(tmp_path, 101401)
    said = made.refuses(path, "tensorrt", ENGINE_FAILED, QDR_NVONNXPARSER_LIBRARY="/no", **here)
    assert "TensorRT's ONNX parser cannot be loaded: /no" in said
    said = made.refuses(
        path, "tensorrt", ENGINE_FAILED, QDR_NVONNXPARSER_LIBRARY="libm.so.6", **here
    )
    assert "has no createNvOnnxParser_INTERNAL" in said


def test_another_major_version_is_refused(made: Made, tmp_path: Path) -> None:
    for number, text in ((80602, "8.6.2"), (120000, "12.0.0")):
        other = library(tmp_path, number)
        said = made.refuses(
            made.bundle(tmp_path), "tensorrt", ENGINE_FAILED, QDR_CUDART_LIBRARY=cudart(),
            QDR_TENSORRT_LIBRARY=other, QDR_NVONNXPARSER_LIBRARY=other,
        )  # fmt: skip
        assert f"TensorRT {text} with CUDA " in said
        assert "compile it with the headers of this device" in said


def test_without_a_gpu_cudas_own_words_are_passed_on(made: Made, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-ctrl").exists():
        pytest.skip("a GPU is here: what is said without one is NOT tested")
    for major in (10, 11):
        empty = library(tmp_path, major * 10000 + 401)
        said = made.refuses(
            made.bundle(tmp_path), "tensorrt", ENGINE_FAILED, QDR_CUDART_LIBRARY=cudart(),
            QDR_TENSORRT_LIBRARY=empty, QDR_NVONNXPARSER_LIBRARY=empty,
        )  # fmt: skip
        if "compiled for" not in said:
            assert "tensorrt: cudaDeviceGetAttribute failed: " in said
            return
    pytest.fail("neither major version was taken")


def test_what_a_bundle_may_not_ask_for_is_refused(made: Made, tmp_path: Path) -> None:
    path = made.bundle(tmp_path, "tensorrt", options={"dla": "1"})
    assert "option dla may not be set" in made.refuses(path, "tensorrt", UNSUPPORTED)


SESSION = """
#include <cstdio>
#include "qdr/engine.h"
static qdr_status ask(const qdr_engine &e, const char *model, size_t size, const char *value) {
    void *session = nullptr;
    char why[QDR_WHY_BYTES] = "";
    qdr_engine_model m{};
    m.content = {reinterpret_cast<const uint8_t *>(model), size};
    m.size = 64, m.classes = 3, m.threads = 1, m.option_count = value == nullptr ? 0 : 1;
    m.options[0].name = e.options[0];
    std::snprintf(m.options[0].value, sizeof m.options[0].value, "%s", value ? value : "");
    const qdr_status status = e.open(e.library, &m, &session, why);
    std::printf("%d %s\\n", status, why);
    return status;
}
int main(int, char **v) {
    const qdr_engine_cache cache{nullptr, nullptr, nullptr};
    const qdr_engine engine = qdr_tensorrt("/no/where.so", &cache);
    std::FILE *file = std::fopen(v[1], "rb");
    static char bytes[1 << 20];
    const size_t size = std::fread(bytes, 1, sizeof bytes, file);
    std::fclose(file);
    (void)ask(engine, "no model", 8, nullptr);
    (void)ask(engine, bytes, size, "many");
    (void)ask(engine, bytes, size, nullptr);
    return engine.cache == &cache ? 0 : 1;
}
"""


def test_a_model_is_looked_at_before_anything_is_loaded(made: Made, tmp_path: Path) -> None:
    """Directly, without a bundle: what `open` says, in its order."""
    (tmp_path / "app.cpp").write_text(SESSION)
    run("c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I",
        FIRMWARE / "include", tmp_path / "app.cpp", made.build / "libqdr_tensorrt.a",
        made.build / "libqdr.a", "-o", tmp_path / "app", "-lm", "-pthread", "-ldl",
        *(["-fsanitize=address,undefined"] if "QDR_TEST_CMAKE" in os.environ else ()))  # fmt: skip
    (tmp_path / "whole").write_bytes(made.entries["artefacts/tensorrt"])
    (tmp_path / "outside").write_bytes(
        models.with_initializer(models.tensor([4]) + models.integer(14, 1))
    )
    environment = {**os.environ, "QDR_CUDART_LIBRARY": "/no/cudart.so"}

    def lines(model: str) -> list[str]:
        done = subprocess.run(
            [tmp_path / "app", tmp_path / model],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        return done.stdout.splitlines()

    damaged, option, missing = lines("whole")
    assert damaged == f"{BAD_MODEL} the model is refused: not an ONNX file, or damaged"
    assert option.startswith(f'{BAD_MODEL} option workspace_mib is "many", not a whole number')
    assert missing.startswith(f"{ENGINE_FAILED} CUDA's runtime cannot be loaded: /no/cudart.so")
    assert "it keeps a tensor's data in another file" in lines("outside")[2]
