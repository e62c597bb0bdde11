"""`qdr-edge engine`: build a bundle's TensorRT engine ahead of its first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from qdr_edge.bundle import Bundle

# What bounds a build where `--print` runs without a GPU: a board of 8 GB with a system on it.
_TYPICAL_FREE_BYTES = 4 << 30


def engine(
    bundle: Annotated[Path, typer.Argument(help="The .qdr bundle.")],
    target: Annotated[
        str | None,
        typer.Option(help="Which artefact; default: the one for the TensorRT that is installed."),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--print", help="Build nothing: write the ONNX file and print trtexec's command line."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for the files of --print and --layers.")
    ] = Path(),
    workspace_mib: Annotated[
        int | None,
        typer.Option(min=1, help="Bound of one layer's scratch memory; default: from free memory."),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="How long kernels are searched for; default 3."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it although a cached one is there.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Write what TensorRT made of each layer, as JSON.")
    ] = False,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Open a bundle that nobody signed.")
    ] = False,
) -> None:
    """Build and cache the TensorRT engine of a bundle on this device, then self-test it."""
    from rich.console import Console

    from qdr_edge.bundle import read_bundle

    console = Console(highlight=False, soft_wrap=True)
    verified = read_bundle(bundle, allow_unsigned=allow_unsigned)
    asked = {"workspace_mib": workspace_mib, "optimization_level": optimization_level}
    options = {name: str(value) for name, value in asked.items() if value is not None}
    if show:
        for name in _targets(verified, target):
            _print_command(console, verified, name, options, out)
        return
    _build(console, verified, _choose(verified, target), options, rebuild=rebuild)
    if layers:
        _write_layers(console, verified, _choose(verified, target), options, out)


def _targets(bundle: Bundle, target: str | None) -> list[str]:
    """The bundle's TensorRT targets, or the one asked for.

    Raises:
        CompatibilityError: It has none, or the one asked for is another runtime's.
    """
    from qdr_edge.errors import CompatibilityError

    artefacts = bundle.manifest.artefacts
    found = sorted(name for name, artefact in artefacts.items() if artefact.backend == "tensorrt")
    wanted = found if target is None else [name for name in found if name == target]
    if not wanted:
        raise CompatibilityError(
            f"no TensorRT artefact {target or ''}".rstrip(),
            where=bundle.name,
            expected=f"one of {', '.join(found)}" if found else "a bundle with a tensorrt target",
            fix="correct --target" if found else "export it with --target tensorrt-10",
        )
    return wanted


def _choose(bundle: Bundle, target: str | None) -> str:
    """The TensorRT target that this machine can run; raises the first one's reason otherwise."""
    from qdr_edge.runtime import refusal

    names = _targets(bundle, target)
    problems = {name: refusal(bundle, name) for name in names}
    for name, problem in problems.items():
        if problem is None:
            return name
    first = problems[names[0]]
    assert first is not None
    raise first


def _build(
    console: Console, bundle: Bundle, target: str, options: dict[str, str], *, rebuild: bool
) -> None:
    from time import perf_counter

    from rich.text import Text

    from qdr_edge.commands.show import printable, size_text
    from qdr_edge.errors import OutputError
    from qdr_edge.runtime import open_bundle
    from qdr_edge.runtime.engine_cache import cache_folder
    from qdr_edge.runtime.onnx_check import check_onnx
    from qdr_edge.runtime.tensorrt import prepare_engine
    from qdr_edge.screener import Screener

    model = bundle.entries[bundle.artefact(target).entry]
    check_onnx(model, where=f"{bundle.name}: target {target}")
    start = perf_counter()
    with console.status(f"{target}: building; this takes seconds to minutes") as status:
        prepared = prepare_engine(
            model,
            {**bundle.artefact(target).options, **options},
            rebuild=rebuild,
            progress=lambda phase: status.update(f"{target}: {printable(phase)}"),
        )
    seconds = perf_counter() - start
    if not prepared.kept:
        raise OutputError(
            "the engine was built and cannot be kept",
            where=str(cache_folder()),
            expected="a folder you may write to",
            fix="name another one in the environment variable QDR_EDGE_CACHE",
        )
    done = "was in the cache" if prepared.cached else f"built in {seconds:.0f} s"
    console.print(Text(f"{target}: {done}, {size_text(len(prepared.engine))}, in {cache_folder()}"))
    with Screener(bundle, open_bundle(bundle, target), target) as screener:
        tested = screener.self_test()
    console.print(
        Text(
            f"{target}: self-test of {tested.vectors} golden vectors held, "
            f"largest logit difference {tested.largest_difference:g}"
        )
    )


def _print_command(
    console: Console, bundle: Bundle, target: str, options: dict[str, str], out: Path
) -> None:
    import shlex

    from rich.text import Text

    from qdr_edge.files import atomic_write
    from qdr_edge.runtime.tensorrt_build import plan_build, trtexec_command
    from qdr_edge.target import version_in

    artefact = bundle.artefact(target)
    stem = f"{bundle.manifest.bundle_id}.{target}"
    model = out / f"{stem}.onnx"
    atomic_write(model, bundle.entries[artefact.entry])
    free = _free_bytes()
    plan = plan_build(free, {**artefact.options, **options})
    major = 11 if version_in("11", artefact.runtime) else 10
    command = trtexec_command(model, out / f"{stem}.engine", plan, major)
    bound = f"bounded for {free / 2**30:.1f} GiB of free memory"
    console.print(Text(f"# {target}: TensorRT {artefact.runtime}, {bound}; wrote {model}"))
    console.print(Text(shlex.join(command)))


def _free_bytes() -> int:
    """Free memory of this device; a typical board's where no GPU is here."""
    from qdr_edge.runtime import availability

    if not availability()["tensorrt"].ok:
        return _TYPICAL_FREE_BYTES
    from qdr_edge.runtime.cuda import Cuda
    from qdr_edge.runtime.tensorrt_build import free_memory

    return free_memory(Cuda())


def _write_layers(
    console: Console, bundle: Bundle, target: str, options: dict[str, str], out: Path
) -> None:
    from rich.text import Text

    from qdr_edge.files import atomic_write
    from qdr_edge.runtime.tensorrt import describe_layers

    path = out / f"{bundle.manifest.bundle_id}.{target}.layers.json"
    model = bundle.entries[bundle.artefact(target).entry]
    atomic_write(path, describe_layers(model, {**bundle.artefact(target).options, **options}))
    console.print(Text(f"{target}: layers in {path}"))
