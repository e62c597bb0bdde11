"""Everything made of one checkpoint before it meets an image: graphs, read-back, lint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import ExportError
from qdr_edge.runtime import Availability, availability
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from qdr_export.float_twin import build_float_twin
from qdr_export.lint import Finding, lint_model
from qdr_export.profiles import Profile
from qdr_export.readback import Readback, read_back

READABLE = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Artefact:
    """One target's model.

    Args:
        profile: What it is for.
        model: ONNX bytes.
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
    def backend(self) -> str:
        """The runtime that opens it."""
        return self.profile.target.backend


@dataclass(frozen=True)
class Emission:
    """The graphs of one checkpoint."""

    canonical: bytes
    float_twin: bytes
    artefacts: Mapping[str, Artefact]


def emit_all(checkpoint: Checkpoint, profiles: Sequence[Profile]) -> Emission:
    """Build the canonical graph, the float twin and every target's artefact.

    Raises:
        ExportError: The checkpoint cannot be expressed, or an artefact breaks a rule of its target.
    """
    canonical = build_canonical(checkpoint)
    available = availability()
    artefacts = {}
    for profile in profiles:
        name, backend = profile.target.name, profile.target.backend
        model = emitter(profile.emitter)(canonical)
        findings = lint_model(model, name)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise ExportError(
                f"{name}: {errors[0].place}: {errors[0].what} ({errors[0].rule})",
                where=checkpoint.name,
                expected=errors[0].explanation,
                fix=errors[0].mend,
            )
        here = available[backend]
        readable = backend in READABLE and here.ok
        artefacts[name] = Artefact(
            profile, model, here, read_back(backend, model) if readable else None, tuple(findings)
        )
    return Emission(canonical, build_float_twin(checkpoint), artefacts)
