"""`qdr-edge inspect`: show what a bundle claims, without opening a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qdr_edge.bundle import Inspection


def inspect(
    bundle: Annotated[Path, typer.Argument(help="The .qdr bundle.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show a bundle's manifest; nothing in it is run, and an unknown signer is only reported."""
    from qdr_edge.bundle import inspect_bundle
    from qdr_edge.commands.show import print_json

    inspection = inspect_bundle(bundle)
    if json:
        manifest = inspection.manifest.model_dump(mode="json")
        document = {"sha256": inspection.sha256, "signature": inspection.signature}
        print_json({**document, "manifest": manifest})
    else:
        _print_tables(bundle, inspection)


def _print_tables(path: Path, inspection: Inspection) -> None:
    from rich.console import Console

    from qdr_edge.commands.show import SYNTHETIC_NOTICE, UNPROVEN_NOTICE, pairs, size_text

    manifest = inspection.manifest
    total = sum(inspection.sizes.values())
    console = Console()
    about = [
        ("file", path),
        ("SHA-256", inspection.sha256),
        ("signature", inspection.signature),
        ("bundle", f"{manifest.bundle_id}, model {manifest.model_version}"),
        ("security version", manifest.security_version),
        ("created", manifest.created),
        ("modality", manifest.modality),
        ("input", f"uint8 [1, 3, {manifest.input.size}, {manifest.input.size}]"),
        ("scheme", manifest.scheme.get("name", "?")),
        ("proven", "yes" if manifest.proven else "NO"),
        ("licence", manifest.licence),
        ("content", f"{len(inspection.sizes)} entries, {size_text(total)}"),
    ]
    console.print(pairs("Bundle", about))
    thresholds = [
        (f"{t.code} ({name})", f"logit >= {t.logit}, fitted for {t.fitted_for} on {t.split}")
        for t, name in zip(manifest.decision.thresholds, manifest.labels.names, strict=True)
    ]
    console.print()
    console.print(pairs(f"Labels: {manifest.labels.name}", thresholds))
    artefacts = []
    for name, artefact in manifest.artefacts.items():
        needs = ", ".join(artefact.requires) or "nothing"
        size = inspection.sizes.get(artefact.entry, 0)
        line = f"{artefact.backend} {artefact.runtime} opset {artefact.opset}, needs {needs}, "
        line += f"tolerance {artefact.tolerance_steps} steps, {size_text(size)}"
        artefacts.append((name, line))
    console.print()
    console.print(pairs("Targets", artefacts))
    golden = [(g.name, f"{g.outcome} {' '.join(g.positives)}".strip()) for g in manifest.golden]
    console.print()
    console.print(pairs("Golden vectors", golden))
    for title, tree in (("Evidence", manifest.evidence), ("Provenance", manifest.provenance)):
        if not tree:
            continue
        console.print()
        console.print(pairs(title, _flat(tree)))
    if manifest.synthetic:
        console.print(SYNTHETIC_NOTICE, style="yellow")
    if not manifest.proven:
        console.print(UNPROVEN_NOTICE, style="yellow")


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            rows.append((f"{prefix}{key}", f"{len(value)} items, see --json"))
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            rows.append((f"{prefix}{key}", shown))
    return rows
