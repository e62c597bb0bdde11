"""`qdr-edge doctor`: what this machine can run, and the command that would add what is missing."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show this machine, its runtimes and whose bundles it trusts."""
    from qdr_edge.commands.show import print_json

    report = examine()
    if json:
        print_json(report)
    else:
        _print_tables(report)


def examine() -> dict[str, Any]:
    """Look at this machine; see `doctor --json` for the shape."""
    import platform

    from qdr_edge import __version__
    from qdr_edge.errors import SignatureError
    from qdr_edge.keys import TrustStore, home, trust_folder
    from qdr_edge.runtime import availability
    from qdr_edge.target import host

    machine = host()
    try:
        trust: dict[str, Any] = {"keys": sorted(TrustStore.local().keys)}
    except SignatureError as error:
        trust = {"keys": [], "problem": str(error)}
    return {
        "qdr_edge": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": machine.cpu,
        "architecture": machine.architecture,
        "features": sorted(machine.features),
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "jetson": machine.jetson,
        "nvidia": "nvidia" in machine.features,
        "backends": {
            name: {
                "ok": here.ok,
                "version": here.version,
                "reason": here.reason,
                "install": here.install,
            }
            for name, here in availability().items()
        },
        "home": str(home()),
        "trust": {"folder": str(trust_folder()), **trust},
    }


def _print_tables(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qdr_edge.commands.show import pairs, printable

    console = Console(highlight=False)
    features = set(report["features"])
    machine: list[tuple[str, object]] = [
        ("qdr-edge", report["qdr_edge"]),
        ("Python", f"{report['python']} on {report['system']}"),
        ("CPU", f"{report['cpu']}, {report['cores']} cores usable, {report['architecture']}"),
        ("memory", f"{report['memory_bytes'] / 2**30:.1f} GiB"),
        ("instruction sets", " ".join(sorted(features - {report["architecture"], "nvidia"}))),
        ("int8", _int8_line(report["architecture"], features)),
        ("NVIDIA GPU", "found" if report["nvidia"] else "none found"),
        ("Jetson", report["jetson"] or "no"),
    ]
    console.print(pairs("Machine", machine))
    table = Table(title="\nRuntimes", title_justify="left", box=None, padding=(0, 2))
    for column in ("runtime", "state", "version", "what to do"):
        table.add_column(column, overflow="fold")
    for name, here in report["backends"].items():
        state = Text("ready", style="green") if here["ok"] else Text("missing", style="yellow")
        todo = "" if here["ok"] else here["install"] or here["reason"]
        table.add_row(name, state, here["version"], Text(printable(todo)))
    console.print(table)
    trust = report["trust"]
    rows: list[tuple[str, object]] = [("folder", trust["folder"])]
    rows += [("trusted key", key) for key in trust["keys"]] or [("trusted keys", "none")]
    if "problem" in trust:
        rows.append(("problem", trust["problem"]))
    console.print()
    console.print(pairs("Trust store", rows))


def _int8_line(architecture: str, features: set[str]) -> str:
    if architecture == "x86_64":
        if "vnni" in features:
            return "full speed (VNNI)"
        return "slower and prone to saturation without VNNI; exact kernels are asked for"
    if "i8mm" in features or "dotprod" in features:
        return "full speed (Arm dot product)"
    return "no int8 dot product known here"
