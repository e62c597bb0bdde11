"""Everything made of one checkpoint before it meets an image: graphs, read-back, lint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import ExportError
from qdr_edge.runtime import Availability, availability
from qdr_edge.runtime.ir_check import is_ir
from qdr_edge.runtime.native import is_plan
from qdr_edge.target import host, version_in
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.float_twin import build_float_twin
from qdr_export.graph.maps import add_float_maps, add_maps
from qdr_export.lint.check import Finding, lint_model
from qdr_export.profiles import Profile
from qdr_export.proof.readback import Readback, read_back

READABLE = ("onnxruntime", "openvino", "native")
# Backends whose artefacts carry the second output, where one is asked for.
_WITH_MAPS = ("onnxruntime", "openvino")
# Forms that are no ONNX file, and the ONNX form they are converted from.
_ONNX_FORMS = {"openvino-ir": "openvino"}


@dataclass(frozen=True)
class Artefact:
    """One target's model.

    Args:
        profile: What it is for.
        model: ONNX bytes, OpenVINO IR in one entry, or a plan.
        availability: Whether its runtime is installed here.
        readback: What the runtime made of it; None if it cannot be asked here.
        findings: Rules it breaks.
    """

    profile: Profile
    model: bytes
    availability: Availability
    readback: Readback | None
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """Name of the target."""
        return self.profile.target.name

    @property
    def entry(self) -> str:
        """Where it lies in a bundle."""
        form = "ir" if is_ir(self.model) else "plan" if is_plan(self.model) else "onnx"
        return f"artefacts/{self.name}.{form}"

    @property
    def backend(self) -> str:
        """The runtime that opens it."""
        return self.profile.target.backend


@dataclass(frozen=True)
class Emission:
    """The graphs of one checkpoint.

    Args:
        canonical: The canonical graph, with its second output where maps were asked for.
        float_twin: The float network.
        artefacts: By target.
        map_twin: The float network with the same second output; None without maps.
    """

    canonical: bytes
    float_twin: bytes
    artefacts: Mapping[str, Artefact]
    map_twin: bytes | None = None


def emit_all(
    checkpoint: Checkpoint,
    profiles: Sequence[Profile],
    map_images: NDArray[np.uint8] | None = None,
) -> Emission:
    """Build the canonical graph, the float twin and every target's artefact.

    Args:
        checkpoint: The student.
        profiles: Targets to emit for.
        map_images: Pixels to calibrate class activation maps on, uint8 [N, 3, S, S]; None makes
            graphs without maps.

    Raises:
        ExportError: The checkpoint cannot be expressed, an artefact breaks a rule of its target, or
            the network has no maps.
    """
    plain = build_canonical(checkpoint)
    canonical = plain if map_images is None else add_maps(plain, map_images)
    twin = build_float_twin(checkpoint)
    available = availability()
    artefacts = {}
    for profile in profiles:
        name, backend = profile.target.name, profile.target.backend
        source = canonical if backend in _WITH_MAPS else plain
        model = emitter(profile.emitter)(source)
        graph_form = _ONNX_FORMS.get(profile.emitter)
        graph = emitter(graph_form)(source) if graph_form else model
        # A plan has no rules but its emitter's own.
        findings = [] if is_plan(graph) else lint_model(graph, name)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise ExportError(
                f"{name}: {errors[0].place}: {errors[0].what} ({errors[0].rule})",
                where=checkpoint.name,
                expected=errors[0].explanation,
                fix=errors[0].mend,
            )
        here = _here(available[backend], profile)
        readable = backend in READABLE and here.ok
        artefacts[name] = Artefact(
            profile, model, here, read_back(backend, graph) if readable else None, tuple(findings)
        )
    map_twin = None if map_images is None else add_float_maps(twin)
    return Emission(canonical, twin, artefacts, map_twin)


def _here(runtime: Availability, profile: Profile) -> Availability:
    """Whether a target can run here: its runtime, and what it requires of the machine."""
    lacking = host().lacks(profile.target.requires)
    if runtime.ok and lacking:
        return Availability(False, reason=f"this machine has no {', '.join(lacking)}")
    if runtime.ok and not version_in(runtime.version, profile.target.runtime):
        found = f"{profile.target.backend} {runtime.version} is not {profile.target.runtime}"
        return Availability(False, reason=found)
    return runtime
