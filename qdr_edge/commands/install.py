"""`qdr-edge install`: put a bundle on a device, go back, or show what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qdr_edge.install import Installed, Status


def install(
    root: Annotated[Path, typer.Option(help="The device's folder; load() opens the same.")],
    bundle: Annotated[Path | None, typer.Argument(help="The .qdr bundle to install.")] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Activate the other slot, if the counter allows it.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what the device holds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --status: print JSON.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Artefact to self-test; default: the first that runs here.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 means every core.")] = 0,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="Accept only these public keys (PEM) instead of the trust store."),
    ] = None,
) -> None:
    """Verify, self-test and activate a bundle; at every instant the old or the new is active."""
    from qdr_edge import install as device
    from qdr_edge.commands.keys import trust_of

    if (bundle is not None) + rollback + status != 1:
        raise typer.BadParameter("name a bundle, or --rollback, or --status", param_hint="BUNDLE")
    trust = trust_of(key)
    if status:
        _print_status(device.status(root, trust=trust), json)
    elif bundle is not None:
        _print_installed(
            device.install(bundle, root, trust=trust, target=target, threads=threads, on_step=_held)
        )
    else:
        _print_installed(
            device.roll_back(root, trust=trust, target=target, threads=threads, on_step=_held)
        )


def _held(step: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from qdr_edge.commands.show import printable

    Console(highlight=False).print(Text("ok  ", style="green") + Text(printable(step)))


def _print_installed(installed: Installed) -> None:
    from rich.console import Console

    from qdr_edge.commands.show import SYNTHETIC_NOTICE, UNPROVEN_NOTICE

    console = Console(highlight=False)
    manifest = installed.bundle.manifest
    if manifest.synthetic:
        console.print(SYNTHETIC_NOTICE, style="yellow")
    if not manifest.proven:
        console.print(UNPROVEN_NOTICE, style="yellow")


def _print_status(status: Status, json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from qdr_edge.commands.show import pairs, print_json

    if json:
        print_json(asdict(status))
        return
    rows: list[tuple[str, object]] = [
        ("active", f"slot {status.active}" if status.active else "none"),
        ("rollback counter", status.security_version),
    ]
    for slot in status.slots:
        facts = f"{slot.bundle_id}, security version {slot.security_version}, {slot.signature}"
        shown = "; ".join(filter(None, (facts if slot.bundle_id else "", slot.problem)))
        rows.append((f"slot {slot.slot}", shown))
    Console(highlight=False).print(pairs("Device", rows))
