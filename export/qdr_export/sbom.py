"""The bundle's software bill of materials: CycloneDX 1.6, with the model as an ML component."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from qdr_edge.errors import ExportError
from qdr_edge.files import canonical_json, sha256_bytes
from qdr_export.emission import Emission

_NAMESPACE = uuid.UUID("6e0c6a4e-3a55-5b6c-9a53-6b3fd1d4f7a0")


def make_sbom(
    *,
    name: str,
    version: str,
    created: str,
    emission: Emission,
    model_card: Mapping[str, Any],
    tools: Mapping[str, str],
) -> bytes:
    """A validated CycloneDX document; the same input gives the same bytes.

    Args:
        name: Name of the bundle.
        version: Version of the model.
        created: Time of sealing, ISO 8601 with Z.
        emission: The artefacts.
        model_card: The ML part, in CycloneDX's `modelCard` form.
        tools: Versions of what made the bundle.

    Raises:
        ExportError: The document does not validate (a bug, not a user's mistake).
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    def hashes(content: bytes) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=sha256_bytes(content))]

    model = Component(
        name=name,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=hashes(emission.canonical),
        description="int8 retinal screening model",
    )
    bom = Bom()
    bom.metadata.component = model
    bom.metadata.timestamp = datetime.fromisoformat(created.replace("Z", "+00:00"))
    bom.serial_number = uuid.uuid5(_NAMESPACE, f"{name}/{version}/{created}")
    parts = []
    for target, artefact in emission.artefacts.items():
        part = Component(
            name=artefact.entry.removeprefix("artefacts/"),
            version=version,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"artefact-{target}",
            hashes=hashes(artefact.model),
        )
        runtime = Component(
            name=artefact.backend,
            version=artefact.profile.target.runtime or None,
            type=ComponentType.LIBRARY,
            bom_ref=f"runtime-{target}",
            description="runtime on the device, not contained in the bundle",
        )
        bom.components.update((part, runtime))
        bom.register_dependency(part, [runtime])
        parts.append(part)
    for tool, tool_version in sorted(tools.items()):
        bom.metadata.tools.components.add(
            Component(
                name=tool,
                version=tool_version,
                type=ComponentType.APPLICATION,
                bom_ref=f"tool-{tool}",
            )
        )
    bom.register_dependency(model, parts)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library has no class for model cards yet; the schema has.
    document["metadata"]["component"]["modelCard"] = dict(model_card)
    content = canonical_json(document)
    _validate(content)
    return content


def _validate(content: bytes) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode())
    if problem is not None:
        raise ExportError(
            f"the SBOM does not validate: {problem}",
            expected="CycloneDX 1.6",
            fix="report this as a bug of qdr-edge",
        )
