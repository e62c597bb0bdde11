"""Which of a bundle's targets a machine can run, and what a machine says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from qdr_edge import runtime, target
from qdr_edge.bundle import Bundle, read_bundle, seal
from qdr_edge.errors import CompatibilityError
from qdr_edge.manifest import Artefact
from qdr_edge.runtime import choose_target, open_bundle
from qdr_edge.target import BUILTIN, Target, host, version_in
from tests.bundles import ORT, manifest, onnx_model

MODEL = onnx_model()


def _bundle(**artefacts: Artefact) -> Bundle:
    data = seal(
        manifest(artefacts={name.replace("_", "-"): a for name, a in artefacts.items()}),
        {ORT: MODEL},
        None,
    )
    return read_bundle(data, allow_unsigned=True)


def _artefact(backend: str = "onnxruntime", **changes: Any) -> Artefact:
    return Artefact(entry=ORT, backend=backend, opset=19, **changes)


def test_the_first_target_that_runs_here_is_taken() -> None:
    both = _bundle(b=_artefact("openvino"), a=_artefact("onnxruntime"))
    assert choose_target(both) == "a"
    session = open_bundle(both, "b", threads=1)
    assert session.backend == "openvino"
    session.close()
    other = _bundle(a=_artefact(requires=("quantum",)), b=_artefact("openvino"))
    assert choose_target(other) == "b"


def test_a_target_that_cannot_run_here_says_why() -> None:
    with pytest.raises(CompatibilityError, match="no quantum"):
        open_bundle(_bundle(a=_artefact(requires=("quantum",))), "a")
    with pytest.raises(CompatibilityError, match="outside the versions"):
        open_bundle(_bundle(a=_artefact(runtime=">=99")), "a")
    with pytest.raises(CompatibilityError, match="'npu' is not known"):
        open_bundle(_bundle(a=_artefact("npu")), "a")
    with pytest.raises(CompatibilityError, match="no artefact for target 'c'"):
        open_bundle(_bundle(a=_artefact()), "c")
    with pytest.raises(CompatibilityError, match="a: this machine has no quantum") as caught:
        open_bundle(_bundle(a=_artefact(requires=("quantum",)), b=_artefact("npu")))
    assert "doctor" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "accepted", "holds"),
    [
        ("1.32.0", "", True),
        ("1.32.0", ">=1.20,<2", True),
        ("2.0.0", ">=1.20,<2", False),
        ("1.9.1", ">=1.20", False),
        ("10.3.0", ">=10.3", True),
        ("10.3", ">=10.3.0", True),
        ("2026.4.1-22982-abc", ">=2025.0", True),
        ("", ">=1", False),
    ],
)
def test_version_ranges(version: str, accepted: str, holds: bool) -> None:
    assert version_in(version, accepted) is holds


def test_a_version_range_that_cannot_be_read() -> None:
    with pytest.raises(CompatibilityError, match="cannot be read"):
        version_in("1.0", "~=1.0")


def test_targets_and_this_machine() -> None:
    for name, profile in BUILTIN.items():
        assert profile.name == name
        assert profile.backend in runtime.BACKENDS
        assert Target.from_dict(profile.to_dict()) == profile
    machine = host()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.lacks([machine.architecture, "quantum"]) == ["quantum"]


def test_flags_of_the_processor_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/cpuinfo": "model name\t: Test\nflags\t\t: fpu avx2 avx512_vnni\n"}
    monkeypatch.setattr(target, "_read_text", lambda path: texts.get(path, ""))
    found = target.host.__wrapped__()
    assert {"avx2", "vnni"} <= found.features
    assert found.cpu == "Test"
    texts["/proc/cpuinfo"] = "Features\t: fp asimd asimddp i8mm\n"
    texts["/etc/nv_tegra_release"] = "# R36 (release), REVISION: 4.0\nmore"
    found = target.host.__wrapped__()
    assert {"neon", "dotprod", "i8mm", "nvidia"} <= found.features
    assert found.jetson.startswith("R36")
