"""Our TensorRT code against the real API of TensorRT 10.3 and 11.4; see conftest.py."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qdr_edge.target import host
from tests.bindings.conftest import ROOT, Api
from tests.bundles import onnx_model

pytestmark = pytest.mark.full

FILES = tuple(
    ROOT / "qdr_edge" / "runtime" / f"{name}.py"
    for name in ("tensorrt", "tensorrt_build", "tensorrt_messages")
)
# What our variables hold: whatever is read from one of them must be a member of its class.
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "e": "ParserError",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "timing": "ITimingCache",
    "creation": "NetworkDefinitionCreationFlag",
    "pools": "MemoryPoolType",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "loaded": "ICudaEngine",
    "inspector": "EngineInspector",
    "_context": "IExecutionContext",
}
# Set by name where they exist.
OPTIONAL = {"INT8", "FP16"}


def test_it_is_the_version_it_says_it_is(api: Api) -> None:
    found = api.run("import tensorrt; done([tensorrt.__version__, tensorrt.__file__])")
    assert found[0] == api.version
    assert Path(found[1]).is_relative_to(api.package)


def test_every_member_our_code_names_exists(api: Api) -> None:
    used = sorted({pair for file in FILES for pair in _members(ast.parse(file.read_text()))})
    assert len(used) > 40
    missing = api.run(
        f"import tensorrt\nused = {used!r}\n"
        "done([u for u in used if not hasattr(getattr(tensorrt, u[0]), u[1])])"
    )
    assert missing == []
    assert not {member for _, member in used} & api.untyped


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_types_hold_against_the_generated_stubs(api: Api, file: Path) -> None:
    assert _mypy(api, file) == []


def test_the_type_check_would_find_what_is_gone(api: Api, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt\n"
        "def f(config: tensorrt.IBuilderConfig, context: tensorrt.IExecutionContext) -> None:\n"
        "    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, '1 GiB')\n"
        "    context.execute_async_v2([], 0)\n"
        "    config.set_flag(tensorrt.BuilderFlag.INT8)\n"
        "    if context.execute_async_v3(0) + 'x': ...\n"
    )
    lines = [int(found.split(":")[1]) for found in _mypy(api, wrong)]
    assert sorted(set(lines)) == ([3, 4, 6] if api.major == 10 else [3, 4, 5, 6])


def test_precision_flags_are_those_of_a_weakly_typed_network(api: Api) -> None:
    names = api.run(
        "from qdr_edge.runtime.tensorrt_build import _precision_flags\n"
        "done([flag.name for flag in _precision_flags()])"
    )
    assert names == (["INT8", "FP16"] if api.major == 10 else [])


def test_numbers_of_the_enums_differ_and_names_do_not(api: Api) -> None:
    numbers = api.run(
        "import tensorrt as t\n"
        "done([1 << int(t.NetworkDefinitionCreationFlag.STRONGLY_TYPED),"
        " 'TF32' in t.BuilderFlag.__members__, 'GPU' in t.DeviceType.__members__])"
    )
    assert numbers == [{10: 2, 11: 1}[api.major], True, True]


@pytest.mark.parametrize(
    ("call", "action"),
    [
        ("tensorrt_build._builder(log)", "start its builder"),
        ("tensorrt._runtime(log)", "start its runtime"),
    ],
)
def test_a_null_pointer_of_the_library_is_our_error(api: Api, call: str, action: str) -> None:
    text = api.run(
        "from qdr_edge.errors import BackendError\n"
        "from qdr_edge.runtime import tensorrt, tensorrt_build\n"
        "from qdr_edge.runtime.tensorrt_messages import Log\n"
        "log = Log()\n"
        f"try: {call}; done('nothing raised')\n"
        "except BackendError as error: done(str(error))"
    )
    assert text.startswith(f"TensorRT cannot {action}: it gives no reason")


def test_the_logger_is_one_of_theirs_the_only_one_and_keeps_errors(api: Api) -> None:
    found = api.run(
        "import tensorrt as t\n"
        "from qdr_edge.runtime.tensorrt_messages import Log, logger\n"
        "log = Log(); level = t.ILogger.Severity\n"
        "for name in ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE'):\n"
        "    logger().log(getattr(level, name), name)\n"
        "later = Log(); many = Log()\n"
        "logger().log(level.ERROR, 'again'); first = later.messages\n"
        "for number in range(150): logger().log(level.ERROR, str(number))\n"
        "done([isinstance(logger(), t.ILogger), logger() is logger(), first,"
        " log.messages[-1], len(many.messages)])"
    )
    assert found == [True, True, ["again"], "149", 100]
    found = api.run(
        "import tensorrt as t\n"
        "from qdr_edge.runtime.tensorrt_messages import Log, logger\n"
        "log = Log()\n"
        "for name in ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE'):\n"
        "    logger().log(getattr(t.ILogger.Severity, name), name)\n"
        "done(log.messages)"
    )
    assert found == ["INTERNAL_ERROR", "ERROR"]


def test_the_progress_monitor_is_one_of_theirs_and_stops_a_build(api: Api) -> None:
    found = api.run(
        "import os, signal, tensorrt as t\n"
        "from qdr_edge.runtime.tensorrt_build import _interrupt_stops, _monitor\n"
        "names = []; monitor = _monitor(names.append)\n"
        "monitor.phase_start('Building', None, 3)\n"
        "monitor.phase_start('Tactics', 'Building', 3)\n"
        "before = monitor.step_complete('Building', 0)\n"
        "with _interrupt_stops(monitor): os.kill(os.getpid(), signal.SIGINT)\n"
        "done([isinstance(monitor, t.IProgressMonitor), names, before,"
        " monitor.step_complete('Building', 1)])"
    )
    assert found == [True, ["Building"], True, False]


def test_a_shape_is_read_as_the_session_reads_it(api: Api) -> None:
    found = api.run(
        "import tensorrt as t\n"
        "from qdr_edge.runtime.tensorrt import _shape\n"
        "class Engine:\n"
        "    def get_tensor_shape(self, name): return t.Dims((1, 3, 224, -1))\n"
        "done(_shape(Engine(), 'pixels'))"
    )
    assert found == [1, 3, 224, -1]


def test_serialized_engines_speak_the_buffer_protocol(api: Api) -> None:
    # PyTypeObject.tp_as_buffer, and its first member, bf_getbuffer: 64-bit CPython.
    found = api.run(
        "import ctypes, tensorrt as t\n"
        "def speaks(cls):\n"
        "    table = ctypes.c_void_p.from_address(id(cls) + 160).value\n"
        "    return bool(table and ctypes.c_void_p.from_address(table).value)\n"
        "done([speaks(c) for c in (bytes, int, t.Dims, t.IHostMemory)])"
    )
    assert found == [True, False, False, True]


def test_availability_names_what_is_missing(api: Api) -> None:
    found = api.run(
        "from qdr_edge.runtime.tensorrt import availability\n"
        "here = availability(); done([here.ok, here.version, here.reason])"
    )
    assert found[:2] == [False, api.version]
    assert "CUDA" in found[2] or "cuda" in found[2]


def test_missing_libraries_are_named(api: Api) -> None:
    found = api.run(
        "from qdr_edge.runtime.tensorrt import availability\n"
        "here = availability(); done([here.ok, here.reason, here.install])",
        libraries=False,
    )
    assert found[0] is False
    assert found[1].startswith("its libraries cannot be loaded: lib")
    assert f".so.{api.major}" in found[1]
    assert found[2]


def _members(tree: ast.Module) -> set[tuple[str, str]]:
    """(class, member) for every attribute that our code takes from a TensorRT object or enum."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id in HOLDS:
            found.add((HOLDS[owner.id], node.attr))
        elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            if owner.value.id == "tensorrt":
                found.add((owner.attr, node.attr))
            elif owner.value.id == "self" and owner.attr in HOLDS:
                found.add((HOLDS[owner.attr], node.attr))
    return {pair for pair in found if pair[1] not in OPTIONAL}


