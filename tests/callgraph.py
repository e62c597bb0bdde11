"""Who calls whom in libqdr and what each function takes of the stack, as GCC tells it."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

FIRMWARE = Path(__file__).resolve().parents[1] / "export" / "firmware"
MONOCYPHER = FIRMWARE / "vendor" / "monocypher" / "monocypher.c"
INDIRECT = "__indirect_call"
_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]+)"( shape)?')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_BYTES = re.compile(r"(\d+) bytes \((static|dynamic,bounded|dynamic)\)")


@dataclass
class CallGraph:
    """Functions by GCC's name: `file:name` where static, else `name`.

    Args:
        stack: Bytes of each function's own frame.
        unbounded: Functions whose frame has no bound that the compiler knows.
        calls: Whom each function calls.
        file: Where each function is defined, from the firmware's folder on.
    """

    stack: dict[str, int] = field(default_factory=dict)
    unbounded: set[str] = field(default_factory=set)
    calls: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    file: dict[str, str] = field(default_factory=dict)

    def outside(self) -> set[str]:
        """What is called and not defined here."""
        called = set().union(*self.calls.values())
        return called - set(self.stack) - {INDIRECT}

    def resolve(self, folder: str, targets: set[str]) -> None:
        """Say whom the indirect calls of a folder or file can reach."""
        for name, called in self.calls.items():
            if INDIRECT in called and self.file[name].startswith(folder):
                called.discard(INDIRECT)
                called |= targets

    def within(self, folder: str) -> set[str]:
        """The functions that a folder or file defines."""
        return {name for name, file in self.file.items() if file.startswith(folder)}

    def deepest(self) -> tuple[int, list[str]]:
        """The most that any call takes, bytes, and the way there.

        Raises:
            ValueError: Functions call themselves, or an indirect call was not resolved.
        """
        found: dict[str, tuple[int, list[str]]] = {}

        def walk(name: str, above: tuple[str, ...]) -> tuple[int, list[str]]:
            if name == INDIRECT:
                raise ValueError(f"an indirect call nobody has resolved: {above[-1]}")
            if name in above:
                raise ValueError(f"recursion: {' -> '.join([*above, name])}")
            if name not in found:
                below = [walk(called, (*above, name)) for called in sorted(self.calls[name])]
                size, way = max(below, default=(0, []))
                found[name] = size + self.stack.get(name, 0), [name, *way]
            return found[name]

        return max(walk(name, ()) for name in self.stack)


def call_graph(compiler: str, folder: Path, *options: str) -> CallGraph:
    """Compile libqdr into a folder as CMakeLists.txt does, and read what GCC writes beside.

    Args:
        compiler: A GCC of version 10 or newer.
        folder: Takes the objects; empty.
        options: Beyond those of the build, e.g. the processor.
    """
    graph = CallGraph()
    for source in [*sorted((FIRMWARE / "src").rglob("*.c")), MONOCYPHER]:
        where = source.relative_to(FIRMWARE).as_posix()
        if where.startswith(("src/threads", "src/engines")):
            continue  # an operating system's and a vendor's, and not for who has none
        target = folder / where.replace("/", "_")
        subprocess.run(
            [compiler, "-std=c11", "-O3" if "/pixels/" in where else "-O2", "-ffp-contract=off",
             "-w", *options, "-fcallgraph-info=su", "-I", FIRMWARE / "include", "-I",
             FIRMWARE / "src", "-c", source, "-o", target.with_suffix(".o")],
            check=True,
        )  # fmt: skip
        _read(target.with_suffix(".ci").read_text(), where, graph)
    return graph


def _read(text: str, where: str, graph: CallGraph) -> None:
    for name, label, is_foreign in _NODE.findall(text):
        size = _BYTES.search(label)
        if not is_foreign and size is not None:
            graph.stack[name] = int(size[1])
            graph.file[name] = where
            if size[2] == "dynamic":
                graph.unbounded.add(name)
    for caller, called in _EDGE.findall(text):
        graph.calls[caller].add(called)
