"""The calls of a build, in a simulated TensorRT.

It records what a build is given, in which order, and how long objects live. Which calls exist, and
with which types, is NVIDIA's to say: tests/bindings.
"""

from __future__ import annotations

import os
import signal
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qdr_edge.errors import BackendError
from qdr_edge.runtime.engine_cache import EngineKey
from qdr_edge.runtime.tensorrt_build import BuildPlan, build_engine

TIMING = EngineKey("timing cache", "Orin sm_87", "10.3.0", "flags")


class Parser:
    """Two errors, and whether it still lives can be told."""

    num_errors = 2
    parse: Any
    get_error: Any


class Simulated:
    """A module `tensorrt` that is its own builder, too."""

    def __init__(self, *, weakly_typed: bool, **results: Any) -> None:
        self.results = {"parse": True, "built": b"engine", **results}
        self.pools: dict[str, int] = {}
        self.flags: set[str] = set()
        self.network_flags = -1
        self.timings: list[bytes] = []
        self.parser_lives = False
        members = {"TF32": "tf32"} | ({"INT8": "int8", "FP16": "fp16"} if weakly_typed else {})
        self.module = ModuleType("tensorrt")
        for name, value in {
            "BuilderFlag": SimpleNamespace(**members),
            "NetworkDefinitionCreationFlag": SimpleNamespace(STRONGLY_TYPED=4),
            "MemoryPoolType": SimpleNamespace(WORKSPACE="workspace", TACTIC_DRAM="tactics"),
            "DeviceType": SimpleNamespace(GPU="gpu"),
            "ProfilingVerbosity": SimpleNamespace(DETAILED="detailed"),
            "ILogger": type("ILogger", (), {}),
            "IProgressMonitor": type("IProgressMonitor", (), {}),
            "Builder": lambda logger: self,
            "OnnxParser": lambda network, logger: self._parser(),
        }.items():
            setattr(self.module, name, value)

    def _parser(self) -> Any:
        fault = SimpleNamespace(
            node_operator=lambda: "Conv", node_name=lambda: "c1", desc=lambda: "odd kernel"
        )
        parser = Parser()
        parser.parse = lambda model: self.results["parse"]
        parser.get_error = lambda index: fault
        self.parser_lives = True
        weakref.finalize(parser, setattr, self, "parser_lives", False)
        return parser

    def create_network(self, flags: int) -> object:
        self.network_flags = flags
        return object()

    def create_builder_config(self) -> Any:
        return SimpleNamespace(
            set_memory_pool_limit=self.pools.__setitem__,
            set_flag=self.flags.add,
            clear_flag=lambda flag: self.flags.add(f"no {flag}"),
            create_timing_cache=self._timing_cache,
            set_timing_cache=lambda cache, ignore_mismatch: not ignore_mismatch,
        )

    def _timing_cache(self, content: bytes) -> Any:
        self.timings.append(content)
        if content == self.results.get("refused timings"):
            return None
        return SimpleNamespace(serialize=lambda: b"timings")

    def build_serialized_network(self, network: object, config: Any) -> bytes | None:
        assert self.parser_lives, "the parser owns the memory of the weights"
        assert (config.default_device_type, config.max_aux_streams) == ("gpu", 0)
        if self.results.get("stop"):
            os.kill(os.getpid(), signal.SIGINT)
        built: bytes | None = self.results["built"]
        return built


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))


def _build(monkeypatch: pytest.MonkeyPatch, simulated: Simulated) -> bytes:
    monkeypatch.setitem(sys.modules, "tensorrt", simulated.module)
    monkeypatch.setattr("qdr_edge.runtime.tensorrt_messages._Heard.logger", None)
    return build_engine(b"model", BuildPlan(100, 300, 2), TIMING)


@pytest.mark.parametrize("weakly_typed", [True, False], ids=["10", "11"])
def test_a_build_gets_bounds_and_precision(
    weakly_typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = Simulated(weakly_typed=weakly_typed)
    assert _build(monkeypatch, simulated) == b"engine"
    assert simulated.pools == {"workspace": 100 << 20, "tactics": 300 << 20}
    assert simulated.flags == {"no tf32", *(("int8", "fp16") if weakly_typed else ())}
    assert simulated.network_flags == (0 if weakly_typed else 1 << 4)
    assert not simulated.parser_lives


def test_timings_are_kept_for_the_next_build(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Simulated(weakly_typed=True), Simulated(weakly_typed=True)
    _build(monkeypatch, first)
    _build(monkeypatch, second)
    assert (first.timings, second.timings) == ([b""], [b"timings"])
    third = Simulated(weakly_typed=True, **{"refused timings": b"timings"})
    _build(monkeypatch, third)
    assert third.timings == [b"timings", b""]


def test_what_a_build_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"read the graph: Conv c1: odd kernel \| Conv c1"):
        _build(monkeypatch, Simulated(weakly_typed=True, parse=False))
    with pytest.raises(BackendError, match="cannot build the engine: it gives no reason"):
        _build(monkeypatch, Simulated(weakly_typed=True, built=None))


def test_ctrl_c_stops_a_build_between_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _build(monkeypatch, Simulated(weakly_typed=True, built=None, stop=True))
    assert signal.getsignal(signal.SIGINT) is before