def _mypy(api: Api, file: Path) -> list[str]:
    """Errors of mypy --strict in one file; those of the generated stubs do not count."""
    command = [
        *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
        # Without the stubs TensorRT's classes are Any, and subclassing them is ignored explicitly.
        *("--no-warn-unused-ignores", "--implicit-optional", "--follow-imports", "silent"),
        *("--cache-dir", str(api.stubs.parent / "mypy"), str(file)),
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": os.pathsep.join([str(api.stubs), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Found" in result.stdout or "Success" in result.stdout, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if ": error:" in line]
    name = os.path.relpath(file, ROOT) if file.is_relative_to(ROOT) else str(file)
    return [line for line in lines if line.startswith(f"{name}:")]


def test_bench_gets_as_far_as_the_gpu(api: Api, tmp_path: Path) -> None:
    """The real module is found, our options are taken, and what is missing is CUDA or a GPU."""
    (tmp_path / "model.onnx").write_bytes(onnx_model())
    said = api.run(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from qdr_bench import engine\n"
        "from qdr_bench.subject import _missing\n"
        "from qdr_edge.errors import BackendError\n"
        f"try: engine.build({str(tmp_path / 'model.onnx')!r}, engine.pinned({{}}))\n"
        "except BackendError as error: done([str(error), _missing('tensorrt')])"
    )
    if "nvidia" in host().features:
        pytest.skip("a GPU is here")
    assert said[0].startswith("TensorRT cannot be used: ")
    # The reason of an UNAVAILABLE row, with what would help.
    assert "cuda" in said[1].lower()
    assert "not installed; run" not in said[1]
