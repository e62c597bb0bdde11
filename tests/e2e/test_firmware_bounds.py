"""libqdr's stack has a bound, nothing calls itself, and nothing of the C library allocates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.callgraph import CallGraph, call_graph

# All that libqdr wants of a C library; their own stack is not counted.
C_LIBRARY = {
    "memcpy", "memmove", "memset", "memcmp", "strlen", "exp", "log", "sqrt",
}  # fmt: skip
PAGE = Path(__file__).resolve().parents[2] / "docs" / "native.md"


def stated_kilobytes() -> tuple[int, int]:
    """What docs/native.md promises: with pointers of 8 bytes, and of 4."""
    found = re.search(
        r"Stack: (\d+) KB where a pointer has 8 bytes, (\d+) KB where it has 4", PAGE.read_text()
    )
    assert found is not None
    return int(found[1]), int(found[2])


def resolved(graph: CallGraph) -> CallGraph:
    """Every function whose address is taken stands in a table beside its caller."""
    layers = {name for name in graph.stack if name.startswith("qdr_layer_")}
    tasks = {name for name in graph.within("src/plan") if name.endswith(":run_part")}
    assert layers
    assert len(tasks) == 1
    plan = graph.within("src/plan")
    for name in plan:
        if "__indirect_call" in graph.calls[name]:
            graph.calls[name].discard("__indirect_call")
            graph.calls[name] |= layers if name in tasks else layers | tasks
    graph.resolve("src/kernels", graph.within("src/kernels") - layers)
    called = set().union(*graph.calls.values())
    parts = graph.within("src/bundle/manifest.c") | graph.within("src/bundle/parts.c")
    graph.resolve("src/bundle/manifest.c", parts - called - {"qdr_manifest_read"})
    graph.resolve("src/device/self_test.c", set())  # the application's decoder
    for name in ("choose", "open", "screen"):  # an engine, which has the vendor's bounds
        graph.resolve(f"src/device/{name}.c", set())
    return graph


@pytest.mark.parametrize(
    ("compiler", "pointer", "options"),
    [
        ("gcc", 8, ()),
        pytest.param(
            "aarch64-linux-gnu-gcc", 8, ("-march=armv8.2-a+dotprod",), marks=pytest.mark.full
        ),
        pytest.param(
            "arm-none-eabi-gcc",
            4,
            ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard"),
            marks=pytest.mark.full,
        ),
        ("arm-none-eabi-gcc", 4, ("-mcpu=cortex-m3", "-mthumb")),
    ],
)
def test_no_call_takes_more_stack_than_is_stated(
    compiler: str, pointer: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    """Added up along every way through the library, without running it."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    graph = resolved(call_graph(compiler, tmp_path, *options))
    assert not graph.unbounded
    size, way = graph.deepest()
    stated = stated_kilobytes()[0 if pointer == 8 else 1] * 1024
    assert size <= stated, f"{size} bytes: {' > '.join(way)}"
    assert size > stated // 2, f"{size} bytes: the page states too much"
    compilers = {name for name in graph.outside() if name.startswith(("__aeabi_", "__cpu_"))}
    assert graph.outside() - compilers <= C_LIBRARY
