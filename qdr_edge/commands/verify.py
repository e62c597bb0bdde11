"""`qdr-edge verify`: do all that a loader does, and print each step that held."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    bundle: Annotated[Path, typer.Argument(help="The .qdr bundle.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Targets to open and self-test; default: all that run here."),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="Accept only these public keys (PEM) instead of the trust store."),
    ] = None,
    minimum_security_version: Annotated[
        int, typer.Option(min=0, help="Refuse a bundle with a lower security version.")
    ] = 0,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Go on with a bundle that nobody signed.")
    ] = False,
) -> None:
    """Verify a bundle completely and self-test it on every target that runs on this machine."""
    from rich.console import Console
    from rich.text import Text

    from qdr_edge.bundle import read_bundle
    from qdr_edge.commands.keys import trust_of
    from qdr_edge.commands.show import UNPROVEN_NOTICE, UNSIGNED_NOTICE, printable
    from qdr_edge.runtime import choose_target, open_bundle, refusal
    from qdr_edge.screener import Screener

    console = Console(highlight=False)

    def held(step: str) -> None:
        console.print(Text("ok  ", style="green") + Text(printable(step)))

    verified = read_bundle(
        bundle,
        trust=trust_of(key),
        allow_unsigned=allow_unsigned,
        minimum_security_version=minimum_security_version,
        on_step=held,
    )
    if not target:
        # Raises with every target's reason when none runs here.
        choose_target(verified)
    for name in target or sorted(verified.manifest.artefacts):
        reason = None if target else refusal(verified, name)
        if reason is not None:
            line = f"{name}: not run here, {reason.what}"
            console.print(Text("--  ", style="yellow") + Text(printable(line)))
            continue
        session = open_bundle(verified, name)
        with Screener(verified, session, name) as screener:
            held(f"{name}: operators allowed, opened by {session.backend} {session.version}")
            tested = screener.self_test()
        held(
            f"{name}: self-test of {tested.vectors} golden vectors, {tested.inferences} through "
            f"the network, largest logit difference {tested.largest_difference:g}"
        )
    if verified.key_id is None:
        console.print(UNSIGNED_NOTICE, style="yellow")
    if not verified.manifest.proven:
        console.print(UNPROVEN_NOTICE, style="yellow")
