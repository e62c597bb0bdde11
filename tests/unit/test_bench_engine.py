"""A TensorRT row: what it says of itself, and an engine that is built apart from what is timed.

The build itself is TensorRT's and stands aside here; no engine was ever built by a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qdr_bench import engine
from qdr_bench.child import Child
from qdr_bench.measurement import Cell, Row, Status
from qdr_bench.report_page.console import table
from qdr_bench.report_page.first_table import first_table
from qdr_bench.report_page.machine_cards import settings_card
from qdr_edge.errors import BenchmarkError, BundleError
from qdr_edge.runtime import availability, tensorrt
from tests.bundles import onnx_model


class Gpu:
    integrated = False

    def device(self) -> str:
        return "Orin sm_87"


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where an engine would be built: how often it was."""
    built: list[str] = []

    def build(model: bytes, plan: Any, timing_key: Any, progress: Any) -> bytes:
        built.append("once")
        return b"engine"

    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt, "_ready", lambda: (Gpu(), "10.3.0"))
    monkeypatch.setattr(tensorrt, "free_memory", lambda cuda: 1 << 32)
    monkeypatch.setattr(tensorrt, "build_engine", build)
    return built


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tensorrt-10.onnx"
    path.write_bytes(onnx_model())
    return path


def test_an_engine_is_built_once_and_its_time_is_told(builds: list[str], model: Path) -> None:
    options = engine.pinned({})
    first = engine.build(str(model), options)
    assert (first["cached"], first["bytes"]) == (False, 6)
    assert first["build_ms"] > 0
    again = engine.build(str(model), options)
    assert (again["cached"], again["build_ms"]) == (True, None)
    assert builds == ["once"]


def test_an_engine_that_cannot_be_kept_is_no_row(
    builds: list[str], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(BenchmarkError, match="QDR_EDGE_CACHE"):
        engine.build(str(model), engine.pinned({}))


def test_a_model_is_checked_before_tensorrt_sees_it(builds: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with pytest.raises(BundleError):
        engine.build(str(tmp_path / "broken.onnx"), {})
    assert builds == []


def test_transfers_spinning_and_graph_are_always_said() -> None:
    assert engine.pinned({}) == {"cuda_graph": "0", "spin_wait": "0", "transfers": "timed"}
    assert engine.pinned({"cuda_graph": "1", "workspace_mib": "64"}) == {
        "cuda_graph": "1",
        "spin_wait": "0",
        "transfers": "timed",
        "workspace_mib": "64",
    }
    # Every one that TensorRT's backend must understand, it does.
    assert set(engine.pinned({})) - {"transfers"} <= set(tensorrt.OPTIONS)


@pytest.mark.skipif(availability()["tensorrt"].ok, reason="TensorRT and a GPU are here")
def test_the_worker_says_what_is_missing(model: Path) -> None:
    child = Child("engine")
    try:
        with pytest.raises(BenchmarkError, match="TensorRT cannot be used"):
            child.call("engine", model=str(model), options=engine.pinned({}))
    finally:
        child.close()


def test_the_page_shows_them_and_how_the_engine_came() -> None:
    cell = Cell(
        "b", "tensorrt-10", "int8", "tensorrt", Path(), 1, "ab", engine.pinned({}), device="cuda"
    )
    told = {"cached": False, "build_ms": 34_000.0, "bytes": 6}
    row = Row(cell, Status.VALID, (), engine=told).to_dict()
    report: dict[str, Any] = {"rows": [row], "bundles": [{"name": "b"}], "ratios": []}
    (line,) = first_table(report).lines
    assert line.title == "int8 · tensorrt · cuda"
    assert table(report, first_table(report), "b").row_count == 1
    (card,) = settings_card([line.row])
    assert card.table is not None
    texts = [f"{entry.text} {entry.note}" for entry in card.table.rows[0]]
    assert any("spin_wait 0" in text and "transfers timed" in text for text in texts), texts
    assert any("engine built in 34 s" in text for text in texts), texts
