"""A bundle with both TensorRT targets: which one a device takes, and `qdr-edge engine`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer

from qdr_edge.bundle import Bundle, read_bundle, write_bundle
from qdr_edge.commands import engine as command
from qdr_edge.errors import CompatibilityError, QdrError
from qdr_edge.keys import SigningKey, trust
from qdr_edge.runtime import (
    Availability,
    availability,
    choose_target,
    cuda,
    open_model,
    refusal,
    tensorrt,
)
from qdr_edge.runtime.cuda import Device
from qdr_edge.runtime.engine_cache import EngineKey
from qdr_edge.runtime.tensorrt_build import BuildPlan
from qdr_edge.target import Host, version_in
from tests.bundles import working_entries

GIB = 1 << 30
TENSORRT = ("tensorrt-10", "tensorrt-11")
no_tensorrt = pytest.mark.skipif(availability()["tensorrt"].ok, reason="TensorRT is here")


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with every target, its golden logits recorded for TensorRT too."""
    signing = SigningKey.generate()
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    trust(signing.public)
    described, entries = working_entries()
    golden = [
        vector.model_copy(
            update={
                "logits": {**vector.logits, **dict.fromkeys(TENSORRT, vector.logits["ort-x86"])}
            }
        )
        if vector.logits
        else vector
        for vector in described.golden
    ]
    described = described.model_copy(update={"golden": tuple(golden)})
    write_bundle(tmp_path / "all.qdr", described, entries, signing)
    return tmp_path / "all.qdr"


@pytest.fixture
def device(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bundle]:
    """The bundle as a device with a version of TensorRT opens it."""

    def of_version(version: str) -> Bundle:
        jetson = Host("aarch64", "Orin", frozenset({"aarch64", "nvidia"}), 6, 8 * GIB, "R36")
        monkeypatch.setattr("qdr_edge.runtime.host", lambda: jetson)
        monkeypatch.setattr(tensorrt, "availability", lambda: Availability(True, version))
        return read_bundle(sealed)

    return of_version


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Models an engine was built of; the build itself is TensorRT's and stands aside."""
    built: list[bytes] = []

    def build(model: bytes, plan: BuildPlan, timing_key: EngineKey, progress: Any) -> bytes:
        built.append(model)
        return b"engine of " + model

    class Gpu:
        def device(self) -> str:
            return "Orin sm_87"

    monkeypatch.setattr(tensorrt, "_ready", lambda: (Gpu(), "10.3.0"))
    monkeypatch.setattr(tensorrt, "free_memory", lambda cuda: 4 * GIB)
    monkeypatch.setattr(tensorrt, "build_engine", build)
    return built


@pytest.mark.parametrize(
    ("version", "target"),
    [
        ("10.3.0", "tensorrt-10"),
        ("10.16.1.11", "tensorrt-10"),
        ("11.0.0", "tensorrt-11"),
        ("11.4.0.106", "tensorrt-11"),
    ],
)
def test_the_installed_version_chooses(
    device: Callable[[str], Bundle], version: str, target: str
) -> None:
    bundle = device(version)
    assert choose_target(bundle) == target
    assert command._choose(bundle, None) == target
    other = next(name for name in TENSORRT if name != target)
    problem = refusal(bundle, other)
    assert isinstance(problem, CompatibilityError)
    assert f"tensorrt {version} is outside the versions" in problem.what
    with pytest.raises(CompatibilityError, match="outside the versions"):
        command._choose(bundle, other)


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0"])
def test_no_other_version_opens_either(device: Callable[[str], Bundle], version: str) -> None:
    assert not version_in(version, tensorrt.SUPPORTED)
    bundle = device(version)
    assert choose_target(bundle) not in TENSORRT
    with pytest.raises(CompatibilityError, match="outside the versions"):
        command._choose(bundle, None)


@pytest.mark.parametrize(
    ("version", "capability", "reason"),
    [
        ("10.3.0", (8, 7), ""),
        ("11.4.0.106", (7, 5), ""),
        ("10.3.0", (7, 2), "Xavier has compute capability 7.2; int8 needs 7.5 or newer"),
        ("8.6.1", (8, 7), "version 8.6.1 is not one of >=10.3,<12"),
        ("12.0.0", (8, 7), "version 12.0.0 is not one of >=10.3,<12"),
    ],
)
def test_what_makes_a_device_usable(
    version: str, capability: tuple[int, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    gpu = Device("Xavier", capability, 8, 12060, 12060, True)
    monkeypatch.setattr(cuda, "Cuda", lambda: SimpleNamespace(device=lambda: gpu))
    here = tensorrt.availability()
    assert (here.ok, here.version, here.reason) == (not reason, version, reason)


# --- the command ---------------------------------------------------------------------------------


def _engine(*arguments: str) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(command.engine)
    typer.main.get_command(app).main(args=list(arguments), standalone_mode=False)


@no_tensorrt
def test_print_writes_the_model_and_a_line_for_each_version(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _engine(str(sealed), "--print", "--out", str(tmp_path), "--workspace-mib", "300")
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("trtexec")]
    assert ["--int8" in line for line in lines] == [True, False]
    bundle = read_bundle(sealed)
    for line, target in zip(lines, TENSORRT, strict=True):
        options = dict(word.partition("=")[::2] for word in shlex.split(line)[1:])
        assert options["--memPoolSize"] == "workspace:300"
        model = Path(options["--onnx"])
        assert model.read_bytes() == bundle.entries[bundle.artefact(target).entry]


@no_tensorrt
def test_without_a_gpu_the_reason_is_given(sealed: Path) -> None:
    with pytest.raises(QdrError, match=r"nvidia|TensorRT|tensorrt"):
        _engine(str(sealed))
    with pytest.raises(CompatibilityError, match="no TensorRT artefact ort-x86"):
        _engine(str(sealed), "--target", "ort-x86")


def test_a_build_is_cached_and_self_tested(
    sealed: Path,
    builds: list[bytes],
    device: Callable[[str], Bundle],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device("10.3.0")
    # ONNX Runtime stands in for the engine: the golden vectors are really computed.
    monkeypatch.setattr(
        "qdr_edge.runtime.open_bundle",
        lambda bundle, target: open_model(
            "onnxruntime", bundle.entries[bundle.artefact(target).entry], threads=1
        ),
    )
    _engine(str(sealed))
    first = capsys.readouterr().out
    assert "tensorrt-10: built in" in first
    assert "golden vectors held" in first
    _engine(str(sealed))
    assert "tensorrt-10: was in the cache" in capsys.readouterr().out
    assert len(builds) == 1


def test_an_engine_that_cannot_be_kept_is_an_error_of_the_command(
    sealed: Path,
    builds: list[bytes],
    device: Callable[[str], Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device("10.3.0")
    monkeypatch.setattr(tensorrt, "store_engine", lambda key, engine: False)
    with pytest.raises(QdrError, match="cannot be kept") as caught:
        _engine(str(sealed))
    assert "QDR_EDGE_CACHE" in str(caught.value)
