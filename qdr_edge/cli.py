"""The `qdr-edge` command: finds the commands that installed stages contribute and runs one.

A command's module is imported only when it is the one asked for, or when help lists them all.
An error that qdr-edge can explain is one line on stderr and its family's exit code.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from qdr_edge import __version__
from qdr_edge.errors import BackendError, QdrError

if TYPE_CHECKING:
    from typer._click.core import Command, Context

ENTRY_POINT_GROUP = "qdr_edge.commands"
USAGE_ERROR = 2
INTERRUPTED = 130
# The order of the work; a command of another package comes after these.
ORDER = (
    "data",
    "train",
    "quantize",
    "import",
    "export",
    "lint",
    "parity",
    "keys",
    "inspect",
    "verify",
    "install",
    "run",
    "evaluate",
    "bench",
    "compare",
    "engine",
    "doctor",
)
# Which extra brings a module that a device does not install.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "yaml": "train",
    "onnx": "export",
    "cyclonedx": "export",
    "openvino": "openvino",
    "scipy": "bench",
    "jinja2": "bench",
    "matplotlib": "bench",
    "psutil": "bench",
}


class CommandGroup(typer.core.TyperGroup):
    """Commands looked up in the entry-point group, each imported when it is needed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}

    def list_commands(self, ctx: Context) -> list[str]:
        """Names in the order of the work."""
        known = [name for name in ORDER if name in self.points]
        return known + sorted(set(self.points) - set(ORDER))

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Import the one command asked for."""
        point = self.points.get(cmd_name)
        if point is None:
            return None
        target = point.load()
        if not isinstance(target, typer.Typer):
            function, target = target, typer.Typer(add_completion=False, rich_markup_mode=None)
            target.command(name=cmd_name)(function)
        command = typer.main.get_command(target)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        print(f"qdr-edge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback instead of one line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Train, prove, measure and ship int8 retinal screening models for embedded devices.

    Research software, not a medical device.
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # Accepted anywhere on the line, not only before the command.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        status = typer.main.get_command(app).main(
            args=arguments, prog_name="qdr-edge", standalone_mode=False
        )
    except QdrError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if debug or extra is None:
            raise
        _fail(
            f"{error.name} is not installed; run `pip install 'qdr-edge[{extra}]'`",
            BackendError.exit_code,
        )
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        # The usage errors of typer's own copy of click, which has no public name.
        show = getattr(error, "show", None)
        if debug or show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", USAGE_ERROR))
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, exit_code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
