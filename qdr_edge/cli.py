"""The `qdr-edge` command: finds the commands that installed stages contribute and runs one.

A command's module is imported only when it is the one asked for, or when help lists them all.
An error that qdr-edge can explain is one line on stderr and its family's exit code.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click
import typer

from qdr_edge import __version__
from qdr_edge.errors import QdrError

ENTRY_POINT_GROUP = "qdr_edge.commands"
INTERRUPTED = 130
# The order of the work; a command of another package comes after these.
ORDER = ("data", "train", "export", "lint", "inspect", "verify", "run", "bench", "doctor")


class CommandGroup(click.Group):
    """Commands looked up in the entry-point group, each imported when it is needed."""

    def __init__(self, points: dict[str, EntryPoint]) -> None:
        super().__init__(
            name="qdr-edge",
            help=(
                "Train, prove, measure and ship int8 retinal screening models for embedded "
                "devices. Research software, not a medical device."
            ),
            no_args_is_help=True,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self.points = points

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the work."""
        known = [name for name in ORDER if name in self.points]
        return known + sorted(set(self.points) - set(ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command asked for."""
        point = self.points.get(cmd_name)
        if point is None:
            return None
        target = point.load()
        if not isinstance(target, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name=cmd_name)(target)
            target = app
        command = typer.main.get_command(target)
        command.name = cmd_name
        return command


def build() -> CommandGroup:
    """The command group of everything that is installed."""
    group = CommandGroup({point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)})
    group.params.append(
        click.Option(["--debug"], is_flag=True, help="Show a traceback instead of one line.")
    )
    group.params.append(
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the version.",
            callback=_show_version,
        )
    )
    group.callback = lambda debug: None
    return group


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # Accepted anywhere on the line, not only before the command.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        result = build().main(args=arguments, prog_name="qdr-edge", standalone_mode=False)
    except QdrError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # Typer may carry its own copy of click's exceptions; both know how to show themselves.
        show = getattr(error, "show", None)
        if debug or show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(result if isinstance(result, int) else 0)


def _show_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        print(f"qdr-edge {__version__}")
        ctx.exit()


if __name__ == "__main__":
    main()
